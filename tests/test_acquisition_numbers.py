"""The numbers of a run are made once per change, and are never old."""

import threading
import time

import numpy as np
from framesieve.acquisition import collector as module
from framesieve.acquisition.collector import Collector
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
        collector.add([frame(number, n_peaks=5 * number)], SET, 0.01, 10)
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
        collector.add([frame(number)], SET, 0.01, 10)
    assert round(snapshot(collector).frame_rate, 6) == 10
    now += 0.99
    assert round(snapshot(collector).frame_rate, 6) == 10
    now += 0.02
    assert snapshot(collector).frame_rate == 0 and snapshot(collector).frame_count == 3


def test_who_reads_what_is_known_waits_for_nobody():
    collector = Collector()
    collector.add([frame(0)], SET, 0.01, 10)
    first = snapshot(collector)
    seen = []
    with collector._lock:  # as a batch that is being counted
        reader = threading.Thread(target=lambda: seen.append(snapshot(collector)))
        reader.start()
        reader.join(20)
        assert seen and seen[0].peak_count_history is first.peak_count_history
