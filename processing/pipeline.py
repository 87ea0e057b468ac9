"""One frame's journey: source → ring → device → verdict → sink. Read `Pipeline` from top to bottom.

    receive   source ─► ring of `ring_size` frames, still compressed          (waits for frames)
    fill      ring ─► decoded into one of two input slots of the device       (decodes)
    reduce    slot ─► picked pixels, curves, peaks, verdict                   (waits for the device)
    deliver   results ─► sink: files, ledger, statistics                      (writes)

Each step is a thread; a bounded queue lies between any two, so memory is bounded and a slow step slows those before
it, back to the ring. What the ring cannot take is dropped and said so. A frame that fails costs that frame.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np

from .errors import FrameError, FrameSieveError, HardwareError
from .frames import BrokenFrame, Frame, ReducedFrame, SeriesEnd, SeriesStart, Source, Verdict
from .parameters import ParameterSet, ParameterStore
from .reducer import Reducer, Reduction
from .tracker import FrameTracker
from .veto import judge

log = logging.getLogger(__name__)

_POLL = 0.05  # s, how long a step waits before it looks whether the run is over
_MAX_FAILED_BATCHES = 3  # in a row: then it is the device that fails, not a frame
_END = object()  # travels down the queues when nothing follows


class Sink(Protocol):
    """Where results go. Called by one thread, in order of arrival."""

    def begin(self, reducer: Reducer) -> None:
        """The first good frame has told shape and pixel type; called once, before any reduced frame."""

    def series(self, start: SeriesStart) -> None:
        """A series begins."""

    def deliver(self, rows: list[ReducedFrame], parameter_set: ParameterSet | None, seconds: float) -> None:
        """What became of frames. `parameter_set` is that of reduced ones (None for others), `seconds` the time that
        the device took for all of them."""

    def idle(self) -> None:
        """Nothing came for a while: a chance to flush."""


@dataclass(slots=True)
class _Dropped:
    """Frames that the ring could not take; their pixels are gone."""

    rows: list[ReducedFrame]


@dataclass(slots=True)
class _Batch:
    """Frames in an input slot, in order."""

    slot: int
    frames: list[Frame] = field(default_factory=list)


@dataclass(slots=True)
class _Results:
    rows: list[ReducedFrame]
    parameter_set: ParameterSet | None = None
    seconds: float = 0.0


class Pipeline:
    """One run from a source to a sink.

    Parameters
    ----------
    source
        Opened already.
    make_reducer
        Called with (shape, dtype) of the first frame; raises `FrameSieveError` where the geometry does not fit.
    parameters
        Looked at once per batch.
    number_of_frames
        The run ends after so many frames; 0: with the series.
    keep_dense
        Whether kept frames are handed on whole too.
    drop_after
        Seconds for which a live source may wait for room in the ring before a frame is dropped.
    preview
        Called a few times a second with the newest frame as it is; copies what it wants before it returns.
    """

    def __init__(
        self,
        source: Source,
        make_reducer: Callable[[tuple[int, int], np.dtype], Reducer],
        parameters: ParameterStore,
        sink: Sink,
        *,
        number_of_frames: int = 0,
        ring_size: int = 32,
        keep_dense: bool = False,
        drop_after: float = 2.0,
        preview: Callable[[np.ndarray], None] | None = None,
        preview_period: float = 0.2,
    ) -> None:
        self._source = source
        self._make_reducer = make_reducer
        self._parameters = parameters
        self._sink = sink
        self._number_of_frames = number_of_frames
        self._keep_dense = keep_dense
        self._drop_after = drop_after
        self._preview = preview
        self._preview_period = preview_period
        self._reducer: Reducer | None = None
        self._ring: queue.Queue = queue.Queue(ring_size)
        self._filled: queue.Queue = queue.Queue(4)
        self._free_slots: queue.Queue = queue.Queue()
        self._dropped: list[ReducedFrame] = []  # not yet told to those who follow: the ring is full
        self._results: queue.Queue = queue.Queue(8)
        self._stopping = threading.Event()
        self._aborting = threading.Event()
        self._broken = threading.Event()  # a step has died: nobody waits for a queue any more
        self._threads: list[threading.Thread] = []
        self.error: Exception | None = None  # what ended the run, where it did not end by itself

    # ---- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for step in (self._receive, self._fill, self._reduce, self._deliver):
            name = f"framesieve-{step.__name__.strip('_')}"
            thread = threading.Thread(target=self._guard, args=(step,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Take nothing new, finish what has arrived."""
        self._stopping.set()

    def abort(self) -> None:
        """Give up what has not been reduced yet."""
        self._stopping.set()
        self._aborting.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it came within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def aborting(self) -> bool:
        return self._aborting.is_set()

    @property
    def occupancy(self) -> float:
        """How full the ring is, 0 … 100 %."""
        return 100.0 * self._ring.qsize() / self._ring.maxsize

    def _guard(self, step: Callable[[], None]) -> None:
        """A step that fails as a whole, not on a frame, ends the run."""
        try:
            step()
        except Exception as error:
            if not isinstance(error, FrameSieveError):
                log.exception("%s failed", step.__name__.strip("_"))
            if self.error is None:
                self.error = error
            self.abort()
            self._broken.set()

    # ---- receive ---------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        taken = 0
        drain_until = None
        while not self._aborting.is_set():
            if self._stopping.is_set():
                # of a live source, what has arrived already still counts
                drain_until = drain_until or time.monotonic() + 1.0
                if not self._source.live or time.monotonic() > drain_until:
                    break
            event = self._source.read(0.0 if self._stopping.is_set() else _POLL)
            if event is None:
                if self._stopping.is_set():
                    break
                self._tell_dropped()
                continue
            if isinstance(event, Frame) and self._source.live:
                self._take_or_drop(event)
            else:
                self._tell_dropped(wait=True)
                self._put(self._ring, event)
            taken += isinstance(event, Frame) or (isinstance(event, BrokenFrame) and event.number >= 0)
            if isinstance(event, SeriesEnd) or (self._number_of_frames and taken >= self._number_of_frames):
                break
        self._tell_dropped(wait=True)
        self._put(self._ring, _END)

    def _take_or_drop(self, frame: Frame) -> None:
        """Wait for room, but not again while it is still the same lack of room: the source goes on."""
        try:
            if not self._tell_dropped():
                raise queue.Full
            self._ring.put(frame, timeout=self._drop_after)
        except queue.Full:
            reason = f"the ring of {self._ring.maxsize} frames stayed full for {self._drop_after:g} s"
            self._dropped.append(ReducedFrame.of(frame, Verdict.DROPPED, reason))

    def _tell_dropped(self, *, wait: bool = False) -> bool:
        """Hand on what has been dropped, in its place among the frames; False where there is no room even for that."""
        if self._dropped:
            if wait:
                self._put(self._ring, _Dropped(self._dropped))
            else:
                try:
                    self._ring.put_nowait(_Dropped(self._dropped))
                except queue.Full:
                    return False
            self._dropped = []
        return True

    # ---- fill ------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Collect what lies in the ring into batches, decoded. A batch does not wait for frames to come."""
        tracker = FrameTracker(counts_lost=self._source.live)
        series_id = ""
        complete = False
        batch: _Batch | None = None
        while True:
            event = self._get(self._ring, wait=batch is None)
            if batch is not None and not (isinstance(event, Frame) and len(batch.frames) < self._reducer.batch_size):
                self._put(self._filled, batch)
                batch = None
            if event is _END:
                break
            if isinstance(event, Frame | SeriesStart) and event.series_id != series_id:
                self._put_lost(tracker.lost(at_end=True), series_id)
                series_id = event.series_id
                tracker.start_series(None, joined_late=True)
            if isinstance(event, SeriesStart):
                tracker.start_series(event.number_of_frames, joined_late=event.joined_late)
                self._put(self._filled, event)
            elif isinstance(event, _Dropped):
                for row in event.rows:
                    tracker.see(row.number)
                self._put_rows(event.rows)
            elif isinstance(event, BrokenFrame):
                is_known = event.number >= 0 and event.series_id == series_id
                if is_known and (problem := tracker.see(event.number)):
                    log.warning("series %s: %s, broken; left out", series_id, problem)
                else:
                    self._put_rows([ReducedFrame.of(event, Verdict.FAILED, event.reason)])
            elif isinstance(event, Frame):
                batch = self._fill_in(event, tracker, batch)
            complete = complete or isinstance(event, SeriesEnd)
            self._put_lost(tracker.lost(), series_id)
        self._put_lost(tracker.lost(at_end=True, complete=complete), series_id)
        self._put(self._filled, _END)

    def _fill_in(self, frame: Frame, tracker: FrameTracker, batch: _Batch | None) -> _Batch | None:
        """Decode a frame into the next place of the batch, or say why not."""
        if problem := tracker.see(frame.number):
            log.warning("series %s: %s; left out", frame.series_id, problem)
            return batch
        if self._aborting.is_set():
            self._put_rows([ReducedFrame.of(frame, Verdict.DROPPED, "the run was aborted before it was reduced")])
            return batch
        if self._reducer is None:
            self._reducer = self._make_reducer(frame.payload.shape, frame.payload.dtype)
            for slot in range(len(self._reducer.inputs)):
                self._free_slots.put(slot)
            self._put(self._filled, self._reducer)
        if batch is None:
            batch = _Batch(self._get(self._free_slots))
            if batch.slot is _END:
                return None
        try:
            self._check_kind(frame)
            frame.payload.read_into(self._reducer.inputs[batch.slot][len(batch.frames)])
        except Exception as error:
            if not isinstance(error, FrameError):
                log.exception("frame %s of series %s", frame.number, frame.series_id)
            self._put_rows([ReducedFrame.of(frame, Verdict.FAILED, str(error) or type(error).__name__)])
        else:
            batch.frames.append(frame)
        return batch

    def _check_kind(self, frame: Frame) -> None:
        shape, dtype = self._reducer.bins.shape, self._reducer.dtype
        if frame.payload.shape != shape or frame.payload.dtype != dtype:
            raise FrameError(
                f"the frame has {_kind(frame.payload.shape, frame.payload.dtype)}, the run has {_kind(shape, dtype)}"
            )

    # ---- reduce ----------------------------------------------------------------------------------------------

    def _reduce(self) -> None:
        """Hand batches to the device. Parameters are looked at here: a change holds from the next batch on."""
        failed_in_a_row = 0
        next_preview = 0.0
        while (item := self._get(self._filled)) is not _END:
            if not isinstance(item, _Batch):
                self._put(self._results, item)
                continue
            if self._aborting.is_set():
                reason = "the run was aborted before it was reduced"
                rows = [ReducedFrame.of(frame, Verdict.DROPPED, reason) for frame in item.frames]
                self._put(self._results, _Results(rows))
            elif item.frames:
                parameter_set = self._parameters.current
                begin = time.perf_counter()
                rows = self._reduce_batch(item, parameter_set)
                self._put(self._results, _Results(rows, parameter_set, time.perf_counter() - begin))
                failed_in_a_row = failed_in_a_row + 1 if all(row.verdict is Verdict.FAILED for row in rows) else 0
                if failed_in_a_row >= _MAX_FAILED_BATCHES:
                    raise HardwareError(f"{failed_in_a_row} batches in a row failed on the device: {rows[-1].reason}")
                if self._preview and time.monotonic() >= next_preview:
                    self._preview(self._reducer.inputs[item.slot][len(item.frames) - 1])
                    next_preview = time.monotonic() + self._preview_period
            self._free_slots.put(item.slot)
        self._put(self._results, _END)

    def _reduce_batch(self, batch: _Batch, parameter_set: ParameterSet) -> list[ReducedFrame]:
        try:
            reductions = self._reducer.reduce(batch.slot, len(batch.frames), parameter_set.values)
        except Exception as error:
            if len(batch.frames) == 1:
                log.exception("frame %s cannot be reduced", batch.frames[0].number)
                return [ReducedFrame.of(batch.frames[0], Verdict.FAILED, str(error) or type(error).__name__)]
            return self._reduce_singly(batch, parameter_set)
        inputs = self._reducer.inputs[batch.slot]
        return [self._result(*item, parameter_set) for item in zip(batch.frames, reductions, inputs, strict=False)]

    def _reduce_singly(self, batch: _Batch, parameter_set: ParameterSet) -> list[ReducedFrame]:
        """A batch failed: find the frame that it was, so that the others are not lost with it."""
        rows = []
        inputs = self._reducer.inputs[batch.slot]
        for i, frame in enumerate(batch.frames):
            if i:
                inputs[0][...] = inputs[i]
            rows += self._reduce_batch(_Batch(batch.slot, [frame]), parameter_set)
        return rows

    def _result(
        self, frame: Frame, reduction: Reduction, pixels: np.ndarray, parameter_set: ParameterSet
    ) -> ReducedFrame:
        verdict, reason = judge(frame.series_id, frame.number, reduction.n_peaks, parameter_set.values)
        row = ReducedFrame.of(frame, verdict, reason)
        row.parameter_set = parameter_set.number
        row.n_pixels, row.n_peaks = reduction.index.size, reduction.n_peaks
        row.index, row.intensity = reduction.index, reduction.intensity
        row.background_mean, row.background_std = reduction.mean, reduction.std
        row.peaks = reduction.peaks
        if self._keep_dense and verdict.is_saved:
            row.dense = pixels.copy()
        return row

    # ---- deliver ---------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        while True:
            item = self._get(self._results, wait=False)
            if item is None:
                self._sink.idle()
                item = self._get(self._results, wait=False)
            if item is _END:
                break
            if isinstance(item, _Results):
                self._sink.deliver(item.rows, item.parameter_set, item.seconds)
            elif isinstance(item, SeriesStart):
                self._sink.series(item)
            elif item is not None:
                self._sink.begin(item)

    # ---- queues ----------------------------------------------------------------------------------------------

    def _put(self, target: queue.Queue, item: Any) -> None:
        """Put, and wait for room unless the step that would make it has died."""
        while True:
            try:
                return target.put(item, timeout=_POLL)
            except queue.Full:
                if self._broken.is_set():
                    return None

    def _get(self, origin: queue.Queue, *, wait: bool = True) -> Any:
        """Get; `_END` where nothing more can come. Without `wait`: None where nothing is there (soon)."""
        while True:
            try:
                return origin.get(timeout=_POLL) if wait or origin is self._results else origin.get_nowait()
            except queue.Empty:
                if self._broken.is_set():
                    return _END
                if not wait:
                    return None

    def _put_lost(self, numbers: Iterator[int], series_id: str) -> None:
        """A few at a time: there can be very many."""
        while rows := [ReducedFrame.lost(number, series_id) for number in islice(numbers, 1000)]:
            self._put_rows(rows)

    def _put_rows(self, rows: list[ReducedFrame]) -> None:
        if rows:
            self._put(self._filled, _Results(rows))


def _kind(shape: tuple[int, int], dtype: np.dtype) -> str:
    return f"{shape[0]} × {shape[1]} pixels of type {dtype}"
