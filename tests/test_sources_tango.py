"""Frames through Tango from image attributes of servers in processes of their own; how a source names them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import tango
from framesieve.processing.errors import CommunicationError, ConfigurationError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.sources.registry import open_source
from framesieve.sources.tango_reader import ReaderOptions
from framesieve.sources.tango_source import TangoSource
from sources_helpers import pixels_of
from tango_camera_server import SHAPE, TYPES, pixels
from tango_helpers import (
    CAMERA,
    PATIENCE,
    Server,
    is_end,
    is_frame,
    opened,
    read_until,
    serving,
    tally,
    wait_for,
)

ALL = list(range(20))
SYNC = tango.EventSubMode.Sync


@pytest.fixture(scope="module")
def camera_server():
    with serving(*CAMERA) as server:
        yield server


@pytest.fixture
def camera(camera_server):
    camera_server.proxy.Init()
    camera_server.proxy.SetEvents("")
    return camera_server


def wait_for_events(camera: Server) -> None:
    """Wait until events of the server arrive in this process; those that were subscribed to before do so, too."""
    arrived = threading.Event()
    event = camera.proxy.subscribe_event("pushed", tango.EventType.CHANGE_EVENT, lambda event: arrived.set(), SYNC)
    wait_for(lambda: camera.proxy.SetCurrent(time.time()) or arrived.wait(0.05), "an event")
    camera.proxy.unsubscribe_event(event)


@contextmanager
def listening(camera: Server, url: str) -> Iterator[TangoSource]:
    """A source to which the camera's events come."""
    with opened(url) as source:
        wait_for_events(camera)
        yield source


# ---- how it is written -----------------------------------------------------------------------------------------


def test_what_a_url_names():
    source = open_source("tango://id00/eiger/1/image")
    assert isinstance(source, TangoSource)
    assert source.live and not source.sends_bslz4
    assert (source.address.device, source.address.name) == ("id00/eiger/1", "image")
    assert source.options == ReaderOptions()
    url = "tango://lid00:20000/id00/eiger/1/readImage?period=0.2&timeout=5&idle=10&counter=n&queue=4"
    source = open_source(url)
    assert (source.address.device, source.address.name) == ("tango://lid00:20000/id00/eiger/1", "readImage")
    assert source.options == ReaderOptions(period=0.2, timeout=5, idle=10, counter="n", queue=4)
    for written in ("?period=1#dbase=no", "#dbase=no?period=1"):
        source = open_source(f"tango://127.0.0.1:10000/a/b/c/image{written}")
        assert source.address.device == "tango://127.0.0.1:10000/a/b/c#dbase=no"
        assert source.options.period == 1
        assert str(source.address) == "127.0.0.1:10000/a/b/c/image#dbase=no"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tango://a/b/c", "DOMAIN/FAMILY/MEMBER/NAME"),
        ("tango:a/b/c/d", "must be written"),
        ("tango://a/b/c/d/e", "HOST:PORT"),
        ("tango://host/a/b/c/d", "HOST:PORT"),
        ("tango://a//c/d", "DOMAIN/FAMILY/MEMBER/NAME"),
        ("tango://a/b/c/d#dbase=no", "needs its HOST:PORT"),
        ("tango://h:1/a/b/c/d#base=no", "only dbase=no"),
        ("tango://a/b/c/d?rate=1", "unknown option 'rate'"),
        ("tango://a/b/c/d?period=0", "period must be from 0.001 to 60 seconds, not '0'"),
        ("tango://a/b/c/d?queue=0", "queue must be from 1 to 1000, not '0'"),
        ("tango://a/b/c/d?idle=-1", "idle must be from 0"),
        ("tango://a/b/c/d?counter=", "counter is empty"),
    ],
)
def test_what_is_written_wrong(url, words):
    with pytest.raises(ConfigurationError) as caught:
        open_source(url)
    assert words in str(caught.value)
    assert url in str(caught.value)


def test_other_sources_do_not_need_tango():
    code = (
        "import sys; import framesieve.sources.registry, framesieve.sources.monitor; sys.exit('tango' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- what is not there -----------------------------------------------------------------------------------------


def test_nobody_answers():
    source = TangoSource.from_url(Server(*CAMERA).url("uint16"))
    with pytest.raises(CommunicationError, match="test/camera/1/uint16"):
        source.open()
    with pytest.raises(CommunicationError, match="not open"):
        source.read(0)
    source.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "nothing"),
        ("words", "DevString"),
        ("spectrum", "no image, but a spectrum"),
        ("text", "no image, but a scalar"),
        ("readImage", "readImage"),
        ("getFrame", "getFrame"),
        ("uint16?counter=nothing", "nothing"),
    ],
)
def test_what_the_device_does_not_have(camera, name, words):
    name, _, options = name.partition("?")
    source = TangoSource.from_url(camera.url(name, options and f"?{options}"))
    with pytest.raises(ConfigurationError) as caught:
        source.open()
    assert words in str(caught.value)


