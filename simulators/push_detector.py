"""A detector that pushes its frames over ZeroMQ: what the simulated DECTRIS detectors share."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, ClassVar, Self

import zmq

from ..processing.errors import ConfigurationError, OutOfRangeError
from .compression import check_encoding
from .frame_inputs import FrameInput

#: messages that wait in the socket for a receiver; the detector waits when it is full
SEND_QUEUE = 4

#: how often a waiting detector looks whether it shall stop, s
STOP_INTERVAL = 0.05

#: frame time that is announced when frames are sent as fast as possible, s
UNPACED_FRAME_TIME = 1e-3


class PushDetector:
    """Sends series of frames from a thread of its own: start message, images, end message.

    Nothing is lost on the way: without a receiver, or with a slow one, the detector waits, and then catches up
    with its schedule, as one with a large buffer would. A subclass makes the messages.

    Parameters
    ----------
    frames
        What to send; closed by `stop`.
    host, port
        Where to listen; port 0 takes a free one, see `port`.
    n_frames
        Images per series; the input's are repeated as needed. None: each once.
    rate
        Hz; 0 = as fast as possible.
    encoding
        "bslz4", "lz4" or "none".
    series
        Number of series, one after the other; 0 = until stopped.
    header_detail
        How much the start message tells, one of `header_details`.
    user_data
        What the user adds to start and image messages.
    lost, broken
        Places in the series (0 …) of images that are not sent, and of images whose data are cut in half.

    Attributes
    ----------
    sent : int
        Images sent so far, in all series.
    """

    thread_name: ClassVar[str] = "detector"
    header_details: ClassVar[tuple[str, ...]] = ("all",)

    def __init__(
        self,
        frames: FrameInput,
        *,
        host: str,
        port: int,
        n_frames: int | None,
        rate: float,
        encoding: str,
        series: int,
        header_detail: str,
        user_data: Any,
        lost: Collection[int],
        broken: Collection[int],
    ) -> None:
        self.frames = frames
        self.host, self._port = host, port
        self.n_frames = frames.n_frames if n_frames is None else n_frames
        self.rate, self.encoding, self.series = rate, check_encoding(encoding), series
        if self.n_frames < 1 or not 0 <= rate < float("inf") or series < 0:
            raise OutOfRangeError(f"{self.n_frames} frames, {rate} Hz, {series} series: must not be negative")
        if not 0 <= port <= 65535:
            raise OutOfRangeError(f"port {port}: 0 … 65535 is expected")
        if header_detail not in self.header_details:
            raise OutOfRangeError(f"header detail {header_detail!r}: {' or '.join(self.header_details)} is expected")
        self.header_detail, self.user_data = header_detail, user_data
        self.lost, self.broken = frozenset(lost), frozenset(broken)
        self.sent = 0
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._context: zmq.Context | None = None
        self._cut_short = False

    @property
    def stored_encoding(self) -> str:
        """The encoding in which the frames are asked for (see `compression.compress`)."""
        return self.encoding

    @property
    def port(self) -> int:
        """The port it listens on; known after `start` when a free one was asked for."""
        return self._port

    def _start_message(self, series_id: int, frame_time: float, date: datetime) -> Sequence[bytes]:
        """The parts of the message that begins a series."""
        raise NotImplementedError

    def _image_message(self, place: int, start: float, exposure: float) -> Sequence[bytes]:
        """The parts of the message of one image of the series; times in seconds after its date."""
        raise NotImplementedError

    def _end_message(self) -> Sequence[bytes]:
        """The parts of the message that ends the series."""
        raise NotImplementedError

    def start(self) -> None:
        """Listen, and send as soon as a receiver is there.

        Raises
        ------
        ConfigurationError
            The address cannot be used.
        """
        if self._context is not None:
            return
        context = zmq.Context()
        push = context.socket(zmq.PUSH)
        push.sndhwm = SEND_QUEUE
        push.linger = 0
        try:
            address = socket.gethostbyname(self.host)  # ZeroMQ binds to addresses, not to names
            push.bind(f"tcp://{address}:{self._port or '*'}")
        except (OSError, zmq.ZMQError) as error:
            context.destroy(linger=0)
            raise ConfigurationError(f"cannot listen on {self.host}:{self._port} ({error})") from error
        self._port = int(push.last_endpoint.rsplit(b":", 1)[1])
        self._context, self._socket = context, push
        self._thread = threading.Thread(target=self._run, name=self.thread_name, daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything is handed to the socket; False when `timeout` seconds were not enough.

        Raises
        ------
        Exception
            What made the sending end early.
        """
        finished = self._done.wait(timeout)
        if self._error is not None:
            raise self._error
        return finished

    def stop(self, linger: float = 5.0) -> None:
        """End the sending, at any moment; may be called twice.

        When all has been sent, at most `linger` seconds are waited for the receiver to take the last messages;
        when the series is cut short, they are dropped.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._context is not None:
            complete = self._done.is_set() and self._error is None and not self._cut_short
            context, self._context = self._context, None
            # closing blocks while messages wait: in a thread, so that a signal can end the waiting
            options = {"linger": int(1000 * linger) if complete else 0}
            closer = threading.Thread(target=context.destroy, kwargs=options, daemon=True)
            closer.start()
            closer.join()
        self.frames.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            series_id = 0
            while (not self.series or series_id < self.series) and not self._stop.is_set():
                series_id += 1
                if not self._send_series(series_id):
                    self._cut_short = True
                    break
        except Exception as error:
            self._error = error
        finally:
            self._done.set()

    def _send_series(self, series_id: int) -> bool:
        """Send one series; False when told to stop before its end."""
        frame_time = 1 / self.rate if self.rate else UNPACED_FRAME_TIME
        if not self._send(self._start_message(series_id, frame_time, datetime.now().astimezone())):
            return False
        # the clock runs from the moment the start message is taken: a detector is armed before it is triggered
        begin = time.monotonic()
        for i in range(self.n_frames):
            if i in self.lost:
                continue
            message = self._image_message(i, i * frame_time if self.rate else time.monotonic() - begin, frame_time)
            if self.rate and self._stop.wait(max(0.0, begin + i * frame_time - time.monotonic())):
                return False
            if not self._send(message):
                return False
            self.sent += 1
        return self._send(self._end_message())

    def _send(self, message: Sequence[bytes]) -> bool:
        """Hand over the parts of a message, waiting for room; False when told to stop meanwhile."""
        while not self._stop.is_set():
            if self._socket.poll(int(1000 * STOP_INTERVAL), zmq.POLLOUT):
                try:
                    self._socket.send_multipart(message, zmq.NOBLOCK, copy=False)
                except zmq.Again:  # the receiver has gone between the two
                    continue
                return True
        return False
