"""A batch: the frames in one input slot of a device, how they get there, and what becomes of them."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field

import numpy as np

from .device_times import DeviceTimes
from .errors import FrameError
from .frames import Frame, ReducedFrame, Verdict
from .parameters import ParameterSet
from .reducer import Reducer, Reduction
from .veto import judge

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Batch:
    """Frames in an input slot, in order, and the result once `is_done`: `rows`, or the `error` where the device failed
    on all of them and another one may still do better."""

    reducer: Reducer
    slot: int
    frames: list[Frame] = field(default_factory=list)
    parameter_set: ParameterSet | None = None
    is_last_try: bool = True  # no other device can be asked: what fails has failed
    is_done: threading.Event = field(default_factory=threading.Event)
    rows: list[ReducedFrame] = field(default_factory=list)
    error: Exception | None = None
    times: DeviceTimes = field(default_factory=DeviceTimes)  # that the device took, on all tries
    fault: Exception | None = None  # of the device, before it began to reduce

    def put_in(self, place: int, frame: Frame) -> None:
        """Decode a frame into a place of the slot. All pixels that a device gets go through here.

        Raises
        ------
        FrameError
            It cannot be decoded, or is not of the kind that the run has.
        """
        reducer, payload = self.reducer, frame.payload
        if payload.shape != reducer.bins.shape or payload.dtype != reducer.dtype:
            raise FrameError(
                f"the frame has {_kind(payload.shape, payload.dtype)}, "
                f"the run has {_kind(reducer.bins.shape, reducer.dtype)}"
            )
        reducer.put(self.slot, place, payload)

    def upload(self, n: int) -> dict[int, str]:
        """Bring the first `n` places to the device; what is wrong with which of them. A device that fails is told
        when the batch is reduced."""
        self.fault = None
        try:
            return self.reducer.upload(self.slot, n)
        except Exception as error:
            self.fault = error
            return {}

    def reduce(self, *, keep_dense: bool) -> None:
        """Make `rows` of the frames. Where the device fails on the batch, and no other can be asked, find the frame
        that it was, so that the others are not lost with it."""
        try:
            self.rows = self._reduced(self.frames, keep_dense)
        except Exception as error:
            if not self.is_last_try:
                self.error = error
            else:
                self.rows = [self._reduce_one(k, keep_dense) for k in range(len(self.frames))]

    def drop(self, reason: str) -> None:
        """Give the frames up."""
        self.rows = [ReducedFrame.of(frame, Verdict.DROPPED, reason) for frame in self.frames]
        self.error = None

    @property
    def has_failed(self) -> bool:
        """Whether nothing came out of it."""
        return all(row.verdict is Verdict.FAILED for row in self.rows)

    @property
    def is_whole(self) -> bool:
        """Whether every frame has been reduced."""
        return all(row.index is not None for row in self.rows)

    def _reduce_one(self, k: int, keep_dense: bool) -> ReducedFrame:
        try:
            self.put_in(0, self.frames[k])
            if bad := self.reducer.upload(self.slot, 1):
                raise FrameError(bad[0])
            (row,) = self._reduced([self.frames[k]], keep_dense)
        except Exception as error:
            return _failed(self.frames[k], error)
        return row

    def _reduced(self, frames: list[Frame], keep_dense: bool) -> list[ReducedFrame]:
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        reductions = self.reducer.reduce(self.slot, len(frames), self.parameter_set.values)
        self.times = self.times.plus(self.reducer.times)
        return [self._row(*of_one, keep_dense) for of_one in zip(frames, reductions, strict=True)]

    def _row(self, frame: Frame, reduction: Reduction, keep_dense: bool) -> ReducedFrame:
        verdict, reason = judge(frame.series_id, frame.number, reduction.n_peaks, self.parameter_set.values)
        row = ReducedFrame.of(frame, verdict, reason)
        row.parameter_set = self.parameter_set.number
        row.n_pixels, row.n_peaks = reduction.index.size, reduction.n_peaks
        row.index, row.intensity = reduction.index, reduction.intensity
        row.background_mean, row.background_std = reduction.mean, reduction.std
        row.peaks = reduction.peaks
        if keep_dense and verdict.is_saved:
            row.dense = frame.payload
        return row


def _failed(frame: Frame, error: Exception) -> ReducedFrame:
    log.error("frame %s cannot be reduced", frame.number, exc_info=error)
    return ReducedFrame.of(frame, Verdict.FAILED, str(error) or type(error).__name__)


def _kind(shape: tuple[int, int], dtype: np.dtype) -> str:
    return f"{shape[0]} × {shape[1]} pixels of type {dtype}"
