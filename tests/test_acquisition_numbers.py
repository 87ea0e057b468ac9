"""The numbers of a run are made once per change, and are never old."""

import math
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from framesieve.acquisition import collector as module
from framesieve.acquisition.collector import Collector
from framesieve.processing.device_times import DeviceTimes
from framesieve.processing.frames import ReducedFrame, Verdict
from framesieve.processing.parameters import ParameterStore

SET = ParameterStore().current


def frame(number, n_peaks=3):
    return ReducedFrame(
        number, "s", 0.0, Verdict.KEPT, raw_bytes=200, stored_bytes=100, n_peaks=n_peaks, n_pixels=2,
        index=np.arange(2, dtype=np.uint32), intensity=np.ones(2, np.uint16), peaks=np.zeros((n_peaks, 7), np.float32),
        background_mean=np.ones(4, np.float32), background_std=np.ones(4, np.float32), parameter_set=SET.number,
    )  # fmt: skip


def snapshot(collector, what_if=0, most=0, occupancy=0.0):
    return collector.snapshot(what_if_min_peaks=what_if, veto_max_peaks=most, occupancy=occupancy)


def test_every_change_shows_at_once():
    collector = Collector()
    assert snapshot(collector).frame_count == 0
    for number in range(3):
        collector.add([frame(number, n_peaks=5 * number)], SET, DeviceTimes(0.01), 10)
        seen = snapshot(collector)
        assert (seen.frame_count, seen.last_frame_number, seen.peak_count) == (number + 1, number, 5 * number)
        assert seen.peak_count_history.tolist() == [5 * n for n in range(number + 1)]
    assert [snapshot(collector, what_if=least).what_if_kept_fraction for least in (0, 5, 11)] == [100, 200 / 3, 0]
    assert snapshot(collector, 5, most=9).what_if_kept_fraction == 100 / 3
    assert snapshot(collector, occupancy=7.0).buffer_occupancy == 7
    collector.set_error("broken")
    assert snapshot(collector).last_error == "broken"
    collector.output_file = "x.h5"
    assert snapshot(collector).output_file == "x.h5"


def test_rates_sink_to_zero_though_nothing_changes(monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    collector = Collector()
    for number in range(3):
        now += 0.1
        collector.add([frame(number)], SET, DeviceTimes(0.01), 10)
    assert round(snapshot(collector).frame_rate, 6) == 10
    now += 0.99
    assert round(snapshot(collector).frame_rate, 6) == 10
    now += 0.02
    assert snapshot(collector).frame_rate == 0 and snapshot(collector).frame_count == 3


def test_who_reads_what_is_known_waits_for_nobody():
    collector = Collector()
    collector.add([frame(0)], SET, DeviceTimes(0.01), 10)
    first = snapshot(collector)
    seen = []
    with collector._lock:  # as a batch that is being counted
        reader = threading.Thread(target=lambda: seen.append(snapshot(collector)))
        reader.start()
        reader.join(20)
        assert seen and seen[0].peak_count_history is first.peak_count_history


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=time.monotonic())
    monkeypatch.setattr(module.time, "monotonic", lambda: now.time)
    return now


def device_numbers(collector):
    seen = snapshot(collector)
    return [seen.upload_time, seen.kernel_time, seen.download_time, seen.device_utilisation]


def test_device_times_are_means_per_frame_and_the_utilisation_is_their_share_of_the_second(clock):
    """10 batches of 2 frames per second: 20 ms per frame in kernels and downloads, 20 times a second, is 40 %."""
    collector = Collector()
    assert device_numbers(collector) == [0, 0, 0, 0]
    for number in range(0, 60, 2):
        clock.time += 0.1
        times = DeviceTimes(0.09, 2, 0.004, 0.036, 0.004)  # of both frames
        collector.add([frame(number), frame(number + 1)], SET, times, 10)
    assert device_numbers(collector) == pytest.approx([2, 18, 2, 40])
    for number in range(60, 100, 2):  # twice as fast
        clock.time += 0.1
        collector.add([frame(number), frame(number + 1)], SET, DeviceTimes(0.09, 2, 0.002, 0.018, 0.002), 10)
    assert device_numbers(collector) == pytest.approx([1, 9, 1, 20])
    clock.time += 1.01
    assert device_numbers(collector) == pytest.approx([1, 9, 1, 0]), "means stay, as processing_time does"


def test_device_times_of_a_few_timed_batches_stand_for_all(clock):
    """One in five batches is timed, and says so; the first one comes after a pause."""
    collector = Collector()
    for number in range(100):
        clock.time += 0.02
        times = DeviceTimes(0.02, 5, 0, 0.04, 0.01) if number % 5 == 0 else DeviceTimes(0.02)
        collector.add([frame(number)], SET, times, 10)
        assert device_numbers(collector) == pytest.approx([0, 8, 2, 50]), number
    clock.time += 20
    for number in range(100, 104):
        collector.add(
            [frame(number)], SET, DeviceTimes(0.02, 1, 0, 0.02, 0.001) if number == 100 else DeviceTimes(0.02), 10
        )
        assert device_numbers(collector)[:3] == pytest.approx([0, 20, 1]), number
        clock.time += 0.02


def test_the_utilisation_of_two_devices_is_their_mean_and_never_above_100(clock):
    collector = Collector()
    collector.set_devices(["one", "other"])
    for number in range(20):
        clock.time += 0.1
        collector.add([frame(number)], SET, DeviceTimes(0.1, 1, 0.5, 0.11, 0.01), 10)
    assert device_numbers(collector) == pytest.approx([500, 110, 10, 60]), "uploads go beside the kernels"
    collector.set_devices(["one"])
    assert device_numbers(collector)[3] == 100  # what is delivered at once was not reduced at once


def test_where_a_driver_does_not_tell_times_are_unknown_and_all_else_is_as_ever(clock):
    collector = Collector()
    for number in range(5):
        clock.time += 0.1
        collector.add([frame(number)], SET, DeviceTimes(0.05, untold=1), 10)
    assert all(math.isnan(value) for value in device_numbers(collector))
    assert snapshot(collector).processing_time == pytest.approx(50) and snapshot(collector).frame_rate == pytest.approx(
        10
    )
    for number in range(5, 10):  # as one of two devices may
        clock.time += 0.1
        collector.add([frame(number)], SET, DeviceTimes(0.05, 2, 0, 0.06, 0.02), 10)
    assert device_numbers(collector) == pytest.approx([0, 30, 10, 40])
