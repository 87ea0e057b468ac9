"""The Tango device `SimulatedDetector`: settings, states, what it sends, and that clients cannot hurt it."""

from __future__ import annotations

import json
import struct
import threading
import time

import numpy as np
import pytest
import tango
from framesieve.processing.errors import NotAllowedError
from framesieve.processing.frames import Frame, SeriesEnd
from framesieve.simulators.diffraction import StillSimulator
from framesieve.simulators.frame_inputs import SimulatedInput
from framesieve.simulators.misbehaviour import Misbehaviour
from framesieve.simulators.simulation_file import write_simulation
from framesieve.simulators.tango_series import TangoSeries
from framesieve.sources.registry import open_source
from sources_helpers import pixels_of
from tango_helpers import DETECTOR, PATIENCE, serving, set_up, simulated, wait_for

STANDBY, RUNNING, FAULT = tango.DevState.STANDBY, tango.DevState.RUNNING, tango.DevState.FAULT


@pytest.fixture(scope="module")
def server():
    with serving(*DETECTOR) as server:
        yield server


@pytest.fixture
def device(server):
    set_up(server)
    yield server.proxy
    assert server.process.poll() is None, "the server has died"
    server.proxy.Stop()
    wait_for(lambda: server.proxy.state() != RUNNING, "the end of the series")
    server.proxy.Reset()


def run(device: tango.DeviceProxy, state: tango.DevState = STANDBY) -> None:
    device.Start()
    wait_for(lambda: device.state() != RUNNING, "the end of the series")
    assert device.state() == state, device.status()


def wait_for_images(device: tango.DeviceProxy) -> None:
    wait_for(lambda: device.last_image_ready >= 0, "an image")


def refused(reason: str, *words: str):
    return pytest.raises(tango.DevFailed, match="(?s)" + ".*".join([*words, f"reason = {reason}"]))


# ---- settings and states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason", "words"),
    [
        ("protocol", "morse", "DATA_OUT_OF_RANGE", "protocol = 'morse': accepted is one of stream1, stream2"),
        ("port", 70_000, "DATA_OUT_OF_RANGE", "port = 70000: accepted is 0 to 65535"),
        ("encoding", "zip", "DATA_OUT_OF_RANGE", "zip"),
        ("frame_rate", -1.0, "DATA_OUT_OF_RANGE", "frame_rate = -1.0"),
        ("number_of_frames", 0, "DATA_OUT_OF_RANGE", "number_of_frames = 0: accepted is 1"),
        ("number_of_series", -1, "DATA_OUT_OF_RANGE", "number_of_series = -1"),
        ("input_file", "/no/such/file.h5", "CONFIGURATION_ERROR", "/no/such/file.h5"),
        ("misbehaviour", "lots=3", "CONFIGURATION_ERROR", "'lots=3': accepted are lost=3,7"),
        ("hits", 101.0, "DATA_OUT_OF_RANGE", "hits = 101.0"),
        ("shape", [64], "DATA_OUT_OF_RANGE", "accepted are rows and columns"),
        ("shape", [64, 63], "DATA_OUT_OF_RANGE", "64 to 16384"),
        ("dtype", "float32", "DATA_OUT_OF_RANGE", "dtype = 'float32': accepted is one of uint8"),
        ("image_events", "often", "CONFIGURATION_ERROR", "image_events = 'often'"),
        ("buffer_max_number", 0, "DATA_OUT_OF_RANGE", "buffer_max_number = 0"),
    ],
)
def test_a_wrong_setting_changes_nothing(device, name, value, reason, words):
    before = device.read_attribute(name).value
    with pytest.raises(tango.DevFailed) as caught:
        device.write_attribute(name, value)
    error = caught.value.args[0]
    assert error.reason == reason
    assert words in error.desc
    assert error.origin == f"SimulatedDetector.write_{name}"
    np.testing.assert_array_equal(device.read_attribute(name).value, before)


def test_attributes_explain_themselves(device):
    for config in device.get_attribute_config_ex(device.get_attribute_list()):
        if config.name not in ("State", "Status"):
            assert config.label != config.name and config.description.endswith("."), config.name
    assert device.get_attribute_config("frame_rate").unit == "Hz"
    assert device.get_attribute_config("hits").unit == "%"


