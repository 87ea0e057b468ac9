"""Warning and alarm limits of attributes. Tango turns ON into ALARM by itself where one is passed, not RUNNING."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import tango

from ..acquisition.statistics import Snapshot

if TYPE_CHECKING:
    from .base import FrameSieveDevice

REFRESH = 1.0  # s, how often limits are read anew; they can be edited at any time


class Limits:
    """The limits of one device. Used by the publisher's thread; `passed` is replaced as a whole."""

    def __init__(self, device: FrameSieveDevice) -> None:
        self.passed: list[str] = []  # a sentence for each
        self._device = device
        self._limits: dict[str, tuple[float, float]] = {}
        self._read_at = float("-inf")

    def check(self, snapshot: Snapshot) -> None:
        """Find the attributes that are past a limit."""
        device = self._device
        if time.monotonic() - self._read_at > REFRESH:
            with tango.AutoTangoMonitor(device):
                self._limits = {name: found for name in device.published() if (found := self._of(name))}
            self._read_at = time.monotonic()
        passed = []
        for name, (low, high) in self._limits.items():
            value = device.published()[name].value(device, snapshot)
            if not low < value < high and not device.ignores_limits_of(name):
                passed.append(f"{name} = {value:g} is past its limit of {low if value <= low else high:g}.")
        self.passed = passed

    def _of(self, name: str) -> tuple[float, float] | None:
        """The narrowest of the warning and alarm limits of an attribute, None without any."""
        if self._device.published()[name].attr_format != tango.AttrDataFormat.SCALAR:
            return None
        properties = self._device.get_device_attr().get_attr_by_name(name).get_properties()
        low = [as_limit(text) for text in (properties.min_warning, properties.min_alarm)]
        high = [as_limit(text) for text in (properties.max_warning, properties.max_alarm)]
        lows, highs = [x for x in low if x is not None], [x for x in high if x is not None]
        if not lows and not highs:
            return None
        return max(lows, default=float("-inf")), min(highs, default=float("inf"))


def as_limit(text: str) -> float | None:
    """A limit from the configuration of an attribute, None where it is not specified."""
    try:
        return float(text)
    except ValueError:
        return None
