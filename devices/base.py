"""What the device classes have in common: life, state, errors, restoring of memorised values, publishing."""

from __future__ import annotations

import functools
import threading
import time
from typing import Any

import tango
from tango.server import Device

from ..acquisition.run_state import RunState
from ..acquisition.statistics import Snapshot
from ..processing.errors import CommunicationError, ConfigurationError, NotAllowedError
from . import pipeline as shared
from .attributes import OnDemand, Published, Setting
from .database import RETRY
from .errors import as_latin, reported, text_of
from .events import Events
from .limits import Limits
from .messages import of_device
from .versions import versions

STATES = {state: getattr(tango.DevState, state.value) for state in RunState}


class FrameSieveDevice(Device):
    """Base of the device classes. Thin: it validates, forwards and publishes."""

    DEVICE_CLASS_INITIAL_STATE = tango.DevState.INIT
    ROLE = ""  # last part of the default device name

    # --- life

    def init_device(self) -> None:
        """Join the pipeline. Never raises: an exception here would end the whole server."""
        self.pipeline = shared.current()
        starting = tango.Util.instance().is_svr_starting() and not self.pipeline.is_started
        # where Tango is with writing memorised values; see `is_restoring`
        self._restoring = "at start" if starting else "due" if self._tango_will_restore() else ""
        self._has_set_points = self._restoring == "due"
        if not hasattr(self, "_publishing"):  # Init comes here again
            self._publishing = threading.Lock()  # held while this device is being pushed
        self.events = Events(self)
        self._unsaved: set[str] = set()  # settings in force that the database does not know yet
        self._saving_tried = 0.0
        self.limits = Limits(self)
        try:
            for name in ("State", "Status"):
                self.set_change_event(name, True, False)
                self.set_archive_event(name, True, False)
                self.set_alarm_event(name, True, False)
            for what, version in versions().items():
                self.add_version_info(what, version)
            self.read_properties()
        except Exception as error:
            of_device(self).error("init_device: %s", text_of(error))
        shared.join(self)

    def read_properties(self) -> None:
        """Read the device properties and use them; a wrong one raises and means FAULT."""
        try:
            self._fetch_properties()
            self.use_properties()
        except Exception as error:
            self.pipeline.fault = f"{self.get_name()}: {text_of(error)}"
            raise

    def _fetch_properties(self) -> None:
        if self.pipeline.database.is_used and not tango.Util._UseDb:  # what Tango gives then are the defaults
            raise CommunicationError("the Tango database does not answer: the properties cannot be read")
        try:
            self.get_device_properties()
        except Exception as error:
            raise ConfigurationError(str(error)) from None

    def use_properties(self) -> None:
        """What a device class does with its properties."""

    def server_init_hook(self) -> None:
        """All devices are there and every memorised value has been written."""
        self.pipeline.is_started = True
        self._end_of_restore()

    def delete_device(self) -> None:
        """Leave the pipeline; also the first half of Init, which is refused while a run is on."""
        if self._is_init_command():
            if self.pipeline.is_busy:
                with reported(self, "Init"):
                    raise NotAllowedError(f"Init while the run is {self.pipeline.state.value}: stop or abort it first")
            # Init writes the set points again: make them the values in force
            self._sync_set_points()
            self._restore_after_init = self._has_set_points
        elif not tango.Util.instance().is_device_restarting(self.get_name()):
            self.end_with_server()
            if self._unsaved:  # the last chance
                self.memorise(sorted(self._unsaved))
        # A push to this device may be waiting for its monitor, which Init holds: let it through, then wait for it
        with tango.AutoTangoAllowThreads(self), self._publishing:
            self.events.forget()
            shared.leave(self)
            self.pipeline.database.resume(self)

    def end_with_server(self) -> None:
        """What a device class does when the whole server ends, or is restarted by its admin device."""

    def always_executed_hook(self) -> None:
        # Tango calls this before the restoring writes of Init and DevRestart (once for all of them), and before
        # every request of a client
        self._hook_thread = threading.get_ident()
        if self._restoring == "due":
            self._restoring = "now"
        elif self._restoring and not tango.Util.instance().is_svr_starting():
            self._end_of_restore()

    # --- state

    def dev_state(self) -> tango.DevState:
        """The state of the run; ALARM while it runs and frames are lost or a limit is passed."""
        return self._state_of(self.pipeline.state)

    def dev_status(self) -> str:
        """What the run does, and what is wrong."""
        return self._status_of(self.pipeline.state, self.pipeline.status)

    def alarms(self) -> list[str]:
        """Why RUNNING is shown as ALARM, one sentence each."""
        return list(self.limits.passed)

    def ignores_limits_of(self, name: str) -> bool:
        """Whether limits of this attribute show in its quality only and not in State."""
        return False

    def _state_of(self, state: RunState) -> tango.DevState:
        if state is RunState.RUNNING and self.alarms():
            return tango.DevState.ALARM
        return STATES[state]

    def _status_of(self, state: RunState, status: str) -> str:
        alarms = self.alarms() if state is RunState.RUNNING else []
        return as_latin("\n".join([status, *alarms, *self.notes()]))

    def notes(self) -> list[str]:
        """What else Status should say."""
        if not self._unsaved:
            return []
        names = ", ".join(sorted(self._unsaved.copy()))
        return [f"The Tango database does not answer: in force but not memorised until it does: {names}."]

    # --- attributes

    @classmethod
    @functools.cache
    def declared(cls) -> dict[str, Published]:
        """The attributes of this class, by name."""
        return {name: value for name, value in vars(cls).items() if isinstance(value, Published)}

    @classmethod
    @functools.cache
    def published(cls) -> dict[str, Published]:
        """Those that are pushed whenever they have changed."""
        return {name: value for name, value in cls.declared().items() if not isinstance(value, OnDemand)}

    @classmethod
    @functools.cache
    def on_demand(cls) -> dict[str, OnDemand]:
        """Those that are pushed only where somebody is subscribed."""
        return {name: value for name, value in cls.declared().items() if isinstance(value, OnDemand)}

    @classmethod
    @functools.cache
    def writable(cls) -> dict[str, Setting]:
        """Those that can be written."""
        return {name: value for name, value in cls.published().items() if isinstance(value, Setting)}

    def write_setting(self, setting: Setting, value: Any) -> None:
        """Write handler of every setting: a refused value raises and changes nothing."""
        self._has_set_points = self._has_set_points or setting.is_memorized
        if self.is_restoring:
            setting.restore(self, value)
            return
        with reported(self, f"write_{setting.attr_name}"):
            setting.change(self, value)
            of_device(self).debug("%s = %r", setting.attr_name, value)
        database = self.pipeline.database
        if setting.is_memorized and database.is_used and not database.answers:
            database.leave_alone(self)
            self._put_off({setting.attr_name})
        self.pipeline.publisher.wake()

    # --- restoring of memorised values

    @property
    def is_restoring(self) -> bool:
        """Whether Tango, and not a client, writes memorised values."""
        return self._restoring in ("at start", "now")

    def _tango_will_restore(self) -> bool:
        """Whether restoring writes follow this `init_device`."""
        if getattr(self, "_restore_after_init", False):
            self._restore_after_init = False
            return True
        util = tango.Util.instance()
        if not (util.is_device_restarting(self.get_name()) and util._UseDb):
            return False
        stored = util.get_database().get_device_attribute_property(self.get_name(), list(self.writable()))
        return any("__value" in properties for properties in stored.values())

    def _end_of_restore(self) -> None:
        self._restoring = ""
        if self.pipeline.setup_is_missing:  # a server without AcquisitionDevice
            self.pipeline.set_up(self.pipeline.setup)
        self._sync_set_points()
        for sentence in self.pipeline.refused_at_restore():
            of_device(self).warning("memorised value not usable: %s", sentence)

    def _sync_set_points(self) -> None:
        """Make the set points that Tango shows, and writes again at Init, the values in force."""
        snapshot = self.pipeline.snapshot()
        for name, setting in self.writable().items():
            value = setting.value(self, snapshot)
            self.get_device_attr().get_w_attr_by_name(name).set_write_value(as_tango(value))

    def memorise(self, names: list[str]) -> None:
        """Store the values in force as memorised ones, for settings changed otherwise than by a write; later, where
        the database is away."""
        snapshot = self.pipeline.snapshot()
        settings = {name: self.writable()[name] for name in names}
        values = {name: as_tango(setting.value(self, snapshot)) for name, setting in settings.items()}
        with tango.AutoTangoMonitor(self):
            for name, value in values.items():
                self.get_device_attr().get_w_attr_by_name(name).set_write_value(value)
            values = {name: value for name, value in values.items() if settings[name].is_memorized}
            self._has_set_points = self._has_set_points or bool(values)
        if values and self.pipeline.database.is_used:
            stored = {name: as_memorised(value) for name, value in values.items()}
            if not self.pipeline.database.store(self.get_name(), stored):
                self._put_off(set(values))
                return
            self._unsaved -= set(values)
            for name, value in values.items():
                self._forget_empty(name, value)

    def _put_off(self, names: set[str]) -> None:
        """The database is away: these are in force and will be memorised when it is back."""
        if not names <= self._unsaved:
            of_device(self).warning("not memorised, the Tango database does not answer: %s", ", ".join(sorted(names)))
        self._unsaved |= names
        self._saving_tried = time.monotonic()

    def _save_what_was_put_off(self) -> None:
        """Called by the publisher."""
        database = self.pipeline.database
        if database.is_left_alone_for(self):
            with tango.AutoTangoMonitor(self):  # the write is over once this can be had
                database.resume(self)
        if self._unsaved and time.monotonic() - self._saving_tried > RETRY:
            self._saving_tried = time.monotonic()
            self.memorise(sorted(self._unsaved))
            if not self._unsaved:
                of_device(self).info("the Tango database answers again: everything is memorised")

    def _forget_empty(self, name: str, value: Any) -> None:
        """Tango cannot read its own property file (option `-file`) once an empty text is memorised in it: have
        none there instead, the attribute then starts with its default."""
        if tango.Util._FileDb and isinstance(value, str) and not value:
            database = tango.Util.instance().get_database()
            database.delete_device_attribute_property(self.get_name(), {name: ["__value"]})

    # --- publishing

    def publish(self, snapshot: Snapshot, state: RunState, status: str) -> None:
        """Push what has changed since the last call; called by the publisher only. Never raises."""
        with self._publishing:
            if self not in self.pipeline.devices or not self.get_exported_flag():
                return
            try:
                for attribute in self.published().values():
                    # what a run ends with is pushed before its State, however short the time since the last push
                    interval = attribute.min_interval if state is RunState.RUNNING else 0.0
                    self.push(attribute, attribute.value(self, snapshot), interval)
                self.limits.check(snapshot)
                self.events.push_state(self._state_of(state), self._status_of(state, status))
                self._save_what_was_put_off()
                self.after_publishing()
            except tango.DevFailed as error:
                # the device is busy with a command; what was not pushed is tried again at the next tick
                self.events.warn_once("publish", text_of(error))
            except Exception as error:
                self.events.warn_once("publish", repr(error))

    def after_publishing(self) -> None:
        """What a device class does at every tick of the publisher, while the device is sure to be there."""

    def push(self, attribute: Published, value: Any, interval: float = 0.0) -> None:
        """Push the value of an attribute, where it has changed and the last push is `interval` seconds ago."""
        if self.events.push(attribute, value, interval) and isinstance(attribute, Setting) and attribute.is_memorized:
            self._forget_empty(attribute.attr_name, value)

    # --- odds and ends

    def _is_init_command(self) -> bool:
        """Whether `delete_device` is part of Init. Only Init runs in the thread of a client's request to this
        device; at the end of the server, DevRestart and RestartServer it is the thread of the admin device."""
        util = tango.Util.instance()
        return (
            not util.is_svr_shutting_down()
            and not util.is_device_restarting(self.get_name())
            and getattr(self, "_hook_thread", None) == threading.get_ident()
        )


def as_tango(value: Any) -> Any:
    """A value as `WAttribute.set_write_value` takes it: enums as their number."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def as_memorised(value: Any) -> str:
    """A value as Tango stores memorised ones."""
    return str(value).lower() if isinstance(value, bool) else str(value)
