"""The run at one moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .connection import Connection

_NAMES = {
    "acquisition": ["frame_count", "frames_lost", "frames_dropped", "frames_failed", "frame_rate", "output_file"],
    "veto": ["kept_count", "vetoed_count", "control_count", "hit_rate"],
    "sparsifier": ["compression_ratio"],
}


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The run at one moment; names and units as those of the attributes. `str` of it is a table.

    Attributes
    ----------
    state
        INIT, STANDBY, ON, RUNNING, ALARM or FAULT.
    text
        The Status of the acquisition device.
    frame_count
        Frames that were reduced.
    frames_lost
        Frames that never arrived.
    frames_dropped
        Frames that arrived but could not be taken in.
    frames_failed
        Frames that arrived broken.
    frame_rate
        Frames reduced per second, Hz.
    kept_count
        Frames that were saved, control samples among them.
    vetoed_count
        Frames that were not.
    control_count
        Frames that were saved as control sample.
    hit_rate
        Hits among the last 1000 frames, %.
    compression_ratio
        Bytes in over bytes out, both as stored, over the last second.
    output_file
        The file of this run, or of the last one.
    """

    state: str
    text: str
    frame_count: int
    frames_lost: int
    frames_dropped: int
    frames_failed: int
    frame_rate: float
    kept_count: int
    vetoed_count: int
    control_count: int
    hit_rate: float
    compression_ratio: float
    output_file: str

    def __str__(self) -> str:
        values = asdict(self)
        lines = [f"{name:18}{value:g}" for name, value in values.items() if not isinstance(value, str)]
        return "\n".join([f"{self.state}: {self.text}", *lines, f"{'output_file':18}{self.output_file}"])


def read_status(connection: Connection, state: str, text: str) -> RunStatus:
    """State and Status, which are known, with the counts of the run."""
    values: dict[str, Any] = {"state": state, "text": text}
    for device, names in _NAMES.items():
        values |= zip(names, connection.read_several(device, names), strict=True)
    return RunStatus(**values)
