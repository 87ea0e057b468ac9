"""Writes a sparse file out as whole images, for programs that read nothing else.

One kind of image for all of them: int32, masked pixels −1, everything else from 0 to 2³¹ − 1, bitshuffle-LZ4, one
frame per chunk; HDF5 as old as it goes, because XDS' plugin neggia has a parser of its own, and needs that. Images of
floating point pixels stay float32 in NXmx (masked pixels NaN); XDS reads integers only, so for it they are rounded.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import h5py
import numpy as np

from ..processing import bitshuffle
from ..processing.errors import ConfigurationError, HardwareError
from ..processing.frames import RunInfo
from ..processing.threads import thread_pool
from . import layout, nexus
from .hdf5_writer import PROGRAM, VERSION, iso_time
from .sparse_reader import SparseFile

FRAMES_PER_FILE = 1000  # of the Eiger layout
MASKED = -1
_PEAK_ROWS = 256  # copied at a time


class DenseFormat(StrEnum):
    """How whole images are laid out."""

    nxmx = "nxmx"  # one file: DIALS, CrystFEL, and XDS
    eiger = "eiger"  # a master and files of images: XDS, and whatever reads an EIGER's files


def densify_file(
    file: SparseFile,
    output: Path,
    *,
    form: DenseFormat = DenseFormat.nxmx,
    noise: bool = True,
    seed: int | None = None,
    threads: int = 0,
    frames_per_file: int = FRAMES_PER_FILE,
    overwrite: bool = False,
    upside_down: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Path]:
    """Write all frames of `file` as whole images.

    Parameters
    ----------
    output : Path
        The file to write; in the Eiger layout the master: `NAME_master.h5`, beside which `NAME_000001.h5` … will lie.
    noise, seed
        As in `SparseFile.densify`. The same bytes come out whatever the number of threads.
    threads : int
        That make and compress images; 0: as many as there are cores.
    overwrite : bool
        Replace files of these names, once all images are written.
    upside_down : bool
        See `DetectorGeometry.upside_down`.
    progress : callable
        Called with the number of frames written so far; what it raises ends the writing, and no file is left.

    Returns
    -------
    list of Path
        The files, the one to open first.

    Raises
    ------
    ConfigurationError
        There is no frame, one cannot be read, the geometry cannot be used, a file exists, or its directory does not.
    HardwareError
        The disk refuses. No file is left.
    """
    if not len(file):
        raise ConfigurationError(f"{file.path}: no frame was saved in it, so there is none to make dense")
    if file.shape[0] * file.shape[1] * 4 >= 2**32:
        raise ConfigurationError(f"{file.path}: images of {file.shape[0]} × {file.shape[1]} pixels are too large")
    info = file.run_info()
    names = _names(output, form, len(file), frames_per_file)
    _check_free(names, overwrite)
    dtype = np.dtype(np.float32 if file.dtype.kind == "f" and form is DenseFormat.nxmx else np.int32)
    temporary = {name: name.with_name(f".{name.name}.new") for name in names}
    try:
        with _disk_errors(output), _images(file, dtype, noise, seed, threads or os.cpu_count() or 1) as images:
            done = 0
            if form is DenseFormat.nxmx:
                with _new(temporary[output]) as h5:
                    data = _write_master(h5, file, info, dtype, upside_down)
                    _write_frames(
                        data.create_dataset("data", **_data_options(file, len(file), dtype)), images, progress
                    )
            else:
                for place in names[1:]:
                    count = min(frames_per_file, len(file) - done)
                    with _new(temporary[place]) as h5:
                        data = nexus.group(nexus.group(h5, "entry", "NXentry"), "data", "NXdata", signal="data")
                        dataset = data.create_dataset("data", **_data_options(file, count, dtype))
                        dataset.attrs["image_nr_low"], dataset.attrs["image_nr_high"] = done + 1, done + count
                        _write_frames(dataset, images, lambda n, done=done: progress(done + n))
                    done += count
                with _new(temporary[output]) as h5:
                    data = _write_master(h5, file, info, dtype, upside_down, several=len(names) > 2)
                    data.attrs["signal"] = "data_000001"
                    for number, place in enumerate(names[1:], 1):
                        data[f"data_{number:06}"] = h5py.ExternalLink(place.name, "/entry/data/data")
            for name in names[::-1]:  # the master last
                os.replace(temporary[name], name)
    finally:
        for place in temporary.values():
            place.unlink(missing_ok=True)
    return names


def _names(output: Path, form: DenseFormat, frames: int, frames_per_file: int) -> list[Path]:
    if form is DenseFormat.nxmx:
        return [output]
    if not output.name.endswith("_master.h5"):
        raise ConfigurationError(f"{output}: in the eiger format the name must end with _master.h5, e.g. run_master.h5")
    if frames_per_file < 1:
        raise ConfigurationError(f"{frames_per_file} frames per file: accepted is 1 and more")
    base = output.name.removesuffix("_master.h5")
    count = -(-frames // frames_per_file)
    return [output, *(output.with_name(f"{base}_{number:06}.h5") for number in range(1, count + 1))]


def _check_free(names: list[Path], overwrite: bool) -> None:
    directory = names[0].parent
    if not directory.is_dir():
        raise ConfigurationError(f"{names[0]}: the directory {directory} does not exist; create it or name another one")
    for name in names:
        if name.is_dir():
            raise ConfigurationError(f"{name} is a directory; name a file")
        if name.exists() and not overwrite:
            raise ConfigurationError(f"{name} exists; name another file, or replace it with --overwrite")


@contextlib.contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # HDF5 tells the reason only in words
        reason = os.strerror(error.errno) if error.errno else str(error).partition("\n")[0]
        full = error.errno == errno.ENOSPC or "No space left" in str(error)
        advice = "; make room or name a file elsewhere" if full else ""
        raise HardwareError(f"{output} cannot be written: {reason}{advice}") from error


def _new(place: Path) -> h5py.File:
    return h5py.File(place, "w", libver="earliest")


def _data_options(file: SparseFile, frames: int, dtype: np.dtype) -> dict:
    return {"shape": (frames, *file.shape), "dtype": dtype, "chunks": (1, *file.shape), **layout.COMPRESSION}


@contextlib.contextmanager
def _images(
    file: SparseFile, dtype: np.dtype, noise: bool, seed: int | None, threads: int
) -> Iterator[Iterator[bytes | memoryview]]:
    """Compressed images in order; so many threads make them, from now on, and no more than a few wait to be taken."""
    options = {"dtype": dtype, "masked": np.nan, "lowest": -np.inf} if dtype.kind == "f" else {}
    options = options or {"dtype": dtype, "masked": MASKED, "lowest": 0}
    own = threading.local()  # new memory for each image would cost more time than filling it

    def make(row: int) -> bytes | memoryview:
        densifier = ready.result()
        try:
            frame = file.frame(row, peaks=False)
            if not hasattr(own, "image"):
                own.image = np.empty(file.shape, dtype)
            drawn = {"noise": file.parameters_of(frame), "rng": file.generator(frame, seed)} if noise else {}
            return bitshuffle.encode(densifier.image(frame, out=own.image, **drawn, **options))
        except (OSError, IndexError, ValueError) as error:
            raise ConfigurationError(
                f"{file.path}: frame {row} cannot be read, the file is damaged: {error}"
            ) from error

    def in_order() -> Iterator[bytes | memoryview]:
        while waiting:
            image = waiting.popleft().result()
            waiting.extend(pool.submit(make, row) for row in itertools.islice(rows, 1))
            yield image

    pool = thread_pool(threads, "densify")
    try:
        ready = pool.submit(lambda: file.densifier)  # takes as long as the master does, which is written meanwhile
        rows = iter(range(len(file)))
        waiting = deque(pool.submit(make, row) for row in itertools.islice(rows, threads + 2))
        yield in_order()
    finally:
        pool.shutdown(cancel_futures=True)


def _write_frames(dataset: h5py.Dataset, images: Iterator[bytes | memoryview], progress: Callable[[int], None]) -> None:
    dataset.attrs["interpretation"] = "image"
    for row in range(len(dataset)):
        dataset.id.write_direct_chunk((row, 0, 0), next(images))
        progress(row + 1)


def _write_master(
    h5: h5py.File, file: SparseFile, info: RunInfo, dtype: np.dtype, upside_down: bool, *, several: bool = False
) -> h5py.Group:
    """Everything but the images; the group that they belong into."""
    h5.attrs["NX_class"] = "NXroot"
    h5.attrs["creator"] = f"{PROGRAM} {VERSION}"
    h5.attrs["file_time"] = iso_time()
    h5.attrs["default"] = "entry"
    entry = nexus.group(h5, "entry", "NXentry", default="data")
    if not several:  # readers of NXmx look for a single array
        entry["definition"] = "NXmx"
    entry["start_time"] = iso_time()
    process = nexus.write_process(entry, PROGRAM, info)
    process["sparse_file"] = str(file.path)
    data = nexus.group(entry, "data", "NXdata", signal="data")
    saved = file.ledger[file.ledger["row"] >= 0][: len(file)] if len(file.ledger) else None
    numbers = np.arange(len(file)) if saved is None else saved["frame"]
    data["frame_number"] = numbers.astype(np.int64)
    detector = nexus.write_nxmx(entry, info, dtype, upside_down=upside_down)
    detector["detectorSpecific/nimages"] = np.uint32(len(file))
    if saved is not None:
        nexus.value(data, "timestamp", saved["timestamp"], "s")
        frame_time = _frame_time(saved["frame"], saved["timestamp"])
        if frame_time is not None:
            nexus.value(detector, "frame_time", frame_time, "s").attrs["note"] = "from the timestamps"
    nexus.write_geometry(entry, info)
    if file.peak_group is not None:
        _copy_peaks(h5, file, info)
    return data


def _frame_time(numbers: np.ndarray, times: np.ndarray) -> float | None:
    """Seconds from one frame to the next."""
    steps, elapsed = np.diff(numbers), np.diff(times)
    good = (steps > 0) & np.isfinite(elapsed) & (elapsed > 0)
    return float(np.median(elapsed[good] / steps[good])) if good.any() else None


def _copy_peaks(h5: h5py.File, file: SparseFile, info: RunInfo) -> None:
    """Row i of frame i, where CrystFEL and others look for them."""
    h5["cxi_version"] = 160
    entry = nexus.group(h5, "entry_1", "NXentry", default="result_1")
    result = nexus.group(entry, "result_1", "NXdata", signal="nPeaks")
    for name, source in file.peak_group.items():
        if not isinstance(source, h5py.Dataset) or source.ndim not in (1, 2):
            continue
        options = {} if source.ndim == 1 else {"chunks": (1, source.shape[1]), **layout.TABLE_COMPRESSION}
        if source.ndim == 2 and not source.shape[1]:
            options = {}
        target = result.create_dataset(name, (len(file), *source.shape[1:]), source.dtype, **options)
        for start in range(0, len(file), _PEAK_ROWS):
            rows = slice(start, min(start + _PEAK_ROWS, len(file)))
            target[rows] = source[rows]
    nexus.write_cxi_instrument(entry, info)
