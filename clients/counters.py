"""The counters of frames as numpy arrays, and following them while they grow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .connection import Connection

#: what the source may tell of a frame, NaN where it does not
TOLD = ("monitor", "position_x", "position_y")
#: one row per reduced frame
COUNTERS = np.dtype(
    [
        *(("frame", "i8"), ("n_peaks", "u4"), ("n_pixels", "u4"), ("verdict", "U8"), ("parameter_set", "u4")),
        *((name, "f8") for name in TOLD),
    ]
)
RING = 10_000  # frames that the device remembers
_TRIES = 10
LATE = 256  # frames; a frame that comes later than this counts as lost


def read_counters(connection: Connection, from_frame: int = 0) -> np.ndarray:
    """The frames with at least this number among the last 10 000, `COUNTERS` (frames,), in order of arrival."""
    _, text = connection.command("ReadCounters", from_frame)
    columns = json.loads(text)
    rows = np.zeros(len(columns["frame"]), COUNTERS)
    for name in COUNTERS.names:
        rows[name] = columns.get(name, np.nan) if name in TOLD else columns[name]  # None becomes NaN
    return rows


class Follower:
    """Hands out every row once.

    Frames may arrive late, so rows are asked for from 256 numbers before the newest on, and those that were handed out
    are left out. A new run is noticed by the name of its file and by counts that have fallen. In a run with several
    series numbers come again, and rows are told apart by the order of their arrival.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.forget()

    def forget(self) -> None:
        """Begin anew, as for a new run."""
        self._file = ""
        self._series: set[str] = set()  # that this run has had
        self._handed_out = 0  # rows of this run
        self._newest = -1
        self._recent: set[int] = set()  # numbers handed out, not older than a late frame can be

    def new_rows(self) -> np.ndarray:
        """The rows since the last call, `COUNTERS` (frames,)."""
        series, file, count = self._look()
        if count < self._handed_out or file != self._file:
            self.forget()
        self._file = file
        self._series |= {series} - {""}
        rows = self._by_number() if len(self._series) < 2 else self._by_arrival()
        self._handed_out += len(rows)
        if len(rows):
            self._newest = max(self._newest, int(rows["frame"].max()))
            self._recent.update(rows["frame"].tolist())
            self._recent = {number for number in self._recent if number >= self._newest - LATE}
        return rows

    def _look(self) -> tuple[str, str, int]:
        names = ["series_id", "output_file", "frame_count"]
        return tuple(self._connection.read_several("acquisition", names))

    def _by_number(self) -> np.ndarray:
        rows = read_counters(self._connection, self._newest - LATE)
        return rows[[number not in self._recent for number in rows["frame"].tolist()]]

    def _by_arrival(self) -> np.ndarray:
        for _ in range(_TRIES):
            before = self._look()[2]
            rows = read_counters(self._connection, -1)
            if len(rows) < RING:
                return rows[self._handed_out :]
            if self._look()[2] == before:  # the last row is known to be row number `before`
                break
        return rows[max(0, RING - (before - self._handed_out)) :]
