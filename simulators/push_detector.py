"""A detector that pushes its frames over ZeroMQ: what the simulated DECTRIS detectors share."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

import zmq

from ..processing.errors import ConfigurationError, OutOfRangeError
from .compression import check_encoding
from .frame_inputs import FrameInput
from .misbehaviour import Misbehaviour, Step
from .sending import SendingThread
from .stream2_messages import unique_id

#: messages that wait in the socket for a receiver; the detector waits when it is full
SEND_QUEUE = 4

#: how often a waiting detector looks whether it shall stop, s
STOP_INTERVAL = 0.05

#: how long the port of a socket that was closed is waited for, s
PORT_PATIENCE = 10.0

#: frame time that is announced when frames are sent as fast as possible, s
UNPACED_FRAME_TIME = 1e-3


@dataclass(frozen=True)
class Series:
    """One series as it is sent; `number` counts from 1, `clock` is the detector's own, in ns, when it began."""

    number: int
    frames: FrameInput
    n_frames: int
    frame_time: float  # s
    date: datetime = field(default_factory=lambda: datetime.now().astimezone())
    clock: int = field(default_factory=time.monotonic_ns)
    unique_id: str = field(default_factory=unique_id)


class PushDetector(SendingThread):
    """Sends series of frames from a thread of its own: start message, images, end message.

    Nothing is lost on the way, unless it shall be: without a receiver, or with a slow one, the detector waits, and then
    catches up with its schedule, as one with a large buffer would. A subclass makes the messages.

    Parameters
    ----------
    frames
        What to send; several: one for each series, and then from the first again. Closed by `stop`.
    host, port
        Where to listen; port 0 takes a free one, see `port`, None the usual one.
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
        What the user adds to start and image messages; or a function of the place of an image in its series (0 …) that
        tells what is added to that image.
    misbehaviour
        What it does wrong.

    Attributes
    ----------
    done : Done
        What was sent so far, and what went wrong.
    """

    scheme: ClassVar[str] = ""
    usual_port: ClassVar[int] = 0
    header_details: ClassVar[tuple[str, ...]] = ("all",)

    def __init__(
        self,
        frames: FrameInput | Sequence[FrameInput],
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        n_frames: int | None = None,
        rate: float = 0.0,
        encoding: str = "bslz4",
        series: int = 1,
        header_detail: str = "all",
        user_data: Any = None,
        misbehaviour: Misbehaviour | None = None,
    ) -> None:
        super().__init__()
        self.frames: tuple[FrameInput, ...] = tuple(frames) if isinstance(frames, Sequence) else (frames,)
        if not self.frames:
            raise OutOfRangeError("no frames: at least one input is expected")
        self.host, self._port = host, self.usual_port if port is None else port
        self._n_frames = n_frames
        self.rate, self.encoding, self.series = rate, check_encoding(encoding), series
        fewest = min(self.n_frames(k) for k in range(1, len(self.frames) + 1))
        if fewest < 1 or not 0 <= rate < float("inf") or series < 0:
            raise OutOfRangeError(f"{fewest} frames, {rate} Hz, {series} series: must not be negative")
        if not 0 <= self._port <= 65535:
            raise OutOfRangeError(f"port {port}: 0 … 65535 is expected")
        if header_detail not in self.header_details:
            raise OutOfRangeError(f"header detail {header_detail!r}: {' or '.join(self.header_details)} is expected")
        self.header_detail, self._user_data = header_detail, user_data
        self.misbehaviour = misbehaviour or Misbehaviour()
        self._context: zmq.Context | None = None
        self._before: Series | None = None  # the series before the one that is sent

    @property
    def stored_encoding(self) -> str:
        """The encoding in which the frames are asked for (see `compression.compress`)."""
        return self.encoding

    @property
    def port(self) -> int:
        """The port it listens on; known after `start` when a free one was asked for."""
        return self._port

    @property
    def url(self) -> str:
        """The source that reads it."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def total(self) -> int | None:
        """Images of all series; None where they go on until it is stopped."""
        return sum(self.n_frames(k) for k in range(1, self.series + 1)) if self.series else None

    def n_frames(self, series: int) -> int:
        """Images of this series; it counts from 1."""
        return self._input(series).n_frames if self._n_frames is None else self._n_frames

    def _input(self, series: int) -> FrameInput:
        return self.frames[(series - 1) % len(self.frames)]

    def user_data(self, place: int | None) -> Any:
        """What the user adds to the image at this place; None: to the start message."""
        if callable(self._user_data):
            return None if place is None else self._user_data(place)
        return self._user_data

    def _start_message(self, series: Series) -> Sequence[bytes]:
        """The parts of the message that begins a series."""
        raise NotImplementedError

    def _image_message(self, series: Series, place: int, start: float, corrupt: bool) -> Sequence[bytes]:
        """The parts of the message of one image; `start` in seconds after the series began. Of a corrupt one half of
        the bytes are missing."""
        raise NotImplementedError

    def _end_message(self, series: Series) -> Sequence[bytes]:
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
        self._context = zmq.Context()
        try:
            self._listen()
        except (OSError, zmq.ZMQError) as error:
            self._context.destroy(linger=0)
            self._context = None
            raise ConfigurationError(f"cannot listen on {self.host}:{self._port} ({error})") from error
        self._launch(f"{self.scheme}-detector")

    def _listen(self) -> None:
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.sndhwm = SEND_QUEUE
        self._socket.linger = 0
        address = socket.gethostbyname(self.host)  # ZeroMQ binds to addresses, not to names
        self._socket.bind(f"tcp://{address}:{self._port or '*'}")
        self._port = int(self._socket.last_endpoint.rsplit(b":", 1)[1])

    def _close(self, linger: float) -> None:
        if self._context is not None:
            context, self._context = self._context, None
            # closing blocks while messages wait: in a thread, so that a signal can end the waiting
            options = {"linger": int(1000 * linger)}
            closer = threading.Thread(target=context.destroy, kwargs=options, daemon=True)
            closer.start()
            closer.join()
        for one in self.frames:
            one.close()

    def _send_series(self, number: int) -> bool:
        frame_time = 1 / self.rate if self.rate else UNPACED_FRAME_TIME
        series = Series(number, self._input(number), self.n_frames(number), frame_time)
        before, self._before = self._before, series
        return self._play(series, before)

    def _play(self, series: Series, before: Series | None) -> bool:
        """Send one series, and strays of the one before; False when told to stop before its end."""
        begin, last = time.monotonic(), -1
        for step in self.misbehaviour.steps(series.n_frames, series.number):
            match step.kind:
                case "start":
                    if not self._send(self._start_message(series)):
                        return False
                    # the clock runs from the moment the message is taken: a detector is armed before it is triggered
                    begin = time.monotonic()
                case "image":
                    if not self._send_image(before if step.stray else series, step, begin):
                        return False
                    last = last if step.stray else max(last, step.place)
                case "end":
                    if not self._send(self._end_message(series)):
                        return False
                case "pause" | "die":
                    if step.kind == "die":
                        self._socket.close(linger=0)
                        self.done.died.append(step.place)
                    if self._stop.wait(step.seconds):
                        return False
                    if step.kind == "die":
                        self._listen_again()
                    begin += step.seconds
        self.done.count_lost(self.misbehaviour, series.number, last, series.n_frames)
        return True

    def _listen_again(self) -> None:
        """On the same port, which ZeroMQ gives back some time after its socket was closed."""
        deadline = time.monotonic() + PORT_PATIENCE
        while True:
            try:
                self._listen()
                return
            except zmq.ZMQError:
                self._socket.close(linger=0)
                if time.monotonic() > deadline or self._stop.wait(STOP_INTERVAL):
                    raise

    def _send_image(self, series: Series, step: Step, begin: float) -> bool:
        start = step.place * series.frame_time if self.rate else (time.monotonic_ns() - series.clock) * 1e-9
        message = self._image_message(series, step.place, start, step.corrupt)
        due = begin + step.place * series.frame_time
        if self.rate and not step.stray and self._stop.wait(max(0.0, due - time.monotonic())):
            return False
        if not self._send(message):
            return False
        self.done.count(step)
        return True

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
