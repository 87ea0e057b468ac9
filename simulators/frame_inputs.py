"""What a simulated detector sends: frames of a file or simulated ones, encoded for the wire."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import fabio
import h5py
import hdf5plugin  # noqa: F401 registers the filters with HDF5
import numpy as np

from ..processing.errors import ConfigurationError, OutOfRangeError
from ..processing.poni import parse_poni
from .compression import compress, stored_encoding
from .counting import DTYPES, CountingSimulator
from .experiment import HC

#: where frames are looked for in an HDF5 file when no dataset is named
DATASETS = ("/entry/data/data", "/entry/data/data_000001")


@dataclass(frozen=True)
class DetectorInfo:
    """What is known of the detector; NaN or None where it is not.

    `pixel_mask` uint32 (rows, columns), 0 = good. `beam_center` (x, y) where the beam hits, in pixels from the outer
    corner of the first pixel, `pixel_size` and `distance` in m, `wavelength` in Å.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    pixel_mask: np.ndarray | None = None
    pixel_size: float = math.nan
    distance: float = math.nan
    wavelength: float = math.nan
    beam_center: tuple[float, float] = (math.nan, math.nan)
    description: str = "framesieve simulated detector"

    @property
    def energy(self) -> float:
        """Photon energy, eV."""
        return HC / self.wavelength


class FrameInput(Protocol):
    """Frames 0 … n_frames − 1, to be sent once or in a cycle."""

    info: DetectorInfo
    n_frames: int

    def number(self, i: int) -> int:
        """The number under which frame `i` is sent; i may be beyond the last: then the frames begin again."""

    def image(self, i: int) -> np.ndarray:
        """Frame `i` (rows, columns), i < n_frames."""

    def encoded(self, i: int, encoding: str) -> bytes:
        """The bytes of frame `i` in `encoding` (see `compression.ENCODINGS`), i < n_frames."""

    def close(self) -> None:
        """Give everything back; may be called twice."""


def open_input(path: str) -> FrameInput:
    """Frames of an HDF5 file (`FILE` or `FILE::DATASET`) or of anything that fabio reads.

    Raises
    ------
    ConfigurationError
        It does not exist, or there are no frames in it that a detector could send.
    """
    name, _, dataset = str(path).partition("::")
    if not Path(name).is_file():
        raise ConfigurationError(f"{name}: no such file")
    if h5py.is_hdf5(name):
        return HDF5Input(name, dataset or None)
    return ImageFileInput(name)


def check_dtype(dtype: np.dtype, where: str) -> np.dtype:
    """The pixel type, little-endian; ConfigurationError where a detector cannot send it."""
    if dtype.newbyteorder("<") not in DTYPES:
        raise ConfigurationError(f"{where}: pixels are {dtype}, one of {', '.join(t.name for t in DTYPES)} is expected")
    return dtype.newbyteorder("<")


class HDF5Input:
    """Frames of a dataset (n, rows, columns).

    Beside the dataset are looked for: `pixel_mask` or `mask` (non-zero = bad), `poni` (text), and `frame_number`
    (n,), the numbers to send the frames under. Chunks that are encoded as wanted are sent as they are stored.
    """

    def __init__(self, path: str | os.PathLike, dataset: str | None = None) -> None:
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be read ({error})") from error
        try:
            self._data = self._find(dataset)
            group = self._data.parent
            where = f"{path}::{self._data.name}"
            if self._data.ndim != 3 or not len(self._data):
                raise ConfigurationError(f"{where}: has the shape {self._data.shape}, (n, rows, columns) is expected")
            dtype = check_dtype(self._data.dtype, where)
            self.n_frames = len(self._data)
            numbers = group.get("frame_number")
            self._numbers = np.arange(self.n_frames) if numbers is None else numbers[...].astype(np.int64)
            if self._numbers.shape != (self.n_frames,):
                raise ConfigurationError(f"{where}: {self._numbers.size} frame numbers for {self.n_frames} frames")
            mask = group.get("pixel_mask", group.get("mask"))
            if mask is not None and mask.shape != self._data.shape[1:]:
                raise ConfigurationError(f"{mask.name}: has the shape {mask.shape}, not that of the frames")
            poni = group["poni"].asstr()[()] if "poni" in group else ""
            self.info = DetectorInfo(
                shape=self._data.shape[1:],
                dtype=dtype,
                pixel_mask=None if mask is None else mask[...].astype(np.uint32),
                **geometry_of(poni),
            )
            self._stored = stored_encoding(self._data)
        except Exception:
            self._file.close()
            raise

    def _find(self, dataset: str | None) -> h5py.Dataset:
        for name in [dataset] if dataset else DATASETS:
            if isinstance(self._file.get(name), h5py.Dataset):
                return self._file[name]
        wanted = dataset or " or ".join(DATASETS)
        raise ConfigurationError(f"{self._file.filename}: has no dataset {wanted}; name it as FILE::DATASET")

    def number(self, i: int) -> int:
        cycle, place = divmod(i, self.n_frames)
        return int(cycle * (self._numbers.max() + 1) + self._numbers[place])

    def image(self, i: int) -> np.ndarray:
        return self._data[i].astype(self.info.dtype, copy=False)

    def encoded(self, i: int, encoding: str) -> bytes:
        if encoding == self._stored:
            filter_mask, chunk = self._data.id.read_direct_chunk((i, 0, 0))
            if not filter_mask:  # else a filter was left out for this chunk
                return chunk
        return compress(self.image(i), encoding)

    def close(self) -> None:
        self._file.close()


