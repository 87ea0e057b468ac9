"""Errors as Tango clients see them: reason, a sentence, and the class and method they come from."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import tango

from ..processing.errors import FrameSieveError

log = logging.getLogger(__name__)


def reason_of(error: BaseException) -> str:
    """The Tango reason under which an error is reported."""
    if isinstance(error, FrameSieveError):
        return error.reason
    if isinstance(error, MemoryError):
        return "OUT_OF_MEMORY"
    return "SOFTWARE_FAILURE"


def text_of(error: BaseException) -> str:
    """A sentence for the user; errors that were not meant for the user say what they are."""
    if isinstance(error, FrameSieveError):
        return str(error)
    if isinstance(error, tango.DevFailed):
        return error.args[0].desc.strip()
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


# Tango's strings are Latin-1: what has no place there would make an attribute unreadable
_IN_LATIN = str.maketrans(
    {"…": "...", "−": "-", "–": "-", "σ": "sigma", "√": "sqrt", "≤": "<=", "≥": ">=", "→": "->", "’": "'"}
)


def as_latin(text: str) -> str:
    """A text as a Tango string can carry it; characters without a likeness become '?'."""
    return text.translate(_IN_LATIN).encode("latin-1", "replace").decode("latin-1")


@contextmanager
def reported(device: tango.LatestDeviceImpl, method: str) -> Iterator[None]:
    """Turn what goes wrong inside into `DevFailed` with origin `Class.method`, and log it."""
    try:
        yield
    except tango.DevFailed:
        raise
    except Exception as error:
        reason, text = reason_of(error), text_of(error)
        if reason == "SOFTWARE_FAILURE":
            log.error("%s: %s\n%s", method, text, traceback.format_exc(), extra={"device": device.get_name()})
        else:
            log.warning("%s refused: %s", method, text, extra={"device": device.get_name()})
        # as bytes: PyTango would send the text as UTF-8, but clients read Latin-1
        description = as_latin(text).encode("latin-1")
        tango.Except.throw_exception(reason, description, f"{type(device).__name__}.{method}")