def test_the_life_of_a_series(device):
    states, status = [], []
    ids = [
        device.subscribe_event("State", tango.EventType.CHANGE_EVENT, lambda e: states.append(e.attr_value.value)),
        device.subscribe_event("Status", tango.EventType.CHANGE_EVENT, lambda e: status.append(e.attr_value.value)),
    ]
    device.number_of_frames = 1000
    device.Start()
    assert device.state() == RUNNING
    wait_for_images(device)
    assert device.source_url == "tango://sim/det/1/image"
    with refused("OPERATION_NOT_ALLOWED", "Start while frames are sent: Stop first"):
        device.Start()
    with refused("OPERATION_NOT_ALLOWED", "write hits while frames are sent"):
        device.hits = 3.0
    device.Stop()
    wait_for(lambda: device.state() == STANDBY, "the end")
    assert 0 < device.frames_sent < 1000
    assert device.acq_status == "Ready" and device.is_finished
    device.Stop()  # redundant
    wait_for(lambda: states[-1:] == [STANDBY] and status[-1:] == ["Stopped."], "the last event")
    assert RUNNING in states
    assert device.source_url == ""
    for event in ids:
        device.unsubscribe_event(event)


def test_init_and_stop_do_not_wait_for_events(device):
    """A push of an image waits for the monitor of the device that these commands hold."""
    ids = [device.subscribe_event("image", tango.EventType.CHANGE_EVENT, lambda event: None)]
    device.number_of_frames, device.frame_rate = 100_000, 0.0
    for end in (device.Stop, device.Init):
        device.Start()
        wait_for_images(device)
        end()
        wait_for(lambda: device.state() == STANDBY, "the end")
    assert device.number_of_frames == 100_000  # Init keeps the settings
    for event in ids:
        device.unsubscribe_event(event)


def test_change_and_alarm_events_together(device):
    """Alarm events that are not declared would make every push fail."""
    counts = {}
    ids = []
    for kind in ("CHANGE_EVENT", "ALARM_EVENT"):
        for name in ("image", "frames_sent", "State"):
            counts[kind, name] = 0

            def count(event, key=(kind, name)):
                counts[key] += not event.err

            ids.append(device.subscribe_event(name, getattr(tango.EventType, kind), count))
    run(device)
    wait_for(lambda: counts["CHANGE_EVENT", "image"] >= 20, f"twenty images, not {counts}")
    for event in ids:
        device.unsubscribe_event(event)


def test_what_cannot_be_sent_is_a_fault_that_can_be_left(device):
    device.protocol, device.dtype = "stream1", "int32"
    run(device, FAULT)
    assert "use stream2" in device.status()
    device.Reset()
    assert device.state() == STANDBY
    device.protocol = "stream2"
    device.Start()
    wait_for(lambda: device.source_url, "the stream")
    device.Stop()


# ---- what it sends ---------------------------------------------------------------------------------------------


def test_images_by_number(device):
    device.misbehaviour = "corrupt=3 lost=5"
    run(device)
    assert (device.last_image_ready, device.acq_nb_frames, device.frames_sent) == (19, 20, 19)
    assert json.loads(device.progress_counters) == {"nb_frames_source": 20, "nb_frames_processed": 20}
    expected = simulated(20)
    for command, name in ((device.readImage, "DATA_ARRAY"), (device.getFrame, "DENSE_FRAME")):
        encoding, data = command(4)
        assert encoding == name
        assert struct.unpack_from("<IHH", data) == (0x44544159, 3, 64)
        assert struct.unpack_from("<Q", data, 56) == (4,)
        np.testing.assert_array_equal(np.frombuffer(data[64:], "<u2").reshape(64, 64), expected[4])
        assert len(command(3)[1]) == len(data) // 2
        with refused("OPERATION_NOT_ALLOWED", "image 5 is not available any more"):
            command(5)
        with refused("OPERATION_NOT_ALLOWED", "image 20 is not available yet"):
            command(20)
    assert device.readImage(-1)[1] == device.readImage(19)[1]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("uint8", "image_uint8"), ("uint16", "image"), ("uint32", "image_uint32"), ("int32", "image_int32")],
)
def test_the_newest_image(device, dtype, name):
    device.dtype, device.number_of_frames = dtype, 3
    run(device)
    image, number = device.read_attributes([name, "image_number"])
    assert number.value == 2
    assert image.value.dtype == dtype
    np.testing.assert_array_equal(image.value, simulated(3, dtype=dtype)[2])
    assert abs(image.time.totime() - time.time()) < PATIENCE
    other = "image" if name != "image" else "image_uint8"
    with refused("OPERATION_NOT_ALLOWED", f"the image is {dtype}: read {name}"):
        device.read_attribute(other)


