"""Settings that have been written, until a frame shows that they are in force."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reduction import Reduction

_PERIOD = 0.05  # s between two looks


@dataclass(frozen=True, slots=True)
class Applied:
    """What has become of a change.

    Attributes
    ----------
    values
        The settings, as the devices show them after the change.
    parameter_set
        Number under which frames record the new values; a change by somebody else at the same moment may make it a
        later one, never an earlier one.
    first_frame
        The first frame, in order of arrival, that was reduced with this set. None: no frame has been yet.
    note
        Why there is no such frame, or the empty text.
    """

    values: dict[str, Any]
    parameter_set: int
    first_frame: int | None = None
    note: str = ""

    def __str__(self) -> str:
        values = ", ".join(f"{name} = {value}" for name, value in self.values.items())
        where = self.note if self.first_frame is None else f"from frame {self.first_frame} on"
        return f"{values}: parameter set {self.parameter_set}, {where}"


class Change:
    """Values that have just been written. They are in force from the next batch of frames on; `poll` and `wait` tell
    from which frame.

    Made by `Reduction.change`.
    """

    def __init__(self, reduction: Reduction, values: dict[str, Any], parameter_set: int, oldest: int) -> None:
        self._reduction = reduction
        self._oldest = oldest  # frames with a smaller number were reduced before
        self._applied = Applied(values, parameter_set)
        self._done = False

    @property
    def parameter_set(self) -> int:
        return self._applied.parameter_set

    def poll(self) -> Applied | None:
        """What has become of it, None while a run is on and no frame with the new values is through yet."""
        if self._done:
            return self._applied
        running = self._reduction.is_running  # before looking for frames: once it is over, all frames are there
        self._applied = self._look(running)
        self._done = self._applied.first_frame is not None or not running
        return self._applied if self._done else None

    def wait(self, timeout: float = 10.0) -> Applied:
        """The same, waiting for `timeout` seconds at most. Where no frame comes in that time this is said in `note`;
        the values hold from the next frame on."""
        deadline = time.monotonic() + timeout
        while (applied := self.poll()) is None:
            if time.monotonic() > deadline:
                return self._with(note=f"no frame has come within {timeout:g} s; it holds from the next one on")
            time.sleep(_PERIOD)
        return applied

    def _look(self, running: bool) -> Applied:
        number = self._applied.parameter_set
        newest = self._reduction.parameter_set
        if newest >= number:
            rows = self._reduction.counters(self._oldest)
            first = rows["frame"][rows["parameter_set"] >= number]
            if first.size:
                return self._with(first_frame=int(first[0]))
        if running:
            return self._applied
        return self._with(note="no frame was reduced with it, the run is over; it holds from the next run on")

    def _with(self, **more: Any) -> Applied:
        applied = self._applied
        return Applied(applied.values, applied.parameter_set, **more)


class Idle(Change):
    """A change that was made while nothing ran."""

    def __init__(self, values: dict[str, Any], parameter_set: int) -> None:
        self._applied = Applied(values, parameter_set, note="nothing runs; it holds from the first frame of a run")
        self._done = True
