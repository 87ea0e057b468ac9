"""A file of simulated frames with their truth beside them.

/entry/data/data        (n, rows, columns), one frame per chunk, bitshuffle-LZ4
/entry/data/mask        uint8 (rows, columns), 1 = bad
/entry/data/pixel_mask  uint32 (rows, columns), as the detector reports it, DECTRIS bits
/entry/data/poni        the geometry as PONI text
/truth/hit              uint8 (n,), 1 = a crystal was in the beam
/truth/frame_ptr        uint64 (n + 1,): the spots of frame i are rows frame_ptr[i] … frame_ptr[i+1] − 1 of
/truth/spots/<column>   (m,) each: the columns of `spots.SPOT_DTYPE`
/truth/background       float32 (rows, columns), mean counts without spots and hot pixels
/truth/hot_pixels       int64 (k,), flat index of pixels that count too much and are in no mask
/truth/orientation      float64 (n, 3, 3), NaN where there is no crystal
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from ..processing.errors import ConfigurationError, OutOfRangeError
from .counting import CountingSimulator
from .spots import SPOT_DTYPE, FrameTruth

DATA = "/entry/data/data"


def write_simulation(
    path: str | os.PathLike,
    simulator: CountingSimulator,
    n_frames: int,
    *,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write frames 0 … n_frames − 1 of `simulator`, with mask, geometry and truth.

    Frames are drawn by several threads and compressed by this one (HDF5 has one lock). The file gets its name when
    it is complete; an interrupted one is removed.

    Parameters
    ----------
    progress
        Called as progress(frames written, n_frames) after every frame; what it raises ends the writing.

    Raises
    ------
    ConfigurationError
        The file exists and may not be overwritten, or its folder cannot be written to.
    OutOfRangeError
        There are no frames to write.
    """
    path = Path(path)
    if n_frames < 1:
        raise OutOfRangeError(f"{n_frames} frames: at least 1 is expected")
    if path.exists() and not overwrite:
        raise ConfigurationError(f"{path}: exists already")
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            file = h5py.File(partial, "w")
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be written ({error})") from error
        with file:
            _write(file, simulator, n_frames, threads or os.cpu_count() or 1, progress)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write(
    file: h5py.File,
    simulator: CountingSimulator,
    n_frames: int,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    bitshuffle = hdf5plugin.Bitshuffle(cname="lz4")
    file.attrs["creator"] = "framesieve simulator"
    entry = file.create_group("entry")
    entry.attrs["default"] = "data"
    data = entry.create_group("data")
    data.attrs["signal"] = "data"
    shape = simulator.shape
    frames = data.create_dataset(
        "data", (n_frames, *shape), simulator.dtype, chunks=(1, *shape), compression=bitshuffle
    )
    data["mask"], data["pixel_mask"] = simulator.mask, simulator.pixel_mask
    data["poni"] = simulator.poni_text()

    truths: list[FrameTruth] = []
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future] = deque()  # a few frames ahead, so that memory stays bounded
        try:
            for i in range(n_frames + 2 * threads):
                if i < n_frames:
                    waiting.append(pool.submit(simulator.frame_and_truth, i))
                if i >= 2 * threads and waiting:
                    image, truth = waiting.popleft().result()
                    frames[len(truths)] = image
                    truths.append(truth)
                    if progress is not None:
                        progress(len(truths), n_frames)
        finally:
            pool.shutdown(cancel_futures=True)
    group = file.create_group("truth")
    group["hit"] = np.array([truth.hit for truth in truths], np.uint8)
    group["frame_ptr"] = np.cumsum([0] + [len(truth.spots) for truth in truths], dtype=np.uint64)
    spots = np.concatenate([truth.spots for truth in truths])
    for name in SPOT_DTYPE.names:
        column = spots[name]
        group[f"spots/{name}"] = column.astype(np.uint8) if column.dtype == bool else column
    nowhere = np.full((3, 3), np.nan)
    group["orientation"] = np.array([nowhere if t.orientation is None else t.orientation for t in truths])
    group["hot_pixels"] = simulator.hot_pixels
    group.create_dataset("background", data=simulator.background, chunks=shape, compression=bitshuffle)


@dataclass(frozen=True)
class SimulationTruth:
    """The truth in a file of simulated frames.

    `hit` bool (n,), `frame_ptr` int64 (n + 1,), `spots` (m,) of `SPOT_DTYPE`, `background` float32 (rows, columns),
    `mask` uint8 (rows, columns, 1 = bad), `hot_pixels` int64 (k,), `orientation` float64 (n, 3, 3), `poni_text`.
    """

    hit: np.ndarray
    frame_ptr: np.ndarray
    spots: np.ndarray
    background: np.ndarray
    mask: np.ndarray
    hot_pixels: np.ndarray
    orientation: np.ndarray
    poni_text: str

    @classmethod
    def load(cls, path: str | os.PathLike) -> SimulationTruth:
        """Read it from the file at `path`.

        Raises
        ------
        ConfigurationError
            The file cannot be read or has no truth in it.
        """
        try:
            with h5py.File(path, "r") as file:
                group = file["truth"]
                spots = np.empty(group["spots/x"].shape, SPOT_DTYPE)
                for name in SPOT_DTYPE.names:
                    spots[name] = group[f"spots/{name}"][...]
                return cls(
                    hit=group["hit"][...].astype(bool),
                    frame_ptr=group["frame_ptr"][...].astype(np.int64),
                    spots=spots,
                    background=group["background"][...],
                    mask=file["entry/data/mask"][...],
                    hot_pixels=group["hot_pixels"][...],
                    orientation=group["orientation"][...],
                    poni_text=file["entry/data/poni"].asstr()[()],
                )
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be read ({error})") from error
        except KeyError as error:
            raise ConfigurationError(f"{path}: no file of simulated frames ({error.args[0]})") from error

    def spots_of(self, i: int) -> np.ndarray:
        """The spots of frame `i` (`SPOT_DTYPE`, the strongest first)."""
        return self.spots[self.frame_ptr[i] : self.frame_ptr[i + 1]]
