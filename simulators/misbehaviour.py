"""What a simulated detector does wrong, and in which order it therefore sends its messages.

Words, as `Misbehaviour.parse` reads them (places of images count from 0 in each series):

    lost=3,7          these images are never sent
    corrupt=4         half of the bytes of this one are missing
    duplicated=5      this one is sent twice
    late=6:10         this one is sent when ten others have been
    shuffled=8        images are sent in random order within groups of eight
    stall=20:1.5      before this one nothing is sent for so many seconds
    aborted=30        the first series stops after so many images, without an end; the next one begins
    stray=2           the last so many images of the aborted series come only within the next one
    no-start, no-end  these messages are not sent
    killed=40:1       in the first series, before this image, the sender dies; it is back after so many seconds

Times add to the schedule: an image behind a stall of a second is a second late.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..processing.errors import ConfigurationError


class Step(NamedTuple):
    """One thing that the detector does next. `place` is that of an image in its series, `seconds` the length of a
    pause or of being away; `again`: it was sent before, `stray`: the image belongs to the series before this one."""

    kind: Literal["start", "image", "pause", "die", "end"]
    place: int = -1
    corrupt: bool = False
    again: bool = False
    stray: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Misbehaviour:
    """See the words above; by default everything is as it should be."""

    lost: frozenset[int] = frozenset()
    corrupt: frozenset[int] = frozenset()
    duplicated: frozenset[int] = frozenset()
    late: Mapping[int, int] = field(default_factory=dict)
    shuffled: int = 0
    stall: Mapping[int, float] = field(default_factory=dict)
    aborted: int | None = None
    stray: int = 0
    no_start: bool = False
    no_end: bool = False
    killed: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Misbehaviour:
        """Of words separated by blanks or semicolons; ConfigurationError where one is not understood."""
        values: dict[str, object] = {}
        for word in text.replace(";", " ").split():
            name, equals, value = word.partition("=")
            reader = _READERS.get(name)
            try:
                if reader is None or bool(equals) is (reader is bool):
                    raise ValueError
                read = reader(value) if equals else True
            except ValueError:
                raise ConfigurationError(f"misbehaviour {word!r}: accepted are " + ", ".join(_EXAMPLES)) from None
            if name.replace("-", "_") in values:
                raise ConfigurationError(f"misbehaviour {word!r}: {name} is said twice")
            values[name.replace("-", "_")] = read
        return cls(**values)

    def is_aborted(self, series: int) -> bool:
        """Whether this series ends early, without an end; it counts from 1."""
        return self.aborted is not None and series == 1

    def steps(self, n_frames: int, series: int, seed: int = 0) -> Iterator[Step]:
        """What the detector does in a series of `n_frames` images; `series` counts from 1."""
        places = self._order(n_frames, seed + series)
        strays: list[int] = []
        if self.is_aborted(series):
            places = places[: max(self.aborted - self.stray, 0)]
        elif self.aborted is not None and series == 2:
            strays = self._strays(n_frames, seed)
        if not self.no_start:
            yield Step("start")
        for sent, place in enumerate(places):
            if place in self.stall:
                yield Step("pause", seconds=self.stall[place])
            if series == 1 and place in self.killed:
                yield Step("die", place, seconds=self.killed[place])
            image = Step("image", place, corrupt=place in self.corrupt)
            yield image
            if place in self.duplicated:
                yield image._replace(again=True)
            if strays and sent % 2:
                yield Step("image", strays.pop(0), stray=True)
        yield from (Step("image", place, stray=True) for place in strays)
        if not self.is_aborted(series) and not self.no_end:
            yield Step("end")

    def _order(self, n_frames: int, seed: int) -> list[int]:
        """Places in the order in which they are sent."""
        places = [place for place in range(n_frames) if place not in self.lost]
        if self.shuffled > 1:
            chance = random.Random(seed)
            groups = [places[i : i + self.shuffled] for i in range(0, len(places), self.shuffled)]
            places = [place for group in groups for place in chance.sample(group, len(group))]
        # one that is late goes behind so many others; the sort is stable
        turn = {place: i + (self.late[place] + 0.5 if place in self.late else 0) for i, place in enumerate(places)}
        return sorted(places, key=turn.__getitem__)

    def _strays(self, n_frames: int, seed: int) -> list[int]:
        """What the aborted series, the first one, left behind. Both series have as many images."""
        sent = self._order(n_frames, seed + 1)[: self.aborted]
        return sent[max(len(sent) - self.stray, 0) :]


def _places(text: str) -> frozenset[int]:
    return frozenset(_count(item) for item in text.split(","))


def _counts(text: str) -> dict[int, int]:
    return {place: _count(value) for place, value in _pairs(text)}


def _seconds(text: str) -> dict[int, float]:
    values = {place: float(value) for place, value in _pairs(text)}
    if not all(0 <= value < math.inf for value in values.values()):
        raise ValueError
    return values


def _pairs(text: str) -> list[tuple[int, str]]:
    parts = [item.split(":") for item in text.split(",")]
    return [(_count(place), value) for place, value in parts]


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError
    return value


_READERS = {
    "lost": _places,
    "corrupt": _places,
    "duplicated": _places,
    "late": _counts,
    "shuffled": _count,
    "stall": _seconds,
    "aborted": _count,
    "stray": _count,
    "no-start": bool,
    "no-end": bool,
    "killed": _seconds,
}
_EXAMPLES = (
    "lost=3,7", "corrupt=4", "duplicated=5", "late=6:10", "shuffled=8", "stall=20:1.5", "aborted=30", "stray=2",
    "no-start", "no-end", "killed=40:1",
)  # fmt: skip
