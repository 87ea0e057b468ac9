"""The commands of the acquisition device."""

from __future__ import annotations

import json
import math
from typing import Any

import tango
from tango.server import command

from ..processing.errors import CommunicationError, OutOfRangeError
from . import properties
from .base import FrameSieveDevice
from .errors import reported, text_of
from .messages import of_device
from .presets import SavedSettings

MAX_PRESETS = 1000


class RunCommands(FrameSieveDevice):
    """A device that drives the run, and keeps settings by name."""

    saved = SavedSettings()

    @command
    def Prepare(self) -> None:
        """Load geometry, mask and calibration, build bins and kernels, open the output."""
        with self._command("Prepare"):
            self.pipeline.check_usable()
            self.pipeline.controller.prepare()

    @command
    def Start(self) -> None:
        """Reduce frames; prepares first if needed."""
        with self._command("Start"):
            self.pipeline.check_usable()
            self.pipeline.controller.start()

    @command
    def Stop(self) -> None:
        """Finish what has arrived and close the files; ignored when nothing runs."""
        with self._command("Stop"):
            if not self.pipeline.fault:
                self.pipeline.controller.stop()

    @command
    def Abort(self) -> None:
        """Stop at once; what was written stays valid."""
        with self._command("Abort"):
            if not self.pipeline.fault:
                self.pipeline.controller.abort()

    @command
    def Reset(self) -> None:
        """Leave FAULT, after its cause has been removed; properties are read again."""
        with self._command("Reset"):
            if self.pipeline.fault:
                self.read_properties()
            self.pipeline.controller.reset()

    @command(dtype_in=tango.DevLong64, doc_in="first frame number", dtype_out=tango.DevEncoded, doc_out="json")
    def ReadCounters(self, from_frame: int) -> tuple[str, bytes]:
        """Lists frame, n_peaks, n_pixels, verdict, parameter_set, monitor, position_x, position_y of the last 10 000
        frames from a number on; null where a value is not known."""
        with reported(self, "ReadCounters"):
            counters = self.pipeline.controller.read_counters(from_frame)
            for name in counters.keys() & {"monitor", "position_x", "position_y"}:  # JSON has no NaN
                counters[name] = [None if math.isnan(value) else value for value in counters[name]]
            return "json", json.dumps(counters, default=as_plain).encode()

    @command(dtype_in=tango.DevULong, doc_in="its number", dtype_out=tango.DevEncoded, doc_out="json")
    def ReadParameterSet(self, number: int) -> tuple[str, bytes]:
        """The live parameters of one of the last 1000 parameter sets, with the names that they have in the file."""
        with reported(self, "ReadParameterSet"):
            return "json", self.pipeline.parameters.find(number).values.to_json().encode()

    @command(dtype_in=str, doc_in="name; an existing preset of this name is replaced")
    def SaveSettings(self, name: str) -> None:
        """Save the settings of all devices under a name."""
        with self._command("SaveSettings"):
            presets = self.saved.with_saved(name, self.pipeline)
            if len(presets.names) > MAX_PRESETS:
                raise OutOfRangeError(f"name = {name!r}: there are {MAX_PRESETS} presets already")
            if self.pipeline.database.is_used:
                database = tango.Util.instance().get_database()
                try:
                    database.put_device_property(self.get_name(), {properties.PRESETS.name: presets.lines})
                except tango.DevFailed as error:
                    raise CommunicationError(
                        f"preset {name!r} is not saved: the Tango database does not answer ({text_of(error)})"
                    ) from None
            else:
                of_device(self).warning("preset %r is kept in memory only: there is no Tango database", name)
            self.saved = presets

    @command(dtype_in=str, doc_in="a name from settings_available")
    def LoadSettings(self, name: str) -> None:
        """Put saved settings of all devices into force; everything is checked before anything changes."""
        with self._command("LoadSettings"):
            self.saved.load(name, self.pipeline)
            for device in list(self.pipeline.devices):
                device.memorise(list(device.writable()))

    def _command(self, name: str) -> Any:
        of_device(self).info("%s", name)
        self.pipeline.publisher.wake()
        return reported(self, name)


def as_plain(value: Any) -> Any:
    """numpy scalars and arrays as JSON knows them."""
    return value.tolist()