def test_a_device_that_does_not_exist(camera):
    url = f"tango://127.0.0.1:{camera.port}/no/such/device/image#dbase=no"
    with pytest.raises(CommunicationError, match="no/such/device"):
        TangoSource.from_url(url).open()


def test_nothing_comes(camera):
    with opened(camera.url("uint16")) as source:
        begin = time.monotonic()
        assert source.read(0.2) is None
        assert time.monotonic() - begin > 0.15
        assert source.read(0) is None
        source.close()
        source.close()


# ---- attributes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
def test_pixel_types(camera, dtype):
    """int64 and the like become the type that holds their values; doubles are rounded."""
    reduced = {"int64": "int32", "uint64": "uint32", "float64": "float32"}.get(dtype, dtype)
    camera.proxy.SetType(dtype)
    camera.proxy.SetEvents("change")
    with listening(camera, camera.url(dtype)) as source:
        camera.proxy.Show(3)
        start, frame = read_until(source, is_frame(0))
    assert (start.shape, start.dtype) == (SHAPE, np.dtype(reduced))
    assert frame.payload.dtype == reduced
    np.testing.assert_array_equal(pixels_of(frame.payload), pixels(3))


@pytest.mark.parametrize("events", ["change data_ready", "data_ready change", "data_ready"])
def test_numbers_of_data_ready_events(camera, events):
    """Whether the number is pushed before the image, after it, or alone."""
    camera.proxy.SetEvents(events)
    camera.proxy.Show(0)  # is there already: no new image
    with listening(camera, camera.url("uint16")) as source:
        received = []
        for number in (1, 2, 5, 4):  # with a gap, and one that is late
            before = time.time()
            camera.proxy.Show(number)
            received += read_until(source, is_frame(number))
            assert before - 1 < received[-1].timestamp < time.time() + 1
    assert isinstance(received[0], SeriesStart) and not received[0].joined_late
    assert tally(received)[0].lost == [3]
    for frame in received[1:]:
        np.testing.assert_array_equal(pixels_of(frame.payload), pixels(frame.number))


@pytest.mark.parametrize(("events", "options"), [("change", ""), ("", "?period=0.01")])
def test_frames_are_counted_where_the_device_tells_no_numbers(camera, events, options):
    camera.proxy.SetEvents(events)
    camera.proxy.Show(0)
    with listening(camera, camera.url("uint16", options)) as source:
        received = []
        for count, number in enumerate((1, 2, 5, 4)):
            camera.proxy.Show(number)
            received += read_until(source, is_frame(count))
        assert source.read(0.3) is None
    for frame, number in zip(received[1:], (1, 2, 5, 4), strict=True):
        np.testing.assert_array_equal(pixels_of(frame.payload), pixels(number))


@pytest.mark.parametrize("events", ["change data_ready", ""])
def test_a_counter_beside_the_image(camera, events):
    camera.proxy.SetEvents(events)
    camera.proxy.Show(0)
    with listening(camera, camera.url("uint16", "?counter=number&period=0.01")) as source:
        received = []
        for number in (1, 2, 5):
            camera.proxy.Show(number)
            received += read_until(source, is_frame(number))
    assert tally(received)[0].lost == [3, 4]
    np.testing.assert_array_equal(pixels_of(received[-1].payload), pixels(5))


@pytest.mark.parametrize(("armed", "first"), [(0, 0), (0, 1), (-1, 0), (-1, 1)])
def test_a_counter_that_goes_back_before_there_is_another_image(camera, armed, first):
    """A camera that was armed shows the last image of the series before until it has taken one: that is no frame."""
    with listening(camera, camera.url("uint16", "?counter=number&period=0.01")) as source:
        received = []
        for number in (5, 7, 8):
            camera.proxy.Show(number)
            received += read_until(source, is_frame(number))
        camera.proxy.SetCount(armed)
        assert source.read(0.3) is None
        camera.proxy.Show(first)
        again = read_until(source, is_frame(first))
        camera.proxy.Show(first + 1)
        again += read_until(source, is_frame(first + 1))
        assert source.read(0.1) is None
    assert [type(event) for event in again] == [SeriesEnd, SeriesStart, Frame, Frame]
    assert again[0].superseded and not again[1].joined_late
    for frame in again[2:]:
        np.testing.assert_array_equal(pixels_of(frame.payload), pixels(frame.number))
    series = tally(received + again)
    assert [found.frames for found in series] == [[5, 7, 8], [first, first + 1]]
    assert [found.lost for found in series] == [[6], []]


