"""Looks now and then how much room is left where a run writes, and whether the disk answers."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ..processing.threads import start_thread

PERIOD = 2.0  # s between two looks
_RATE_SAMPLES = 15  # looks over which the rate is taken
SILENCE = 5.0  # s after which a disk that does not answer is worth a word


class DiskWatch:
    """In a thread of its own, for a disk that hangs does not even tell how full it is.

    Parameters
    ----------
    directory
        Any on that disk.
    bytes_written
        How much the run has written so far; called from another thread.
    stalled
        Seconds for which a write has not come back; likewise.
    """

    def __init__(self, directory: Path, bytes_written: Callable[[], int], stalled: Callable[[], float]) -> None:
        self.directory = directory
        self.free = math.nan  # bytes; NaN: not known
        self._bytes_written = bytes_written
        self._stalled = stalled
        self._samples: deque[tuple[float, int]] = deque(maxlen=_RATE_SAMPLES)
        self._looking_since: float | None = None
        self._ended = threading.Event()
        start_thread(self._run, "disk-watch")

    @property
    def seconds_left(self) -> float:
        """Until the disk is full, at the present rate; NaN where nothing is written or not known."""
        samples = list(self._samples)
        if len(samples) < 2:
            return math.nan
        (begin, first), (end, last) = samples[0], samples[-1]
        return self.free * (end - begin) / (last - first) if last > first else math.nan

    @property
    def silence(self) -> float:
        """Seconds for which the disk has not answered, 0 where it does."""
        since = self._looking_since
        silence = max(self._stalled(), 0.0 if since is None else time.monotonic() - since)
        return silence if silence > SILENCE else 0.0

    @property
    def alarm(self) -> str:
        """What Status should say of a disk that does not answer; empty where it does."""
        if not (silence := self.silence):
            return ""
        return (
            f"The disk of {self.directory} has not answered for {silence // SILENCE * SILENCE:.0f} s: does a network "
            "share hang? Frames wait in the ring and are dropped once it is full; what was written is safe. The run "
            "goes on when the disk does; Abort ends it."
        )

    def close(self) -> None:
        """Look no more; returns at once."""
        self._ended.set()
        self._stalled = lambda: 0.0
        self._samples.clear()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._looking_since = time.monotonic()
            try:
                found = os.statvfs(self.directory)
                self.free = float(found.f_bavail) * found.f_frsize
            except OSError:  # the directory is gone: the run will say so
                self.free = math.nan
            self._looking_since = None
            if not self._ended.is_set():
                self._samples.append((time.monotonic(), self._bytes_written()))
            self._ended.wait(PERIOD)
