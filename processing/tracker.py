"""Which frame numbers of a series have been seen, and which are missing."""

from __future__ import annotations

from collections.abc import Iterator

#: a frame that is still missing after so many later ones is lost; until then it may be late
PATIENCE = 256
#: a jump of the frame number beyond this is a broken number, not so many lost frames
MAX_JUMP = 1_000_000


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
        self._missing: dict[int, None] = {}  # ordered

    def see(self, number: int) -> str:
        """Note that a frame arrived. Returns '' or why it must not be taken: a duplicate or an impossible number."""
        if number < 0:
            return f"frame number {number} is negative"
        if self._next is None:
            self._next = number
        elif self._first is None and number == 1:
            self._next = 1  # a detector that counts from one
        if self._first is None:
            self._first = number
        if number in self._missing:
            del self._missing[number]  # late, but here
        elif number < self._next:
            if number < self._first:
                return ""  # older than all that was seen: late, and never counted as missing
            return f"frame {number} arrived twice"
        elif number - self._next > MAX_JUMP:
            return f"frame number {number} cannot follow {self._next - 1}"
        else:
            if self._counts_lost:
                self._missing.update(dict.fromkeys(range(self._next, number)))
            self._next = number + 1
        return ""

    def lost(self, *, at_end: bool = False, complete: bool = True) -> Iterator[int]:
        """Numbers that are given up: each is yielded once, in order. `at_end`: no more frames follow, and if the series
        is `complete`, those that were announced and never came are lost too; where nobody listened to its end, they
        may still be coming."""
        if at_end and complete and self._counts_lost and self._expected and self._next is not None:
            end = self._expected + (1 if self._first == 1 else 0)
            self._missing.update(dict.fromkeys(range(self._next, min(end, self._next + MAX_JUMP))))
            self._next = max(self._next, end)
        while self._missing:
            number = next(iter(self._missing))
            if not at_end and self._next is not None and self._next - number <= PATIENCE:
                return
            del self._missing[number]
            yield number
