"""The incoming intensity from a Tango attribute, sampled beside the frames of a detector that does not know it."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from typing import TYPE_CHECKING, Any

from ..processing.errors import CommunicationError, ConfigurationError
from ..processing.frames import Event, Frame, SeriesStart, Source
from .tango_address import TangoAddress, parse_address
from .tango_client import TangoClient, is_silence, text_of

if TYPE_CHECKING:
    import tango

log = logging.getLogger(__name__)

#: between two readings, where the device sends no events, s
PERIOD = 0.05
#: between two readings of a device that sends events, s: it may have gone, and events get lost (ZeroMQ does not keep
#: those that are pushed just after subscribing)
CHECK = 0.5
TIMEOUT = 1.0


class AttributeMonitor:
    """The newest value of a scalar attribute, by its events or, where there are none, read twenty times a second.

    Parameters
    ----------
    address : str
        `[HOST:PORT/]DOMAIN/FAMILY/MEMBER/ATTRIBUTE[#dbase=no]`.

    Raises
    ------
    ConfigurationError
        It is written otherwise; nothing is looked up for this.
    """

    def __init__(self, address: str) -> None:
        self.address = check_monitor(address)
        self._client: _MonitorClient | None = None

    @property
    def value(self) -> float:
        """The newest value; NaN while it is unknown or invalid, or the device is away."""
        client = self._client
        return math.nan if client is None else client.value

    def open(self) -> None:
        """Connect to the device.

        Raises
        ------
        CommunicationError, ConfigurationError
            It does not answer, or has no such number.
        """
        self.close()
        client = _MonitorClient(self.address, TIMEOUT, "monitor")
        client.start()
        self._client = client

    def close(self) -> None:
        """Disconnect; may be called twice."""
        client, self._client = self._client, None
        if client is not None:
            client.stop()


def check_monitor(text: str) -> TangoAddress:
    """The address of a monitor; ConfigurationError where it is not understood."""
    return parse_address(text, "monitor")


class MonitoredSource:
    """A source whose frames get the value of a monitor at the moment when they are read, where they bring none
    themselves. Implements `Source`."""

    def __init__(self, source: Source, monitor: AttributeMonitor) -> None:
        self.source, self.monitor = source, monitor

    @property
    def live(self) -> bool:
        return self.source.live

    @property
    def sends_bslz4(self) -> bool:
        return self.source.sends_bslz4

    @property
    def first_number(self) -> int | None:
        return getattr(self.source, "first_number", None)

    def open(self) -> SeriesStart | None:
        """Open both; errors of either."""
        self.monitor.open()
        try:
            return self.source.open()
        except BaseException:
            self.monitor.close()
            raise

    def read(self, timeout: float) -> Event | None:
        """The next event of the source."""
        event = self.source.read(timeout)
        if isinstance(event, Frame) and math.isnan(event.monitor):
            event = dataclasses.replace(event, monitor=self.monitor.value)
        return event

    def park(self) -> Source | None:
        """Keep the connection of the source, without the monitor; see `Source`."""
        park = getattr(self.source, "park", None)
        kept = park() if park is not None else None
        if kept is not None:
            self.monitor.close()
        return kept

    def close(self) -> None:
        """Close both."""
        try:
            self.source.close()
        finally:
            self.monitor.close()


def monitored(source: Source, address: str) -> Source:
    """The source with the monitor of that address. Without an address, and where frames were taken long ago (a file),
    the source as it is."""
    if not address or not source.live:
        return source
    return MonitoredSource(source, AttributeMonitor(address))


class _MonitorClient(TangoClient):
    value = math.nan
    _events = 0

    def attach(self, proxy: tango.DeviceProxy) -> None:
        import tango

        name = self.address.name
        try:
            config = proxy.get_attribute_config(name)
        except tango.DevFailed as error:
            if is_silence(error):
                raise
            raise ConfigurationError(f"monitor {self.address}: {text_of(error)}") from None
        if config.data_format != tango.AttrDataFormat.SCALAR or not tango.utils.is_numerical_type(config.data_type):
            raise ConfigurationError(f"monitor {self.address}: is no single number")
        self._lost_touch = False
        self._pushes = self.subscribe(proxy, name, "CHANGE_EVENT", self._on_change)
        self._read(proxy)

    def turn(self, proxy: tango.DeviceProxy) -> None:
        if not self._pushes:
            started = time.monotonic()
            self._read(proxy)
            self.wake.wait(max(0.0, started + PERIOD - time.monotonic()))
            return
        self.wake.wait(CHECK)
        self.wake.clear()
        if self._lost_touch:
            raise CommunicationError("no events come any more")
        self._read(proxy)

    def detach(self) -> None:
        self.value = math.nan

    def _read(self, proxy: tango.DeviceProxy) -> None:
        import tango

        events = self._events
        try:
            value = number_of(proxy.read_attribute(self.address.name))
        except tango.DevFailed as error:
            if is_silence(error):
                raise
            value = math.nan  # it is there, but has no value now
        if events == self._events:  # or what came meanwhile is newer
            self.value = value

    def _on_change(self, event: Any) -> None:
        self._events += 1
        if not event.err:
            self.value = number_of(event.attr_value)
        else:
            self.value = math.nan
            if any(error.reason == "API_EventTimeout" for error in event.errors):
                self._lost_touch = True
                self.wake.set()


def number_of(attribute: tango.DeviceAttribute) -> float:
    """The value of a scalar attribute; NaN where it has none, as when it is invalid."""
    return math.nan if attribute.value is None else float(attribute.value)
