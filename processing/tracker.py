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
#: of numbers far away from the others, so many are remembered
MAX_FAR = 10_000


class FrameTracker:
    """Follows the frame numbers of one series.

    Parameters
    ----------
    counts_lost
        Whether a gap in the numbers means lost frames (a live detector) or nothing (a file of chosen frames).
    first_number
        Of a series, where that is known. None: 0, or 1 where the first frame that arrives has this number.
    """

    def __init__(self, counts_lost: bool, first_number: int | None = None) -> None:
        self._counts_lost = counts_lost
        self._first_number = first_number
        self.start_series(None, joined_late=True)

    def start_series(self, number_of_frames: int | None, *, joined_late: bool = False) -> None:
        """Forget everything. `joined_late`: the beginning was not seen, so what lies before the smallest number that
        arrives is not missing."""
        self._expected = number_of_frames
        self.problem = ""  # of the series as a whole
        # from the first to the next number, without it, all are known: seen or missing
        self._first: int | None = None if joined_late else self._first_number or 0
        self._next = self._first
        self._seen = 0
        self._missing: OrderedDict[int, int] = OrderedDict()  # number → frames seen when it was found missing
        self._far: dict[int, None] = {}  # taken, but far away from the others
        self._newest_far: int | None = None

    def see(self, number: int) -> str:
        """Note that a frame arrived. Returns '' or why it must not be taken."""
        if number < 0:
            return f"frame number {number} is negative"
        if self._first is None:
            self._first = self._next = number
        elif self._seen == 0 and number == 1 and self._first == 0 and self._first_number is None:
            self._first = self._next = 1  # a detector that counts from one
        if number in self._missing:
            del self._missing[number]  # late, but here
        elif number in self._far or self._first <= number < self._next:
            return f"frame {number} arrived twice, or after it was given up as lost"
        elif number >= self._next:
            self._go_on_to(number)
        else:
            self._go_back_to(number)
        self._seen += 1
        return ""

    def _go_on_to(self, number: int) -> None:
        if number - self._next > PATIENCE and not self._is_confirmed(number):
            self._set_aside(number)
            return
        start = max(self._next, number - MAX_LISTED)
        if start > self._next and self._counts_lost:
            log.warning("frames %d to %d never arrived; not told one by one", self._next, start - 1)
        self._miss(range(start, number))
        self._next = number + 1

    def _go_back_to(self, number: int) -> None:
        """A frame from before the one that arrived first."""
        if self._first - number <= PATIENCE:
            self._miss(range(number + 1, self._first))
            self._first = number
        elif not self._is_confirmed(number) or self._next - self._first > PATIENCE:
            self._set_aside(number)
        else:  # the number of the first frame was corrupt: begin with the one that came before this one
            for known in range(self._first, self._next):
                if self._missing.pop(known, None) is None:
                    self._set_aside(known)
            self._first = self._next = min(n for n in self._far if number - PATIENCE <= n < number)
            self._go_on_to(number)

    def _is_confirmed(self, number: int) -> bool:
        """Whether another number far away from the others lies shortly before this one; a single one may be corrupt."""
        before, self._newest_far = self._newest_far, number
        return before is not None and 0 < number - before <= PATIENCE

    def _set_aside(self, number: int) -> None:
        self._far[number] = None
        if len(self._far) > MAX_FAR:
            del self._far[next(iter(self._far))]

    def _miss(self, numbers: range) -> None:
        """These may be late, unless they are here already."""
        for number in numbers:
            if number in self._far:
                del self._far[number]
            elif self._counts_lost:
                self._missing[number] = self._seen

    def lost(self, *, at_end: bool = False, complete: bool = True) -> Iterator[int]:
        """Numbers that are given up: each is yielded once, in order. `at_end`: no more frames follow, and if the series
        is `complete`, those that were announced and never came are lost too; where nobody listened to its end, they
        may still be coming; what is wrong with the series as a whole is `problem` then."""
        if at_end and complete and self._counts_lost and self._expected and self._next is not None:
            end = self._expected + (int(self._first == 1) if self._first_number is None else self._first_number)
            if end - self._next > MAX_MISSING_AT_END:
                self.problem = (
                    f"it was stopped: {self._expected} frames were announced, the last one is {self._next - 1}; the "
                    "others are not counted as lost"
                )
            else:
                self._missing.update((n, self._seen) for n in range(self._next, end) if n not in self._far)
            self._next = max(self._next, end)
        while self._missing:
            number, seen = next(iter(self._missing.items()))
            if not at_end and self._seen - seen < PATIENCE:
                return
            self._missing.popitem(last=False)
            yield number
