"""PSI slsDetector: modules over ZeroMQ, published by one slsReceiver each, put together to frames."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import ClassVar

import zmq

from ..processing.errors import CommunicationError, ConfigurationError
from ..processing.frames import Event
from .pull_socket import check_listening, connected_socket, queue_option
from .sls_layout import MAX_MODULES, read_layout
from .sls_series import SlsSeries
from .source_url import count_option, parse_host_and_port, seconds_option

#: s, how long a frame waits for its modules, and the end of a series for that of other receivers
DEADLINE = 0.5


class SlsSource:
    """Frames of a PSI detector (EIGER, JUNGFRAU, MOENCH …) from its slsReceivers; implements `Source`.

    Every receiver publishes the module, or part of one, that it reads; `docs/sources_sls.md` tells how these become
    frames and series. A frame's number counts from 0 in each series; the series is named by file name and file index.

    Publishers do not wait: what is sent before this source has connected, or while its queue is full, is lost.

    Parameters
    ----------
    host, port : str, int
        Where the first receiver publishes, port 30001 as a rule; the others on the ports that follow.
    n_receivers : int, optional
        None: as many as the layout file has modules, or 1.
    deadline : float
        Seconds that a frame waits for all its modules.
    layout : str
        Path of a layout file (see `sls_layout`); empty: modules lie where their headers say.
    queue : int
        Messages of each receiver that wait here at most (ZeroMQ's high-water mark).
    max_message_bytes : int
        ZeroMQ drops the connection on a message of which a part is larger.

    Attributes
    ----------
    lost_by_receiver : list of int
        For each receiver, the frames of this series (or of the last one) that were handed on without its module.
    stray_messages, late_modules, duplicate_modules : int
        Left out since `open`: of series that are over; of frames that were handed on without them; sent twice.
    """

    live: ClassVar[bool] = True
    sends_bslz4: ClassVar[bool] = False
    first_number: ClassVar[int] = 0  # of every series

    def __init__(
        self,
        host: str,
        port: int,
        n_receivers: int | None = None,
        *,
        deadline: float = DEADLINE,
        layout: str = "",
        queue: int = 100,
        max_message_bytes: int = 1 << 28,
    ) -> None:
        self.host, self.port, self.deadline = host, port, deadline
        self.queue, self.max_message_bytes = queue, max_message_bytes
        self._asked_receivers, self._layout_file = n_receivers, layout
        self._context: zmq.Context | None = None
        self._sockets: list[zmq.Socket] = []
        self._pending: deque[Event] = deque()
        self._series = SlsSeries(n_receivers or 1, None, deadline)
        self._idle: list[bool] = []  # nothing lay in the socket when it was looked at last

    @classmethod
    def from_url(cls, url: str) -> SlsSource:
        """Of `sls://HOST:PORT[?modules=N&deadline=SECONDS&layout=FILE&queue=MESSAGES]`; ConfigurationError where it is
        written otherwise."""
        where = parse_host_and_port(url, usual_port=30001, options=("modules", "deadline", "layout", "queue"))
        options = where.options
        n = count_option(url, options, "modules", 1, 1, MAX_MODULES) if "modules" in options else None
        if where.port + (n or 1) - 1 > 65535:
            raise ConfigurationError(f"source {url!r}: {n} receivers from port {where.port} on are beyond port 65535")
        seconds = seconds_option(url, options, "deadline", DEADLINE, 0.001, 3600)
        layout = options.get("layout", "")
        return cls(where.host, where.port, n, deadline=seconds, layout=layout, queue=queue_option(url, options))

    @property
    def lost_by_receiver(self) -> list[int]:
        return self._series.lost_by_receiver

    @property
    def stray_messages(self) -> int:
        return self._series.strays

    @property
    def late_modules(self) -> int:
        return self._series.assembly.late

    @property
    def duplicate_modules(self) -> int:
        return self._series.assembly.duplicates

    def open(self) -> None:
        """Read the layout file and connect to all receivers.

        Raises
        ------
        ConfigurationError
            The layout file cannot be used.
        CommunicationError
            A receiver does not publish.
        """
        self.close()
        layout = read_layout(self._layout_file) if self._layout_file else None
        n = self._asked_receivers or (len(layout.places) if layout else 1)
        if layout and len(layout.places) != n:
            raise ConfigurationError(
                f"layout {self._layout_file}: has {len(layout.places)} modules, but modules={n} are to be read"
            )
        if self.port + n - 1 > 65535:
            raise ConfigurationError(f"{n} receivers from port {self.port} on are beyond port 65535")
        self._pending = deque()
        self._series = SlsSeries(n, layout, self.deadline)
        self._idle = [False] * n
        ports = range(self.port, self.port + n)
        for number, port in enumerate(ports):
            check_listening(self.host, port, f"receiver {number} of {n} streams (rx_zmqstream 1, rx_zmqport {port})")
        self._context = zmq.Context()
        try:
            for port in ports:
                connection = connected_socket(
                    self._context, zmq.SUB, self.host, port, queue=self.queue,
                    max_message_bytes=self.max_message_bytes, usual_port="slsReceivers use 30001 and those behind it",
                )  # fmt: skip
                self._sockets.append(connection)
        except BaseException:
            self.close()
            raise

    def read(self, timeout: float) -> Event | None:
        """The next event; None when nothing arrived within `timeout` seconds."""
        if not self._sockets:
            raise CommunicationError("the stream is not open")
        until = time.monotonic() + timeout
        while not self._pending:
            has_some = self._receive()
            now = time.monotonic()
            self._pending.extend(self._series.expire(now, self._idle))
            # modules that make no frame yet may take longer than asked for, but not for ever
            if self._pending or (has_some and now < until + 1.0):
                continue
            if now >= until:
                return None
            self._wait(until - now, now)
        return self._pending.popleft()

    def _receive(self) -> bool:
        """Take one message of each receiver that has any, in turns, so that none is ahead of the others; whether there
        was any. What a receiver sends behind the end of a series waits for the others to end it."""
        has_some = False
        for receiver, connection in enumerate(self._sockets):
            if receiver in self._series.finished:
                continue
            try:
                parts = connection.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self._idle[receiver] = True
                continue
            has_some, self._idle[receiver] = True, False
            events = self._series.handle(receiver, [part.buffer for part in parts], time.monotonic())
            self._pending.extend(events)
        return has_some

    def _wait(self, seconds: float, now: float) -> None:
        """Until something arrives, at most so long, or until something has waited for too long."""
        seconds = min(seconds, max(0.0, self._series.next_deadline - now) + 0.001)
        poller = zmq.Poller()
        for receiver, connection in enumerate(self._sockets):
            if receiver not in self._series.finished:
                poller.register(connection, zmq.POLLIN)
        poller.poll(math.ceil(seconds * 1000))

    def close(self) -> None:
        """Disconnect; frames that were read stay valid."""
        for connection in self._sockets:
            connection.close(linger=0)
        self._sockets = []
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None
