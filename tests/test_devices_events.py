"""What is pushed: every change, at most ten times a second, the last value always; ALARM while running."""

import threading
import time
from itertools import groupby

import numpy as np
import pytest
import tango
from devices_helpers import serve, wait_until
from tango import AttrQuality, DevState, EventType

CHANGE, ARCHIVE = EventType.CHANGE_EVENT, EventType.ARCHIVE_EVENT


class Listener:
    """Events of one attribute, as (value, quality)."""

    def __init__(self, device, name, kind=CHANGE):
        self.device = device
        self.events = []
        self.errors = []
        self.times = []
        self.id = device.subscribe_event(name, kind, self)

    def push_event(self, event):
        if event.err:
            self.errors.append(event.errors[0].reason)
            return
        self.times.append(time.monotonic())
        self.events.append((event.attr_value.value, event.attr_value.quality))

    @property
    def values(self):
        return [value for value, _ in list(self.events)]


@pytest.fixture(scope="module")
def server():
    with serve() as devices:
        yield devices


@pytest.fixture
def devices(server):
    server.acquisition.Abort()
    server.clear()
    return server


@pytest.fixture
def listen(devices):
    listeners = []

    def start(*arguments):
        listeners.append(Listener(*arguments))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.device.unsubscribe_event(listener.id)
        assert listener.errors == []


def test_state_and_counts_of_a_run(devices, listen):
    states, counts = listen(devices.acquisition, "State"), listen(devices.acquisition, "frame_count")
    states_of_veto = listen(devices.veto, "State")
    devices.acquisition.Start()
    wait_until(lambda: states.values[-1] == DevState.RUNNING)
    wait_until(lambda: counts.values[-1] > 5)
    devices.acquisition.Stop()
    wait_until(lambda: states.values[-1] == DevState.STANDBY)
    order = counts.values[:]
    time.sleep(0.25)
    assert counts.values[-1] == devices.acquisition.frame_count
    assert order == sorted(order)
    for seen in (states.values, states_of_veto.values):
        assert [key for key, _ in groupby(seen)] == [DevState.STANDBY, DevState.RUNNING, DevState.STANDBY]
    assert len(counts.values) < devices.acquisition.frame_count  # not one per frame


def test_the_final_numbers_are_pushed_before_the_state(devices, listen):
    states, counts = listen(devices.acquisition, "State"), listen(devices.acquisition, "frame_count")
    devices.acquisition.Start()
    wait_until(lambda: states.values[-1] == DevState.RUNNING)
    devices.feed(frame_count=1000)
    devices.acquisition.Stop()
    wait_until(lambda: states.values[-1] == DevState.STANDBY)
    assert counts.values[-1] >= 1000
    assert counts.times[-1] < states.times[-1]


def test_the_final_arrays_too_however_short_the_time_since_the_last_push(devices, listen):
    states, previews = listen(devices.acquisition, "State"), listen(devices.acquisition, "preview")
    devices.acquisition.Start()
    wait_until(lambda: states.values[-1] == DevState.RUNNING)
    seen = len(previews.values)
    wait_until(lambda: len(previews.values) > seen + 2)  # the next one would be due in 0.2 s only
    devices.feed()
    devices.acquisition.Stop()
    wait_until(lambda: states.values[-1] == DevState.STANDBY)
    assert np.array_equal(previews.values[-1], devices.acquisition.preview)
    assert previews.times[-1] < states.times[-1]


def test_settings_are_pushed_when_they_change_by_whatever_way(devices, listen):
    noise = listen(devices.sparsifier, "noise")
    model = listen(devices.sparsifier, "error_model")
    names = listen(devices.acquisition, "settings_available")
    devices.sparsifier.noise = 2
    devices.sparsifier.error_model = "hybrid"
    wait_until(lambda: noise.values[-1] == 2 and model.values[-1] == 2)
    devices.acquisition.SaveSettings("a")
    devices.sparsifier.noise = 3
    devices.acquisition.LoadSettings("a")
    wait_until(lambda: noise.values[-1] == 2)
    wait_until(lambda: list(names.values[-1]) == ["a"])


def test_all_kinds_of_events_on_one_attribute(devices, listen):
    """Without declared alarm events a client could stop all events of the server by subscribing to two kinds."""
    kinds = (CHANGE, EventType.ALARM_EVENT, ARCHIVE)
    rates = [listen(devices.acquisition, "buffer_occupancy", kind) for kind in kinds]
    for device in devices.all:
        for name in device.get_attribute_list():
            for kind in kinds:
                if name not in ("State", "Status") or kind is not EventType.ALARM_EVENT:
                    listen(device, name, kind)
    count = listen(devices.veto, "kept_count")
    devices.feed(buffer_occupancy=10.0)
    wait_until(lambda: rates[0].values[-1] == rates[2].values[-1] == 10)
    devices.feed(buffer_occupancy=95.0, kept_count=5)
    wait_until(lambda: rates[1].events[-1] == (95, AttrQuality.ATTR_ALARM))
    devices.feed(buffer_occupancy=96.0)
    wait_until(lambda: rates[0].values[-1] == 96)
    assert rates[1].values[-1] == 95  # only a change of quality is an alarm event
    wait_until(lambda: count.values[-1] == 5)


