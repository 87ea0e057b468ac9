"""Frames of which not all modules have come yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from .sls_messages import ModuleMessage

#: frames that wait for modules; of more the oldest one is given up
MAX_FRAMES: Final = 64

#: bytes that frames which wait may hold, beyond the newest one
MAX_BYTES: Final = 1 << 30

#: so many frames that were handed on are remembered, so that what comes of them later is found out
REMEMBERED: Final = 1024


@dataclass(slots=True)
class PartialFrame:
    """What has come of a frame. Both maps go by receiver: modules, and why others cannot be used."""

    number: int  # as the detector counts
    since: float  # when the first of it came
    modules: dict[int, ModuleMessage] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    n_bytes: int = 0

    def note(self, n_receivers: int) -> str:
        """What the ledger shall tell of it; '' where it is whole."""
        absent = [r for r in range(n_receivers) if r not in self.modules and r not in self.problems]
        partly = [r for r, module in sorted(self.modules.items()) if module.lacks_packets]
        notes = [f"{_listed(absent, n_receivers, 'is', 'are')} missing"] if absent else []
        notes += [f"module {r} of {n_receivers}: {text}" for r, text in sorted(self.problems.items())][:4]
        notes += [f"packets of {_listed(partly, n_receivers)} are missing"] if partly else []
        return "; ".join(notes)


class Assembly:
    """Collects the modules of one series after the other.

    Parameters
    ----------
    n_receivers
        Modules of a whole frame.

    Attributes
    ----------
    duplicates, late : int
        Modules left out because they had come before, or because their frame had been handed on.
    """

    def __init__(self, n_receivers: int) -> None:
        self._n = n_receivers
        self._frames: dict[int, PartialFrame] = {}  # in the order in which they began
        self._bytes = 0
        self._over: dict[int, frozenset[int]] = {}  # frames handed on, and the receivers that were missing
        self.duplicates = 0
        self.late = 0

    def put(self, receiver: int, message: ModuleMessage, problem: str, now: float) -> list[PartialFrame]:
        """Take one module in. Frames to be handed on: one that is complete now, and those for which there is no room
        any more. `problem`: why the module cannot be used."""
        missing = self._over.get(message.number)
        if missing is not None:
            self.late += receiver in missing
            self.duplicates += receiver not in missing
            return []
        frame = self._frames.get(message.number)
        if frame is None:
            frame = self._frames[message.number] = PartialFrame(message.number, now)
        if receiver in frame.modules:
            self.duplicates += 1
            return []
        if problem:
            self.duplicates += receiver in frame.problems
            frame.problems[receiver] = problem
        else:
            frame.problems.pop(receiver, None)
            frame.modules[receiver] = message
            frame.n_bytes += len(message.data)
            self._bytes += len(message.data)
        given = []
        if len(frame.modules) + len(frame.problems) == self._n:
            given.append(self._give(frame))
        while len(self._frames) > MAX_FRAMES or (len(self._frames) > 1 and self._bytes > MAX_BYTES):
            given.append(self._give(next(iter(self._frames.values()))))
        return given

    def overdue(self, before: float, is_hopeless: Callable[[int, int], bool]) -> Iterator[PartialFrame]:
        """Frames that began before that time, and of which nothing more can be expected: `is_hopeless` tells it of a
        receiver and the number of a frame."""
        for frame in list(self._frames.values()):
            if frame.since > before:
                return
            if all(is_hopeless(r, frame.number) for r in range(self._n) if r not in frame.modules):
                yield self._give(frame)

    def oldest(self) -> float:
        """When the frame began that waits longest; infinity where none waits."""
        return next((frame.since for frame in self._frames.values()), math.inf)

    def rest(self) -> list[PartialFrame]:
        """Everything that waits, by number. Then the next series may begin, whose numbers may be the same."""
        rest = [self._give(frame) for frame in sorted(self._frames.values(), key=lambda frame: frame.number)]
        self._over.clear()
        return rest

    def _give(self, frame: PartialFrame) -> PartialFrame:
        del self._frames[frame.number]
        self._bytes -= frame.n_bytes
        if len(self._over) == REMEMBERED:
            del self._over[next(iter(self._over))]
        came = frame.modules.keys() | frame.problems.keys()
        self._over[frame.number] = frozenset(range(self._n)) - came if len(came) < self._n else frozenset()
        return frame


def _listed(receivers: list[int], n: int, singular: str = "", plural: str = "") -> str:
    """E.g. 'modules 2 and 5 of 8 are'."""
    shown = [str(r) for r in receivers[:12]] + (["…"] if len(receivers) > 12 else [])
    if len(shown) == 1:
        return f"module {shown[0]} of {n} {singular}".rstrip()
    return f"modules {', '.join(shown[:-1])} and {shown[-1]} of {n} {plural}".rstrip()
