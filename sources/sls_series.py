"""Series of a PSI detector, followed through the messages of its receivers."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..processing.errors import FrameError
from ..processing.frames import BrokenFrame, Event, Frame, SeriesEnd, SeriesStart
from .sls_assembly import Assembly, PartialFrame
from .sls_layout import ImagePlan, Layout, ModulesPayload
from .sls_messages import EndMessage, ModuleMessage, SeriesKey, parse_message

log = logging.getLogger(__name__)

#: when so many modules for each receiver were strays, one after another, they are none
MAX_STRAYS_IN_A_ROW: Final = 64


@dataclass(slots=True)
class Track:
    """What a receiver sent last."""

    series: int  # how many series had begun
    key: SeriesKey
    base: int  # number of the frame that it counted as the first one
    latest: int
    first: int | None = None  # number of the frame that it sent as the first one
    has_ended: bool = False

    def goes_on(self, message: ModuleMessage) -> bool:
        """Whether a module follows what came before, in a series that this receiver has not ended."""
        same = (message.series_key, message.base) == (self.key, self.base)
        return same and message.number > self.latest and not self.has_ended

    def begins_anew(self, message: ModuleMessage) -> bool:
        """Whether the receiver sends its first frame again, and others have come between: it was started anew."""
        return message.index == 0 and message.number == self.first and message.number != self.latest


class SlsSeries:
    """Turns the messages of all receivers into events; knows nothing of sockets.

    Times are those of `time.monotonic`.

    Parameters
    ----------
    n_receivers, layout, deadline
        As in `sls.SlsSource`, which also tells what the counters mean.

    Attributes
    ----------
    finished : set of int
        Receivers that have finished the series that is open. Nothing more is to be read of them until the set is empty
        again: what they send then belongs to the next series.
    """

    def __init__(self, n_receivers: int, layout: Layout | None, deadline: float) -> None:
        self.n_receivers, self._layout, self.deadline = n_receivers, layout, deadline
        self.lost_by_receiver = [0] * n_receivers
        self.strays = 0
        self._strays_in_a_row = 0
        self.assembly = Assembly(n_receivers)
        self._tracks: list[Track | None] = [None] * n_receivers
        self._series = 0  # how many have begun
        self._key: SeriesKey | None = None  # of the series that is open
        self._last: tuple[SeriesKey, int] = ((-1, ""), 0)  # the last one that began, and how many times in a row
        self._over: deque[SeriesKey] = deque(maxlen=64)
        self.finished: set[int] = set()
        self._said_end = False
        self._finishing_since = math.inf
        self._held: dict[int, ModuleMessage] = {}  # of receivers that have begun another series
        self._plan = ImagePlan(n_receivers, layout)
        self._base: int | None = None  # the frame number that counts as 0; None before the first frame is handed on
        self._lowest_base = 0
        self._clock_zero: dict[int, float] = {}  # s since 1970 when the clock of a module was 0

    def handle(self, receiver: int, parts: list[memoryview], now: float) -> list[Event]:
        """The events that one message of a receiver gives; most modules give none, the last one of a frame does."""
        try:
            message = parse_message(parts)
        except FrameError as error:
            return [self._broken(-1, f"receiver {receiver}: {error}")]
        events = self._finish() if receiver in self.finished else []
        if isinstance(message, EndMessage):
            return events + self._take_end(receiver, now)
        return events + self._take(receiver, message, now)

    def expire(self, now: float, idle: Sequence[bool]) -> list[Event]:
        """Frames and ends of series that have waited for too long. `idle`: whether nothing of a receiver lay there when
        it was looked for last; what lies there has come in time, whoever was slow to take it."""
        if self._key is None:
            return []

        def is_hopeless(receiver: int, number: int) -> bool:
            return idle[receiver] or receiver in self.finished or self._has_gone_on(receiver, number)

        overdue = self.assembly.overdue(now - self.deadline, is_hopeless)
        events = [event for frame in overdue for event in self._hand_on(frame)]
        others = (idle[r] for r in range(self.n_receivers) if r not in self.finished)
        if now - self._finishing_since >= self.deadline and all(others):
            events += self._finish()
        return events

    @property
    def next_deadline(self) -> float:
        """When `expire` has something to do, at the earliest."""
        return min(self.assembly.oldest(), self._finishing_since) + self.deadline

    # ---- series ----------------------------------------------------------------------------------------------

    def _take(self, receiver: int, message: ModuleMessage, now: float) -> list[Event]:
        track, key = self._tracks[receiver], message.series_key
        is_in = self._is_in(track)
        if self._is_stray(message, track, is_in):
            self._count_stray()
            return []
        self._strays_in_a_row = 0
        if self._key is not None and (key != self._key or (is_in and track.begins_anew(message))):
            if message.kind is None:
                return [self._broken(-1, f"receiver {receiver}: {message.problem}")]  # not enough to believe it
            # a detector that was aborted may begin anew without an end: the other receivers will say the same
            self._held[receiver] = message
            return self._finish_one(receiver, now)
        events = [self._begin(receiver, message)] if self._key is None else []
        if not is_in:
            track = self._tracks[receiver] = Track(self._series, key, message.base, message.number)
        track.base, track.latest = message.base, message.number
        if message.index == 0 and track.first is None:
            track.first = message.number
        return events + self._put(receiver, message, now)

    def _is_in(self, track: Track | None) -> bool:
        """Whether a receiver has sent something of the series that is open."""
        return self._key is not None and track is not None and track.series == self._series

    def _is_stray(self, message: ModuleMessage, track: Track | None, is_in: bool) -> bool:
        """Whether a module belongs to a series that is over."""
        key = message.series_key
        if not is_in and track is not None and track.goes_on(message):
            return True  # the series was ended without this receiver
        if key == self._key or key not in self._over:
            return False
        # where files are not written their index stays the same, and anybody may set it back
        return self._key is not None or (key != self._last[0] and message.index > 0)

    def _count_stray(self) -> None:
        self.strays += 1
        self._strays_in_a_row += 1
        if self._strays_in_a_row >= MAX_STRAYS_IN_A_ROW * self.n_receivers:
            log.warning("so many modules of older series come that they are taken as a new one")
            self._over.clear()
            self._tracks = [track if self._is_in(track) else None for track in self._tracks]

    def _take_end(self, receiver: int, now: float) -> list[Event]:
        track = self._tracks[receiver]
        is_of_older = self._key is None or (track is not None and not track.has_ended and not self._is_in(track))
        if track is not None:
            track.has_ended = True
        if is_of_older:
            self.strays += 1
            return []
        self._said_end = True
        return self._finish_one(receiver, now)

    def _begin(self, receiver: int, message: ModuleMessage) -> SeriesStart:
        key = self._key = message.series_key
        self._series += 1
        self._last = (key, self._last[1] + 1 if key == self._last[0] else 1)
        if key in self._over:
            self._over.remove(key)
        self._plan = ImagePlan(self.n_receivers, self._layout)
        self._base, self._lowest_base = None, message.base
        self._clock_zero = {}
        self.lost_by_receiver = [0] * self.n_receivers
        problem = self._plan.problem(receiver, message)
        kind = self._plan.kind
        return SeriesStart(
            self._name,
            self._plan.shape,
            kind.dtype.newbyteorder("=") if kind else None,
            message.number_of_frames,
            message.metadata(),
            joined_late=self._series == 1 and message.index > 0,
            problems=(problem[:300],) if problem else (),
        )

    @property
    def _name(self) -> str:
        (index, file_name), times = self._last
        return "_".join(filter(None, (file_name, str(index)))) + (f" ({times})" if times > 1 else "")

    def _finish_one(self, receiver: int, now: float) -> list[Event]:
        self.finished.add(receiver)
        self._finishing_since = min(self._finishing_since, now)
        return self._finish() if len(self.finished) == self.n_receivers else []

    def _finish(self) -> list[Event]:
        """End the series that is open, and begin the one that receivers have begun."""
        events = [event for frame in self.assembly.rest() for event in self._hand_on(frame)]
        if any(self.lost_by_receiver):
            lost = ", ".join(f"{n} of receiver {r}" for r, n in enumerate(self.lost_by_receiver) if n)
            log.warning("series %s: missing modules: %s", self._name, lost)
        events.append(SeriesEnd(self._name, superseded=not self._said_end))
        self._over.append(self._key)
        self._key, self._said_end, self._finishing_since = None, False, math.inf
        self.finished.clear()
        held, self._held = self._held, {}
        now = time.monotonic()
        for receiver, message in held.items():
            if (track := self._tracks[receiver]) is not None:
                track.has_ended = True
            events += self._take(receiver, message, now)
        return events

    # ---- frames ----------------------------------------------------------------------------------------------

    def _has_gone_on(self, receiver: int, number: int) -> bool:
        track = self._tracks[receiver]
        return self._is_in(track) and track.latest > number

    def _put(self, receiver: int, message: ModuleMessage, now: float) -> list[Event]:
        problem = self._plan.problem(receiver, message)
        # a receiver that missed the first frames begins to count later
        self._lowest_base = min(self._lowest_base, message.base)
        if not problem and message.clock is not None:
            self._clock_zero.setdefault(receiver, time.time() - message.clock)
        frames = self.assembly.put(receiver, message, problem[:300], now)
        return [event for frame in frames for event in self._hand_on(frame)]

    def _hand_on(self, frame: PartialFrame) -> list[Event]:
        if self._base is None:
            self._base = self._lowest_base
        number = frame.number - self._base
        if number < 0:
            self.strays += len(frame.modules) + len(frame.problems)
            return []
        for receiver in range(self.n_receivers):
            self.lost_by_receiver[receiver] += receiver not in frame.modules
        if not frame.modules:
            receiver, problem = min(frame.problems.items())
            return [self._broken(number, f"module {receiver} of {self.n_receivers}: {problem}")]
        first = frame.modules[min(frame.modules)]
        kind, places = self._plan.kind, self._plan.places
        modules = tuple((message.data, places[receiver]) for receiver, message in frame.modules.items())
        payload = ModulesPayload(self._plan.shape, kind.shape, kind.dtype, modules)
        note = frame.note(self.n_receivers)
        return [Frame(number, self._name, payload, self._timestamp(frame), *first.facts, note)]

    def _timestamp(self, frame: PartialFrame) -> float:
        """By the clock of the first module that tells it. A detector's clock begins anywhere: the first module of the
        series is given the time at which it arrived, between frames times are exact."""
        for receiver in sorted(frame.modules.keys() & self._clock_zero.keys()):
            clock = frame.modules[receiver].clock
            if clock is not None:
                return self._clock_zero[receiver] + clock
        return math.nan

    def _broken(self, number: int, reason: str) -> BrokenFrame:
        return BrokenFrame(number, self._name if self._key is not None else "", reason[:300])
