"""What goes wrong between a client and the devices, as ordinary Python exceptions."""

from __future__ import annotations

import tango

#: reasons of Tango that mean: nobody has answered, try again
UNREACHABLE = (
    "API_CantConnect",
    "API_CommunicationFailed",
    "API_DeviceNotExported",
    "API_ServerNotRunning",
    "API_Corba",
)


class ReductionError(RuntimeError):
    """A device has refused something, or something is wrong with it.

    Attributes
    ----------
    reason
        One word, e.g. `DATA_OUT_OF_RANGE`; those of the devices are listed in docs/devices.md.
    description
        The sentence that the device says, with the value and what would be accepted.
    """

    reason: str
    description: str

    def __init__(self, reason: str, description: str) -> None:
        super().__init__(f"{description} [{reason}]")
        self.reason = reason
        self.description = description


class UnknownNameError(ReductionError, AttributeError):
    """There is no attribute of this name, or it is not a setting. Its reason is UNKNOWN_NAME."""

    def __init__(self, description: str) -> None:
        super().__init__("UNKNOWN_NAME", description)


class NotReachedError(ReductionError, ConnectionError):
    """The devices did not answer, for as long as was agreed to try. Its reason is that of Tango, `API_…`."""


class RunFailedError(ReductionError):
    """A run has ended in FAULT; the description is the Status of the device. Its reason is RUN_FAILED."""

    def __init__(self, status: str) -> None:
        super().__init__("RUN_FAILED", status)


class WaitTimeoutError(ReductionError, TimeoutError):
    """What was waited for has not happened in time. Its reason is TIMEOUT."""

    def __init__(self, description: str) -> None:
        super().__init__("TIMEOUT", description)


def as_python(error: tango.DevFailed) -> ReductionError:
    """The error that a caller gets. The first entry of Tango's stack is what the device said, those after it are
    what Tango added on the way."""
    first = error.args[0]
    kind = NotReachedError if is_unreachable(error) else ReductionError
    return kind(first.reason, first.desc.strip())


def is_unreachable(error: tango.DevFailed) -> bool:
    """Whether nobody has answered: the server is not there (yet)."""
    return any(entry.reason.startswith(UNREACHABLE) for entry in error.args) and not is_slow(error)


def is_slow(error: tango.DevFailed) -> bool:
    """Whether the device has taken the request, but not answered in time."""
    return any(entry.reason == "API_DeviceTimedOut" for entry in error.args)
