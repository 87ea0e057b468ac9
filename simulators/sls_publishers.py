"""Publishing sockets on consecutive ports, one for each receiver of a detector."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

import zmq

from ..processing.errors import ConfigurationError
from .push_detector import SEND_QUEUE, STOP_INTERVAL

#: how many times free ports are looked for: others may take one between the first and those that follow it
ATTEMPTS = 20

#: how long a closed socket may take to get rid of what it has sent
CLOSE_LINGER_MS = 5000


class Publishers:
    """`count` sockets that listen on `port` and those behind it; used by one thread.

    Parameters
    ----------
    port
        0 takes free ones.
    stop
        Ends all waiting.

    Raises
    ------
    ConfigurationError
        The address cannot be used.
    """

    def __init__(self, host: str, port: int, count: int, stop: threading.Event) -> None:
        self.port, self._stop = port, stop
        self._subscribers = [0] * count
        self._sockets: list[zmq.Socket | None] = []
        self._context = zmq.Context()
        try:
            self._address = socket.gethostbyname(host)  # ZeroMQ binds to addresses, not to names
            for attempt in range(ATTEMPTS):
                try:
                    self._sockets = self._bind_all(count)
                    break
                except zmq.ZMQError:
                    if port or attempt == ATTEMPTS - 1:
                        raise
        except (OSError, zmq.ZMQError) as error:
            self._context.destroy(linger=0)
            raise ConfigurationError(f"cannot listen on {host}:{port} and {count - 1} more ({error})") from error
        self.port = _port_of(self._sockets[0])

    def _bind_all(self, count: int) -> list[zmq.Socket]:
        sockets = [self._bind(self.port)]
        try:
            first = _port_of(sockets[0])
            if first + count > 65536:
                raise zmq.ZMQError(zmq.EADDRINUSE)
            for port in range(first + 1, first + count):
                sockets.append(self._bind(port))
        except zmq.ZMQError:
            for one in sockets:
                one.close(linger=0)
            raise
        return sockets

    def _bind(self, port: int) -> zmq.Socket:
        # XPUB is a PUB that tells of its subscribers, and of messages for which there is no room
        publisher = self._context.socket(zmq.XPUB)
        publisher.sndhwm = SEND_QUEUE
        publisher.set(zmq.XPUB_NODROP, 1)
        publisher.set(zmq.XPUB_VERBOSER, 1)
        try:
            publisher.bind(f"tcp://{self._address}:{port or '*'}")
        except zmq.ZMQError:
            publisher.close(linger=0)
            raise
        return publisher

    def is_open(self, number: int) -> bool:
        return self._sockets[number] is not None

    def close(self, number: int) -> None:
        """Close one; what it has sent arrives."""
        if self._sockets[number] is not None:
            self._sockets[number].close(linger=CLOSE_LINGER_MS)
        self._sockets[number] = None
        self._subscribers[number] = 0

    def reopen(self, number: int) -> None:
        """Listen again, on the same port."""
        while self._sockets[number] is None and not self._stop.is_set():
            try:
                self._sockets[number] = self._bind(self.port + number)
            except zmq.ZMQError:  # the one that was closed is not gone yet
                self._stop.wait(STOP_INTERVAL)

    def wait_for_subscribers(self) -> bool:
        """Wait until every socket that is open has one; False when told to stop meanwhile."""
        while not self._stop.is_set():
            for number, publisher in enumerate(self._sockets):
                while publisher is not None and publisher.poll(0):
                    self._subscribers[number] += 1 if publisher.recv()[:1] == b"\x01" else -1
            if all(
                n > 0 for n, publisher in zip(self._subscribers, self._sockets, strict=True) if publisher is not None
            ):
                return True
            self._stop.wait(STOP_INTERVAL / 5)
        return False

    def send(self, number: int, message: Sequence[bytes], *, waits: bool = True) -> bool:
        """Publish a message; whether it was sent. `waits`: for room, until told to stop."""
        publisher = self._sockets[number]
        while publisher is not None and not self._stop.is_set():
            try:
                publisher.send_multipart(message, zmq.NOBLOCK, copy=False)
            except zmq.Again:
                if not waits:
                    return False
                self._stop.wait(0.001)  # a publisher cannot be polled for room
            else:
                return True
        return False

    def destroy(self, linger: float) -> None:
        """Close all; at most `linger` seconds are waited for subscribers to take the last messages."""
        # closing blocks while messages wait: in a thread, so that a signal can end the waiting
        options = {"linger": int(1000 * linger)}
        closer = threading.Thread(target=self._context.destroy, kwargs=options, daemon=True)
        closer.start()
        closer.join()


def _port_of(publisher: zmq.Socket) -> int:
    return int(publisher.last_endpoint.rsplit(b":", 1)[1])
