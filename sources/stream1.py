"""DECTRIS stream v1: multipart JSON messages over ZeroMQ, pushed by EIGER and EIGER2 detectors (SIMPLON API 1.x)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..processing.frames import Event
from .detector_stream import DetectorStream, SeriesKey
from .message_fields import MessageError
from .payload import EncodedPayload
from .pull_socket import queue_option
from .source_url import parse_host_and_port
from .stream1_messages import EARLIEST_EPOCH_NS, EndMessage, HeaderMessage, ImageMessage, parse_message


class Stream1Source(DetectorStream):
    """Frames of a DECTRIS detector's stream v1; implements `Source`.

    The detector pushes every message to one client only: with two clients each gets about half of the frames.

    A frame's number is its `frame`, which counts from 0 through all triggers of a series; the series is named by its
    number. A detector that was restarted counts its series from 1 again: so a header always opens a series, unless it
    is the one that opened this one, and within a run the second series 1 is named "1 (2)". Without its header a series
    with the number of one that is over cannot be told from it, and is left out. See also `DetectorStream`.

    What the user adds to images is the appendix, as JSON.

    Images bring the time of the detector's own clock, which begins anywhere. The first image that arrives is given the
    date of the header, when the detector was armed; between images times are exact. Without a date they are unknown.

    Parameters
    ----------
    host, port : str, int
        Where the detector listens, port 9999 as a rule.
    queue : int
        Messages that wait here at most (ZeroMQ's high-water mark); then the detector has to keep them.
    max_message_bytes : int
        ZeroMQ drops the connection on a message of which a part is larger.
    """

    how_to_enable = "the detector's stream is enabled with format legacy"
    usual_port = "stream v1 uses 9999"

    @classmethod
    def from_url(cls, url: str) -> Stream1Source:
        """Of `stream1://HOST:PORT[?queue=MESSAGES]`; ConfigurationError where it is written otherwise."""
        where = parse_host_and_port(url, usual_port=9999, options=("queue",))
        return cls(where.host, where.port, queue_option(url, where.options))

    def _forget(self) -> None:
        super()._forget()
        self._header: HeaderMessage | None = None
        self._has_images = False
        self._clock_zero: float | None = None  # s since 1970 when the detector's clock was 0

    def handle(self, parts: list[memoryview]) -> list[Event]:
        """The events that one ZeroMQ message gives; none for a message that is left out."""
        try:
            message = parse_message(parts)
        except MessageError as error:
            # of a broken header or end the user hears in any case: it may be that of a detector that was restarted
            if error.number >= 0 and error.series_key is not None and self._is_stray(error.series_key):
                self.stray_messages += 1
                return []
            return [self._broken(error.number, error.series_key, error)]
        match message:
            case HeaderMessage():
                return self._take_header(message)
            case ImageMessage():
                return self._take_image(message)
            case EndMessage():
                return self._take_end(message.series_key)
        return []

    def _take_header(self, message: HeaderMessage) -> list[Event]:
        key = message.series_key
        if self._is_repeated_start(key) and self._is_repeated(message):
            self.stray_messages += 1
            return []
        events = self._begin(key, message.shape, message.dtype)
        self._header = replace(message, tables={})  # megabytes that are not needed again
        return [*events, self._start_of(message, None)]

    def _is_repeated(self, message: HeaderMessage) -> bool:
        # the date tells; a header without details says nothing of it
        if self._header is None or message.config != self._header.config:
            return False
        return bool(message.config) or not self._has_images

    def _begin(self, key: SeriesKey, shape: tuple[int, int] | None, dtype: np.dtype | None) -> list[Event]:
        events = super()._begin(key, shape, dtype)
        self._header, self._has_images, self._clock_zero = None, False, None
        return events

    def _payload(self, message: ImageMessage, is_open: bool) -> EncodedPayload:
        self._has_images = self._has_images or is_open
        return message.payload

    def _timestamp(self, message: ImageMessage, is_open: bool) -> float:
        if message.start_time is None:
            return math.nan
        if message.start_time >= EARLIEST_EPOCH_NS:
            return message.start_time * 1e-9
        if not is_open:
            return math.nan
        if self._clock_zero is None and self._header is not None and self._header.date is not None:
            self._clock_zero = self._header.date - message.start_time * 1e-9
        return math.nan if self._clock_zero is None else self._clock_zero + message.start_time * 1e-9
