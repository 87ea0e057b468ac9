"""Pushes what costs something to make: once a second, and only what somebody looks at."""

from __future__ import annotations

import time
from typing import Any

from .attributes import OnDemand
from .base import FrameSieveDevice

PERIOD = 1.0  # s between two events


class PushesOnDemand(FrameSieveDevice):
    """A device with attributes of the kind `OnDemand`."""

    _on_demand_pushed = 0.0  # of time.monotonic

    def after_publishing(self) -> None:
        """Push what somebody looks at, all of one moment."""
        now = time.monotonic()
        if now - self._on_demand_pushed < PERIOD:
            return
        self._on_demand_pushed = now
        made: dict[type[OnDemand], Any] = {}
        for attribute in [one for one in self.on_demand().values() if one.is_wanted(self)]:
            kind = type(attribute)
            if kind not in made:
                made[kind] = attribute.made(self)
            self.push(attribute, getattr(made[kind], attribute.field))
