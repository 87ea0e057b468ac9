"""Frames through Tango from LImA and LImA2, and from the image attribute of the simulated detector."""

from __future__ import annotations

import functools
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tango
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import Frame, SeriesStart
from framesieve.simulators.data_array_messages import data_array
from framesieve.sources.tango_address import parse_address
from framesieve.sources.tango_lima import LimaReader
from framesieve.sources.tango_reader import ReaderOptions
from framesieve.sources.tango_source import TangoSource
from sources_helpers import pixels_of
from tango_camera_server import pixels
from tango_helpers import (
    DETECTOR,
    PATIENCE,
    Server,
    is_end,
    is_frame,
    opened,
    read_until,
    serving,
    set_up,
    simulated,
    tally,
    wait_for,
)

ALL = list(range(20))


@pytest.fixture(scope="module")
def detector_server():
    with serving(*DETECTOR) as server:
        yield server


@pytest.fixture
def detector(detector_server):
    detector_server.proxy.Init()  # so that no series is as long as the one before
    set_up(detector_server)
    yield detector_server
    detector_server.proxy.Stop()
    wait_for(lambda: str(detector_server.proxy.state()) != "RUNNING", "the end of the series")


def wait_until_sent(detector: Server) -> None:
    wait_for(lambda: str(detector.proxy.state()) != "RUNNING", "the end of the series")
    assert str(detector.proxy.state()) == "STANDBY", detector.proxy.status()


# ---- LImA and LImA2 --------------------------------------------------------------------------------------------

numbered = functools.partial(tally, first_number=0)

BOTH = pytest.mark.parametrize("command", ["readImage", "getFrame"])


def run_series(detector: Server, command: str, options: str = "", **settings) -> list:
    """The events of one series."""
    set_up(detector, **settings)
    with opened(detector.url(command, options)) as source:
        detector.proxy.Start()
        return read_until(source, is_end)


@BOTH
def test_every_image_arrives_in_order(detector, command):
    received = run_series(detector, command)
    start, *frames, end = received
    assert (start.shape, start.dtype, start.joined_late) == ((64, 64), np.dtype("uint16"), False)
    assert start.number_of_frames == (20 if command == "readImage" else None)
    assert [frame.number for frame in frames] == ALL
    for frame, expected in zip(frames, simulated(20), strict=True):
        np.testing.assert_array_equal(pixels_of(frame.payload), expected)
        assert abs(frame.timestamp - time.time()) < PATIENCE
    assert not end.superseded


@BOTH
@pytest.mark.parametrize(
    ("misbehaviour", "failed", "lost"),
    [
        ("lost=0,1,7", [], [0, 1, 7]),
        ("corrupt=0,4", [0, 4], []),
        ("duplicated=5 late=6:4 shuffled=8", [], []),  # read in order, each once
        ("stall=10:1", [], []),
        ("killed=10:1", [], []),  # does not answer for a while
        ("lost=5 corrupt=6 late=9:3 stall=12:0.5", [6], [5]),
    ],
)
def test_misbehaviour_of_a_device_that_keeps_images(detector, command, misbehaviour, failed, lost):
    (series,) = numbered(run_series(detector, command, misbehaviour=misbehaviour))
    assert series.failed == failed
    assert series.lost == lost
    assert series.frames == [number for number in ALL if number not in failed + lost]
    assert series.twice == []


def test_the_last_images_are_lost(detector):
    """LImA tells how many there should be."""
    (series,) = numbered(run_series(detector, "readImage", misbehaviour="lost=18,19"))
    assert (series.frames, series.lost) == (ALL[:18], [18, 19])


def test_series_that_are_over_before_anybody_looks(detector):
    """One image, and as many as before: an event is all there is to tell."""
    set_up(detector, number_of_frames=1, frame_rate=0.0)
    with opened(detector.url("readImage", "?period=10")) as source:
        for _ in range(5):
            detector.proxy.Start()
            assert numbered(read_until(source, is_end))[0].frames == [0]
            wait_until_sent(detector)


@BOTH
def test_what_was_overwritten_is_lost(detector, command):
    n = 25 if command == "getFrame" else 30  # another number than before
    set_up(detector, buffer_max_number=4, frame_rate=0.0, number_of_frames=n)
    with opened(detector.url(command, "?queue=1")) as source:
        detector.proxy.Start()
        wait_until_sent(detector)
        (series,) = numbered(read_until(source, is_end))
    assert series.lost and series.frames[-4:] == [n - 4, n - 3, n - 2, n - 1]
    assert sorted(series.frames + series.lost) == list(range(n))


