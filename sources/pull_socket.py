"""ZeroMQ sockets that are connected to a detector, and what all streams that are pushed by one socket share."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import ClassVar, Final, Self

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..processing.errors import CommunicationError
from ..processing.frames import Event
from .source_url import count_option

CONNECT_SECONDS = 2.0

#: how long what came between two runs is looked through at most, s
LOOK_SECONDS = 1.0

#: what must be at the other end of a socket
PEERS: Final = {zmq.PULL: "PUSH", zmq.SUB: "PUB"}


def queue_option(url: str, options: Mapping[str, str]) -> int:
    """How many messages may wait, from the options of a URL."""
    return count_option(url, options, "queue", 100, 1, 100_000)


def check_listening(host: str, port: int, how_to_enable: str) -> None:
    """Whether anybody accepts a connection there; CommunicationError where nobody does, which ZeroMQ would never tell,
    since it goes on trying."""
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:
        raise CommunicationError(
            f"nothing answers at {host}:{port} ({error}): check host and port, and that {how_to_enable}"
        ) from None


def connected_socket(
    context: zmq.Context, kind: int, host: str, port: int, *, queue: int, max_message_bytes: int, usual_port: str
) -> zmq.Socket:
    """A socket of a `kind` that `PEERS` names, connected: both sides have agreed on ZeroMQ and on what each of them is.
    A SUB socket takes every message. After a restart of the detector the stream goes on by itself.

    Raises
    ------
    CommunicationError
        What listens there is no ZeroMQ socket, or one of another kind. Nothing stays open.
    """
    connection = context.socket(kind)
    try:
        connection.set(zmq.LINGER, 0)
        connection.set(zmq.RCVHWM, queue)
        connection.set(zmq.MAXMSGSIZE, max_message_bytes)
        connection.set(zmq.IPV6, int(":" in host))
        connection.set(zmq.RECONNECT_IVL, 100)
        connection.set(zmq.RECONNECT_IVL_MAX, 2000)
        if kind == zmq.SUB:
            connection.set(zmq.SUBSCRIBE, b"")
        if not _agree(connection, host, port):
            raise CommunicationError(
                f"what listens at {host}:{port} is no ZeroMQ {PEERS[kind]} socket: check host and port "
                f"({usual_port} as a rule)"
            )
    except BaseException:
        connection.close(linger=0)
        raise
    return connection


def _agree(connection: zmq.Socket, host: str, port: int) -> bool:
    """Connect; whether the handshake succeeded. A peer of another kind hangs up; one that speaks something else says
    nothing or fails."""
    monitor = connection.get_monitor_socket(
        zmq.EVENT_HANDSHAKE_SUCCEEDED
        | zmq.EVENT_DISCONNECTED
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )
    try:
        connection.connect(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
        return bool(monitor.poll(int(CONNECT_SECONDS * 1000))) and (
            recv_monitor_message(monitor)["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
        )
    finally:
        connection.disable_monitor()
        monitor.close(linger=0)  # left open it would keep the context from closing


class PullSource:
    """Messages of one detector, handed to `handle`, which a subclass defines.

    Between two runs that follow each other at once the connection can be kept (`park`): messages that have come by it
    would be gone with it, and the detector sends each one only once.

    Parameters
    ----------
    host, port : str, int
        Where the detector listens.
    queue : int
        Messages that wait here at most (ZeroMQ's high-water mark); then the detector has to keep them.
    max_message_bytes : int
        ZeroMQ drops the connection on a message of which a part is larger.
    """

    #: how to switch the stream on, and its usual port: for errors
    how_to_enable: ClassVar[str] = "the detector's stream is enabled"
    usual_port: ClassVar[str] = ""

    def __init__(self, host: str, port: int, queue: int = 100, max_message_bytes: int = 1 << 30) -> None:
        self.host, self.port = host, port
        self.queue, self.max_message_bytes = queue, max_message_bytes
        self._context: zmq.Context | None = None
        self._socket: zmq.Socket | None = None
        self._pending: deque[Event] = deque()
        self._is_parked = False

    def _forget(self) -> None:
        """Know nothing of what was received before; called by `open`."""
        self._pending = deque()

    def _end_run(self) -> None:
        """The run is over, the connection stays: know what the next run must not be told."""

    def _begin_run(self) -> None:
        """The next run begins, with what has come meanwhile: `_pending`."""

    def handle(self, parts: list[memoryview]) -> list[Event]:
        """The events that one ZeroMQ message gives; none for a message that is left out."""
        raise NotImplementedError

    def open(self) -> None:
        """Connect to the detector; where the connection was kept, go on with that.

        Raises
        ------
        CommunicationError
            Nobody listens there, or something that is no ZeroMQ PUSH socket.
        """
        if self._is_parked:
            self._take_up()
            return
        self.close()
        self._forget()
        check_listening(self.host, self.port, self.how_to_enable)
        self._context = zmq.Context()
        try:
            self._socket = connected_socket(
                self._context, zmq.PULL, self.host, self.port, queue=self.queue,
                max_message_bytes=self.max_message_bytes, usual_port=self.usual_port,
            )  # fmt: skip
        except BaseException:
            self.close()
            raise

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

    def park(self) -> Self | None:
        """Keep the connection at the end of a run, for an `open` that follows soon; or else `close`. The source to be
        opened then, None where there is no connection. Nobody reads meanwhile: once `queue` messages have come, the
        detector has to keep them, as it has to without a connection."""
        if self._socket is None:
            return None
        self._is_parked = True
        return self

    @property
    def has_waiting(self) -> bool:
        """Whether something waits to be read."""
        return bool(self._pending) or (self._socket is not None and bool(self._socket.poll(0)))

    def _take_up(self) -> None:
        """Go on with the connection that was kept; look through what has come by it."""
        self._is_parked = False
        self._end_run()
        deadline = time.monotonic() + LOOK_SECONDS
        while len(self._pending) < self.queue and time.monotonic() < deadline:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._pending.extend(self.handle([part.buffer for part in parts]))
        self._begin_run()
        if not self._pending:  # what has come is worth having also where the detector has gone since
            try:
                check_listening(self.host, self.port, self.how_to_enable)
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Disconnect; frames that were read stay valid."""
        self._is_parked = False
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None
