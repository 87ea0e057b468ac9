"""The states of a run: STANDBY (idle) → ON (prepared) → RUNNING → STANDBY; FAULT from anywhere, left by Reset."""

from __future__ import annotations

from enum import Enum

from ..processing.errors import NotAllowedError


class RunState(Enum):
    INIT = "INIT"  # being prepared
    STANDBY = "STANDBY"
    ON = "ON"
    RUNNING = "RUNNING"
    FAULT = "FAULT"


_WHY = {
    RunState.RUNNING: "a run is going on; Stop or Abort it first",
    RunState.INIT: "a run is being prepared",
    RunState.FAULT: "Reset first",
}


def refuse_unless_idle(command: str, state: RunState) -> None:
    """Raise `NotAllowedError` unless a run can begin."""
    if state not in (RunState.STANDBY, RunState.ON):
        raise NotAllowedError(f"{command} is refused while {state.name}: {_WHY[state]}")
