"""`Reduction`: the devices of one pipeline as one Python object."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from .change import Applied, Change, Settled
from .connection import Attribute, Connection
from .counters import LATE, Follower, read_counters
from .errors import ReductionError, RunFailedError, WaitTimeoutError
from .newest_frame import read_curves, read_peaks, read_preview
from .run_status import RunStatus, read_status
from .writing import fitting, is_same, write_different

_PERIOD = 0.1  # s between two looks at a run
_BUSY = ("INIT", "RUNNING", "ALARM")


class Reduction:
    """The devices of one pipeline.

    >>> from framesieve.clients import Reduction
    >>> r = Reduction("id00")
    >>> r.set(snr_pick=2.5, min_peaks=30)
    >>> with r.run(saving_prefix="lysozyme"):
    ...     for rows in r.follow():
    ...         print(rows["frame"][-1], rows["n_peaks"].mean())

    Every attribute of every device can be read and every setting written as an attribute of this object: `r.hit_rate`,
    `r.snr_pick = 2.5`. Writing this way returns at once; `set` waits until the value is in force. Where two devices
    have an attribute of the same name the device goes in front: `r.veto_max_peaks`, `r.peakfinder_max_peaks`. Unknown
    names are refused.

    Whatever the devices refuse raises `ReductionError`, with their reason and sentence. While the server is being
    restarted calls wait for it, up to `patience` seconds, then raise `NotReachedError`.

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
    """

    def __init__(self, address: str, *, timeout: float = 3.0, patience: float = 10.0) -> None:
        self._connection = Connection(address, timeout=timeout, patience=patience)
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
        """Label, unit, description … of an attribute."""
        return self._connection.attribute(name)

    @property
    def settings(self) -> dict[str, Any]:
        """The name and value of everything that can be written."""
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

        Raises
        ------
        UnknownNameError
            A name is not a setting; nothing was written.
        ReductionError
            A value is refused, or it was changed again (CHANGED_BY_ANOTHER) before any frame was reduced with it.
        """
        return self.change(**values).wait(timeout)

    def change(self, **values: Any) -> Change:
        """As `set`, without waiting: ask the result with `poll` or `wait`."""
        attributes = {name: self._connection.setting(name) for name in values}
        written = {name: fitting(attribute, values[name]) for name, attribute in attributes.items()}
        running = self.is_running
        # both are read before the values are written: neither frames before it, except those that are late, nor sets
        # up to this one can have come from this change
        oldest = self._connection.read("last_frame_number") - LATE
        set_before = self._connection.read("parameter_set_in_force")
        before = {name: self._connection.read(name) for name in values}
        is_new = write_different(self._connection, attributes, written, before)
        parameter_set = self._connection.read("parameter_set_in_force")
        after = {name: self._connection.read(name) for name in values}
        for name, value in after.items():
            if not is_same(attributes[name], written[name], value):
                raise ReductionError(
                    "CHANGED_BY_ANOTHER", f"{name} = {written[name]!r} was written, but it is {value!r} already"
                )
        if not running:
            return Settled(after, parameter_set, "nothing runs; it holds from the first frame of a run")
        fields = self._fields(attributes, after, parameter_set)
        if not fields:
            return Settled(after, parameter_set, "it holds at once, frames are reduced as before")
        if not is_new:
            return Change(self, after, fields, (set_before, parameter_set), -1)
        return Change(self, after, fields, (set_before + 1, parameter_set), oldest)

    def _fields(self, attributes: dict[str, Attribute], values: dict[str, Any], parameter_set: int) -> dict[str, Any]:
        """The live parameters among settings, by the names that parameter sets have for them."""
        known = self.parameters_of(parameter_set)
        fields = {}
        for name, attribute in attributes.items():
            full = f"{attribute.device}_{attribute.name}"  # of the two max_peaks, one is veto_max_peaks
            field = full if full in known else attribute.name
            if field in known:
                fields[field] = values[name]
        return fields

    # ---- a run -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Load geometry and mask, build bins and kernels, open the output. Returns at once; `wait` waits."""
        self._connection.command("Prepare")

    def start(self) -> None:
        """Reduce frames; prepares first if needed. Returns at once."""
        self._follower.forget()
        self._connection.command("Start", again=False)  # what has arrived must not be started twice

    def stop(self) -> None:
        """Finish what has arrived and close the files. Returns at once."""
        self._connection.command("Stop")

    def abort(self) -> None:
        """Stop at once; what was written stays valid. Returns at once."""
        self._connection.command("Abort")

    def reset(self) -> None:
        """Leave FAULT, after its cause has been removed."""
        self._connection.command("Reset")

    def wait(self, timeout: float | None = None) -> RunStatus:
        """Wait for the end of a run (or of `prepare`), `timeout` seconds at most (None: as long as it takes).

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
        if it goes on still, and its end waited for (`timeout` seconds at most); an exception in the block aborts it.

        Raises
        ------
        RunFailedError
            It has ended in FAULT.
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
        """State, Status and the counts of the run."""
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
        Structured array (frames,): frame, n_peaks, n_pixels, verdict (`kept`, `vetoed` or `control`), parameter_set.
        """
        return self._follower.new_rows() if new else read_counters(self._connection, from_frame)

    def parameters_of(self, parameter_set: int) -> dict[str, Any]:
        """The live parameters of one of the last 1000 parameter sets, named as in the file: `veto_min_peaks` is
        `min_peaks` of the veto device."""
        return json.loads(self._connection.command("ReadParameterSet", parameter_set)[1])

    def follow(self, *, period: float = _PERIOD, timeout: float | None = None) -> Iterator[np.ndarray]:
        """New rows of the counters, as they come, until the run is over and all were handed out.

        Raises
        ------
        RunFailedError
            The run has ended in FAULT; the rows before it were handed out.
        WaitTimeoutError
            No frame for `timeout` seconds (None: wait as long as it takes).
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
        """The newest frame, decimated: uint16 (rows, columns); 65535 where a pixel is flagged."""
        return read_preview(self._connection)

    def peaks(self) -> np.ndarray:
        """The peaks of the newest frame: `PEAKS` (peaks,)."""
        return read_peaks(self._connection)

    def curves(self) -> np.ndarray:
        """The background of the newest frame over the radius: `CURVES` (bins,); NaN where a bin is empty."""
        return read_curves(self._connection)
