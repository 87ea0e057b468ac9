"""Writes sparse frames, their peaks and the ledger, as one file that is valid at every moment.

    /entry_0000/sparse_frames    pixels and background curves of saved frames: what pyFAI writes and fabio reads
    /entry_1/result_1            their peaks, as CrystFEL and others read them (CXI); also /entry_0000/peaks
    /entry_0000/ledger           one row per frame number (`layout.LEDGER_DTYPE`)
    /entry_0000/parameter_sets   one row per parameter set (`layout.PARAMETER_SET_DTYPE`)
    /entry_0000/geometry         what is needed to reduce the frames again

fabio opens a file from the first saved frame on; it refuses one without frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import h5py
import numpy as np

from ..processing.errors import NotAllowedError
from ..processing.frames import PEAK_COLUMNS, ReducedFrame, RunInfo
from ..processing.parameters import ParameterSet
from . import chunks, layout, nexus
from .hdf5_writer import PROGRAM, VERSION, Hdf5Writer, iso_time
from .pyfai_configuration import as_pyfai

# Chunks are small because the last chunk, partly filled, is written anew in every commit and its old copy stays
# behind as unused bytes.
PIXELS_PER_CHUNK = 32_768
ROWS_PER_CHUNK = 16
LEDGER_ROWS_PER_CHUNK = 512
# not compressed: they grow in place
POINTERS_PER_CHUNK = 4096
PARAMETER_SETS_PER_CHUNK = 8

# fabio recognises the format by the beginning of this attribute; the true name is in `sparsify/program`
CREATOR = f"pyFAI-compatible {PROGRAM} {VERSION}"

INDEX_NAME = "flat pixel index y * width + x, sorted within a frame"

_DENSIFY_SCRIPT = """#python
import numpy
masked = ~numpy.isfinite(mask)
frames = []
for row, background in enumerate(background_avg):
    dense = numpy.interp(mask, radius, background)
    # only if there is a dataset `normalization`: dense *= normalization
    start, stop = frame_ptr[row:row + 2]
    dense.ravel()[index[start:stop]] = intensity[start:stop]
    # only if intensity is an integer: dense = numpy.floor(dense + 0.5)
    dense[masked] = dummy
    frames.append(dense.astype(intensity.dtype))
