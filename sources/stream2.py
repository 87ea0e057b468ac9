"""DECTRIS stream2: CBOR messages over ZeroMQ, pushed by EIGER2, PILATUS4 and compatible detectors."""

from __future__ import annotations

import math
import socket
import time
from collections import deque

import numpy as np
import zmq
from zmq.utils.monitor import recv_monitor_message

from ..processing.errors import CommunicationError, FrameError
from ..processing.frames import BrokenFrame, Event, Frame, SeriesEnd, SeriesStart
from .stream2_messages import EndMessage, ImageMessage, MessageError, StartMessage, parse_message

CONNECT_SECONDS = 2.0


class Stream2Source:
    """Frames of a DECTRIS detector's stream2; implements `Source`.

    The detector pushes every message to one client only: with two clients each gets about half of the frames.

    A frame's number is its `image_id`, which counts from 0. The series is named by `series_unique_id`, or by
    `series_id` where there is none. Joined in the middle of a series, the first image opens it. Images and
    ends of series that are over, or of one older than that being read, are left out and counted in
    `stray_messages`.

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

    live = True
    sends_bslz4 = True

    def __init__(
        self, host: str, port: int, channel: str | None = None, queue: int = 100, max_message_bytes: int = 1 << 30
    ) -> None:
        self.host, self.port, self.channel = host, port, channel
        self.queue, self.max_message_bytes = queue, max_message_bytes
        self._context: zmq.Context | None = None
        self._socket: zmq.Socket | None = None
        self._forget()

    def _forget(self) -> None:
        self.stray_messages = 0  # of series that are over
        self._start: StartMessage | None = None
        self._key: tuple[int, str] | None = None  # of the series that is open
        self._shape: tuple[int, int] | None = None
        self._dtype: np.dtype | None = None
        self._over: deque[tuple[int, str]] = deque(maxlen=64)
        self._pending: deque[Event] = deque()

    @property
    def pixel_mask(self) -> np.ndarray | None:
        """Mask that the detector sent with the series (its header_detail "all"), uint32 (rows, columns),
        0 = good. FrameError where it is broken."""
        return self._start.array("pixel_mask", self._channel()) if self._start else None

    @property
    def flatfield(self) -> np.ndarray | None:
        """Flat field that the detector sent with the series, float32 (rows, columns)."""
        return self._start.array("flatfield", self._channel()) if self._start else None

    def open(self) -> None:
        """Connect to the detector.

        Raises
        ------
        CommunicationError
            Nobody listens there, or something that is no ZeroMQ PUSH socket.
        """
        self.close()
        self._forget()
        self._probe()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVHWM, self.queue)
        self._socket.set(zmq.MAXMSGSIZE, self.max_message_bytes)
        self._socket.set(zmq.IPV6, int(":" in self.host))
        # after a restart of the detector the stream goes on by itself
        self._socket.set(zmq.RECONNECT_IVL, 100)
        self._socket.set(zmq.RECONNECT_IVL_MAX, 2000)
        try:
            self._connect(self._socket)
        except BaseException:
            self.close()
            raise

    def _probe(self) -> None:
        # ZeroMQ would try for ever and never tell
        try:
            socket.create_connection((self.host, self.port), CONNECT_SECONDS).close()
        except (OSError, UnicodeError) as error:
            raise CommunicationError(
                f"nothing answers at {self.host}:{self.port} ({error}): check host and port, and that the "
                "detector's stream is enabled with format cbor"
            ) from None

    def _connect(self, pull: zmq.Socket) -> None:
        """Connect and wait until both sides have agreed on ZeroMQ and on push and pull."""
        # a peer of another kind hangs up; one that speaks something else says nothing or fails
        monitor = pull.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        try:
            host = f"[{self.host}]" if ":" in self.host else self.host
            pull.connect(f"tcp://{host}:{self.port}")
            agreed = monitor.poll(int(CONNECT_SECONDS * 1000)) and (
                recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
            )
        finally:
            pull.disable_monitor()
            monitor.close(linger=0)  # left open it would keep the context from closing
        if not agreed:
            raise CommunicationError(
                f"what listens at {self.host}:{self.port} is no ZeroMQ PUSH socket: check host and port "
                "(stream2 uses 31001 as a rule)"
            )

    def read(self, timeout: float) -> Event | None:
        """The next event; None when nothing arrived within `timeout` seconds."""
        if self._socket is None:
            raise CommunicationError("the stream is not open")
        deadline = time.monotonic() + timeout
        while not self._pending:
            try:
                # where messages wait already, this spares the looking
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                left = max(0.0, deadline - time.monotonic())  # strays leave nothing pending; the time they take counts
                if not self._socket.poll(int(left * 1000 + 0.999)):
                    return None
                continue
            self._pending.extend(self.handle([part.buffer for part in parts]))
        return self._pending.popleft()

    def handle(self, parts: list[memoryview]) -> list[Event]:
        """The events that one ZeroMQ message gives; none for a message that is left out."""
        try:
            # stream v1 comes in several parts: the first one tells
            message = parse_message(parts[0])
            if len(parts) != 1:
                raise MessageError(f"a message of {len(parts)} parts, stream2 has one")
        except MessageError as error:
            if error.series_key in self._over:
                self.stray_messages += 1
                return []
            return [_broken(error.number, error.series_key or self._key, error)]
        match message:
            case StartMessage():
                return self._take_start(message)
            case ImageMessage():
                return self._take_image(message)
            case EndMessage():
                return self._take_end(message)
        return []

    def _take_start(self, message: StartMessage) -> list[Event]:
        key = message.series_key
        if key == self._key or key in self._over:
            self.stray_messages += 1
            return []
        events = self._begin(key, message.shape, message.dtype)
        self._start = message
        start = SeriesStart(_name(key), message.shape, message.dtype, message.number_of_images, message.metadata())
        return [*events, start]

    def _take_image(self, message: ImageMessage) -> list[Event]:
        key = message.series_key
        if key in self._over or (self._key is not None and key[0] < self._key[0]):
            self.stray_messages += 1
            return []
        try:
            payload = message.payload(self._channel() if key == self._key else self.channel)
            if key == self._key and (payload.shape, payload.dtype) != (self._shape, self._dtype):
                raise FrameError(
                    f"the image is {_described(payload.shape, payload.dtype)}, "
                    f"but the series has {_described(self._shape, self._dtype)}"
                )
        except FrameError as error:
            return [_broken(message.number, key, error, message.timestamp)]
        events: list[Event] = []
        if key != self._key:
            # only an image that is whole may open a series
            events = self._begin(key, payload.shape, payload.dtype)
            events.append(SeriesStart(_name(key), payload.shape, payload.dtype, joined_late=True))
        events.append(Frame(message.number, _name(key), payload, message.timestamp))
        return events

    def _take_end(self, message: EndMessage) -> list[Event]:
        if message.series_key != self._key:
            self.stray_messages += 1
            return []
        return self._finish()

    def _begin(self, key: tuple[int, str], shape: tuple[int, int], dtype: np.dtype) -> list[Event]:
        # a detector that was aborted may begin anew without an end
        events = self._finish() if self._key is not None else []
        self._key, self._shape, self._dtype, self._start = key, shape, dtype, None
        return events

    def _finish(self) -> list[Event]:
        over = self._key
        self._over.append(over)
        self._key = None
        return [SeriesEnd(_name(over))]

    def _channel(self) -> str | None:
        """The channel that is read; None: the first one of each image."""
        if self.channel is None and self._start and self._start.channels:
            return self._start.channels[0]
        return self.channel

    def close(self) -> None:
        """Disconnect; frames that were read stay valid."""
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None


def _broken(number: int, key: tuple[int, str] | None, error: FrameError, timestamp: float = math.nan) -> BrokenFrame:
    # names that a broken message brought may be of any length
    return BrokenFrame(number, _name(key) if key else "", str(error)[:300], timestamp)


def _name(key: tuple[int, str]) -> str:
    return key[1] or str(key[0])


def _described(shape: tuple[int, int], dtype: np.dtype) -> str:
    return f"{shape[0]} × {shape[1]} {dtype.name}"
