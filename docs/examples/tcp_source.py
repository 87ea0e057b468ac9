"""A source of your own, as an example: frames of a detector that sends them over a plain TCP connection.

Every message is a header of 16 bytes, little-endian: `RAW1`, the number of the series (uint32), the number of the frame
from 0 on (uint32), rows and columns (uint16 each); then the pixels, uint16, row by row. A message of 0 × 0 pixels ends
the series.
"""

from __future__ import annotations

import socket
import struct
import time

import numpy as np
from framesieve.processing.errors import CommunicationError
from framesieve.processing.frames import ArrayPayload, BrokenFrame, Event, Frame, SeriesEnd, SeriesStart
from framesieve.sources.source_url import parse_host_and_port

HEADER = struct.Struct("<4sIIHH")
MAX_PIXELS = 1 << 26  # more than any frame of this detector has: nothing is allocated for it


class TcpSource:
    """Implements `framesieve.processing.frames.Source`."""

    live = True  # the detector does not wait: what cannot be taken in is dropped, and gaps are frames that got lost
    sends_bslz4 = False  # its frames are not compressed

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._socket: socket.socket | None = None
        self._received = bytearray()
        self._series: int | None = None

    @classmethod
    def from_url(cls, url: str) -> TcpSource:
        """Of `rawtcp://HOST:PORT`; looks nothing up, connects to nothing."""
        where = parse_host_and_port(url, usual_port=5000)
        return cls(where.host, where.port)

    def open(self) -> SeriesStart | None:
        """Connect. Nothing is known of the series yet, so there is no start to return."""
        try:
            self._socket = socket.create_connection((self.host, self.port), timeout=2.0)
        except OSError as error:
            raise CommunicationError(f"nothing answers at {self.host}:{self.port} ({error})") from None
        self._received.clear()
        self._series = None
        return None

    def read(self, timeout: float) -> Event | None:
        """The next event; None where nothing came within `timeout` seconds. Called by one thread, again and again."""
        deadline = time.monotonic() + timeout
        while True:
            event = self._next_event()
            if event is not None:
                return event
            if not self._receive(max(0.001, deadline - time.monotonic())) and time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _receive(self, timeout: float) -> bool:
        """Take what has arrived; whether there was anything."""
        self._socket.settimeout(timeout)
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError:
            return False
        except OSError as error:
            raise CommunicationError(f"the connection to {self.host}:{self.port} broke ({error})") from None
        if not data:
            # this ends the run, and says why; what has arrived is reduced and written
            raise CommunicationError(f"{self.host}:{self.port} closed the connection within a series")
        self._received += data
        return True

    def _next_event(self) -> Event | None:
        """Of the bytes that have arrived; None where they are no whole message yet."""
        if len(self._received) < HEADER.size:
            return None
        magic, series, number, rows, columns = HEADER.unpack_from(self._received)
        if magic != b"RAW1" or rows * columns > MAX_PIXELS:
            raise CommunicationError(
                f"what {self.host}:{self.port} sends is not understood: {bytes(self._received[:16])}"
            )
        name = str(series)
        if series != self._series and (rows or columns):
            self._series = series  # the header stays where it is: the frame follows with the next call
            return SeriesStart(name, (rows, columns), np.dtype(np.uint16), joined_late=number > 0)
        size = HEADER.size + rows * columns * 2
        if len(self._received) < size:
            return None
        pixels = np.frombuffer(bytes(self._received[HEADER.size : size]), "<u2").reshape(rows, columns)
        del self._received[:size]
        if not pixels.size:
            if rows or columns:
                return BrokenFrame(number, name, f"a frame of {rows} × {columns} pixels")
            self._series = None
            return SeriesEnd(name)
        return Frame(number, name, ArrayPayload(pixels), timestamp=time.time())
