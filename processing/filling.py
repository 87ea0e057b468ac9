"""From the ring into the input slots of the devices: frames are numbered, decoded and collected into batches."""

from __future__ import annotations

import functools
import logging
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from .batch import Batch
from .dispatch import ABORTED, Dispatcher
from .errors import FrameError
from .flow import END, Flow
from .frames import PIXEL_DTYPES, BrokenFrame, Frame, ReducedFrame, SeriesEnd, SeriesStart, Verdict
from .threads import Crew, automatic
from .tracker import FrameTracker

log = logging.getLogger(__name__)

#: broken frames of series that have not begun, of which so many are remembered
MAX_TOO_EARLY = 1000


@dataclass(slots=True)
class Dropped:
    """Frames that the ring could not take, their pixels are gone; and broken ones that came meanwhile."""

    rows: list[ReducedFrame]


@dataclass(slots=True)
class SeriesProblem:
    """What is wrong with a series as a whole."""

    series_id: str
    problem: str


@dataclass(slots=True)
class FirstFrame:
    """The run has a frame, and devices."""

    dispatcher: Dispatcher


class Filler:
    """A step of the pipeline: takes events from `ring`, has batches reduced, and puts into `outcome`, in order, these
    batches, series that begin or are incomplete, and rows of frames that need no reduction (lists of `ReducedFrame`).

    Parameters
    ----------
    make_dispatcher
        Called once, with a series whose shape and pixel type it or its first frame has told.
    counts_lost, first_number
        See `FrameTracker`.
    decode_threads
        Frames of a batch that are decoded at once; 0: as many as there are cores, up to four.
    """

    def __init__(
        self,
        flow: Flow,
        ring: queue.Queue,
        outcome: queue.Queue,
        make_dispatcher: Callable[[SeriesStart], Dispatcher],
        *,
        counts_lost: bool,
        first_number: int | None = None,
        decode_threads: int = 0,
    ) -> None:
        self._flow = flow
        self._ring = ring
        self._outcome = outcome
        self._make_dispatcher = make_dispatcher
        self._decode_threads = automatic(decode_threads)
        self._tracker = FrameTracker(counts_lost, first_number)
        self._series_id = ""
        self._start = SeriesStart("")  # of the series, as far as it was told
        self._too_early: dict[tuple[str, int], None] = {}  # broken frames of series that have not begun
        self._held: Any = None  # an event that did not belong into a batch
        self._dispatcher: Dispatcher | None = None
        self._has_frame = False

    def run(self) -> None:
        """The thread of this step."""
        self._crew = Crew(self._decode_threads, "decode")
        try:
            while (event := self._next()) is not END:
                self._take(event)
                self._put_lost(self._tracker.lost())
            # nobody listened to the end of the series: what has not come may still be coming
            self._put_lost(self._tracker.lost(at_end=True, complete=False))
            self._flow.put(self._outcome, END)
        finally:
            self._crew.close()

    def _take(self, event: Any) -> None:
        if isinstance(event, Frame | SeriesStart) and event.series_id != self._series_id:
            self._put_lost(self._tracker.lost(at_end=True, complete=False))
            self._series_id, self._start = event.series_id, SeriesStart(event.series_id)
            self._tracker.start_series(None, joined_late=True)
        if isinstance(event, SeriesEnd):
            # what an aborted series announced and did not send was never taken
            self._put_lost(self._tracker.lost(at_end=True, complete=not event.superseded))
            if self._tracker.problem:
                self._flow.put(self._outcome, SeriesProblem(event.series_id, self._tracker.problem))
            self._tracker.start_series(None, joined_late=True)
        elif isinstance(event, SeriesStart):
            self._begin(event)
        elif isinstance(event, Dropped):
            self._put_rows([row for row in event.rows if self._is_new(row)])
        elif isinstance(event, BrokenFrame) and self._is_new(event):
            self._put_rows([ReducedFrame.of(event, Verdict.FAILED, event.reason)])
        elif isinstance(event, Frame) and self._is_new(event):
            self._fill_batch(event)

    def _begin(self, start: SeriesStart) -> None:
        self._tracker.start_series(start.number_of_frames, joined_late=start.joined_late)
        for series_id, number in [key for key in self._too_early if key[0] == start.series_id]:
            del self._too_early[series_id, number]
            self._tracker.see(number)
        self._start = start
        self._flow.put(self._outcome, start)
        if start.shape is not None and start.dtype in PIXEL_DTYPES and not self._flow.stopping.is_set():
            self._ready(start.shape, start.dtype)  # before the first frame is there

    def _fill_batch(self, first: Frame) -> None:
        """A batch of this frame and those that lie behind it. It does not wait for frames to come, but while it waits
        for a free slot, more of them do."""
        if self._flow.aborting.is_set():
            self._put_rows([ReducedFrame.of(first, Verdict.DROPPED, ABORTED)])
            return
        dispatcher = self._ready(first.payload.shape, first.payload.dtype)
        if not self._has_frame:
            self._has_frame = True
            self._flow.put(self._outcome, FirstFrame(dispatcher))
        batch = dispatcher.empty_batch()
        if batch is None:
            return
        frames = [first]
        while len(frames) < dispatcher.batch_size:
            event = self._next(wait=0)
            if not isinstance(event, Frame) or event.series_id != first.series_id:
                self._held = event
                break
            if self._is_new(event):
                frames.append(event)
        batch.frames = self._decode(frames, batch)
        if batch.frames:
            dispatcher.submit(batch)
            self._flow.put(self._outcome, batch)
        else:
            dispatcher.give_back(batch)

    def _decode(self, frames: list[Frame], batch: Batch) -> list[Frame]:
        """Decode frames into the slot of a batch, several at once; those that can be decoded. A broken one leaves no
        gap: those behind it are put in again, one place further to the front."""
        first = 0
        while frames:
            problems = self._crew.map(functools.partial(_put_in, batch), list(enumerate(frames))[first:])
            bad = {first + k: problem for k, problem in enumerate(problems) if problem}
            bad = bad or batch.upload(len(frames))
            if not bad:
                break
            self._put_rows([ReducedFrame.of(frames[k], Verdict.FAILED, bad[k]) for k in bad])
            first, frames = min(bad), [frame for k, frame in enumerate(frames) if k not in bad]
        return frames

    def _ready(self, shape: tuple[int, int], dtype: np.dtype) -> Dispatcher:
        if self._dispatcher is None:
            self._dispatcher = self._make_dispatcher(replace(self._start, shape=shape, dtype=dtype))
        return self._dispatcher

    def _is_new(self, frame: Frame | BrokenFrame | ReducedFrame) -> bool:
        """Whether the ledger has no row of this frame yet; from now on it has."""
        if frame.number < 0 and not isinstance(frame, Frame):
            return True  # broken, of which frame nobody knows
        if frame.series_id == self._series_id:
            problem = self._tracker.see(frame.number)
        else:  # a broken frame opens no series
            key = (frame.series_id, frame.number)
            problem = f"frame {frame.number} arrived twice" if key in self._too_early else ""
            self._too_early[key] = None
            if len(self._too_early) > MAX_TOO_EARLY:
                del self._too_early[next(iter(self._too_early))]
        if problem:
            log.warning("series %s: %s; left out", frame.series_id, problem)
        return not problem

    def _next(self, wait: float | None = None) -> Any:
        """The next event; `wait` as in `Flow.get`."""
        if self._held is None:
            return self._flow.get(self._ring, wait=wait)
        event, self._held = self._held, None
        return event

    def _put_lost(self, numbers: Iterator[int]) -> None:
        """A few at a time: there can be very many."""
        while rows := [ReducedFrame.lost(number, self._series_id) for number in islice(numbers, 1000)]:
            self._put_rows(rows)

    def _put_rows(self, rows: list[ReducedFrame]) -> None:
        if rows:
            self._flow.put(self._outcome, rows)


def _put_in(batch: Batch, numbered: tuple[int, Frame]) -> str:
    """Why this frame cannot be put into its place; '' where it is there."""
    place, frame = numbered
    try:
        batch.put_in(place, frame)
    except Exception as error:
        if not isinstance(error, FrameError):
            log.exception("frame %s of series %s", frame.number, frame.series_id)
        return str(error) or type(error).__name__
    return ""
