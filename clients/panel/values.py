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
    """A preview and what belongs to it. `peaks` (n, 6) and `frame` are None where the server does not tell them,
    `step` is 0."""

    preview: np.ndarray
    peaks: np.ndarray | None
    frame: int | None
    step: int


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
