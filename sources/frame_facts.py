"""What the user tells of each frame in the detector's stream: the monitor, and where the sample was."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from ..processing.frames import NOWHERE

#: text that is longer is not looked at
MAX_TEXT: Final = 1 << 16

#: names of the incoming intensity; the first that holds a number counts
MONITOR_NAMES: Final = ("monitor", "i0")

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def facts_of(user_data: Any) -> tuple[float, tuple[float, float]]:
    """Monitor and position (x, y) of a frame, NaN where they are not told.

    Parameters
    ----------
    user_data
        A map, or JSON of one as text or bytes, with the number `monitor` (or `i0`) and the two numbers `position`
        [x, y], in the units of whoever measured them; numbers may be texts. Whatever else it holds, or is, is left out
        without an error.
    """
    if isinstance(user_data, str | bytes | bytearray | memoryview):
        user_data = _parsed(user_data)
    if not isinstance(user_data, dict):
        return math.nan, NOWHERE
    monitors = (_number(user_data.get(name)) for name in MONITOR_NAMES)
    monitor = next((value for value in monitors if math.isfinite(value)), math.nan)
    position = user_data.get("position")
    if isinstance(position, str):  # as addJsonHeader of slsReceivers has it, which knows texts only
        position = [part for part in re.split(r"[\s,;\[\]()]+", position[:MAX_TEXT]) if part]
    match position:
        case [x, y]:
            return monitor, (_number(x), _number(y))
    return monitor, NOWHERE


def _parsed(text: str | bytes | bytearray | memoryview) -> Any:
    if len(text) > MAX_TEXT:
        return None
    try:
        return json.loads(bytes(text) if isinstance(text, memoryview) else text)
    except (ValueError, RecursionError):
        return None


def _number(value: Any) -> float:
    """A finite number, or the text of one, else NaN."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()[:100]):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # an integer beyond all floats
        return math.nan
