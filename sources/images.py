"""Image files: whatever fabio reads, and single images for masks, darks and flats."""

from __future__ import annotations

import bz2
import gzip
import os
import zipfile
import zlib
from typing import BinaryIO

import fabio
import h5py
import numpy as np

from ..processing.errors import ConfigurationError, FrameError
from ..processing.frames import ArrayPayload, Payload
from .cbf import check_cbf, read_cbf_header
from .hdf5_find import find_images, open_hdf5
from .inputs import SINGLE_IMAGE, split_spec
from .pixels import converted, pixel_dtype


class FabioFrames:
    """The frames of one file that fabio reads; the same attributes and methods as `Hdf5Frames`.

    Raises
    ------
    ConfigurationError
        No image, or of a pixel type that is not supported, or cut off.
    """

    numbers: list[int] | None = None
    values: None = None

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            #: whether a checksum says that all of the file is as it was written
            self.is_verified = check_whole(path)
        except FrameError as error:
            raise ConfigurationError(str(error)) from None
        self._image = _open_fabio(path)
        try:
            self.count: int = self._image.nframes
            pixels = self._image.data
        except Exception as error:  # fabio's readers raise whatever their format makes them
            self.close()
            raise ConfigurationError(f"{path}: cannot be read ({_reason(error)})") from None
        if pixels is None or pixels.ndim != 2 or 0 in pixels.shape:
            self.close()
            raise ConfigurationError(f"{path}: is no two-dimensional image")
        self.shape: tuple[int, int] = pixels.shape
        self.dtype, self._stored_dtype = pixel_dtype(pixels.dtype, path), pixels.dtype
        text = self._image.header.get("_array_data.header_contents", "") if self._image.header else ""
        self.metadata: dict[str, object] = read_cbf_header(str(text))

    @property
    def is_whole(self) -> bool:
        """Whether the file does not end in the middle of a frame, as far as its format lets one know."""
        return not getattr(self._image, "incomplete_file", False)

    def images(self) -> tuple[None, None, tuple[str, ...]]:
        """Neither pixel mask nor flat field."""
        return None, None, ()

    def payload(self, index: int) -> Payload:
        """Frame `index` of the file. FrameError where it cannot be read."""
        try:
            pixels = _pixels(self._image if self.count == 1 else self._image.get_frame(index))
            stored = os.path.getsize(self.path) // self.count
        except Exception as error:  # fabio's readers raise whatever their format makes them
            raise FrameError(f"{self.path}: frame {index} cannot be read ({_reason(error)})") from None
        if pixels is None:
            raise FrameError(f"{self.path}: frame {index} cannot be read")
        if (pixels.shape, pixels.dtype) != (self.shape, self._stored_dtype):
            raise FrameError(
                f"{self.path}: frame {index} is {pixels.dtype.name} {pixels.shape}, "
                f"the first one {self._stored_dtype.name} {self.shape}"
            )
        return ArrayPayload(converted(pixels, self.dtype), stored)

    def close(self) -> None:
        self._image.close()


def check_whole(path: str) -> bool:
    """Whether a checksum in the file could be verified; what can be found out of a file that is cut off is.

    Raises
    ------
    FrameError
        A part of it is missing, or is not as it was written.
    """
    name = path.lower()
    try:
        with _opened(path) as stream:
            is_verified = isinstance(stream, gzip.GzipFile | bz2.BZ2File)
            if name.endswith((".cbf", ".cbf.gz", ".cbf.bz2")):
                is_verified |= check_cbf(stream, path)
            if isinstance(stream, gzip.GzipFile | bz2.BZ2File):
                while stream.read(1 << 20):  # a checksum is at the end
                    pass
        return is_verified
    except (OSError, EOFError, zlib.error) as error:
        raise FrameError(f"{path}: is cut off or corrupt ({_reason(error)})") from None


def _opened(path: str) -> BinaryIO:
    if path.lower().endswith(".gz"):
        return gzip.open(path)
    return bz2.open(path) if path.lower().endswith(".bz2") else open(path, "rb")


def _pixels(frame: fabio.fabioimage.FabioImage) -> np.ndarray | None:
    """The pixels of an opened image; fabio fills up with zeros what an EDF file lacks, and only notes it."""
    pixels = frame.data
    if getattr(frame, "incomplete_data", False):
        raise FrameError("it is cut off")
    return pixels


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


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
        raise ConfigurationError(f"{path}: is neither HDF5 nor an image that fabio reads ({_reason(error)})") from None


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