"""


class SparseWriter(Hdf5Writer):
    """One sparse file: `begin` once, then `append` and `add_parameter_set` in any order, then `close`.

    Readers see frames at the latest `COMMIT_INTERVAL` after the next call of `append`, or after `flush`.
    Parameters and errors of the constructor: see `Hdf5Writer`.
    """

    _pixels = 0  # of all saved frames
    _parameter_sets = 0
    _peaks_width = layout.PEAKS_WIDTH

    def _write_fixed(self, info: RunInfo) -> None:
        self._h5.attrs["creator"] = CREATOR
        self._h5.attrs["default"] = layout.ENTRY.strip("/")
        entry = nexus.group(self._h5, layout.ENTRY, "NXentry", default="sparse_frames")
        entry.attrs["pyFAI_sparse_frames"] = layout.SPARSE_FRAMES
        entry["program_name"] = PROGRAM
        entry["start_time"] = iso_time()
        self._end_time = _fixed_text(entry, "end_time", iso_time())
        self._end_time.attrs["long_name"] = "when the file was last added to"
        self._create_sparse_frames(entry, info)
        self._create_peaks(info)
        self._create_tables()
        self._configuration = nexus.group(nexus.write_process(entry, "sparsify", info), "configuration", "NXnote")
        self._configuration["type"] = "text/json"
        nexus.write_instrument(entry, info)
        nexus.write_geometry(entry, info)
        self._last_written = [self._frame_ptr, self._ledger]

    def _create_sparse_frames(self, entry: h5py.Group, info: RunInfo) -> None:
        frames = nexus.group(entry, "sparse_frames", "NXdata", signal="background_avg", axes=[".", "radius"])
        integer = np.issubdtype(info.dtype, np.integer)
        bins = len(info.radius)
        radius = info.radius.astype(np.float32)
        self._radius = radius
        frames["dummy"] = info.dtype.type(0 if integer else np.nan)
        frames["script"] = _DENSIFY_SCRIPT
        frames["radius"] = radius
        frames["radius"].attrs.update({"unit": "r_m", "long_name": "Radius (m)", "interpretation": "spectrum"})
        # The background is constant beyond the first and the last bin centre. fabio, however, takes a pixel inside
        # of the first for a masked one; clamped to the bin centres it gives what is meant.
        nexus.image(
            frames,
            "mask",
            np.clip(info.radius_image.astype(np.float32), radius[0], radius[-1]),
            unit="r_m",
            long_name="radius of each pixel (m), limited to first and last bin centre; NaN where masked",
        )
        if info.normalization is not None:
            nexus.image(frames, "normalization", info.normalization.astype(np.float32))
        self._frame_ptr = self._create_growing(frames, "frame_ptr", np.uint64, (), POINTERS_PER_CHUNK)
        self._frame_ptr.append(np.zeros(1, np.uint64))
        self._create_pixels(frames, info)
        self._background = [
            self._create_growing(frames, name, np.float32, (bins,), ROWS_PER_CHUNK, chunks.PIXELS)
            for name in ("background_avg", "background_std")
        ]
        average, deviation = (growing.dataset for growing in self._background)
        for dataset, what in ((average, "Average value"), (deviation, "Standard deviation")):
            dataset.attrs["interpretation"] = "spectrum"
            dataset.attrs["long_name"] = f"{what} of background"
            dataset.attrs["empty_bins"] = "interpolated linearly between the nearest bins that have pixels"
        average.attrs["signal"] = 1
        frames["errors"] = deviation

    def _create_pixels(self, frames: h5py.Group, info: RunInfo) -> None:
        self._index = self._create_growing(frames, "index", np.uint32, (), PIXELS_PER_CHUNK, chunks.PIXELS)
        self._index.dataset.attrs["long_name"] = INDEX_NAME
        self._intensity = self._create_growing(frames, "intensity", info.dtype, (), PIXELS_PER_CHUNK, chunks.PIXELS)

    def _append_pixels(self, saved: Sequence[ReducedFrame]) -> None:
        for frame in saved:
            if _length(frame.index):
                self._index.append(frame.index)
                self._intensity.append(frame.intensity)

    def _create_peaks(self, info: RunInfo) -> None:
        self._h5["cxi_version"] = 160
        entry = nexus.group(self._h5, "entry_1", "NXentry", default="result_1")
        peaks = nexus.group(entry, "result_1", "NXdata", signal="nPeaks")
        self._n_peaks = self._create_growing(peaks, "nPeaks", np.int32, (), POINTERS_PER_CHUNK)
        self._n_peaks.dataset.attrs["interpretation"] = "spectrum"
        self._peaks = [
            self._create_growing(
                peaks,
                layout.PEAK_DATASETS[column],
                np.float32,
                (layout.PEAKS_WIDTH,),
                ROWS_PER_CHUNK,
                chunks.PIXELS,
                widest=layout.PEAKS_WIDTH_LIMIT,
            )
            for column in PEAK_COLUMNS
        ]
        nexus.write_cxi_instrument(entry, info)
        self._h5[layout.ENTRY]["peaks"] = peaks  # the same group, where pyFAI and fabio look for it

    def _create_tables(self) -> None:
        self._ledger = self._create_growing(
            self._h5, layout.LEDGER, layout.LEDGER_DTYPE, (), LEDGER_ROWS_PER_CHUNK, chunks.TABLE
        )
        self._sets = self._create_growing(
            self._h5, layout.PARAMETER_SETS, layout.PARAMETER_SET_DTYPE, (), PARAMETER_SETS_PER_CHUNK
        )

    def add_parameter_set(self, pset: ParameterSet, first_frame: int, time: float) -> None:
        """Record the parameters that hold from `first_frame` on, in force since `time` (s since 1970).

        Raises
        ------
        NotAllowedError, HardwareError
            The file is not open or has not begun; the disk refuses.
        """
        info = self._begun()
        with self._writing():
            text = layout.encode_texts([pset.values.to_json()], layout.PARAMETER_SET_DTYPE["json"])
            row = np.array([(pset.number, first_frame, time, text[0])], dtype=layout.PARAMETER_SET_DTYPE)
            self._sets.append(row)
            if self._parameter_sets == 0:  # pyFAI's place for the configuration has room for one set
                _fixed_text(self._configuration, "data", json.dumps(as_pyfai(info, pset.values), indent=2))
            self._parameter_sets += 1
            self._pending = True

    def append(self, frames: Sequence[ReducedFrame]) -> None:
        """Add frames of any verdict: each gets a row in the ledger, saved ones a row of pixels, curves and peaks.

        Raises
        ------
        NotAllowedError
            The file is not open or has not begun.
        ValueError
            Arrays of a frame do not fit each other or the run; nothing of `frames` is written.
        HardwareError
            The disk refuses. What was visible before stays valid; nothing more can be appended.
        """
        saved = self._check_all(frames)
        if not frames:
            return
        with self._writing():
            if saved:
                self._append_saved(saved)
            self._ledger.append(_ledger_rows(frames, self._rows))
            self._rows += len(saved)
            self._pixels += sum(_length(frame.index) for frame in saved)
            self._commit_if_due()

    def _check_all(self, frames: Sequence[ReducedFrame]) -> list[ReducedFrame]:
        """Those that are saved."""
        info = self._begun()
        saved = [frame for frame in frames if frame.verdict.is_saved]
        for frame in saved:
            _check(frame, info)
        return saved

    def _append_saved(self, saved: Sequence[ReducedFrame]) -> None:
        """Everything that `frame_ptr` and the ledger refer to first, then `frame_ptr`."""
        self._append_pixels(saved)
        for growing, curves in zip(self._background, self._curves(saved), strict=True):
            growing.append(curves)

        widest = max(len(frame.peaks) for frame in saved)
        while self._peaks_width < widest:
            self._peaks_width += layout.PEAKS_WIDTH
        columns = np.zeros((len(PEAK_COLUMNS), len(saved), self._peaks_width), dtype=np.float32)
        for row, frame in enumerate(saved):
            columns[:, row, : len(frame.peaks)] = frame.peaks.T
        for growing, column in zip(self._peaks, columns, strict=True):
            growing.append(column)
        self._n_peaks.append(np.array([len(frame.peaks) for frame in saved], dtype=np.int32))

        ends = self._pixels + np.cumsum([_length(frame.index) for frame in saved])
        self._frame_ptr.append(ends.astype(np.uint64))

    def _curves(self, saved: Sequence[ReducedFrame]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, float32 (frames, bins), without gaps."""
        shape = (len(saved), len(self._radius))
        mean, std = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for row, frame in enumerate(saved):
            if frame.background_mean is not None:
                mean[row] = frame.background_mean
            if frame.background_std is not None:
                std[row] = frame.background_std
        for curves in (mean, std):
            for row in np.flatnonzero(~np.isfinite(curves).all(axis=1)):
                curves[row] = fill_gaps(self._radius, curves[row])
        return mean, std

    def _begun(self) -> RunInfo:
        if self._info is None:
            raise NotAllowedError(f"{self.path}: begin() comes first")
        return self._info

    def _before_commit(self) -> None:
        if self._info is not None:
            self._end_time[()] = iso_time().encode()


