"""A connection that is kept between two runs: what has come by it is for the next run, and for nobody else.

The wire is a list of messages here, so that it is known what has come when; see test_sources_back_to_back.py for real
connections.
"""

from __future__ import annotations

import math
import types
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
import sources_helpers as stream2
import stream1_helpers as stream1
import zmq
from framesieve.processing.errors import CommunicationError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.sources import monitor, pull_socket
from framesieve.sources.monitor import MonitoredSource
from framesieve.sources.stream1 import Stream1Source
from framesieve.sources.stream2 import Stream2Source

PIXELS = stream2.random_pixels("uint16")
MASKS = {series: np.full(PIXELS.shape, series, np.uint32) for series in range(5)}


@dataclass
class Wire:
    """In the place of a socket."""

    messages: deque[list[bytes]] = field(default_factory=deque)
    is_closed: bool = False

    def recv_multipart(self, *_: object, **__: object) -> list[zmq.Frame]:
        if not self.messages:
            raise zmq.Again
        return [zmq.Frame(part) for part in self.messages.popleft()]

    def poll(self, _: int) -> int:
        return int(bool(self.messages))

    def close(self, linger: int) -> None:
        self.is_closed = True


class Stream:
    """A source, and the messages of one protocol."""

    def __init__(self, name: str, queue: int = 100) -> None:
        self.name = name
        self.source = {"stream1": Stream1Source, "stream2": Stream2Source}[name]("127.0.0.1", 1, queue=queue)
        self.wire = self.source._socket = Wire()

    def begin(self, series: int) -> None:
        if self.name == "stream1":
            parts = stream1.header(series, "all")
            parts[5] = MASKS[series].tobytes()
        else:
            tables = {"pixel_mask": {"threshold_1": stream2.typed_array(MASKS[series])}}
            parts = [stream2.start(series=series, **tables)]
        self.wire.messages.append(parts)

    def images(self, series: int, *numbers: int) -> None:
        for number in numbers:
            make = stream1.image if self.name == "stream1" else stream2.image
            message = make(number, PIXELS, series=series)
            self.wire.messages.append(message if self.name == "stream1" else [message])

    def end(self, series: int) -> None:
        self.wire.messages.append(stream1.end(series) if self.name == "stream1" else [stream2.end(series)])

    def whole(self, series: int, count: int) -> None:
        self.begin(series)
        self.images(series, *range(count))
        self.end(series)

    def run(self, frames: int = 1000) -> list:
        """The events up to the end of a series, or so many frames, or until nothing more has come."""
        events = []
        while (event := self.source.read(0)) is not None:
            events.append(event)
            frames -= isinstance(event, Frame)
            if not frames or (isinstance(event, SeriesEnd) and not event.superseded):
                break
        return events

    def park(self) -> None:
        assert self.source.park() is self.source

    def next_run(self, frames: int = 1000) -> list:
        assert self.source.open() is None
        return self.run(frames)


@pytest.fixture(params=["stream1", "stream2"])
def stream(request) -> Stream:
    return Stream(request.param)


@pytest.fixture(autouse=True)
def listening(monkeypatch) -> types.SimpleNamespace:
    """Whether a detector listens; asked where nothing waits."""
    asked = types.SimpleNamespace(answers=True, times=0)

    def check(host: str, port: int, how: str) -> None:
        asked.times += 1
        if not asked.answers:
            raise CommunicationError(f"nothing answers at {host}:{port}")

    monkeypatch.setattr(pull_socket, "check_listening", check)
    return asked


def numbers(events: list) -> list[int]:
    return [event.number for event in events if isinstance(event, Frame)]


def begin_of(events: list) -> SeriesStart:
    (start,) = [event for event in events if isinstance(event, SeriesStart)]
    assert isinstance(events[0], SeriesStart)
    return start


def test_series_that_come_at_once_are_one_run_each(stream, listening):
    for series in (1, 2, 3, 4):
        stream.whole(series, series)
    runs = [stream.run()]
    for _ in range(3):
        stream.park()
        runs.append(stream.next_run())
    for series, events in enumerate(runs, 1):
        start = begin_of(events)
        assert numbers(events) == list(range(series)) and isinstance(events[-1], SeriesEnd)
        assert {event.series_id for event in events} == {start.series_id}
        np.testing.assert_array_equal(start.pixel_mask, MASKS[series])
        assert start.came_before == (None if series == 1 else series) and not start.joined_late
    assert len({events[0].series_id for events in runs}) == 4
    stream.park()
    assert stream.next_run() == [] and listening.times == 1


def test_no_more_wait_here_than_may(stream):
    small = Stream(stream.name, queue=5)
    for series in (1, 2, 3):
        small.whole(series, 4)
    assert numbers(small.run()) == [0, 1, 2, 3]
    small.park()
    assert small.source.open() is None
    assert len(small.source._pending) == 5 and len(small.wire.messages) == 7
    events = small.run()
    assert numbers(events) == [0, 1, 2, 3] and begin_of(events).came_before == 4
    small.park()
    assert numbers(small.next_run()) == [0, 1, 2, 3]


