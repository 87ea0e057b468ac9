"""Image files: whatever fabio reads, and single images for masks, darks and flats."""

from __future__ import annotations

import os
import zipfile
import zlib

import fabio
import h5py
import numpy as np

from ..processing.errors import ConfigurationError, FrameError
from ..processing.frames import ArrayPayload, Payload
from .hdf5 import find_images, open_hdf5
from .pixels import converted, pixel_dtype

#: these hold one image each: they need not be read to be counted
SINGLE_IMAGE = (".cbf", ".cbf.gz", ".cbf.bz2", ".img", ".mccd")


def split_spec(spec: str) -> tuple[str, str | None]:
    """`PATH[::DATASET]` → path, dataset.

    Raises
    ------
    ConfigurationError
        The file is missing, is a directory or may not be read.
    """
    path, dataset = spec, None
    if not os.path.exists(spec) and "::" in spec:
        path, _, dataset = spec.rpartition("::")
    path = os.path.expanduser(path)
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise ConfigurationError(f"{path}: is empty")
    if not path:
        raise ConfigurationError(f"no file is named in {spec!r}")
    if not os.path.exists(path):
        raise ConfigurationError(f"{path}: there is no such file")
    if os.path.isdir(path):
        raise ConfigurationError(f"{path}: is a directory, name a file in it")
    if not os.access(path, os.R_OK):
        raise ConfigurationError(f"{path}: may not be read")
    return path, dataset or None


class FabioFrames:
    """The frames of one file that fabio reads; the same attributes and methods as `Hdf5Frames`.

    Raises
    ------
    ConfigurationError
        No image, or of a pixel type that is not supported.
    """

    numbers: list[int] | None = None

    def __init__(self, path: str) -> None:
        self.path = path
        self._image = _open_fabio(path)
        self.count: int = self._image.nframes
        pixels = self._image.data
        if pixels is None or pixels.ndim != 2 or 0 in pixels.shape:
            raise ConfigurationError(f"{path}: is no two-dimensional image")
        self.shape: tuple[int, int] = pixels.shape
        self.dtype, self._stored_dtype = pixel_dtype(pixels.dtype, path), pixels.dtype
        self.metadata: dict[str, object] = {}

    def payload(self, index: int) -> Payload:
        """Frame `index` of the file. FrameError where it cannot be read."""
        try:
            pixels = self._image.data if self.count == 1 else self._image.get_frame(index).data
        except Exception as error:  # fabio's readers raise whatever their format makes them
            raise FrameError(f"{self.path}: frame {index} cannot be read ({error})") from None
        if (pixels.shape, pixels.dtype) != (self.shape, self._stored_dtype):
            raise FrameError(
                f"{self.path}: frame {index} is {pixels.dtype.name} {pixels.shape}, "
                f"the first one {self._stored_dtype.name} {self.shape}"
            )
        return ArrayPayload(converted(pixels, self.dtype), os.path.getsize(self.path) // self.count)

    def close(self) -> None:
        self._image.close()


def count_frames(path: str) -> int:
    """How many frames an image file holds. ConfigurationError where it cannot be read."""
    if path.lower().endswith(SINGLE_IMAGE):
        return 1
    with _open_fabio(path) as image:
        return image.nframes


def _open_fabio(path: str) -> fabio.fabioimage.FabioImage:
    try:
        return fabio.open(path)
    except Exception as error:  # fabio's readers raise whatever their format makes them
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigurationError(f"{path}: is neither HDF5 nor an image that fabio reads ({reason})") from None


def read_image(spec: str) -> np.ndarray:
    """One image, as masks, darks and flats are given: HDF5 (`file.h5::/path`), CBF, EDF, TIFF, npy, npz.

    Parameters
    ----------
    spec : str
        `PATH[::NAME]`; the name of the dataset or array may be left out where there is only one.

    Returns
    -------
    ndarray (rows, columns)
        C-contiguous, in the type that is stored, in native byte order.

    Raises
    ------
    ConfigurationError
        The file or dataset is missing or unreadable, or does not hold exactly one image.
    """
    path, name = split_spec(spec)
    if path.endswith((".npy", ".npz")):
        pixels = _read_numpy(path, name)
    elif h5py.is_hdf5(path):
        pixels = _read_hdf5(path, name)
    else:
        with _open_fabio(path) as image:
            if image.nframes != 1:
                raise ConfigurationError(f"{path}: holds {image.nframes} images, one is needed")
            pixels = image.data
    if pixels.ndim == 3 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype.kind not in "biuf":
        raise ConfigurationError(f"{spec}: is no image (shape {pixels.shape}, type {pixels.dtype})")
    return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))


def _read_hdf5(path: str, name: str | None) -> np.ndarray:
    with open_hdf5(path) as file:
        dataset, *more = find_images(file, name)
        if more or (dataset.ndim == 3 and len(dataset) != 1):
            raise ConfigurationError(
                f"{path}::{dataset.name}: is a stack of shape {dataset.shape}, one image is needed; "
                "name another dataset as FILE::/PATH"
            )
        try:
            return dataset[()]
        except OSError as error:
            raise ConfigurationError(f"{path}::{dataset.name}: cannot be read ({error})") from None


def _read_numpy(path: str, name: str | None) -> np.ndarray:
    try:
        # pickles could run code
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            names = content.files
            chosen = name if name is not None else names[0] if len(names) == 1 else None
            if chosen not in names:
                raise ConfigurationError(f"{path}: which array? Append ::NAME (there are: {', '.join(names)})")
            return content[chosen]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ConfigurationError(f"{path}: cannot be read as a numpy file ({error})") from None
