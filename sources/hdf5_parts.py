"""Where the frames of a series lie that is being written: in datasets one after another, or behind a virtual one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from ..processing.frames import Payload
from .hdf5_growing import MAX_AHEAD, GrowingFrames, GrowingSet
from .hdf5_virtual import VirtualFrames

#: how many datasets ahead a later frame is looked for
_PARTS_AHEAD: Final = 16


class Parts(Protocol):
    """The frames 0, 1, 2 … of a series; asked for in this order."""

    total: int | None  # how many there will be, as far as the datasets tell
    reason: str  # why the frame that was asked for last is not there

    def payload(self, position: int) -> Payload | None:
        """One frame; None where it is not there yet."""

    def is_stored(self, position: int) -> bool:
        """Whether something of it is there, be it readable or not."""

    def missing(self, position: int) -> int | None:
        """How many frames from `position` on are not there though a later one is; None where no later one is."""


class SequentialParts:
    """Datasets one after another, each of which may still grow.

    One is over when the next one has begun and it has as many frames as the numbers of the images say
    (`image_nr_low`), or as many as the first one had, or has not changed for a while.
    """

    def __init__(self, growing: GrowingSet, places: Sequence[tuple[str, str]]) -> None:
        self._growing = growing
        self.places = list(places)
        self.reason = ""
        self._part = 0  # the one that is read
        self._before = 0  # frames of the parts before it
        self._size: int | None = None  # of the first one, once it is over

    @property
    def total(self) -> int | None:
        """Known of a single dataset that cannot grow."""
        frames = self._frames(0)
        return frames.extent if len(self.places) == 1 and frames.is_fixed else None

    @property
    def is_at_last(self) -> bool:
        return self._part == len(self.places) - 1

    def _frames(self, part: int) -> GrowingFrames:
        return self._growing.frames(*self.places[part])

    def payload(self, position: int) -> Payload | None:
        while True:
            frames = self._frames(self._part)
            payload = frames.frame(position - self._before, self._has_next_begun)
            if payload is not None:
                return payload
            self.reason = frames.reason
            if self.is_at_last or not self._is_over(frames, position - self._before):
                return None
            self._go_on(position - self._before, 1)

    def is_stored(self, position: int) -> bool:
        return self._frames(self._part).is_stored(position - self._before)

    def missing(self, position: int) -> int | None:
        index = position - self._before
        later = self._frames(self._part).next_there(index)
        if later is not None:
            return later - index
        last = min(self._part + _PARTS_AHEAD, len(self.places) - 1)
        for part in range(self._part + 1, last + 1):
            if self._frames(part).next_there(-1) is not None:
                if part > self._part + 1:
                    self.reason = self._frames(self._part + 1).reason
                count = max(self._stated_size(self._part, part) or self._guess(part, index), index)
                self._go_on(count, part - self._part)
                return count - index
        return None

    def _has_next_begun(self) -> bool:
        return not self.is_at_last and self._frames(self._part + 1).is_stored(0)

    def _is_over(self, frames: GrowingFrames, index: int) -> bool:
        if index < frames.extent:
            return False  # it has a hole
        size = self._stated_size(self._part, self._part + 1) or (self._size if self._part else None)
        if size is not None:
            return index >= size
        return frames.is_settled and self._has_next_begun()

    def _stated_size(self, part: int, following: int) -> int | None:
        """Frames from the beginning of one part to that of another, as the numbers of their first images tell."""
        begin, end = (self._frames(number).first_number for number in (part, following))
        if begin is None and part == 0:
            begin = 1  # as DECTRIS counts
        return end - begin if begin is not None and end is not None and end > begin else None

    def _guess(self, following: int, index: int) -> int:
        """The same, where the numbers are not known: all parts but the last one are alike."""
        own = self._frames(self._part).extent or index
        usual = own if self._size is None else self._size
        return max(own, usual) + usual * (following - self._part - 1)

    def _go_on(self, count: int, parts: int) -> None:
        if self._part == 0 and parts == 1:
            self._size = count
        self._before += count
        self._part += parts


class VirtualParts:
    """The sources of a virtual dataset."""

    def __init__(self, growing: GrowingSet, virtual: VirtualFrames) -> None:
        self._growing = growing
        self._virtual = virtual
        self.total: int | None = virtual.count
        self.reason = ""

    def payload(self, position: int) -> Payload | None:
        if position >= self._virtual.count:
            self.reason = f"{self._virtual.where}: has {self._virtual.count} frames"
            return None
        pieces = self._virtual.pieces(position)
        payloads = []
        for piece in pieces:
            frames = self._growing.frames(piece.path, piece.name)
            payload = frames.frame(piece.index, lambda: self.is_stored(position + 1))
            if payload is None:
                self.reason = frames.reason
                return None
            payloads.append(payload)
        return self._virtual.frame(pieces, payloads)

    def is_stored(self, position: int) -> bool:
        pieces = self._virtual.pieces(position) if position < self._virtual.count else []
        return any(self._growing.frames(piece.path, piece.name).is_stored(piece.index) for piece in pieces)

    def missing(self, position: int) -> int | None:
        for later in range(position + 1, min(self._virtual.count, position + 1 + MAX_AHEAD)):
            if self.is_stored(later):
                return later - position
        return None
