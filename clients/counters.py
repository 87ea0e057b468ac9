"""The counters of frames as numpy arrays, and following them while they grow."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .connection import Connection

#: one row per reduced frame
COUNTERS = np.dtype(
    [("frame", "i8"), ("n_peaks", "u4"), ("n_pixels", "u4"), ("verdict", "U8"), ("parameter_set", "u4")]
)
RING = 10_000  # frames that the device remembers
LATE = 256  # frames; a frame that comes later than this counts as lost


def read_counters(connection: Connection, from_frame: int = 0) -> np.ndarray:
    """The frames with at least this number among the last 10 000, `COUNTERS` (frames,), in order of arrival."""
    _, text = connection.command("ReadCounters", from_frame)
    columns = json.loads(text)
    rows = np.zeros(len(columns["frame"]), COUNTERS)
    for name in COUNTERS.names:
        rows[name] = columns[name]
    return rows


class Follower:
    """Hands out every row once.

    Frames may arrive late, so rows are asked for from 256 numbers before the newest on, and those that were handed out
    are left out. A new run is noticed by the name of its file or of its series, and by counts that have fallen.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.forget()

    def forget(self) -> None:
        """Begin anew, as for a new run."""
        self._run: tuple[str, str] | None = None
        self._handed_out = 0  # rows of this run
        self._newest = -1
        self._recent: set[int] = set()  # numbers handed out, not older than a late frame can be

    def new_rows(self) -> np.ndarray:
        """The rows since the last call, `COUNTERS` (frames,)."""
        names = ["series_id", "output_file", "frame_count"]
        series, file, count = self._connection.read_several("acquisition", names)
        rows = None
        if count < self._handed_out or (self._run is not None and self._run[1] != file):
            self.forget()
        elif self._run is not None and self._run[0] not in ("", series):
            # another series, in the same run: numbers begin again, and only the order of arrival counts
            handed_out = self._handed_out
            self.forget()
            rows = read_counters(self._connection)
            rows = rows[handed_out:] if count <= RING else rows
            self._handed_out = handed_out
        self._run = series, file
        if rows is None:
            rows = read_counters(self._connection, self._newest - LATE)
            rows = rows[[number not in self._recent for number in rows["frame"].tolist()]]
        self._handed_out += len(rows)
        if len(rows):
            self._newest = max(self._newest, int(rows["frame"].max()))
            self._recent.update(rows["frame"].tolist())
            self._recent = {number for number in self._recent if number >= self._newest - LATE}
        return rows
