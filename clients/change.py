"""Settings that have been written, until a frame shows that they are in force."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .counters import LATE, RING
from .errors import ReductionError
from .writing import fitting, is_same, write_different

if TYPE_CHECKING:
    from .connection import Attribute, Connection
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
        Number that the ledger has for `first_frame`; while there is no such frame, that of the newest set. Changes that
        fall between the same two batches of frames share it, whoever has made them.
    first_frame
        The first frame, in order of arrival, that was reduced with all of the values. None: no frame has been yet.
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

    Parameters
    ----------
    reduction
        The devices.
    values
        The settings, as they show after the change.
    fields
        The live parameters among them, named as in a parameter set.
    sets
        The first parameter set that can have the values, and the newest one once all were written: it has them.
    oldest
        Frames with a smaller number were reduced before.
    """

    def __init__(
        self,
        reduction: Reduction,
        values: dict[str, Any],
        fields: dict[str, Any],
        sets: tuple[int, int],
        oldest: int,
    ) -> None:
        self._reduction = reduction
        self._fields = fields
        self._first_set, self._written_set = sets
        self._oldest = oldest
        self._applied = Applied(values, self._written_set)
        self._done = False

    @property
    def parameter_set(self) -> int:
        """Number of the parameter set, as in `Applied`."""
        return self._applied.parameter_set

    def poll(self) -> Applied | None:
        """What has become of it, without waiting.

        Returns
        -------
        None while a run is on and no frame with the new values is through yet.

        Raises
        ------
        ReductionError
            CHANGED_BY_ANOTHER: somebody has changed a value again before any frame was reduced with it.
        """
        if self._done:
            return self._applied
        running = self._reduction.is_running  # before looking for frames: once it is over, all frames are there
        self._applied = self._look(running)
        self._done = self._applied.first_frame is not None or bool(self._applied.note)
        return self._applied if self._done else None

    def wait(self, timeout: float = 10.0) -> Applied:
        """The same, waiting for a frame. Where none comes in time `note` says so; the values hold from the next one on.

        Parameters
        ----------
        timeout
            Seconds to wait.

        Raises
        ------
        ReductionError
            As `poll`.
        """
        deadline = time.monotonic() + timeout
        while (applied := self.poll()) is None:
            if time.monotonic() > deadline:
                return self._with(note=f"no frame has come within {timeout:g} s; it holds from the next one on")
            time.sleep(_PERIOD)
        return applied

    def _look(self, running: bool) -> Applied:
        newest = self._reduction.parameter_set  # of the newest frame
        if newest >= self._first_set:
            # the whole memory of the device only where the frames of interest are not among the newest
            for oldest in (self._oldest, -1):
                rows = self._reduction.counters(oldest)
                for number in np.unique(rows["parameter_set"][rows["parameter_set"] >= self._first_set]):
                    if self._has_values(int(number)):
                        first = rows["frame"][rows["parameter_set"] == number][0]
                        return self._with(first_frame=int(first), parameter_set=int(number))
            if newest >= self._written_set:  # it was begun after the writes
                if len(rows) == RING and rows["parameter_set"].min() >= self._first_set:
                    return self._with(note="it has held for longer than the device remembers frames")
                values = ", ".join(f"{name} = {value!r}" for name, value in self._applied.values.items())
                raise ReductionError(
                    "CHANGED_BY_ANOTHER", f"{values}: changed again before any frame was reduced with it"
                )
        if running:
            return self._applied
        return self._with(note="no frame was reduced with it, the run is over; it holds from the next run on")

    def _has_values(self, parameter_set: int) -> bool:
        """Whether all values are those of a parameter set."""
        try:
            known = self._reduction.parameters_of(parameter_set)
        except ReductionError:  # too long ago
            return False
        return all(known[name] == value for name, value in self._fields.items())

    def _with(self, **more: Any) -> Applied:
        return replace(self._applied, **more)


class Settled(Change):
    """A change for which no frame needs to be waited for."""

    def __init__(self, values: dict[str, Any], parameter_set: int, note: str) -> None:
        self._applied = Applied(values, parameter_set, note=note)
        self._done = True


def begin(reduction: Reduction, connection: Connection, values: dict[str, Any]) -> Change:
    """Write settings; what has become of them is asked of the result."""
    attributes = {name: connection.setting(name) for name in values}
    written = {name: fitting(attribute, values[name]) for name, attribute in attributes.items()}
    running = reduction.is_running
    # both are read before the values are written: neither frames before it, except those that are late, nor sets
    # up to this one can have come from this change
    oldest = connection.read("last_frame_number") - LATE
    set_before = connection.read("parameter_set_in_force")
    before = {name: connection.read(name) for name in values}
    is_new = write_different(connection, attributes, written, before)
    parameter_set = connection.read("parameter_set_in_force")
    after = {name: connection.read(name) for name in values}
    for name, value in after.items():
        if not is_same(attributes[name], written[name], value):
            raise ReductionError(
                "CHANGED_BY_ANOTHER", f"{name} = {written[name]!r} was written, but it is {value!r} already"
            )
    if not running:
        return Settled(after, parameter_set, "nothing runs; it holds from the first frame of a run")
    fields = _fields(reduction.parameters_of(parameter_set), attributes, after)
    if not fields:
        return Settled(after, parameter_set, "it holds at once, frames are reduced as before")
    if not is_new:
        return Change(reduction, after, fields, (set_before, parameter_set), -1)
    return Change(reduction, after, fields, (set_before + 1, parameter_set), oldest)


def _fields(known: dict[str, Any], attributes: dict[str, Attribute], values: dict[str, Any]) -> dict[str, Any]:
    """The live parameters among settings, by the names that parameter sets have for them."""
    fields = {}
    for name, attribute in attributes.items():
        full = f"{attribute.device}_{attribute.name}"  # of the two max_peaks, one is veto_max_peaks
        field = full if full in known else attribute.name
        if field in known:
            fields[field] = values[name]
    return fields
