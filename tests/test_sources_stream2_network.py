"""Stream2 over a real ZeroMQ socket: connecting, waiting, reconnecting, closing."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import zmq
from framesieve.processing.errors import CommunicationError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.sources.registry import open_source
from framesieve.sources.stream2 import Stream2Source
from sources_helpers import end, image, pixels_of, random_pixels, read_until, start

PIXELS = random_pixels("uint16")
PATIENCE = 60.0  # s; what takes longer does not come


@pytest.fixture
def detector() -> Iterator[tuple[zmq.Socket, int]]:
    """A PUSH socket and its port, as a detector's."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.set(zmq.LINGER, 0)
        push.set(zmq.SNDTIMEO, int(PATIENCE * 1000))
        yield push, push.bind_to_random_port("tcp://127.0.0.1")


def test_a_whole_series_arrives_in_order(detector):
    push, port = detector
    count = 50
    images = [random_pixels("uint32", (256, 256), seed) for seed in range(count)]

    def run() -> None:
        push.send(start((256, 256), "uint32"))
        for number, pixels in enumerate(images):
            push.send(image(number, pixels, encoding="bslz4" if number % 2 else "lz4"))
        push.send(b"this is no CBOR")
        push.send(end())

    source = open_source(f"stream2://127.0.0.1:{port}")
    assert source.live
    assert source.open() is None
    thread = threading.Thread(target=run)
    thread.start()
    begin, *frames, broken, over = read_until(source, SeriesEnd)
    thread.join()
    assert isinstance(begin, SeriesStart)
    assert isinstance(broken, BrokenFrame)
    assert over.series_id == begin.series_id
    assert [frame.number for frame in frames] == list(range(count))
    source.close()
    source.close()
    # frames stay valid when the source is gone
    for frame, pixels in zip(frames, images, strict=True):
        np.testing.assert_array_equal(pixels_of(frame.payload), pixels)


def test_nothing_arrives(detector):
    _, port = detector
    source = Stream2Source("127.0.0.1", port)
    source.open()
    begin = time.monotonic()
    assert source.read(0.2) is None
    assert 0.15 < time.monotonic() - begin < PATIENCE
    assert source.read(0) is None
    source.close()


def test_strays_do_not_prolong_waiting(detector):
    push, port = detector
    source = Stream2Source("127.0.0.1", port)
    source.open()
    for series in range(20):
        push.send(end(series))
    begin = time.monotonic()
    assert source.read(0.3) is None
    assert time.monotonic() - begin < PATIENCE
    assert source.stray_messages == 20
    source.close()


def test_a_port_with_nothing_on_it():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CommunicationError, match=f"nothing answers at 127.0.0.1:{port} .*refused.*format cbor"):
        Stream2Source("127.0.0.1", port).open()


def test_a_host_that_does_not_exist():
    with pytest.raises(CommunicationError, match=r"nothing answers at no\.such\.host\.invalid:31001"):
        Stream2Source("no.such.host.invalid", 31001).open()


def silent_server() -> tuple[int, Callable[[], None]]:
    server = socket.create_server(("127.0.0.1", 0))
    return server.getsockname()[1], server.close


def publisher() -> tuple[int, Callable[[], None]]:
    context = zmq.Context()
    pub = context.socket(zmq.PUB)
    port = pub.bind_to_random_port("tcp://127.0.0.1")

    def close() -> None:
        pub.close(linger=0)
        context.term()

    return port, close


@pytest.mark.parametrize("other", [silent_server, publisher])
def test_something_else_listens_on_the_port(other):
    port, close = other()
    begin = time.monotonic()
    with pytest.raises(CommunicationError, match=f"127.0.0.1:{port} is no ZeroMQ PUSH socket"):
        Stream2Source("127.0.0.1", port).open()
    assert time.monotonic() - begin < PATIENCE
    close()


def test_reading_before_opening():
    with pytest.raises(CommunicationError, match="not open"):
        Stream2Source("127.0.0.1", 31001).read(0)


def bind_again(socket: zmq.Socket, port: int) -> None:
    """A port is free some time after the socket that had it was closed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.bind(f"tcp://127.0.0.1:{port}")
            return
        except zmq.ZMQError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_the_stream_goes_on_after_the_detector_was_restarted(detector):
    push, port = detector
    source = Stream2Source("127.0.0.1", port)
    source.open()
    push.send(image(0, PIXELS))
    read_until(source, Frame)
    push.unbind(push.last_endpoint)
    push.close()
    with zmq.Context() as context, context.socket(zmq.PUSH) as again:
        again.set(zmq.LINGER, 0)
        again.set(zmq.SNDTIMEO, int(PATIENCE * 1000))
        bind_again(again, port)
        again.send(image(0, PIXELS, series=2))
        events = read_until(source, Frame)
    assert [type(event) for event in events] == [SeriesEnd, SeriesStart, Frame]
    source.close()


def test_opened_again_it_knows_nothing_of_the_last_run(detector):
    push, port = detector
    source = Stream2Source("127.0.0.1", port)
    for _ in range(2):
        source.open()
        push.send(start())
        push.send(end())
        begin, over = read_until(source, SeriesEnd)
        assert isinstance(begin, SeriesStart)
        assert isinstance(over, SeriesEnd)
        source.close()
        time.sleep(0.3)  # until the detector has noticed: it still sends to the connection that is gone


def test_a_queue_that_is_full_holds_the_detector_back():
    message, sent = image(0, random_pixels("uint32", (1000, 1000))), 0
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.set(zmq.LINGER, 0)
        push.set(zmq.SNDHWM, 5)
        push.set(zmq.SNDTIMEO, 300)
        source = Stream2Source("127.0.0.1", push.bind_to_random_port("tcp://127.0.0.1"), queue=5)
        source.open()
        with contextlib.suppress(zmq.Again):
            while sent < 100:
                push.send(message)
                sent += 1
        assert sent < 30
        read_until(source, Frame)
        source.close()
