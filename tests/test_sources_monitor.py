"""The monitor value beside frames, from a Tango attribute with events or without."""

import math

import numpy as np
import pytest
from framesieve.processing.errors import CommunicationError, ConfigurationError
from framesieve.processing.frames import ArrayPayload, Frame, SeriesEnd, SeriesStart
from framesieve.sources.monitor import AttributeMonitor, MonitoredSource, monitored
from tango_helpers import CAMERA, Server, serving, wait_for

BOTH = pytest.mark.parametrize("name", ["pushed", "read"])  # with events, and without


@pytest.fixture(scope="module")
def camera():
    with serving(*CAMERA) as server:
        yield server


def address(server: Server, name: str) -> str:
    return server.url(name).removeprefix("tango://")


@pytest.fixture
def opened():
    """Opens a monitor, and closes it after the test."""
    monitors = []

    def open_monitor(text: str) -> AttributeMonitor:
        monitors.append(AttributeMonitor(text))
        monitors[-1].open()
        return monitors[-1]

    yield open_monitor
    for monitor in monitors:
        monitor.close()


@BOTH
def test_the_newest_value(camera, opened, name):
    camera.proxy.SetCurrent(12.5)
    monitor = opened(address(camera, name))
    assert monitor.value == 12.5
    for value in (13.0, -2.0, 1e12):
        camera.proxy.SetCurrent(value)
        wait_for(lambda value=value: monitor.value == value, f"{value}")
    monitor.close()
    assert math.isnan(monitor.value)


@BOTH
def test_no_value_where_it_is_invalid(camera, opened, name):
    camera.proxy.SetCurrent(1.0)
    monitor = opened(address(camera, name))

    camera.proxy.SetCurrent(-1)  # of this camera: invalid
    wait_for(lambda: math.isnan(monitor.value), "NaN")
    camera.proxy.SetCurrent(2.0)
    wait_for(lambda: monitor.value == 2, "a value")


@BOTH
def test_the_device_goes_away_and_comes_back(opened, name):
    with serving(*CAMERA) as camera:
        camera.proxy.SetCurrent(5.0)
        monitor = opened(address(camera, name))
        assert monitor.value == 5
        camera.kill()
        wait_for(lambda: math.isnan(monitor.value), "NaN")
        camera.start()
        camera.proxy.SetCurrent(6.0)
        wait_for(lambda: monitor.value == 6, "a value")


@pytest.mark.parametrize(
    ("name", "words"), [("nothing", "nothing"), ("text", "no single number"), ("spectrum", "no single number")]
)
def test_what_is_no_number(camera, name, words):
    with pytest.raises(ConfigurationError, match=words):
        AttributeMonitor(address(camera, name)).open()


def test_nobody_answers():
    with pytest.raises(CommunicationError, match="test/camera/1/read"):
        AttributeMonitor(address(Server(*CAMERA), "read")).open()


@pytest.mark.parametrize("text", ["", "a/b/c", "a/b/c/d?period=1", "a/b/c/d#dbase=no", "stream2://a:1"])
def test_what_is_written_wrong(text):
    with pytest.raises(ConfigurationError, match="monitor"):
        AttributeMonitor(text)


# ---- beside a source -------------------------------------------------------------------------------------------


class Scripted:
    """Gives these events."""

    sends_bslz4 = True

    def __init__(self, *events, live: bool = True) -> None:
        self.live, self.events, self.is_open = live, list(events), False

    def open(self):
        self.is_open = True
        return SeriesStart("announced")

    def read(self, timeout: float):
        return self.events.pop(0) if self.events else None

    def close(self) -> None:
        self.is_open = False


def frame(number: int, **fields) -> Frame:
    return Frame(number, "a", ArrayPayload(np.zeros((2, 2), np.uint16)), **fields)


def test_frames_get_the_value_that_they_lack(camera):
    start, end = SeriesStart("a"), SeriesEnd("a")
    source = Scripted(start, frame(0, timestamp=5.0, note="n"), frame(1, monitor=3.0), frame(2), end)
    camera.proxy.SetCurrent(10.0)
    both = MonitoredSource(source, AttributeMonitor(address(camera, "pushed")))
    assert both.live and both.sends_bslz4
    assert both.open() == SeriesStart("announced")
    assert source.is_open
    assert both.read(0) is start
    first = both.read(0)
    assert (first.monitor, first.number, first.timestamp, first.note) == (10.0, 0, 5.0, "n")
    assert both.read(0).monitor == 3  # what the source brings
    camera.proxy.SetCurrent(11.0)
    wait_for(lambda: both.monitor.value == 11, "the next value")
    assert both.read(0).monitor == 11
    assert both.read(0) is end
    assert both.read(0) is None
    both.close()
    assert not source.is_open
    assert math.isnan(both.monitor.value)


def test_nothing_is_left_open_where_one_of_them_cannot_be_opened(camera):
    source = Scripted()
    both = MonitoredSource(source, AttributeMonitor(address(Server(*CAMERA), "read")))
    with pytest.raises(CommunicationError):
        both.open()
    assert not source.is_open

    def fail():
        raise CommunicationError("no detector")

    source.open = fail
    both = MonitoredSource(source, AttributeMonitor(address(camera, "read")))
    with pytest.raises(CommunicationError, match="no detector"):
        both.open()
    assert both.monitor._client is None


def test_which_sources_are_monitored():
    live, file = Scripted(), Scripted(live=False)
    assert monitored(live, "") is live
    assert monitored(file, "a/b/c/d") is file  # its frames were taken long ago
    assert isinstance(monitored(live, "a/b/c/d"), MonitoredSource)