def test_a_counter_that_goes_back_and_is_further_on_already(camera):
    with listening(camera, camera.url("uint16", "?counter=number&period=0.01")) as source:
        received = []
        for number in (1, 2, 3, 4, 2, 3):  # the last ones are those of another series
            camera.proxy.Show(number)
            received += read_until(source, is_frame(number))
    assert [found.frames for found in tally(received)] == [[1, 2, 3, 4], [2, 3]]


def test_numbers_that_begin_anew_begin_a_series(camera):
    """Aborted and begun again, with a duplicate of the newest image in between."""
    camera.proxy.SetEvents("data_ready change")
    with listening(camera, camera.url("uint16")) as source:
        for number in (0, 1, 2, 2, 0, 1):
            camera.proxy.Show(number)
        received = read_until(source, lambda event: isinstance(event, SeriesEnd))
        assert received[-1].superseded
        received += read_until(source, is_frame(1))
    first, second = tally(received)
    assert (first.frames, first.twice, first.lost) == ([0, 1, 2], [2], [])
    assert (second.frames, second.lost) == ([0, 1], [])
    names = [event.series_id for event in received if isinstance(event, SeriesStart)]
    assert len(set(names)) == 2


def test_a_change_of_size(camera):
    """Between two series it is taken, within one it is an error."""
    camera.proxy.SetEvents("data_ready change")
    with listening(camera, camera.url("uint16")) as source:
        for number, shape in ((0, (5, 7)), (1, (5, 7)), (2, (6, 8)), (3, (5, 7)), (0, (6, 8)), (1, (6, 8))):
            camera.proxy.SetShape(shape)
            camera.proxy.Show(number)
        received = read_until(source, lambda event: isinstance(event, SeriesEnd)) + read_until(source, is_frame(1))
    first, second = tally(received)
    assert (first.frames, first.failed) == ([0, 1, 3], [2])
    broken = next(event for event in received if isinstance(event, BrokenFrame))
    assert broken.reason == "the image is 6 × 8 uint16, but the series has 5 × 7 uint16"
    assert (second.frames, second.failed) == ([0, 1], [])
    assert received[-1].payload.shape == (6, 8)


def test_a_series_ends_when_nothing_comes(camera):
    camera.proxy.SetEvents("data_ready change")
    with listening(camera, camera.url("uint16", "?idle=1")) as source:
        assert source.read(1.5) is None  # nothing has begun
        camera.proxy.Show(0)
        assert [type(event) for event in read_until(source, is_end)] == [SeriesStart, Frame, SeriesEnd]
        camera.proxy.Show(1)
        assert [type(event) for event in read_until(source, is_frame(1))] == [SeriesStart, Frame]


def test_a_slow_reader_of_an_attribute(camera):
    """What there is no room for is a gap in the numbers, with numbers from the device and without."""
    for events in ("data_ready change", "change"):
        camera.proxy.SetEvents(events)
        with listening(camera, camera.url("uint16", "?queue=2")) as source:
            for number in ALL:
                camera.proxy.Show(number)
            waiting = source._reader._pushed
            wait_for(lambda waiting=waiting: len(waiting) > 12, "more than there is room for")
            received = read_until(source, lambda event: isinstance(event, Frame))
            while (event := source.read(0.5)) is not None:
                received.append(event)
            camera.proxy.Show(20)
            received += read_until(source, is_frame(20))
        (series,) = tally(received)
        assert series.lost and sorted(series.frames + series.lost) == list(range(21))
        for frame in received[1:]:
            np.testing.assert_array_equal(pixels_of(frame.payload), pixels(frame.number))


@pytest.mark.parametrize("events", ["data_ready change", "change", "data_ready", ""])
def test_the_server_of_an_attribute_is_killed_and_back(events):
    with serving(*CAMERA, CAMERA_EVENTS=events) as camera:  # noqa: SIM117
        with listening(camera, camera.url("uint16", "?period=0.01&timeout=1")) as source:
            for number in (0, 1):
                camera.proxy.Show(number)
                read_until(source, is_frame(number))
            camera.kill()
            wait_for(lambda: not source._reader.is_attached, "it is missed")
            begin = time.monotonic()
            assert source.read(0.2) is None
            assert time.monotonic() - begin < PATIENCE / 4
            camera.start()
            wait_for(lambda: source._reader.is_attached, "it is found again")
            wait_for_events(camera)
            camera.proxy.Show(0)
            received = read_until(source, lambda event: isinstance(event, Frame))
    np.testing.assert_array_equal(pixels_of(received[-1].payload), pixels(0))
    if "data_ready" in events:  # its numbers begin anew
        assert [type(event) for event in received] == [SeriesEnd, SeriesStart, Frame]
        assert received[0].superseded and received[-1].number == 0
    else:
        assert [event.number for event in received] == [2]
