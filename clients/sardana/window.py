"""The frames of one acquisition of a scan."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from ..counters import COUNTERS
from ..errors import ReductionError
from ..reduction import Reduction

_PERIOD = 0.05  # s between two looks at the devices


class Window:
    """Collects the frames that are reduced between a beginning and an end.

    An acquisition takes `value` seconds; a negative value means that many frames, then exactly those are counted, or
    fewer where the run ends before.

    Parameters
    ----------
    new_rows
        What has come since the last call, `COUNTERS` (frames,): `Reduction.counters(new=True)`.
    running
        Whether more will come.
    fault
        Why there is no more and will be none, or the empty text.
    """

    def __init__(
        self,
        new_rows: Callable[[], np.ndarray],
        running: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        fault: Callable[[], str] = str,
    ) -> None:
        self._new_rows = new_rows
        self._running = running
        self._clock = clock
        self._fault = fault
        self._lock = threading.Lock()  # Sardana asks from several threads
        self._rows = [np.zeros(0, COUNTERS)]
        self._began = 0.0
        self._looked = 0.0
        self.value = 0.0
        self.seconds = 0.0  # how long it took, or has taken so far
        self.is_open = False
        self.failure = ""  # why the numbers are not those of an acquisition

    @classmethod
    def of(cls, reduction: Reduction) -> Window:
        def fault() -> str:
            return reduction.status().text if reduction.state == "FAULT" else ""

        return cls(lambda: reduction.counters(new=True), lambda: reduction.is_running, fault=fault)

    def open(self, value: float) -> None:
        """Begin; what has come before is passed over."""
        with self._lock:
            self.is_open, self.failure = False, ""
            self._rows = [np.zeros(0, COUNTERS)]  # not those of the last point, whatever is raised here
            self._new_rows()
            if why := self._fault():
                raise RuntimeError(f"the run is in FAULT: {why}")
            self.value, self.seconds = value, 0.0
            self._began = self._looked = self._clock()
            self.is_open = True

    def update(self) -> bool:
        """Look for new frames, and whether it is over; then the numbers are final. True while it goes on. Where the
        devices are lost, or the run fails, it ends at once with `failure`."""
        with self._lock:
            if not self.is_open:
                return False
            try:
                self.is_open = self._goes_on(self._clock())
                if not self.is_open and (why := self._fault()):
                    self.failure = f"the run has ended in FAULT: {why}"
            except Exception as error:
                self.is_open, self.failure = False, str(error)
            return self.is_open

    def _goes_on(self, now: float) -> bool:
        if self.value >= 0:
            over = now - self._began >= self.value
            if over or now - self._looked >= _PERIOD:
                self._take(now)
        elif now - self._looked >= _PERIOD:
            ended = not self._running()  # before looking for frames: then all are there
            self._take(now)
            self._rows = [self.rows[: int(-self.value)]]
            over = ended or len(self.rows) == int(-self.value)
        else:
            over = False
        return not over

    def close(self) -> None:
        """End it before its time; also where the devices do not answer."""
        with self._lock:
            if self.is_open:
                self.is_open = False
                with suppress(ReductionError):
                    self._take(self._clock())

    def _take(self, now: float) -> None:
        self._rows.append(self._new_rows())
        self._looked = now
        self.seconds = now - self._began

    @property
    def rows(self) -> np.ndarray:
        """The frames so far, `COUNTERS` (frames,), in order of arrival."""
        self._rows = [np.concatenate(self._rows)]
        return self._rows[0]

    def count(self, what: str) -> float:
        """One of the quantities of `ELEMENTS["FrameSieveCounters"]`; frame numbers are -1 where there is no frame."""
        with self._lock:
            rows = self.rows
            verdict = rows["verdict"]
            if what == "fs_time":
                return self.seconds
            if what == "fs_frames":
                return float(len(rows))
            if what == "fs_kept":  # control samples are among the kept, as in kept_count
                return float(np.isin(verdict, ("kept", "control")).sum())
            if what in ("fs_vetoed", "fs_control"):
                return float((verdict == what.removeprefix("fs_")).sum())
            if what in ("fs_peaks", "fs_pixels"):
                return float(rows[what.replace("fs_", "n_")].sum())
            if what == "fs_parameter_set":
                return float(rows["parameter_set"][-1]) if len(rows) else 0.0
            frame = {"fs_first_frame": np.min, "fs_last_frame": np.max}[what]
            return float(frame(rows["frame"])) if len(rows) else -1.0