def fill_gaps(radius: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """`curve` (bins,) with NaN replaced by interpolation between the bins that have a value, 0 if none has.

    Readers interpolate between bin centres; a NaN would spread to pixels of the bins next to it.
    """
    filled = np.isfinite(curve)
    if not filled.any():
        return np.zeros_like(curve)
    return np.where(filled, curve, np.interp(radius, radius[filled], curve[filled])).astype(curve.dtype)


def _fixed_text(parent: h5py.Group, name: str, text: str) -> h5py.Dataset:
    """A text that is replaced in place by one of the same length."""
    return parent.create_dataset(name, data=text.encode(), dtype=h5py.string_dtype("utf-8", len(text.encode())))


def _length(array: np.ndarray | None) -> int:
    return 0 if array is None else len(array)


def _check(frame: ReducedFrame, info: RunInfo) -> None:
    if _length(frame.index) != _length(frame.intensity):
        raise ValueError(
            f"frame {frame.number}: {_length(frame.index)} indices but {_length(frame.intensity)} intensities"
        )
    for name, curve in (("background_mean", frame.background_mean), ("background_std", frame.background_std)):
        if curve is not None and curve.shape != info.radius.shape:
            raise ValueError(f"frame {frame.number}: {name} has shape {curve.shape}, not {info.radius.shape}")
    if frame.intensity is not None and not np.can_cast(frame.intensity.dtype, info.dtype, "same_kind"):
        raise ValueError(f"frame {frame.number}: {frame.intensity.dtype} intensities do not fit {info.dtype}")
    if frame.peaks.shape[1:] != (len(PEAK_COLUMNS),):
        raise ValueError(f"frame {frame.number}: peaks have shape {frame.peaks.shape}, not (n, {len(PEAK_COLUMNS)})")
    if len(frame.peaks) > layout.PEAKS_WIDTH_LIMIT:
        raise ValueError(f"frame {frame.number}: {len(frame.peaks)} peaks, at most {layout.PEAKS_WIDTH_LIMIT} fit")


def _ledger_rows(frames: Sequence[ReducedFrame], first_row: int) -> np.ndarray:
    """`LEDGER_DTYPE` (frames,)"""
    ledger = np.zeros(len(frames), dtype=layout.LEDGER_DTYPE)
    ledger["frame"] = [frame.number for frame in frames]
    ledger["timestamp"] = [frame.timestamp for frame in frames]
    ledger["verdict"] = layout.verdict_names(frame.verdict for frame in frames)
    ledger["position_x"], ledger["position_y"] = np.array([frame.position for frame in frames]).T
    for column in ("n_pixels", "n_peaks", "parameter_set", "stored_bytes", "raw_bytes", "monitor"):
        ledger[column] = [getattr(frame, column) for frame in frames]
    ledger["series"] = layout.encode_texts((frame.series_id for frame in frames), layout.LEDGER_DTYPE["series"])
    ledger["reason"] = layout.encode_texts((frame.reason for frame in frames), layout.LEDGER_DTYPE["reason"])
    saved = np.array([frame.verdict.is_saved for frame in frames])
    ledger["row"] = np.where(saved, first_row + np.cumsum(saved) - 1, -1)
    return ledger
