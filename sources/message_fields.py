"""Fields of a detector's messages, read with care: whatever a message holds, one clear error at most."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from ..processing.errors import FrameError
from .cbor import Tagged

#: what is nested deeper is left out of the metadata
MAX_DEPTH = 32


class MessageError(FrameError):
    """A message that cannot be used; `number` and `series_key` where they could be read."""

    def __init__(self, text: str, number: int = -1, series_key: tuple[int, str] | None = None) -> None:
        super().__init__(text)
        self.number = number
        self.series_key = series_key


def read_count(fields: dict[str, Any], name: str) -> int:
    """A number from 0 on that fits into 64 bits, as the ledger stores it; FrameError where it is none."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise FrameError(f"{name} is missing" if value is None else f"{name} is no count: {shown(value)}")
    return value


def read_number(fields: dict[str, Any], name: str) -> float | None:
    """A finite number; None where there is none."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond all floats
        return None


def read_pair(fields: dict[str, Any], first: str, second: str) -> list[float] | None:
    """Two finite numbers; None where one is missing."""
    values = [read_number(fields, first), read_number(fields, second)]
    return None if None in values else values


def read_text(fields: dict[str, Any], name: str) -> str | None:
    """A text; None where there is none."""
    value = fields.get(name)
    return value if isinstance(value, str) else None


def wavelength(angstrom: float | None, electronvolt: float | None) -> float | None:
    """Metres, of a wavelength in Å or, without one, of a photon energy in eV; 0 is a value that was never set."""
    if angstrom:
        return angstrom * 1e-10
    return 12398.419843 / electronvolt * 1e-10 if electronvolt else None


def seconds_since_1970(date: str) -> float | None:
    """Of a date as ISO 8601 writes it, UTC where it names no zone; None where it is none."""
    try:
        begin = datetime.fromisoformat(date)
        return (begin if begin.tzinfo else begin.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def jsonable(value: Any, depth: int = MAX_DEPTH) -> Any:
    """`value` without what JSON has no place for: bytes and typed arrays become their description."""
    match value:
        case dict() | list() if depth == 0:
            return "…"
        case dict():
            return {str(key): jsonable(item, depth - 1) for key, item in value.items()}
        case list():
            return [jsonable(item, depth - 1) for item in value]
        case Tagged(tag=0 | 1 | 55799):
            return jsonable(value.value, depth)
        case Tagged():
            return f"(CBOR tag {value.tag})"
        case memoryview():
            return f"({len(value)} bytes)"
        case float():
            return value if math.isfinite(value) else None
    return value


def shown(value: Any) -> str:
    """A value of a message for an error text, not longer than one line."""
    line = repr(value)
    return line if len(line) <= 60 else line[:57] + "…"
