"""DECTRIS stream2: CBOR messages over ZeroMQ, pushed by EIGER2, PILATUS4 and compatible detectors."""

from __future__ import annotations

import numpy as np

from ..processing.frames import Event
from .detector_stream import DetectorStream, SeriesKey
from .message_fields import MessageError
from .payload import EncodedPayload
from .pull_socket import queue_option
from .source_url import parse_host_and_port
from .stream2_messages import EndMessage, ImageMessage, StartMessage, parse_message


class Stream2Source(DetectorStream):
    """Frames of a DECTRIS detector's stream2; implements `Source`.

    The detector pushes every message to one client only: with two clients each gets about half of the frames.

    A frame's number is its `image_id`, which counts from 0. The series is named by `series_unique_id`, or by
    `series_id` where there is none. What the user adds to images is their `user_data`. See also `DetectorStream`.

    Parameters
    ----------
    host, port : str, int
        Where the detector listens, port 31001 as a rule.
    channel : str, optional
        The channel (threshold) to read; default the first one of the start message, else of the image.
    queue : int
        Messages that wait here at most (ZeroMQ's high-water mark); then the detector has to keep them.
    max_message_bytes : int
        ZeroMQ drops the connection on a message that is larger.
    """

    how_to_enable = "the detector's stream is enabled with format cbor"
    usual_port = "stream2 uses 31001"

    @classmethod
    def from_url(cls, url: str) -> Stream2Source:
        """Of `stream2://HOST:PORT[?channel=NAME&queue=MESSAGES]`; ConfigurationError where it is written otherwise."""
        where = parse_host_and_port(url, usual_port=31001, options=("channel", "queue"))
        return cls(where.host, where.port, where.options.get("channel"), queue_option(url, where.options))

    def __init__(
        self, host: str, port: int, channel: str | None = None, queue: int = 100, max_message_bytes: int = 1 << 30
    ) -> None:
        super().__init__(host, port, queue, max_message_bytes)
        self.channel = channel

    def _forget(self) -> None:
        super()._forget()
        self._channels: tuple[str, ...] = ()  # of the series that is open, where they were told

    def handle(self, parts: list[memoryview]) -> list[Event]:
        """The events that one ZeroMQ message gives; none for a message that is left out."""
        try:
            # stream v1 comes in several parts: the first one tells
            message = parse_message(parts[0])
            if len(parts) != 1:
                raise MessageError(f"a message of {len(parts)} parts, stream2 has one")
        except MessageError as error:
            if self._is_over(error.series_key):
                self.stray_messages += 1
                return []
            return [self._broken(error.number, error.series_key, error)]
        match message:
            case StartMessage():
                return self._take_start(message)
            case ImageMessage():
                return self._take_image(message)
            case EndMessage():
                return self._take_end(message.series_key)
        return []

    def _take_start(self, message: StartMessage) -> list[Event]:
        key = message.series_key
        if self._is_repeated_start(key) or key in self._over:
            self.stray_messages += 1
            return []
        events = self._begin(key, message.shape, message.dtype)
        self._channels = message.channels
        return [*events, self._start_of(message, self._channel())]

    def _begin(self, key: SeriesKey, shape: tuple[int, int] | None, dtype: np.dtype | None) -> list[Event]:
        self._channels = ()
        return super()._begin(key, shape, dtype)

    def _payload(self, message: ImageMessage, is_open: bool) -> EncodedPayload:
        return message.payload(self._channel() if is_open else self.channel)

    def _timestamp(self, message: ImageMessage, is_open: bool) -> float:
        return message.timestamp

    def _channel(self) -> str | None:
        """The channel that is read; None: the first one of each image."""
        if self.channel is None and self._channels:
            return self._channels[0]
        return self.channel
