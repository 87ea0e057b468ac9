"""Prepare, Start, Stop, Abort, Reset of a run: what `AcquisitionDevice` and `framesieve reduce` both drive.

States
------
STANDBY (idle) → ON (prepared) → RUNNING → STANDBY; FAULT from anywhere, left by `reset`. Every command
returns at once; the work is done by threads.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..processing.parameters import ParameterStore
from .settings import RunSettings
from .statistics import Snapshot


class RunState(Enum):
    INIT = "INIT"
    STANDBY = "STANDBY"
    ON = "ON"
    RUNNING = "RUNNING"
    FAULT = "FAULT"


class RunController:
    """One pipeline and its life. All methods are thread-safe and return at once.

    Parameters
    ----------
    parameters
        Live parameters; change them through `parameters.update(...)` at any time.
    saving_root
        Directory below which files may be written; empty: anywhere.
    ring_size, batch_size
        Frames that can wait for the device, and frames per launch.
    """

    def __init__(
        self,
        parameters: ParameterStore | None = None,
        *,
        saving_root: str = "",
        ring_size: int = 32,
        batch_size: int = 4,
    ) -> None:
        raise NotImplementedError

    parameters: ParameterStore
    settings: RunSettings  # replaced as a whole by `configure`
    state: RunState
    status: str  # a sentence; in FAULT what is wrong and what to do

    def configure(self, **changes: Any) -> RunSettings:
        """Change run settings; checked at once (`ConfigurationError`, `OutOfRangeError`), refused while RUNNING
        (`NotAllowedError`). In ON the run falls back to STANDBY, since what was prepared no longer holds."""
        raise NotImplementedError

    def prepare(self) -> None:
        """STANDBY → INIT → ON, or FAULT."""
        raise NotImplementedError

    def start(self) -> None:
        """ON → RUNNING, or STANDBY → INIT → RUNNING. A second start is refused (`NotAllowedError`)."""
        raise NotImplementedError

    def stop(self) -> None:
        """Finish what has arrived, close the files. Redundant stops are ignored."""
        raise NotImplementedError

    def abort(self) -> None:
        """Stop at once; what was written stays valid."""
        raise NotImplementedError

    def reset(self) -> None:
        """FAULT → STANDBY; ignored in STANDBY; refused while RUNNING (`NotAllowedError`)."""
        raise NotImplementedError

    def snapshot(self) -> Snapshot:
        """The newest numbers; costs nothing."""
        raise NotImplementedError

    def read_counters(self, from_frame: int) -> dict[str, list]:
        """`frame`, `n_peaks`, `n_pixels`, `verdict` (name in lower case), `parameter_set` of the reduced frames
        with a number of at least `from_frame` among the last 10 000."""
        raise NotImplementedError

    what_if_min_peaks: int  # a threshold to try without applying it

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until neither INIT nor RUNNING; False when `timeout` seconds passed before."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """Abort, join all threads (bounded), give the OpenCL device back. For the end of the process."""
        raise NotImplementedError
