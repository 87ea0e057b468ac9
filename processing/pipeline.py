"""One frame's journey: source → ring → device → verdict → sink. Read `Pipeline` from top to bottom.

    receive   source ─► ring of `ring_size` frames, still compressed            (waits for frames)
    fill      ring ─► decoded into an input slot of a device, by a few threads  (decodes, uploads)   filling.py
    reduce    slot ─► picked pixels, curves, peaks, verdict                     (waits for a device) dispatch.py
    deliver   results, in order ─► sink: files, ledger, statistics              (writes)

Each step is a thread, `reduce` one for every device. A bounded queue, or the two input slots of a device, lies between
any two, so memory is bounded and a slow step slows those before it, back to the ring. What the ring cannot take is
dropped and said so. A frame that fails costs that frame, and a device that fails, where there are others, nothing.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from .batch import Batch
from .device_times import DeviceTimes
from .dispatch import MAX_FAILED_BATCHES, Dispatcher
from .errors import HardwareError
from .filling import Dropped, Filler, FirstFrame, SeriesProblem
from .flow import END, POLL, Flow
from .frames import BrokenFrame, Frame, ReducedFrame, SeriesEnd, SeriesStart, Source, Verdict
from .parameters import ParameterSet, ParameterStore
from .reducer import Reducer
from .tracker import PATIENCE

_MAX_DROPPED = 100_000  # frames that may be dropped while nobody can be told; then the source is not read meanwhile
_OUTCOMES = 16  # batches and the like that may wait to be delivered: enough for eight devices with two slots each


class Sink(Protocol):
    """Where results go. Called by one thread, in order of arrival."""

    def begin(self, reducer: Reducer) -> None:
        """The first frame that is not broken has told shape and pixel type; called once, before any reduced frame."""

    def series(self, start: SeriesStart) -> None:
        """A series begins."""

    def problem(self, series_id: str, problem: str) -> None:
        """Something is wrong with a series as a whole."""

    def deliver(self, rows: list[ReducedFrame], parameter_set: ParameterSet | None, times: DeviceTimes) -> None:
        """What became of frames. `parameter_set` is that of reduced ones (None for others), `times` what the device
        took for all of them."""

    def left_out(self, device: str, reason: str, others: list[str]) -> None:
        """One of several devices has failed; the run goes on with the others."""

    def idle(self) -> None:
        """Nothing came for a while: a chance to flush."""


class Pipeline:
    """One run from a source to a sink.

    Parameters
    ----------
    source
        Opened already.
    make_reducers
        Called once, with a series whose shape and pixel type it or its first frame has told; one for each device.
        Raises `FrameSieveError` where the geometry does not fit.
    parameters
        Looked at once per batch.
    number_of_frames
        The run ends after so many frames; 0: with the series.
    keep_dense
        Whether kept frames are handed on whole too.
    drop_after
        Seconds for which a live source may wait for room in the ring before a frame is dropped, once the devices are
        there.
    decode_threads
        Frames that are decoded at once; 0: as suits the computer.
    opened
        What the source told when it was opened.
    preview
        Called a few times a second with the newest frame as it is and its number; copies what it wants before it
        returns.
    """

    def __init__(
        self,
        source: Source,
        make_reducers: Callable[[SeriesStart], Sequence[Reducer]],
        parameters: ParameterStore,
        sink: Sink,
        *,
        number_of_frames: int = 0,
        ring_size: int = 32,
        keep_dense: bool = False,
        drop_after: float = 2.0,
        decode_threads: int = 0,
        opened: SeriesStart | None = None,
        preview: Callable[[np.ndarray, int], None] | None = None,
        preview_period: float = 0.2,
    ) -> None:
        self._source = source
        self._make_reducers = make_reducers
        self._parameters = parameters
        self._sink = sink
        self._number_of_frames = number_of_frames
        self._keep_dense = keep_dense
        self._drop_after = drop_after
        self._opened = opened
        self._preview = preview
        self._preview_period = preview_period
        self._next_preview = 0.0
        self._previewing = threading.Lock()
        self._flow = Flow()
        self._ring: queue.Queue = queue.Queue(ring_size)
        self._waiting_since: float | None = None  # for an event of the source
        self._newest: int | None = None  # number of the frame that arrived last
        self._dropped: list[ReducedFrame] = []  # or broken; not yet told to those who follow: the ring is full
        self._outcome: queue.Queue = queue.Queue(_OUTCOMES)
        self._filler = Filler(
            self._flow,
            self._ring,
            self._outcome,
            self._make_dispatcher,
            counts_lost=source.live,
            first_number=getattr(source, "first_number", None),
            decode_threads=decode_threads,
        )
        self._dispatcher: Dispatcher | None = None

    # ---- life ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._flow.start("receive", self._receive)
        self._flow.start("fill", self._filler.run)
        self._flow.start("deliver", self._deliver)

    def stop(self) -> None:
        """Take nothing new, finish what has arrived."""
        self._flow.stop()

    def abort(self) -> None:
        """Give up what has not been reduced yet."""
        self._flow.abort()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end; whether it came within `timeout` seconds."""
        return self._flow.join(timeout)

    @property
    def error(self) -> Exception | None:
        """What ended the run, where it did not end by itself."""
        return self._flow.error

    @property
    def aborting(self) -> bool:
        return self._flow.aborting.is_set()

    @property
    def occupancy(self) -> float:
        """How full the ring is, 0 … 100 %."""
        return 100.0 * self._ring.qsize() / self._ring.maxsize

    @property
    def silence(self) -> float:
        """Seconds for which the source has been waited for."""
        since = self._waiting_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def newest_arrived(self) -> int | None:
        """Number of the frame that arrived last; None where none has."""
        return self._newest

    @property
    def stopping(self) -> bool:
        return self._flow.stopping.is_set()

    @property
    def drops_waiting(self) -> int:
        """Frames that were dropped, and of which nobody could be told yet: there is no room even for that."""
        return len(self._dropped)

    # ---- receive ---------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        taken = 0
        recent: deque[tuple[str, int]] = deque(maxlen=PATIENCE)  # so that a frame which comes twice counts once
        drain_until = None
        if self._opened is not None:
            self._flow.put(self._ring, self._opened)
        while not self._flow.aborting.is_set():
            if self._flow.stopping.is_set():
                # of a live source, what has arrived already still counts
                drain_until = drain_until or time.monotonic() + 1.0
                if not self._source.live or time.monotonic() > drain_until:
                    break
            self._waiting_since = self._waiting_since or time.monotonic()
            event = self._source.read(0.0 if self._flow.stopping.is_set() else POLL)
            if event is None:
                if self._flow.stopping.is_set():
                    break
                self._tell_dropped()
                continue
            self._waiting_since = None
            if isinstance(event, Frame):
                self._newest = event.number
            if isinstance(event, Frame | BrokenFrame) and self._source.live:
                self._take_or_drop(event)
            else:
                self._tell_dropped(wait=True)
                self._flow.put(self._ring, event)
            if self._number_of_frames and isinstance(event, Frame | BrokenFrame) and event.number >= 0:
                key = (event.series_id, event.number)
                taken += key not in recent
                recent.append(key)
            # a detector that begins anew without an end was aborted: what it takes now is wanted all the same
            is_end = isinstance(event, SeriesEnd) and not event.superseded
            if is_end or (self._number_of_frames and taken >= self._number_of_frames):
                break
        self._tell_dropped(wait=True)
        self._flow.put(self._ring, END)

    def _take_or_drop(self, frame: Frame | BrokenFrame) -> None:
        """Wait for room, but not again while it is still the same lack of room: the source goes on."""
        try:
            if not self._tell_dropped():
                raise queue.Full
            if self._is_put_before_devices(frame):
                return
            self._ring.put(frame, timeout=self._drop_after)
        except queue.Full:
            if isinstance(frame, BrokenFrame):
                row = ReducedFrame.of(frame, Verdict.FAILED, frame.reason)
            else:
                reason = f"the ring of {self._ring.maxsize} frames stayed full for {self._drop_after:g} s"
                row = ReducedFrame.of(frame, Verdict.DROPPED, reason)
            self._dropped.append(row)
            self._tell_dropped(wait=len(self._dropped) >= _MAX_DROPPED)

    def _is_put_before_devices(self, frame: Frame | BrokenFrame) -> bool:
        """Put it into the ring while the devices are being made ready for a series that nobody expected. Kernels may
        have to be built, which takes seconds, and only once in a run: the detector keeps what it has meanwhile."""
        while self._dispatcher is None and not (self._flow.aborting.is_set() or self._flow.broken.is_set()):
            with contextlib.suppress(queue.Full):
                self._ring.put(frame, timeout=POLL)
                return True
        return False

    def _tell_dropped(self, *, wait: bool = False) -> bool:
        """Hand on what has been dropped, in its place among the frames; False where there is no room even for that."""
        if self._dropped:
            if wait:
                self._flow.put(self._ring, Dropped(self._dropped))
            else:
                try:
                    self._ring.put_nowait(Dropped(self._dropped))
                except queue.Full:
                    return False
            self._dropped = []
        return True

    # ---- reduce ----------------------------------------------------------------------------------------------

    def _make_dispatcher(self, start: SeriesStart) -> Dispatcher:
        """The devices; from here on each of them has a thread."""
        self._dispatcher = Dispatcher(
            self._flow,
            self._make_reducers(start),
            self._parameters,
            keep_dense=self._keep_dense,
            left_out=self._sink.left_out,
            look=self._show if self._preview else None,
        )
        return self._dispatcher

    def _show(self, batch: Batch) -> None:
        """Give the newest frame to the preview, unless another device is doing so."""
        if time.monotonic() >= self._next_preview and self._previewing.acquire(blocking=False):
            try:
                newest = len(batch.frames) - 1
                self._preview(batch.reducer.pixels(batch.slot, newest), batch.frames[newest].number)
                self._next_preview = time.monotonic() + self._preview_period
            finally:
                self._previewing.release()

    # ---- deliver ---------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        failed_in_a_row = 0
        try:
            while (item := self._flow.get(self._outcome, wait=POLL)) is not END:
                if item is None:
                    self._sink.idle()
                elif isinstance(item, SeriesStart):
                    self._sink.series(item)
                elif isinstance(item, SeriesProblem):
                    self._sink.problem(item.series_id, item.problem)
                elif isinstance(item, FirstFrame):
                    self._sink.begin(item.dispatcher.reducer)
                elif isinstance(item, list):
                    self._sink.deliver(item, None, DeviceTimes())
                elif self._dispatcher.finish(item, self._sink.idle):
                    is_reduced = any(row.index is not None for row in item.rows)
                    self._sink.deliver(item.rows, item.parameter_set if is_reduced else None, item.times)
                    failed_in_a_row = failed_in_a_row + 1 if item.has_failed else 0
                    if failed_in_a_row == MAX_FAILED_BATCHES:
                        what = f"{failed_in_a_row} batches in a row failed on the device: {item.rows[-1].reason}"
                        self._flow.fail(HardwareError(what))
        finally:
            if self._dispatcher:
                self._dispatcher.close()