@BOTH
def test_aborted_and_begun_again(detector, command):
    set_up(detector, misbehaviour="aborted=12 no-start", number_of_series=2, frame_rate=8.0)
    with opened(detector.url(command)) as source:
        detector.proxy.Start()
        received = read_until(source, is_end)
    first, second = numbered(received)
    # what was taken last before it was aborted may be gone before it could be read
    assert first.frames == ALL[: len(first.frames)] and 1 <= len(first.frames) <= 12
    assert (second.frames, second.lost, second.failed) == (ALL, [], [])


@BOTH
def test_without_an_end_the_idle_time_ends_it(detector, command):
    set_up(detector, misbehaviour="no-end")
    with opened(detector.url(command, "?idle=2")) as source:
        detector.proxy.Start()
        assert numbered(read_until(source, is_end))[0].frames == ALL
        assert detector.proxy.acq_status == "Running"
        assert source.read(0.5) is None  # what it still says to take is no new series
        set_up(detector, frame_rate=10.0)
        detector.proxy.Start()
        assert numbered(read_until(source, is_end))[0].frames == ALL


@BOTH
def test_the_next_series_has_another_size(detector, command):
    with opened(detector.url(command)) as source:
        for shape, dtype in (((64, 64), "uint16"), ((70, 80), "uint32")):
            set_up(detector, shape=shape, dtype=dtype, frame_rate=10.0)
            detector.proxy.Start()
            received = read_until(source, is_end)
            assert (received[0].shape, received[0].dtype) == (shape, np.dtype(dtype))
            assert numbered(received)[0].frames == ALL
            wait_until_sent(detector)


def test_joined_in_the_middle(detector):
    """LImA: from there on. LImA2, whose device is there for one acquisition: all of it."""
    for command, late in (("readImage", True), ("getFrame", False)):
        set_up(detector, number_of_frames=100, frame_rate=20.0)
        detector.proxy.Start()
        wait_for(lambda: detector.proxy.last_image_ready > 5, "some images")
        with opened(detector.url(command)) as source:
            received = read_until(source, is_end)
        assert received[0].joined_late is late
        (series,) = numbered(received)
        assert series.lost == [] and series.frames == list(range(series.frames[0], 100))
        assert (series.frames[0] > 5) is late
        wait_until_sent(detector)


def test_what_is_over_is_not_read(detector):
    detector.proxy.Start()
    wait_until_sent(detector)
    with opened(detector.url("readImage")) as source:
        assert source.read(0.5) is None
        detector.proxy.Start()
        assert numbered(read_until(source, is_end))[0].frames == ALL


@BOTH
def test_the_server_is_killed_and_back(command):
    with serving(*DETECTOR) as detector:
        set_up(detector, number_of_frames=1000, frame_rate=50.0)
        with opened(detector.url(command, "?timeout=1")) as source:
            detector.proxy.Start()
            received = read_until(source, is_frame(10))
            detector.kill()
            received += [event for _ in range(5) if (event := source.read(0.2))]
            detector.start()
            set_up(detector)
            wait_for(lambda: source._reader.is_attached, "it is found again")
            detector.proxy.Start()
            received += read_until(source, is_end)
    first, second = numbered(received)
    assert first.frames[:11] == list(range(11)) and first.lost == []
    assert (second.frames, second.lost, second.failed) == (ALL, [], [])


class ScriptedLima:
    """Stands for a proxy of LImA; `answers` maps numbers of images to what is to be done when they are asked for."""

    def __init__(self, last: int) -> None:
        self.status, self.last, self.asked, self.answers = "Running", last, [], {}

    def get_command_config(self, name):
        assert name == "readImage"

    def subscribe_event(self, *arguments):
        tango.Except.throw_exception("API_AttributePollingNotStarted", "no events", "ScriptedLima")

    def read_attributes(self, names):
        values = {"acq_status": self.status, "last_image_ready": self.last, "acq_nb_frames": 4}
        if any(name not in values for name in names):
            tango.Except.throw_exception("API_AttrNotFound", "no such attribute", "ScriptedLima")
        clock = SimpleNamespace(totime=lambda: 1e9)
        return [SimpleNamespace(value=values[name], time=clock, has_failed=False) for name in names]

    def read_attribute(self, name):
        assert name == "acq_status_fault_error"
        return SimpleNamespace(value="the camera is off")

    def command_inout(self, name, number):
        self.asked.append(number)
        self.answers.get(number, lambda: None)()
        return "DATA_ARRAY", data_array(pixels(number), number)


