"""`Reduction`: the devices of one pipeline as one Python object."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from .change import Applied, Change, begin
from .connection import Attribute, Connection
from .counters import Follower, read_counters
from .errors import ReductionError, RunFailedError, WaitTimeoutError
from .newest_frame import read_curves, read_peaks, read_preview
from .run_status import RunStatus, read_status
from .writing import fitting

_PERIOD = 0.1  # s between two looks at a run
_BUSY = ("INIT", "RUNNING", "ALARM")


class Reduction:
    """The devices of one pipeline.

    >>> from framesieve.clients import Reduction
    >>>
    >>> r = Reduction("id00")
    >>> with r.run(snr_pick=2.5, saving_prefix="lysozyme"):
    ...     for rows in r.follow():
    ...         print(rows["frame"][-1], rows["n_peaks"].mean())
    >>> print(r.status())

    Every attribute of every device can be read and every setting written as an attribute of this object: `r.hit_rate`,
    `r.snr_pick = 2.5`. Writing this way returns at once; `set` waits until the value is in force. Where two devices
    have an attribute of the same name the device goes in front: `r.veto_max_peaks`, `r.peakfinder_max_peaks`. Unknown
    names are refused.

    Whatever the devices refuse raises `ReductionError`, with their reason and sentence. While the server is being
    restarted every call waits for it, up to `patience` seconds, then raises `NotReachedError`.

    Parameters
    ----------
    address
        A domain (`id00`: the device `id00/framesieve/acquisition` and those served with it), or the full name of one of
        the devices. `tango://HOST:PORT/` in front names another database than that of $TANGO_HOST; `#dbase=no` behind
        says that HOST:PORT is the server itself: `tango://localhost:45678/id00#dbase=no`.
    timeout
        Seconds that a device may take to answer.
    patience
        Seconds for which a server that does not answer is tried again.
    check
        Called before each further try; what it raises ends the trying. For those who know whether the server runs.

    Raises
    ------
    ReductionError
        The address cannot be understood, or the server has no such devices.
    NotReachedError
        Nobody answers there.
    """

    def __init__(
        self, address: str, *, timeout: float = 3.0, patience: float = 10.0, check: Callable[[], None] | None = None
    ) -> None:
        self._connection = Connection(address, timeout=timeout, patience=patience, check=check)
        self._follower = Follower(self._connection)

    def __repr__(self) -> str:
        return f"Reduction({self._connection.address!r})"

    # ---- settings --------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._connection.read(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            attribute = self._connection.setting(name)
            self._connection.write(attribute, fitting(attribute, value))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._connection.names]

    def describe(self, name: str) -> Attribute:
        """Label, unit, description … of an attribute.

        Parameters
        ----------
        name
            As it is read and written: `snr_pick`, `veto_max_peaks`.

        Raises
        ------
        UnknownNameError
            There is no such attribute; the text names those that come close.
        """
        return self._connection.attribute(name)

    @property
    def settings(self) -> dict[str, Any]:
        """The name and value of everything that can be written; an enum by its label."""
        return {
            name: self._connection.read(name)
            for name in self._connection.names
            if self._connection.attribute(name).writable
        }

    def set(self, *, timeout: float = 10.0, **values: Any) -> Applied:
        """Write settings and wait until a frame was reduced with them.

        Either all values are written or, where one is refused, none: then the others are put back. Values that are
        right together only (`min_pixels`, `patch_size`) may be given in any order. Between the first and the last
        write, a batch of frames may be reduced with some of them.

        Parameters
        ----------
        timeout
            Seconds to wait for a frame. While nothing runs it returns at once.
        values
            By name; an enum by its label or number.

        Returns
        -------
        The values as the devices show them, the parameter set, and the first frame that was reduced with them.

        Raises
        ------
        UnknownNameError
            A name is not a setting; nothing was written.
        ReductionError
            A value is refused, or it was changed again (CHANGED_BY_ANOTHER) before any frame was reduced with it.
        """
        return self.change(**values).wait(timeout)

    def change(self, **values: Any) -> Change:
        """As `set`, without waiting: ask the result with `poll` or `wait`.

        Parameters
        ----------
        values
            As in `set`.

        Raises
        ------
        UnknownNameError
            A name is not a setting; nothing was written.
        ReductionError
            A value is refused, or it was changed again (CHANGED_BY_ANOTHER) before it could be read back.
        """
        return begin(self, self._connection, values)

    # ---- a run -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Load geometry and mask, build bins and kernels, open the output. Returns at once; `wait` waits.

        Raises
        ------
        ReductionError
            A setting cannot be used (CONFIGURATION_ERROR), or the state does not allow it (OPERATION_NOT_ALLOWED).
        """
        self._connection.command("Prepare")

    def start(self) -> None:
        """Reduce frames; prepares first if needed. Returns at once.

        Raises
        ------
        ReductionError
            A setting cannot be used (CONFIGURATION_ERROR); a run is on, or the devices are in FAULT
            (OPERATION_NOT_ALLOWED).
        """
        self._follower.forget()
        self._connection.command("Start", again=False)  # what has arrived must not be started twice

    def stop(self) -> None:
        """Finish what has arrived and close the files. Returns at once; ignored where nothing runs."""
        self._connection.command("Stop")

    def abort(self) -> None:
        """Stop at once; what was written stays valid. Returns at once; ignored where nothing runs."""
        self._connection.command("Abort")

    def reset(self) -> None:
        """Leave FAULT, after its cause has been removed; the devices read their properties again.

        Raises
        ------
        ReductionError
            A run is on, or being prepared (OPERATION_NOT_ALLOWED).
        """
        self._connection.command("Reset")

    def wait(self, timeout: float | None = None) -> RunStatus:
        """Wait for the end of a run, or of `prepare`.

        Parameters
        ----------
        timeout
            Seconds; None: as long as it takes.

        Returns
        -------
        State and counts at the end.

        Raises
        ------
        RunFailedError
            It has ended in FAULT; the text is that of Status.
        WaitTimeoutError
            It has not ended in time. It goes on.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while (state := self.state) in _BUSY:
            if time.monotonic() > deadline:
                raise WaitTimeoutError(f"not over after {timeout:g} s: {self._status_text()}")
            time.sleep(_PERIOD)
        if state == "FAULT":
            raise RunFailedError(self._status_text())
        return self.status()

    @contextmanager
    def run(self, *, timeout: float = 60.0, **settings: Any) -> Iterator[Reduction]:
        """A run for a `with` block: settings are written and it is started. At the end of the block it is stopped,
        if it goes on still, and its end waited for; an exception in the block aborts it.

        Parameters
        ----------
        timeout
            Seconds to wait for the end, once it was stopped.
        settings
            As in `set`.

        Raises
        ------
        UnknownNameError, ReductionError
            As `set` and `start`; then it was not started.
        RunFailedError
            It has ended in FAULT.
        WaitTimeoutError
            It has not ended in time. It goes on.
        """
        self.set(**settings)
        self.start()
        try:
            yield self
        except BaseException:
            with suppress(ReductionError):
                self.abort()
                self.wait(timeout)
            raise
        self.stop()
        self.wait(timeout)

    # ---- what is going on ------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """INIT, STANDBY, ON, RUNNING, ALARM or FAULT."""
        return str(self._connection.reach(self._connection.devices["acquisition"].state))

    @property
    def is_running(self) -> bool:
        """Whether a run is on, or being prepared."""
        return self.state in _BUSY

    def _status_text(self) -> str:
        return self._connection.reach(self._connection.devices["acquisition"].status)

    def status(self) -> RunStatus:
        """State, Status and the counts of the run, as they are now."""
        return read_status(self._connection, self.state, self._status_text())

    def counters(self, from_frame: int = 0, *, new: bool = False) -> np.ndarray:
        """What became of the reduced frames, in order of arrival.

        Parameters
        ----------
        from_frame
            Smallest frame number of interest; the device remembers the last 10 000 frames.
        new
            Only the rows since the last call with `new`, or since the beginning of the run; `from_frame` is not used.

        Returns
        -------
        Structured array (frames,): frame int64, n_peaks, n_pixels uint32, verdict text (`kept`, `vetoed` or
        `control`), parameter_set uint32; monitor, position_x, position_y float64, NaN where the source does not tell
        them.
        """
        return self._follower.new_rows() if new else read_counters(self._connection, from_frame)

    def parameters_of(self, parameter_set: int) -> dict[str, Any]:
        """The live parameters of a parameter set, named as in the file: `veto_min_peaks` is `min_peaks` of the veto
        device.

        Parameters
        ----------
        parameter_set
            Its number; the server remembers the last 1000.

        Raises
        ------
        ReductionError
            The number is not one of those (DATA_OUT_OF_RANGE).
        """
        return json.loads(self._connection.command("ReadParameterSet", parameter_set)[1])

    def follow(self, *, period: float = _PERIOD, timeout: float | None = None) -> Iterator[np.ndarray]:
        """New rows of the counters, as they come, until the run is over and all were handed out. `for row in r` gives
        them one by one.

        Parameters
        ----------
        period
            Seconds between two looks.
        timeout
            Seconds without a frame after which it gives up; None: wait as long as it takes.

        Yields
        ------
        As `counters`, one row or more.

        Raises
        ------
        RunFailedError
            The run has ended in FAULT; the rows before it were handed out.
        WaitTimeoutError
            No frame for `timeout` seconds. The run goes on.
        """
        newest = time.monotonic()
        while True:
            state = self.state  # before the rows: once it says that the run is over, all rows are there
            rows = self.counters(new=True)
            if len(rows):
                yield rows
                newest = time.monotonic()
            if state == "FAULT":
                raise RunFailedError(self._status_text())
            if state not in _BUSY:
                return
            if timeout is not None and time.monotonic() - newest > timeout:
                raise WaitTimeoutError(f"no frame for {timeout:g} s: {self._status_text()}")
            time.sleep(period)

    def __iter__(self) -> Iterator[np.void]:
        """The rows of `follow` one by one."""
        for rows in self.follow():
            yield from rows

    def preview(self) -> np.ndarray:
        """The newest frame: every `preview_step`-th pixel of every `preview_step`-th row.

        Returns
        -------
        uint16 (rows, columns), counts, a million pixels at most; 65535 where a pixel is masked or has no value; (0, 0)
        before the first frame.
        """
        return read_preview(self._connection)

    def peaks(self) -> np.ndarray:
        """The peaks of the newest frame, the strongest first.

        Returns
        -------
        Structured array (peaks,) of float32: x, y (pixel index, the centre of the first pixel is 0), intensity and its
        sigma (counts), snr, n_pixels.
        """
        return read_peaks(self._connection)

    def curves(self) -> np.ndarray:
        """The background of the newest frame over the radius.

        Returns
        -------
        Structured array (bins,) of float64: radius (mm), mean and std (counts), NaN where a bin is empty.
        """
        return read_curves(self._connection)
