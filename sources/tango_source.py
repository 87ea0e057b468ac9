"""Frames of any device of Tango: an image attribute, LImA's `readImage`, LImA2's `getFrame`."""

from __future__ import annotations

import queue
import time
from typing import Final

from ..processing.errors import CommunicationError, ConfigurationError
from ..processing.frames import Event
from .source_url import count_option, seconds_option
from .tango_address import TangoAddress, parse_address
from .tango_attribute import AttributeReader
from .tango_lima import Lima2Reader, LimaReader, NumberedReader
from .tango_reader import ReaderOptions, SeriesReader

#: commands of LImA2 that give an image by its number
LIMA2_COMMANDS: Final = ("getFrame", "getInputFrame", "getAccumulatedFrame", "getAccCorrected")

OPTIONS: Final = ("period", "timeout", "idle", "counter", "queue")


class TangoSource:
    """Frames that are read through Tango; implements `Source`. Slow by nature: 16 MB take tens of milliseconds.

    A device that goes away is waited for; when it is back, frames go on.

    Parameters
    ----------
    address
        The device, and the name of an image attribute or of a command that gives images by their number.
    options
        See `ReaderOptions`.
    """

    live = True
    sends_bslz4 = False

    def __init__(self, address: TangoAddress, options: ReaderOptions | None = None) -> None:
        self.address, self.options = address, options or ReaderOptions()
        self._reader: SeriesReader | None = None

    @classmethod
    def from_url(cls, url: str) -> TangoSource:
        """Of `tango://[HOST:PORT/]DOMAIN/FAMILY/MEMBER/NAME[?period=…&timeout=…&idle=…&counter=…&queue=…][#dbase=no]`;
        ConfigurationError where it is written otherwise."""
        if not url.startswith("tango://"):
            raise ConfigurationError(f"source {url!r} must be written tango://DOMAIN/FAMILY/MEMBER/ATTRIBUTE")
        address = parse_address(url, "source", OPTIONS)
        given, default = address.options, ReaderOptions()
        options = ReaderOptions(
            period=seconds_option(url, given, "period", default.period, 0.001, 60),
            timeout=seconds_option(url, given, "timeout", default.timeout, 0.1, 60),
            idle=seconds_option(url, given, "idle", default.idle, 0, 86_400),
            counter=given.get("counter", default.counter),
            queue=count_option(url, given, "queue", default.queue, 1, 1000),
        )
        return cls(address, options)

    @property
    def first_number(self) -> int | None:
        """The number of the first frame of every series; None where it is not known."""
        return 0 if issubclass(self._kind(), NumberedReader) else None

    def open(self) -> None:
        """Connect to the device; a series is told of when its first image comes.

        Raises
        ------
        CommunicationError, ConfigurationError
            The device does not answer; or it does not have what is to be read.
        """
        self.close()
        reader = self._kind()(self.address, self.options)
        reader.start()
        self._reader = reader

    def _kind(self) -> type[SeriesReader]:
        if self.address.name == "readImage":
            return LimaReader
        return Lima2Reader if self.address.name in LIMA2_COMMANDS else AttributeReader

    def read(self, timeout: float) -> Event | None:
        """The next event; None when nothing arrived within `timeout` seconds."""
        reader = self._reader
        if reader is None:
            raise CommunicationError(f"{self.address} is not open")
        deadline = time.monotonic() + timeout
        while True:
            try:
                left = min(max(0.0, deadline - time.monotonic()), 0.5)
                return reader.events.get(timeout=left) if left else reader.events.get_nowait()
            except queue.Empty:
                if reader.failure is not None:
                    raise reader.failure from None
                if time.monotonic() >= deadline:
                    return None

    def close(self) -> None:
        """Disconnect; frames that were read stay valid."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