def test_frames_of_a_file(device, tmp_path):
    path = tmp_path / "frames.h5"
    write_simulation(path, StillSimulator((70, 90), n_frames=5, dtype="uint16"), 5)
    device.input_file = str(path)
    device.number_of_frames = 7  # they are repeated
    run(device)
    simulator = StillSimulator((70, 90), n_frames=5, dtype="uint16")
    for number, place in ((0, 0), (4, 4), (6, 1)):
        data = device.readImage(number)[1]
        np.testing.assert_array_equal(np.frombuffer(data[64:], "<u2").reshape(70, 90), simulator.frame(place))


@pytest.mark.parametrize("protocol", ["stream1", "stream2"])
def test_a_stream(device, protocol):
    device.protocol, device.misbehaviour = protocol, "lost=3 duplicated=5"
    device.Start()
    wait_for(lambda: device.source_url, "the stream")
    assert device.source_url.startswith(f"{protocol}://127.0.0.1:")
    source = open_source(device.source_url)
    source.open()
    events, deadline = [], time.monotonic() + PATIENCE
    while not any(isinstance(event, SeriesEnd) for event in events) and time.monotonic() < deadline:
        if (event := source.read(0.2)) is not None:
            events.append(event)
    source.close()
    frames = [event for event in events if isinstance(event, Frame)]
    assert [frame.number for frame in frames] == [0, 1, 2, 4, 5, 5, *range(6, 20)]
    np.testing.assert_array_equal(pixels_of(frames[3].payload), simulated(20)[4])
    wait_for(lambda: device.state() == STANDBY, "the end")
    assert device.frames_sent == 20
    with refused("OPERATION_NOT_ALLOWED", "not available yet"):
        device.readImage(0)  # of the protocol tango only


# ---- without Tango ---------------------------------------------------------------------------------------------


def play(text: str = "", **options):
    """What a series shows, in order, and the series."""
    shown = []
    frames = SimulatedInput(StillSimulator((64, 64), n_frames=2), 2)
    options = {"n_frames": 12, "buffer_size": 100} | options
    series = TangoSeries(frames, misbehaviour=Misbehaviour.parse(text), show=shown.append, **options)
    series.start()
    assert series.wait(PATIENCE)
    series.stop()
    return [one.number for one in shown], series


def test_the_order_in_which_images_are_shown():
    assert play()[0] == list(range(12))
    assert play("lost=3 duplicated=5")[0] == [0, 1, 2, 4, 5, 5, *range(6, 12)]
    assert play("late=2:3")[0] == [0, 1, 3, 4, 5, 2, *range(6, 12)]
    numbers, series = play("aborted=4 lost=1 corrupt=2", series=2)
    assert numbers == [0, 2, 3, 4, 0, *range(2, 12)]
    assert (series.done.images, series.done.lost, series.done.corrupt) == (15, 2, 2)


def test_the_last_one_that_is_ready_is_behind_one_that_is_late():
    seen = []
    frames = SimulatedInput(StillSimulator((64, 64), n_frames=2), 2)
    misbehaviour = Misbehaviour.parse("late=2:3 lost=4")
    series = TangoSeries(frames, n_frames=8, misbehaviour=misbehaviour, show=lambda shown: seen.append(series.last))
    series.start()
    assert series.wait(PATIENCE)
    series.stop()
    # images 0, 1, 3, 5, 6, 2, 7: while 2 is missing, 1 is the last; 4 is not waited for
    assert seen == [0, 1, 1, 1, 1, 6, 7]


def test_what_is_kept():
    _, series = play(buffer_size=3)
    assert [series.image(number).number for number in (-1, 9, 10, 11)] == [11, 9, 10, 11]
    with pytest.raises(NotAllowedError, match="image 8 is not available any more"):
        series.image(8)


def test_a_series_is_stopped_at_any_moment():
    frames = SimulatedInput(StillSimulator((64, 64), n_frames=2), 2)
    series = TangoSeries(frames, n_frames=10, misbehaviour=Misbehaviour.parse("stall=1:1000"))
    series.start()
    wait_for(lambda: series.last == 0, "the first image")
    series.stop()
    assert series.status == "Ready"
    assert "tango-detector" not in [thread.name for thread in threading.enumerate()]
