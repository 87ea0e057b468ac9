"""The whole system on this computer, for `bench live`: database, device server, detector."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import numpy as np
import tango

from ..clients.errors import is_unreachable
from ..processing.errors import CommunicationError, ConfigurationError, HardwareError
from ..processing.threads import inherited_name
from ..simulators.diffraction import StillSimulator
from ..simulators.frame_inputs import SimulatedInput
from ..simulators.stream2_detector import Stream2Detector
from ..tango_db import register, sample_path
from ..tango_db.beamline import load
from ..tango_db.embedded import EmbeddedDatabase, ServerProcess

_DOMAIN = "demo/framesieve"
_STALL = 60.0  # s without a new frame: something is wrong
_PERIOD = 0.1  # s between two looks at the run
_ENDING = 1.0  # s in which a program whose connection is lost has ended
ENCODING = "bslz4"


class KeptFrames(SimulatedInput):
    """Frames drawn and compressed once, for one series after the other: a detector that stops leaves them."""

    def close(self) -> None:
        pass


class LiveSystem(contextlib.ExitStack):
    """A context manager: Tango database and device server run as long as the `with` block lasts.

    Parameters
    ----------
    simulator, distinct
        The detector's frames; so many of them are sent in a cycle.
    folder
        Where geometry, mask and files go.
    opencl_device, radial_bins
        Settings of the devices; all others are at their defaults.
    progress
        Called with a word on what is being done.
    """

    def __init__(
        self,
        simulator: StillSimulator,
        distinct: int,
        folder: Path,
        *,
        opencl_device: str = "auto",
        radial_bins: int = 800,
        progress: Callable[[str], None] = lambda what: None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.frames = KeptFrames(simulator, distinct)
        self._settings = {"opencl_device": opencl_device, "saving_prefix": "bench"}
        self._radial_bins = radial_bins
        self._progress = progress

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def _set_up(self) -> None:
        total = self.frames.n_frames
        self._progress(f"simulating {total} frames")
        self.frames.prepare(ENCODING)
        simulator = self.frames.simulator
        poni, mask = self.folder / "bench.poni", self.folder / "mask.npy"
        poni.write_text(simulator.poni_text())
        np.save(mask, simulator.mask)

        self._progress("starting the Tango database and the device server")
        database = self.enter_context(EmbeddedDatabase())
        connection = database.database()
        register.apply(register.plan(load(sample_path("demo")), connection).changes, connection)
        self.database = database
        self.server = self.enter_context(ServerProcess("demo", database.host))
        self.place = f"tango://{database.host}/{_DOMAIN}"
        names = ("acquisition", "sparsifier", "veto")
        self.acquisition, self.sparsifier, self.veto = (tango.DeviceProxy(f"{self.place}/{name}") for name in names)
        self._settings |= {
            "geometry": str(poni.resolve()),
            "mask": str(mask.resolve()),
            "saving_directory": str(self.folder.resolve()),
            "saving_overwrite_policy": "overwrite",
        }
        self.set(**self._settings)
        with self._errors():
            self.sparsifier.write_attribute("radial_bins", self._radial_bins)

    def set(self, **settings: object) -> None:
        with self._errors():
            for name, value in settings.items():
                self.acquisition.write_attribute(name, value)

    def run(
        self,
        n_frames: int,
        rate: float,
        look: Callable[[float, int, Stream2Detector], None],
        check_stop: Callable[[], None],
    ) -> None:
        """Send a series of `n_frames` and wait until its file is closed.

        `look(time, frames reduced, detector)` is called a few times a second with the seconds since the start, until
        the last frame has been reduced.
        """
        with contextlib.ExitStack() as stack:
            detector = Stream2Detector(self.frames, port=0, n_frames=n_frames, rate=rate, encoding=ENCODING)
            with inherited_name("detector"):
                stack.enter_context(detector)
            self.set(source=f"stream2://{detector.host}:{detector.port}")
            stack.enter_context(self._errors())
            self.acquisition.Start()
            begin = last_change = time.monotonic()
            count = 0
            while True:
                check_stop()
                detector.wait(0)  # raises what may have ended it
                self.server.check()
                state = self.acquisition.state()
                now = time.monotonic()
                reduced = int(self.acquisition.frame_count)
                if reduced != count:
                    count, last_change = reduced, now
                if state == tango.DevState.FAULT:
                    raise HardwareError(self.acquisition.status())
                if state == tango.DevState.STANDBY:
                    return
                look(now - begin, reduced, detector)
                if now - last_change > _STALL:
                    raise CommunicationError(f"no frame for {_STALL:g} s; {self.acquisition.status()}")
                time.sleep(_PERIOD)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """What the devices refuse in one line; where nobody answers, why the server or the database has ended."""
        try:
            yield
        except tango.DevFailed as error:
            if not is_unreachable(error):
                raise ConfigurationError(error.args[0].desc) from None
            self.server.check(within=_ENDING)
            self.database.check(within=_ENDING)
            raise CommunicationError(error.args[0].desc) from None