def test_empty_arrays_are_pushed(devices, listen):
    peaks, preview = listen(devices.peakfinder, "last_peaks"), listen(devices.acquisition, "preview")
    devices.feed(last_peaks=np.ones((3, 6), np.float32))
    wait_until(lambda: peaks.values[-1].shape == (3, 6))
    devices.feed(last_peaks=np.zeros((0, 6), np.float32), preview=np.zeros((0, 0), np.uint16))
    wait_until(lambda: peaks.values[-1].size == 0)
    wait_until(lambda: preview.values[-1].size == 0)


def test_the_preview_is_pushed_at_most_five_times_a_second_and_the_last_one_always(devices, listen):
    preview = listen(devices.acquisition, "preview")
    devices.acquisition.Start()
    time.sleep(1.0)
    devices.acquisition.Stop()
    wait_until(lambda: np.array_equal(preview.values[-1], devices.acquisition.preview))
    assert min(np.diff(preview.times[2:-1])) > 0.15  # the last one does not wait
    assert 4 <= len(preview.times) <= 9


def test_what_does_not_change_is_pushed_once_more_and_not_again(devices, listen):
    """Once more, because an event that is pushed while a client subscribes may not reach it."""
    curve, stored = (listen(devices.sparsifier, "background_mean", kind) for kind in (CHANGE, ARCHIVE))
    state = listen(devices.veto, "State")
    devices.feed()

    def pushes(listener):
        return sum(value.size == 5 for value in listener.values)

    wait_until(lambda: pushes(curve) == 2)
    for _ in range(30):
        devices.feed()  # an equal array, with a NaN
        time.sleep(0.05)
    assert (pushes(curve), pushes(stored)) == (2, 1), "an archive has it once"
    assert state.values[1:] in ([], [DevState.STANDBY])


# --- ALARM


def test_lost_frames_are_an_alarm_while_running(devices, listen):
    states = listen(devices.acquisition, "State")
    devices.feed(frames_lost=1)
    time.sleep(0.25)
    assert devices.acquisition.state() == DevState.STANDBY
    devices.acquisition.Start()
    wait_until(lambda: states.values[-1] == DevState.RUNNING)
    devices.feed(frames_dropped=3)
    wait_until(lambda: states.values[-1] == DevState.ALARM)
    assert devices.acquisition.state() == DevState.ALARM
    assert "frames_dropped" in devices.acquisition.status()
    assert devices.veto.state() == DevState.RUNNING
    with pytest.raises(tango.DevFailed):
        devices.acquisition.Start()
    devices.acquisition.Stop()
    wait_until(lambda: states.values[-1] == DevState.STANDBY)


def test_a_limit_passed_is_an_alarm_on_the_device_that_has_it(devices):
    devices.acquisition.Start()
    devices.feed(processing_time=2000.0)
    wait_until(lambda: devices.acquisition.state() == DevState.ALARM)
    assert "processing_time = 2000 is past its limit of 1000" in devices.acquisition.status()
    devices.feed(processing_time=1.0)
    wait_until(lambda: devices.acquisition.state() == DevState.RUNNING)

    config = devices.veto.get_attribute_config("hit_rate")
    config.alarms.min_alarm = "5"
    devices.veto.set_attribute_config(config)
    wait_until(lambda: devices.veto.state() == DevState.ALARM)
    devices.feed(hit_rate=50.0)
    wait_until(lambda: devices.veto.state() == DevState.RUNNING)
    assert devices.acquisition.state() == DevState.RUNNING
    config.alarms.min_alarm = "Not specified"
    devices.veto.set_attribute_config(config)


def test_a_full_buffer_is_no_alarm_while_a_file_is_read(devices):
    devices.acquisition.source = "file:/data/x.h5"
    devices.acquisition.Start()
    devices.feed(buffer_occupancy=100.0)
    time.sleep(0.3)
    assert devices.acquisition.state() == DevState.RUNNING
    assert devices.acquisition.read_attribute("buffer_occupancy").quality == AttrQuality.ATTR_ALARM
    devices.acquisition.Stop()
    devices.acquisition.source = ""


# --- living on


def test_many_clients_do_not_stop_the_publisher(devices, listen):
    """Reads, writes and commands compete with the publisher for the monitors of the devices."""
    counts = listen(devices.acquisition, "frame_count")
    devices.acquisition.Start()
    stop = threading.Event()
    failures = []

    def client(number):
        device = devices.all[number % 4]
        with tango.EnsureOmniThread():
            while not stop.is_set():
                try:
                    for name in device.get_attribute_list():
                        device.read_attribute(name)
                    devices.sparsifier.noise = 1 + number
                    devices.acquisition.ReadCounters(0)
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    devices.acquisition.Stop()
    wait_until(lambda: counts.values[-1] == devices.acquisition.frame_count)
