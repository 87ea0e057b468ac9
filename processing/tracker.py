"""Which frame numbers of a series have been seen, and which are missing."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator

log = logging.getLogger(__name__)

#: a frame that is still missing when so many others have come since is lost; until then it may be late. A gap of more
#: numbers is believed only when a second frame confirms it: the number may be corrupt
PATIENCE = 256
#: of a larger gap only the last so many numbers are told one by one
MAX_LISTED = 100_000
#: a series that ends so many frames early was stopped; fewer are lost
MAX_MISSING_AT_END = 1000


class FrameTracker:
    """Follows the frame numbers of one series.

    Parameters
    ----------
    counts_lost
        Whether a gap in the numbers means lost frames (a live detector) or nothing (a file of chosen frames).
    """

    def __init__(self, counts_lost: bool) -> None:
        self._counts_lost = counts_lost
        self.start_series(None, joined_late=True)

    def start_series(self, number_of_frames: int | None, *, joined_late: bool = False) -> None:
        """Forget everything. `joined_late`: the beginning was not seen, so what lies before the first frame that
        arrives is not missing."""
        self._expected = number_of_frames
        self._next: int | None = None if joined_late else 0
        self._first: int | None = None
        self._seen = 0
        self._missing: OrderedDict[int, int] = OrderedDict()  # number → frames seen when it was found missing
        self._ahead: set[int] = set()  # taken, but far ahead of the others
        self._newest_ahead: int | None = None

    def see(self, number: int) -> str:
        """Note that a frame arrived. Returns '' or why it must not be taken."""
        if number < 0:
            return f"frame number {number} is negative"
        if self._next is None:
            self._next = number
        elif self._first is None and number == 1:
            self._next = 1  # a detector that counts from one
        if self._first is None:
            self._first = min(number, self._next + PATIENCE)
        if number in self._missing:
            del self._missing[number]  # late, but here
        elif number in self._ahead or self._first <= number < self._next:
            return f"frame {number} arrived twice, or after it was given up as lost"
        elif number >= self._next:
            self._go_on_to(number)
        self._seen += 1
        return ""

    def _go_on_to(self, number: int) -> None:
        if number - self._next > PATIENCE:
            before, self._newest_ahead = self._newest_ahead, number
            if before is None or not 0 < number - before <= PATIENCE:
                self._ahead.add(number)
                return  # a second one must confirm it
        if self._counts_lost:
            start = max(self._next, number - MAX_LISTED)
            if start > self._next:
                log.warning("frames %d to %d never arrived; not told one by one", self._next, start - 1)
            for missing in range(start, number):
                if missing not in self._ahead:
                    self._missing[missing] = self._seen
        self._next = number + 1
        self._ahead = {ahead for ahead in self._ahead if ahead >= self._next}

    def lost(self, *, at_end: bool = False, complete: bool = True) -> Iterator[int]:
        """Numbers that are given up: each is yielded once, in order. `at_end`: no more frames follow, and if the series
        is `complete`, those that were announced and never came are lost too; where nobody listened to its end, they
        may still be coming."""
        if at_end and complete and self._counts_lost and self._expected and self._next is not None:
            end = self._expected + (1 if self._first == 1 else 0)
            if end - self._next > MAX_MISSING_AT_END:
                log.warning("%d frames were announced, the series ended after %d", self._expected, self._next)
            else:
                self._missing.update((n, self._seen) for n in range(self._next, end) if n not in self._ahead)
            self._next = max(self._next, end)
        while self._missing:
            number, seen = next(iter(self._missing.items()))
            if not at_end and self._seen - seen < PATIENCE:
                return
            self._missing.popitem(last=False)
            yield number
