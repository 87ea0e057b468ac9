"""The events of one device: each value is pushed when it has changed, and once more when it has come to rest."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import tango

from .attributes import Published, same
from .errors import text_of
from .messages import of_device

if TYPE_CHECKING:
    from .base import FrameSieveDevice

AGAIN_AFTER = 1.0  # s at rest, then a value is pushed once more: whoever subscribes while it changes may miss it


class Pushed(NamedTuple):
    """What the clients of an attribute have."""

    value: Any
    when: float  # of time.monotonic
    twice: bool = False

    def is_enough(self, value: Any) -> bool:
        """Whether they need not be told this value (any more)."""
        return same(value, self.value) and (self.twice or time.monotonic() - self.when < AGAIN_AFTER)


class Events:
    """Remembers what a device has pushed. Used by the publisher's thread only, but for `forget`."""

    def __init__(self, device: FrameSieveDevice) -> None:
        self._device = device
        self._pushed: dict[str, Pushed] = {}
        self._warned: set[str] = set()

    def forget(self) -> None:
        """Push everything anew."""
        self._pushed.clear()

    def push(self, attribute: Published, value: Any, interval: float) -> bool:
        """Push a value that has changed, unless the last push is less than `interval` seconds ago; whether it was.

        Raises
        ------
        tango.DevFailed
            The device is busy: try again later.
        """
        name, device = attribute.attr_name, self._device
        now, pushed = time.monotonic(), self._pushed.get(name)
        if pushed and (now - pushed.when < interval or pushed.is_enough(value)):
            return False
        again = bool(pushed) and same(value, pushed.value)
        try:
            device.push_change_event(name, value)
            if not again:  # an archive would store it twice
                device.push_archive_event(name, value)
                if attribute.attr_format == tango.AttrDataFormat.SCALAR:
                    device.push_alarm_event(name, value)
        except tango.DevFailed as error:
            if error.args[0].reason == "API_CommandTimedOut":
                raise
            self.warn_once(name, text_of(error))
        except Exception as error:  # cppTango's own exceptions arrive as RuntimeError
            self.warn_once(name, repr(error))
        self._pushed[name] = Pushed(value, now, again)
        return True

    def push_state(self, state: tango.DevState, status: str) -> None:
        """Make State and Status these, and push them."""
        device = self._device
        for name, value, assign in (("State", state, device.set_state), ("Status", status, device.set_status)):
            pushed = self._pushed.get(name)
            if pushed and pushed.is_enough(value):
                continue
            again = bool(pushed) and pushed.value == value
            if not again:
                with tango.AutoTangoMonitor(device):  # a client may be reading it
                    assign(value)
            device.push_change_event(name)
            if not again:  # an archive would store it twice
                device.push_archive_event(name)
                device.push_alarm_event(name)
            self._pushed[name] = Pushed(value, time.monotonic(), again)

    def warn_once(self, what: str, text: str) -> None:
        """Tell the log that events could not be pushed, the first time only."""
        if what not in self._warned:
            self._warned.add(what)
            of_device(self._device).warning("pushing events of %s: %s", what, text)