class ImageFileInput:
    """The frames of an image file, CBF for example, read by fabio."""

    def __init__(self, path: str | os.PathLike) -> None:
        try:
            self._image = fabio.open(str(path))
            first = self._image.data
        except Exception as error:  # fabio's readers raise whatever the file makes them stumble over
            raise ConfigurationError(f"{path}: cannot be read as an image ({error})") from error
        if first is None or first.ndim != 2:
            raise ConfigurationError(f"{path}: no image of rows and columns")
        self.info = DetectorInfo(first.shape, check_dtype(first.dtype, str(path)))
        self.n_frames = self._image.nframes

    def number(self, i: int) -> int:
        return i

    def image(self, i: int) -> np.ndarray:
        data = self._image.data if self.n_frames == 1 else self._image.get_frame(i).data
        return np.ascontiguousarray(data, self.info.dtype)

    def encoded(self, i: int, encoding: str) -> bytes:
        return compress(self.image(i), encoding)

    def close(self) -> None:
        self._image.close()


class SimulatedInput:
    """The first `n_frames` frames of a simulator, each encoded once and kept, so that any rate can be sent.

    Memory: `n_frames` encoded frames, 2.5 MB each for an EIGER2 4M.
    """

    def __init__(self, simulator: CountingSimulator, n_frames: int) -> None:
        if n_frames < 1:
            raise OutOfRangeError(f"{n_frames} frames: at least 1 is expected")
        self.simulator = simulator
        self.n_frames = n_frames
        experiment = simulator.experiment
        x, y = experiment.beam_center
        self.info = DetectorInfo(
            shape=simulator.shape,
            dtype=simulator.dtype,
            pixel_mask=simulator.pixel_mask,
            pixel_size=experiment.pixel_size,
            distance=experiment.distance,
            wavelength=experiment.wavelength,
            beam_center=(x + 0.5, y + 0.5),
        )
        self._encoded: dict[tuple[int, str], bytes] = {}

    def prepare(self, encoding: str, progress: Callable[[int, int], None] | None = None) -> None:
        """Draw and encode all frames now; `progress` is called as progress(frames ready, n_frames)."""
        self.simulator.prepare()
        with ThreadPoolExecutor() as pool:
            try:
                for done, _ in enumerate(pool.map(lambda i: self.encoded(i, encoding), range(self.n_frames)), 1):
                    if progress is not None:
                        progress(done, self.n_frames)
            finally:
                pool.shutdown(cancel_futures=True)

    def number(self, i: int) -> int:
        return i

    def image(self, i: int) -> np.ndarray:
        return self.simulator.frame(i)

    def encoded(self, i: int, encoding: str) -> bytes:
        key = (i, encoding)
        if key not in self._encoded:
            self._encoded[key] = compress(self.image(i), encoding)
        return self._encoded[key]

    def close(self) -> None:
        self._encoded.clear()


def geometry_of(poni_text: str) -> dict[str, object]:
    """`pixel_size`, `distance`, `wavelength`, `beam_center` of `DetectorInfo` from the text of a PONI file.

    Distance and centre are those of the direct beam, which differ from the point of normal incidence on a tilted
    detector. Empty where the text cannot be used: the frames can be sent without.
    """
    try:
        poni = parse_poni(poni_text)
    except ConfigurationError:
        return {}
    return {
        "pixel_size": poni.pixel2,
        "distance": poni.distance / poni.rotation[2][2],
        "wavelength": math.nan if poni.wavelength is None else poni.wavelength * 1e10,
        "beam_center": poni.beam_center,
    }
