"""Values of settings: as Tango takes them, compared with what the devices show, and several written at once."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import tango

from .connection import Attribute, Connection
from .errors import ReductionError

_INTEGERS = {
    tango.CmdArgType.DevShort, tango.CmdArgType.DevLong, tango.CmdArgType.DevLong64, tango.CmdArgType.DevUChar,
    tango.CmdArgType.DevUShort, tango.CmdArgType.DevULong, tango.CmdArgType.DevULong64,
}  # fmt: skip


def fitting(attribute: Attribute, value: Any) -> Any:
    """A value as Tango takes it; what loses something on the way is refused."""
    if attribute.labels:
        known = isinstance(value, str) and value in attribute.labels
        if not known and not (isinstance(value, int) and 0 <= value < len(attribute.labels)):
            raise ReductionError(
                "DATA_OUT_OF_RANGE", f"{attribute.name} = {value!r}: accepted is {', '.join(attribute.labels)}"
            )
        return attribute.labels.index(value) if known else int(value)
    if attribute.kind in _INTEGERS:
        try:
            whole = int(value)
        except (TypeError, ValueError, OverflowError):
            whole = None
        if isinstance(value, str) or whole is None or whole != value:
            raise ReductionError("DATA_OUT_OF_RANGE", f"{attribute.name} = {value!r}: accepted is a whole number")
        return whole
    return value


def is_same(attribute: Attribute, written: Any, read: Any) -> bool:
    """Whether a value that was read is the one that was written."""
    if attribute.labels:
        return attribute.labels[written] == read
    if isinstance(read, str):
        return str(written).strip().lower() == read.strip().lower()
    return bool(read == written)


def write_different(
    connection: Connection, attributes: dict[str, Attribute], values: dict[str, Any], before: dict[str, Any]
) -> bool:
    """Write what differs from the values `before`, if anything does; what is refused is tried again after the others.
    Where something is still refused then, all is put back."""
    waiting = [name for name in values if not is_same(attributes[name], values[name], before[name])]
    written: list[str] = []
    while waiting:
        refused: dict[str, ReductionError] = {}
        for name in waiting:
            try:
                connection.write(attributes[name], values[name])
                written.append(name)
            except ReductionError as error:
                refused[name] = error
        if len(refused) == len(waiting):
            for name in reversed(written):
                with suppress(ReductionError):
                    connection.write(attributes[name], fitting(attributes[name], before[name]))
            raise next(iter(refused.values()))
        waiting = list(refused)
    return bool(written)
