"""What people use to talk to the devices; depends on Tango only."""

from .change import Applied, Change
from .connection import Attribute
from .errors import NotReachedError, ReductionError, RunFailedError, UnknownNameError, WaitTimeoutError
from .reduction import Reduction
from .run_status import RunStatus

__all__ = [
    "Applied",
    "Attribute",
    "Change",
    "NotReachedError",
    "Reduction",
    "ReductionError",
    "RunFailedError",
    "RunStatus",
    "UnknownNameError",
    "WaitTimeoutError",
]
