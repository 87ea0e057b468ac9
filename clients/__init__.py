"""What people use to talk to the devices; depends on Tango only."""

from .change import Applied, Change
from .errors import NotReachedError, ReductionError, RunFailedError, UnknownNameError, WaitTimeoutError
from .reduction import Reduction, RunStatus

__all__ = [
    "Applied",
    "Change",
    "NotReachedError",
    "Reduction",
    "ReductionError",
    "RunFailedError",
    "RunStatus",
    "UnknownNameError",
    "WaitTimeoutError",
]
