"""Collects what became of frames into the numbers of `Snapshot`."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..processing.device_times import DeviceTimes
from ..processing.frames import ReducedFrame, Verdict
from ..processing.parameters import MAX_PEAKS, ParameterSet
from ..processing.veto import is_hit
from .overview import INVALID as PREVIEW_INVALID  # flagged pixels, and everything above
from .overview import Overview
from .statistics import COUNTERS, HISTOGRAM, HISTORY, Snapshot
from .virtual_powder import decimation

_WINDOW = 1.0  # s, over which rates are taken
_LONGEST_WINDOW = 3.0  # s; files grow in steps, so output is looked at a little longer
_PREVIEWS_WAITING = 8


class _Counted(NamedTuple):
    """What is remembered of a frame; columns of `Collector.counters`."""

    frame: int
    n_peaks: int
    n_pixels: int
    verdict: Verdict
    parameter_set: int
    monitor: float
    position_x: float
    position_y: float


class Collector:
    """Counts, rates, histories of one run. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.overview = Overview()
        self.radius_mm = np.zeros(0)
        self.opencl_device_name = ""
        self.decoding = ""
        self.output_file = ""
        self.mask_info = ""  # JSON, see `Images.mask_info`
        self.note = ""  # what is unusual about the run, but no error
        self._last_error = ""
        self.mask: np.ndarray | None = None  # (rows, columns), non-zero = bad
        self._preview = {
            "preview": np.zeros((0, 0), dtype=np.uint16),
            "preview_step": 1,
            "preview_frame": -1,
            "preview_peaks": np.zeros((0, 6), dtype=np.float32),
        }
        self._without_peaks: dict[int, tuple[np.ndarray, int]] = {}  # frame → its preview and the step of it
        self._n_pixels = 0
        self._peaks_found = 0
        self._counts = dict.fromkeys(Verdict, 0)
        self._histogram = np.zeros(MAX_PEAKS + 2, dtype=np.int64)
        self._hits: deque[bool] = deque(maxlen=HISTORY)
        self._peak_counts: deque[int] = deque(maxlen=HISTORY)
        self._counters: deque[_Counted] = deque(maxlen=COUNTERS)
        self._n_devices = 1
        # since the beginning: frames, bytes as received, bytes raw, bytes written, and `DeviceTimes`
        self._totals = [0.0] * (4 + len(DeviceTimes._fields))
        self._samples: deque[tuple[float, ...]] = deque([(time.monotonic(), *self._totals)])  # with the time
        self._sparse_bytes = {True: 0, False: 0}  # saved, vetoed
        self._newest: ReducedFrame | None = None
        self._changes = 0  # so that numbers that nothing has changed are not made again
        self._made: tuple[tuple, dict[str, Any]] = ((), {})  # from what, and the numbers

    def add(
        self,
        rows: list[ReducedFrame],
        parameter_set: ParameterSet | None,
        times: DeviceTimes,
        bytes_written: int | None,
    ) -> None:
        """Count a batch. `times`: what the device took for it. `bytes_written`: length of the files so far; None where
        nothing is saved (then the bytes that would have been written count)."""
        with self._lock:
            self._changes += 1
            for row in rows:
                self._counts[row.verdict] += 1
                if row.verdict in (Verdict.FAILED, Verdict.DROPPED):
                    what = f"frame {row.number}" if row.number >= 0 else "a message"
                    self._last_error = f"{what}: {row.reason}"
                elif row.verdict is not Verdict.LOST:
                    self._add_reduced(row, parameter_set)
            reduced = [row for row in rows if row.index is not None]
            frames, stored, raw, out, *device = self._totals
            if bytes_written is None:
                bytes_written = int(out) + sum(_sparse_bytes(row) for row in reduced if row.verdict.is_saved)
            self._totals = [
                frames + len(reduced),
                stored + sum(row.stored_bytes for row in reduced),
                raw + sum(row.raw_bytes for row in reduced),
                float(bytes_written),
                *(DeviceTimes(*device).plus(times) if reduced else device),
            ]
            now = time.monotonic()
            self._samples.append((now, *self._totals))
            while len(self._samples) > 2 and self._samples[1][0] < now - _LONGEST_WINDOW:
                self._samples.popleft()
        self.overview.add(reduced, parameter_set)

    def _add_reduced(self, row: ReducedFrame, parameter_set: ParameterSet | None) -> None:
        self._newest = row
        if row.number in self._without_peaks:
            self._complete_preview(row)
        self._n_pixels = row.raw_bytes // row.intensity.itemsize if row.intensity is not None else 0
        self._histogram[min(row.n_peaks, MAX_PEAKS + 1)] += 1
        self._peak_counts.append(row.n_peaks)
        self._peaks_found += row.n_peaks
        if parameter_set is not None:
            self._hits.append(is_hit(row.n_peaks, parameter_set.values))
        self._counters.append(
            _Counted(row.number, row.n_peaks, row.n_pixels, row.verdict, row.parameter_set, row.monitor, *row.position)
        )
        self._sparse_bytes[row.verdict.is_saved] += _sparse_bytes(row)

    def start_output(self, bytes_written: int) -> None:
        """The files hold so many bytes before any frame (mask, geometry): they do not count as output."""
        with self._lock:
            self._changes += 1
            self._totals[3] = float(bytes_written)
            self._samples[-1] = (time.monotonic(), *self._totals)

    def end_output(self, bytes_written: int) -> None:
        """The files are closed and hold so many bytes."""
        with self._lock:
            self._changes += 1
            self._totals[3] = float(bytes_written)
            self._samples[-1] = (self._samples[-1][0], *self._totals)

    def set_devices(self, names: Sequence[str]) -> None:
        """The OpenCL devices in use."""
        self.opencl_device_name = "; ".join(names)
        with self._lock:
            self._changes += 1
            self._n_devices = max(len(names), 1)

    def set_error(self, text: str) -> None:
        with self._lock:
            self._changes += 1
            self._last_error = text

    def set_preview(self, image: np.ndarray, number: int) -> None:
        """Keep every k-th pixel of every k-th row of a raw frame, as uint16; shown once its peaks are there, too.

        Pixels that are masked or have no value are `PREVIEW_INVALID`.
        """
        k = decimation(image.shape)
        small = image[::k, ::k]
        if small.dtype.kind == "u":
            bad = small >= min(np.iinfo(small.dtype).max, PREVIEW_INVALID)
        elif small.dtype.kind == "i":
            bad = (small < 0) | (small >= PREVIEW_INVALID)
        else:
            bad = ~(small < PREVIEW_INVALID)
        preview = np.clip(np.where(bad, 0, small), 0, PREVIEW_INVALID - 1).astype(np.uint16)
        if self.mask is not None and self.mask.shape == image.shape:
            bad = bad | (self.mask[::k, ::k] != 0)
        preview[bad] = PREVIEW_INVALID
        with self._lock:
            self._without_peaks[number] = preview, k
            while len(self._without_peaks) > _PREVIEWS_WAITING:  # of frames that failed on the way
                del self._without_peaks[next(iter(self._without_peaks))]

    def _complete_preview(self, row: ReducedFrame) -> None:
        """The peaks of a frame that is to be shown are known."""
        preview, step = self._without_peaks[row.number]
        for number in [number for number in self._without_peaks if number <= row.number]:
            del self._without_peaks[number]
        if step > 1 and len(row.peaks):
            # a spot may lie between the pixels that are shown: its brightest one stands for those around it
            x, y = np.rint(row.peaks[:, :2]).astype(np.int64).T // step
            brightest = np.clip(row.peaks[:, 6], 0, PREVIEW_INVALID - 1).astype(np.uint16)
            np.maximum.at(
                preview, (np.minimum(y, preview.shape[0] - 1), np.minimum(x, preview.shape[1] - 1)), brightest
            )
        self._preview = {
            "preview": preview,
            "preview_step": step,
            "preview_frame": row.number,
            "preview_peaks": np.ascontiguousarray(row.peaks[:, :6]),
        }

    def counters(self, from_frame: int) -> dict[str, list]:
        """Columns of the newest frames; see `RunController.read_counters`."""
        with self._lock:
            rows = [row for row in self._counters if row.frame >= from_frame]
        columns = {name: [getattr(row, name) for row in rows] for name in _Counted._fields}
        return columns | {"verdict": [row.verdict.name.lower() for row in rows]}

    def snapshot(self, *, what_if_min_peaks: int, veto_max_peaks: int, occupancy: float) -> Snapshot:
        """The numbers now. Clients ask again and again: what has not changed is not made anew, and then nothing waits
        for the lock."""
        is_fresh = self._is_fresh(time.monotonic())
        key, values = self._made
        if key != (self._changes, what_if_min_peaks, veto_max_peaks, is_fresh):
            with self._lock:
                key = (self._changes, what_if_min_peaks, veto_max_peaks, is_fresh)
                values = self._numbers(what_if_min_peaks, veto_max_peaks, is_fresh)
                self._made = key, values
        return Snapshot(
            **values,
            radius=self.radius_mm,
            buffer_occupancy=occupancy,
            opencl_device_name=self.opencl_device_name,
            decoding=self.decoding,
            output_file=self.output_file,
            mask_info=self.mask_info,
        )

    def _numbers(self, what_if_min_peaks: int, veto_max_peaks: int, is_fresh: bool) -> dict[str, Any]:
        """What of a snapshot only changes with what is added."""
        counts, newest = dict(self._counts), self._newest
        saved = counts[Verdict.KEPT] + counts[Verdict.CONTROL]
        reduced = saved + counts[Verdict.VETOED]
        histogram = self._histogram[:HISTOGRAM].astype(np.uint32)
        histogram[-1] = self._histogram[HISTOGRAM - 1 :].sum()
        end = veto_max_peaks + 1 if veto_max_peaks else None
        would_keep = int(self._histogram[what_if_min_peaks:end].sum())
        all_bytes = sum(self._sparse_bytes.values())
        values = self._rates(is_fresh) | self._preview
        values |= {
            "frame_count": reduced,
            "frames_lost": counts[Verdict.LOST],
            "frames_dropped": counts[Verdict.DROPPED],
            "frames_failed": counts[Verdict.FAILED],
            "kept_count": saved,
            "vetoed_count": counts[Verdict.VETOED],
            "control_count": counts[Verdict.CONTROL],
            "peaks_found": self._peaks_found,
            "hit_rate": 100.0 * sum(self._hits) / len(self._hits) if self._hits else 0.0,
            "saved_fraction": 100.0 * self._sparse_bytes[False] / all_bytes if all_bytes else 0.0,
            "what_if_kept_fraction": 100.0 * would_keep / reduced if reduced else 0.0,
            "peak_count_history": np.array(self._peak_counts, dtype=np.uint32),
            "peak_count_histogram": histogram,
            "last_error": self._last_error,
        }
        if newest is not None:
            values |= {
                "last_frame_number": newest.number,
                "series_id": newest.series_id,
                "parameter_set": newest.parameter_set,
                "pixels_picked": newest.n_pixels,
                "fraction_picked": 100.0 * newest.n_pixels / self._n_pixels if self._n_pixels else 0.0,
                "peak_count": newest.n_peaks,
                "monitor_value": newest.monitor,
                "last_peaks": np.ascontiguousarray(newest.peaks[:, :6]),
                "background_mean": newest.background_mean.astype(np.float64),
                "background_std": newest.background_std.astype(np.float64),
            }
        return values

    def _is_fresh(self, now: float) -> bool:
        """Whether rates still hold: they sink to zero a second after the last frame."""
        return now - self._samples[-1][0] < _WINDOW

    def _rates(self, fresh: bool) -> dict[str, float]:
        """Rates sink to zero a second after the last frame; ratios keep what they were."""
        newest = self._samples[-1]
        # one second back from the newest result; at least one result
        first = next(s for s in self._samples if s[0] >= newest[0] - _WINDOW)
        if first is newest and len(self._samples) > 1:
            first = self._samples[-2]
        frames, stored = newest[1] - first[1], newest[2] - first[2]
        # the output grows in steps of up to a second: looked at a little longer
        oldest = self._samples[0]
        long_stored, long_raw, out = (newest[i] - oldest[i] for i in (2, 3, 4))
        per_second = 1 / (newest[0] - first[0]) if fresh and newest[0] > first[0] else 0.0
        long_per_second = 1 / (newest[0] - oldest[0]) if fresh and newest[0] > oldest[0] else 0.0
        device = _device_times(first, newest)
        if not device.timed:  # of the frames of a second at least one batch is timed, but it may be the first
            device = _device_times(oldest, newest)._replace(seconds=device.seconds)
        ms_per_frame = 1e3 / device.timed if device.timed else math.nan if device.untold else 0.0
        busy = 1e-3 * ms_per_frame * (device.kernels + device.download) * frames * per_second / self._n_devices
        return {
            "frame_rate": frames * per_second,
            "input_rate": 1e-6 * stored * per_second,
            "output_rate": 1e-6 * out * long_per_second,
            "compression_ratio": long_stored / out if out > 0 else 0.0,
            "compression_ratio_raw": long_raw / out if out > 0 else 0.0,
            "processing_time": 1e3 * device.seconds / frames if frames else 0.0,
            "upload_time": ms_per_frame * device.upload,
            "kernel_time": ms_per_frame * device.kernels,
            "download_time": ms_per_frame * device.download,
            "device_utilisation": min(100.0 * busy, 100.0),
        }


def _device_times(first: tuple[float, ...], newest: tuple[float, ...]) -> DeviceTimes:
    """Between two samples."""
    return DeviceTimes(*(new - old for new, old in zip(newest[5:], first[5:], strict=True)))


def _sparse_bytes(row: ReducedFrame) -> int:
    """Bytes of a frame's sparse data in memory."""
    parts = (row.index, row.intensity, row.background_mean, row.background_std, row.peaks)
    return sum(part.nbytes for part in parts if part is not None)
