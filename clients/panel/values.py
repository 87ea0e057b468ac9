"""What is known of one attribute: its newest value, what Tango says of it, why it could not be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tango


@dataclass(frozen=True, slots=True)
class Value:
    """The newest value of one attribute; `error` where the last event was one."""

    value: Any = None
    quality: tango.AttrQuality = tango.AttrQuality.ATTR_INVALID
    error: str = ""

    @property
    def is_past_limit(self) -> bool:
        return self.quality in (tango.AttrQuality.ATTR_ALARM, tango.AttrQuality.ATTR_WARNING)


@dataclass(frozen=True, slots=True)
class Description:
    """What Tango says of an attribute."""

    label: str
    unit: str
    meaning: str
    is_writable: bool
    data_type: tango.CmdArgType
    choices: tuple[str, ...] = ()  # of an enumeration


@dataclass(frozen=True, slots=True)
class Refusal:
    """A write or a command that was refused. `key` is `member/attribute` or `acquisition/Command`."""

    key: str
    reason: str
    time: float  # of time.monotonic


@dataclass(frozen=True, slots=True)
class Picture:
    """A preview, its peaks (n, 6) in pixels of the detector, the number of its frame, and its decimation."""

    preview: np.ndarray
    peaks: np.ndarray
    number: int
    step: int

    @classmethod
    def of(cls, preview: np.ndarray | None, peaks: np.ndarray | None, number: int | None, step: int | None) -> Picture:
        """Of what came by events, where empty arrays have any shape."""
        if preview is None or np.ndim(preview) != 2:
            preview = np.zeros((0, 0), np.uint16)
        if peaks is None or not np.size(peaks):
            peaks = np.zeros((0, 6), np.float32)
        return cls(preview, peaks, -1 if number is None else int(number), int(step or 1))


def describe(info: tango.AttributeInfoEx) -> Description:
    """From the configuration of an attribute."""
    return Description(
        info.label,
        "" if info.unit == "No unit" else info.unit,
        info.description,
        info.writable in (tango.AttrWriteType.READ_WRITE, tango.AttrWriteType.WRITE),
        tango.CmdArgType.values[info.data_type],
        tuple(info.enum_labels),
    )


def name_of(key: str) -> str:
    return key.partition("/")[2]


def reason_of(error: BaseException) -> str:
    """The sentence of an error that helps: the first of a stack of Tango errors."""
    if isinstance(error, tango.DevFailed) and error.args:
        return error.args[0].desc.strip()
    return str(error) or type(error).__name__
