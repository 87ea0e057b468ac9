"""Errors that say what was wrong and what would be right.

Each class carries the Tango reason under which a device reports it (see the public interface), so that
the same error reads the same on the command line, in `Status` and in a `DevFailed`.
"""

from __future__ import annotations


class FrameSieveError(Exception):
    """Base of all errors that are meant for the user; `reason` is the Tango reason."""

    reason = "SOFTWARE_FAILURE"


class ConfigurationError(FrameSieveError):
    """A file, path, address or name given by the user cannot be used."""

    reason = "CONFIGURATION_ERROR"


class OutOfRangeError(FrameSieveError):
    """A value is outside of what is accepted."""

    reason = "DATA_OUT_OF_RANGE"


class NotAllowedError(FrameSieveError):
    """The operation makes no sense in the present state."""

    reason = "OPERATION_NOT_ALLOWED"


class CommunicationError(FrameSieveError):
    """The other end of a connection is missing or broken."""

    reason = "COMMUNICATION_BROKEN"


class HardwareError(FrameSieveError):
    """A device (OpenCL device, disk) failed."""

    reason = "HARDWARE_FAILURE"


class FrameError(FrameSieveError):
    """One frame arrived broken; it costs that frame only."""
