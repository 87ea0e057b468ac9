"""The kinds of attributes that the devices are made of: readings of a run and settings.

A device class lists its attributes as `name = Reading(…)`, `name = LiveSetting(…)` or `name = RunSetting(…)`; how
one is read, written, restored and published is the same for all of a kind and written here once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tango
from tango.server import attribute

from ..acquisition.statistics import Snapshot
from ..processing.parameters import LIMITS
from .errors import as_latin, reported

if TYPE_CHECKING:
    from .base import FrameSieveDevice

# Values are pushed by the publisher, unfiltered. Alarm events must be declared as well: a client that subscribes to
# change and alarm events of an attribute without them makes every push fail. Alarm events are filtered by Tango, so
# that one is sent only when the quality changes.
EVENTS = {
    "change_event_implemented": True,
    "change_event_detect": False,
    "archive_event_implemented": True,
    "archive_event_detect": False,
    "alarm_event_implemented": True,
    "alarm_event_detect": True,
}

ARRAY_INTERVAL = 0.2  # s

FORMATS = {float: "%.3f", tango.DevFloat: "%.3f"}  # Tango's own are right for all others


class Published(attribute):
    """A Tango attribute that the publisher pushes whenever its value has changed.

    Parameters
    ----------
    dtype
        As for `tango.server.attribute`.
    label, doc, unit
        What clients show. Units are those that `pint` knows.
    min_interval
        Seconds between two pushes; None: ten a second, or five for arrays, which cost each client more than numbers do.
    options
        Further arguments of `tango.server.attribute`.
    """

    def __init__(
        self, dtype: Any, label: str, doc: str, *, unit: str = "", min_interval: float | None = None, **options: Any
    ) -> None:
        if min_interval is None:
            min_interval = ARRAY_INTERVAL if isinstance(dtype, tuple) else 0.0
        self.min_interval = min_interval
        number = dtype
        while isinstance(number, tuple):  # of an array
            number = number[0]
        if number in FORMATS:
            options.setdefault("format", FORMATS[number])

        def read(device: FrameSieveDevice) -> Any:
            with reported(device, f"read_{self.attr_name}"):
                return self.value(device, device.pipeline.snapshot())

        super().__init__(fget=read, dtype=dtype, label=label, doc=doc, unit=unit, **EVENTS, **options)

    def value(self, device: FrameSieveDevice, snapshot: Snapshot) -> Any:
        """The value to show, given the newest numbers of the run."""
        raise NotImplementedError


class Reading(Published):
    """One number, text or array of the run: the field `field` of its `Snapshot`."""

    def __init__(self, field: str, dtype: Any, label: str, doc: str, **options: Any) -> None:
        self.field = field
        super().__init__(dtype, label, doc, **options)

    def value(self, device: FrameSieveDevice, snapshot: Snapshot) -> Any:
        value = getattr(snapshot, self.field)
        return as_latin(value) if isinstance(value, str) else value


class Computed(Published):
    """What a function of the device says."""

    def __init__(
        self, function: Callable[[FrameSieveDevice], Any], dtype: Any, label: str, doc: str, **options: Any
    ) -> None:
        self.function = function
        super().__init__(dtype, label, doc, **options)

    def value(self, device: FrameSieveDevice, snapshot: Snapshot) -> Any:
        return self.function(device)


class OnDemand(Published):
    """A field of the `View` of a run, which costs something to make: made when a client reads it and, for events, at
    most once a second and only while a client is subscribed."""

    def __init__(self, field: str, dtype: Any, label: str, doc: str, **options: Any) -> None:
        self.field = field
        super().__init__(dtype, label, doc, **options)

    @staticmethod
    def made(device: FrameSieveDevice) -> Any:
        """What has the field; made once for all attributes of a kind that are pushed together."""
        return device.pipeline.overview.view()

    def value(self, device: FrameSieveDevice, snapshot: Snapshot) -> Any:
        return getattr(self.made(device), self.field)

    def is_wanted(self, device: FrameSieveDevice) -> bool:
        """Whether a client is subscribed to its events."""
        known = device.get_device_attr().get_attr_by_name(self.attr_name)
        return known.change_event_subscribed() or known.archive_event_subscribed() or known.alarm_event_subscribed()


class FrameOnDemand(OnDemand):
    """The newest frame in one piece, a field of the `Overview` itself; otherwise likewise."""

    @staticmethod
    def made(device: FrameSieveDevice) -> Any:
        return device.pipeline.overview


class Setting(Published):
    """A writable attribute.

    Limits are checked by the settings themselves and not by Tango (`min_value`, `max_value`), so that the error has
    the reason and the text that the interface promises; the description names them.
    """

    def __init__(self, dtype: Any, label: str, doc: str, *, memorized: bool = True, **options: Any) -> None:
        self.is_memorized = memorized
        if memorized:
            options |= {"memorized": True, "hw_memorized": True}

        def write(device: FrameSieveDevice, value: Any) -> None:
            device.write_setting(self, value)

        super().__init__(dtype, label, doc, access=tango.AttrWriteType.READ_WRITE, fset=write, **options)

    def change(self, device: FrameSieveDevice, value: Any) -> None:
        """Put a value into force, or raise a `FrameSieveError` and change nothing."""
        raise NotImplementedError

    def restore(self, device: FrameSieveDevice, value: Any) -> None:
        """Put a memorised value into force; never raises, since a start-up write that raises makes the attribute
        unreadable. What cannot be used is kept by the pipeline and named in Status."""
        raise NotImplementedError


class LiveSetting(Setting):
    """One of the live `Parameters`: in force from the next batch of frames on, recorded with every frame."""

    def __init__(self, field: str, dtype: Any, label: str, doc: str, **options: Any) -> None:
        self.field = field
        if field in LIMITS:
            low, high = LIMITS[field]
            doc = f"{doc} Accepted: {low:g} to {high:g}."
        super().__init__(dtype, label, doc, **options)

    def value(self, device: FrameSieveDevice, snapshot: Snapshot) -> Any:
        return getattr(device.pipeline.parameters.current.values, self.field)

    def change(self, device: FrameSieveDevice, value: Any) -> None:
        device.pipeline.update(**{self.field: value})

    def restore(self, device: FrameSieveDevice, value: Any) -> None:
        device.pipeline.restore_parameter(self.field, value)


class RunSetting(Setting):
    """One of the `RunSettings`: fixed while frames are reduced."""

    def __init__(
        self, field: str, dtype: Any, label: str, doc: str, *, clean: Callable = lambda value: value, **options: Any
    ) -> None:
        self.field = field
        self.clean = clean
        super().__init__(dtype, label, doc, **options)

    def value(self, device: FrameSieveDevice, snapshot: Snapshot) -> Any:
        return device.pipeline.setting(self.field)

    def change(self, device: FrameSieveDevice, value: Any) -> None:
        device.pipeline.configure(**{self.field: self.clean(value)})

    def restore(self, device: FrameSieveDevice, value: Any) -> None:
        device.pipeline.restore_setting(self.field, self.clean(value))


def same(left: Any, right: Any) -> bool:
    """Whether two attribute values are the same to a client; NaN is the same as NaN."""
    if left is right:
        return True
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.shape == right.shape and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return False
    return bool(left == right or (left != left and right != right))