@pytest.mark.parametrize("comes", ["between", "after"])
def test_the_end_of_a_series_that_was_read_already_ends_no_other_run(stream, comes):
    """Number of frames: the run was over before the end of the series came."""
    stream.begin(1)
    stream.images(1, 0, 1)
    assert numbers(stream.run(2)) == [0, 1]
    stream.park()
    if comes == "between":
        stream.end(1)
    assert stream.next_run() == []
    if comes == "after":
        stream.end(1)
    stream.whole(2, 3)
    events = stream.run()
    assert numbers(events) == [0, 1, 2] and isinstance(events[-1], SeriesEnd)
    assert begin_of(events).came_before is None


def test_the_rest_of_a_series_that_was_left_is_nobodys(stream):
    stream.begin(1)
    stream.images(1, 0, 1)
    stream.run(2)
    stream.park()
    stream.images(1, 2, 3)
    stream.end(1)
    stream.begin(2)
    stream.images(2, 0)
    first = stream.next_run()
    stream.images(2, 1)
    stream.end(2)
    events = first + stream.run()
    start = begin_of(events)
    assert numbers(events) == [0, 1] and start.came_before == 1
    np.testing.assert_array_equal(start.pixel_mask, MASKS[2])


def test_a_series_that_was_left_goes_on_with_its_own_mask(stream):
    stream.begin(1)
    stream.images(1, 0, 1)
    first = stream.run(2)
    stream.park()
    stream.images(1, 2, 3)
    assert stream.next_run() == []
    stream.images(1, 4, 5)
    stream.end(1)
    events = stream.run()
    start = begin_of(events)
    assert numbers(events) == [4, 5] and isinstance(events[-1], SeriesEnd)
    np.testing.assert_array_equal(start.pixel_mask, MASKS[1])
    assert start.joined_late and start.came_before is None and (start.shape, start.dtype) == (PIXELS.shape, "uint16")
    assert start.number_of_frames == begin_of(first).number_of_frames == 10
    assert math.isclose(events[1].timestamp - first[1].timestamp, 0.04, abs_tol=1e-4)  # its clock goes on, too
    # strays of it are known in the run after that
    stream.park()
    stream.images(1, 6)
    stream.whole(2, 2)
    assert numbers(stream.next_run()) == [0, 1]


def test_a_run_that_leaves_what_had_come_before_it(stream):
    """Stop in a series of which a part waits still: the next run is not given it, but the series behind it."""
    stream.whole(1, 1)
    stream.whole(2, 5)
    stream.begin(3)
    stream.run()
    stream.park()
    assert numbers(stream.next_run(frames=2)) == [0, 1]
    stream.park()
    stream.images(3, 0)
    stream.end(3)
    events = stream.next_run()
    assert numbers(events) == [0]
    np.testing.assert_array_equal(begin_of(events).pixel_mask, MASKS[3])


def test_a_run_that_was_prepared_and_never_read(stream):
    stream.whole(1, 1)
    stream.run()
    stream.park()
    stream.whole(2, 2)
    stream.source.open()
    stream.park()
    stream.images(2, 9)  # a stray
    events = stream.next_run()
    assert numbers(events) == [0, 1] and begin_of(events).came_before == 2


def test_what_is_no_frame_of_any_series_is_of_no_run(stream):
    stream.whole(1, 1)
    stream.run()
    stream.park()
    stream.wire.messages.append([b"nonsense"])
    stream.whole(2, 1)
    stream.wire.messages.append([b"nonsense"])
    assert numbers(stream.next_run()) == [0]
    stream.park()
    assert stream.next_run() == []
    stream.wire.messages.append([b"nonsense"])
    assert [type(event) for event in stream.run()] == [BrokenFrame]


def test_a_name_that_comes_again_in_the_next_run(stream):
    """A detector that was restarted counts from 1 again: with its start message that is another series."""
    names = []
    for _ in range(3):
        stream.whole(1, 2)
        events = stream.run() if not names else stream.next_run()
        assert numbers(events) == [0, 1]
        names.append(begin_of(events).series_id)
        stream.park()
    assert len(set(names)) == 1
    # also where the last run has left the series of this name
    stream.begin(1)
    stream.images(1, 0)
    stream.next_run()
    stream.park()
    stream.whole(1, 3)
    assert numbers(stream.next_run()) == [0, 1, 2]


def test_a_detector_that_has_gone(stream, listening):
    listening.answers = False
    stream.whole(1, 1)
    stream.run()
    stream.park()
    stream.whole(2, 1)
    assert stream.source.has_waiting
    assert numbers(stream.next_run()) == [0]  # what it sent is worth having all the same
    stream.park()
    assert not stream.source.has_waiting
    with pytest.raises(CommunicationError, match="nothing answers"):
        stream.source.open()
    assert stream.wire.is_closed


def test_what_is_closed_is_not_kept(stream):
    stream.park()
    stream.source.close()
    assert stream.wire.is_closed and stream.source.park() is None and not stream.source.has_waiting


def test_the_monitor_of_a_run_is_not_kept(stream, monkeypatch):
    class Values:
        value = 1.5
        is_open = False

        def open(self) -> None:
            self.is_open = True

        def close(self) -> None:
            self.is_open = False

    values = Values()
    both = MonitoredSource(stream.source, values)
    values.open()
    assert both.park() is stream.source and not values.is_open
    stream.whole(2, 1)
    both = monitor.MonitoredSource(stream.source, values)
    both.open()
    assert isinstance(both.read(0), SeriesStart) and both.read(0).monitor == 1.5 and values.is_open
    both.close()
    assert both.park() is None and not values.is_open