def follow(lima: ScriptedLima, turns: int) -> list:
    """The events of so many looks at the device, which began after the first one."""
    reader = LimaReader(parse_address("a/b/c/readImage", "source"), ReaderOptions(period=0.001, queue=100))
    lima.last, last = -1, lima.last
    reader.attach(lima)
    lima.last = last
    for _ in range(turns):
        reader.turn(lima)
    return [reader.events.get() for _ in range(reader.events.qsize())]


def refuse() -> None:
    tango.Except.throw_exception("Error", "not available", "ScriptedLima")


def test_begun_again_while_images_are_read():
    """An image that is not there because the series is another one now is not lost."""
    lima = ScriptedLima(last=3)

    def begin_again() -> None:
        lima.last = -1
        lima.answers = {}
        refuse()

    lima.answers = {2: begin_again}
    received = follow(lima, 2)
    lima.last, lima.status = 3, "Ready"
    assert lima.asked == [0, 1, 2]
    (first,) = numbered(received)
    assert (first.frames, first.lost) == ([0, 1], [])
    assert received[-1].superseded


def test_an_image_that_was_overwritten_and_one_of_another_number():
    lima = ScriptedLima(last=3)
    lima.status = "Ready"
    lima.answers = {1: refuse}
    (series,) = numbered(follow(lima, 1))
    assert (series.frames, series.lost) == ([0, 2, 3], [1])
    lima = ScriptedLima(last=3)
    lima.status = "Ready"
    lima.command_inout = lambda name, number: ("DATA_ARRAY", data_array(pixels(0), number ^ 1))
    received = follow(lima, 1)
    assert numbered(received)[0].failed == [0, 1, 2, 3]
    assert received[1].reason == "image 0 was asked for, 1 came"


def test_a_fault_of_lima_is_told():
    lima = ScriptedLima(last=1)
    lima.status = "Fault"
    start, _, _, broken, end = follow(lima, 1)
    assert isinstance(start, SeriesStart) and is_end(end)
    assert (broken.number, broken.reason) == (-1, "LImA: the camera is off")


def test_an_image_that_cannot_be_read_is_given_up():
    """The device does not answer when it is asked for this one."""
    lima = ScriptedLima(last=3)
    lima.status = "Ready"
    lima.answers = {1: lambda: tango.Except.throw_exception("API_DeviceTimedOut", "too slow", "ScriptedLima")}
    reader = LimaReader(parse_address("a/b/c/readImage", "source"), ReaderOptions(period=0.001, queue=100))
    lima.last = -1
    reader.attach(lima)
    lima.last = 3
    for _ in range(4):
        try:
            reader.turn(lima)
        except tango.DevFailed:
            reader.attach(lima)
    (series,) = numbered([reader.events.get() for _ in range(reader.events.qsize())])
    assert lima.asked == [0, 1, 1, 1, 2, 3]
    assert (series.frames, series.lost) == ([0, 2, 3], [1])


def test_the_option_counter_of_lima2(detector):
    (series,) = numbered(run_series(detector, "getFrame", "?counter=nb_frames_source"))
    assert series.frames == ALL
    source = TangoSource.from_url(detector.url("getFrame", "?counter=frames"))
    with pytest.raises(ConfigurationError, match=r"no 'frames' .option counter; there are nb_frames_source"):
        source.open()


# ---- the image attribute of the simulated detector -------------------------------------------------------------


@pytest.mark.parametrize(
    ("misbehaviour", "failed", "lost", "twice"),
    [
        ("", [], [], []),
        ("lost=3,7", [], [3, 7], []),
        ("corrupt=4", [4], [], []),
        ("duplicated=5", [], [], [5]),
        ("late=6:4", [], [], []),
        ("shuffled=5", [], [], []),
        ("stall=0:2,10:1", [], [], []),
    ],
)
def test_misbehaviour_of_an_attribute(detector, misbehaviour, failed, lost, twice):
    if "stall" not in misbehaviour:
        misbehaviour += " stall=0:2"  # until the events arrive
    set_up(detector, misbehaviour=misbehaviour, frame_rate=50.0)
    with opened(detector.url("image", "?queue=100")) as source:
        detector.proxy.Start()
        wait_until_sent(detector)
        received = []
        while len(received) < 1 + 20 - len(lost) + len(twice):
            received += read_until(source, lambda event: True)
        assert source.read(0.3) is None
    (series,) = tally(received)
    assert (series.failed, series.lost, series.twice) == (failed, lost, twice)
    assert sorted(series.frames) == [number for number in ALL if number not in failed + lost]
    expected = simulated(20)
    for frame in received:
        if isinstance(frame, Frame):
            np.testing.assert_array_equal(pixels_of(frame.payload), expected[frame.number])
