"""The preview of a frame and its peaks belong together."""

from __future__ import annotations

import numpy as np
from framesieve.acquisition.collector import PREVIEW_INVALID, Collector
from framesieve.processing.device_times import DeviceTimes
from framesieve.processing.frames import ReducedFrame, Verdict
from framesieve.processing.parameters import ParameterStore

SHAPE = (2000, 2100)  # 4.2 million pixels: every third pixel of every third row is a preview of less than a million


def frame(number, peaks=()):
    peaks = np.array(peaks, np.float32).reshape(-1, 7)
    empty = np.zeros(0, np.uint32)
    return ReducedFrame(
        number, "s", 0.0, Verdict.KEPT, parameter_set=1, n_peaks=len(peaks), index=empty, intensity=empty,
        background_mean=np.zeros(3, np.float32), background_std=np.zeros(3, np.float32), peaks=peaks,
        raw_bytes=4, stored_bytes=4,
    )  # fmt: skip


def snapshot(collector):
    return collector.snapshot(what_if_min_peaks=0, veto_max_peaks=0, occupancy=0.0)


def add(collector, *frames):
    collector.add(list(frames), ParameterStore().current, DeviceTimes(0.1), 0)


def test_a_preview_is_shown_when_its_peaks_are_known():
    collector = Collector()
    collector.set_preview(np.full((4, 5), 7, np.uint16), 3)
    add(collector, frame(2, [[1, 1, 9, 1, 9, 4, 9]]))
    assert snapshot(collector).preview.size == 0
    add(collector, frame(3, [[4, 2, 9, 1, 9, 4, 9]]), frame(4))
    got = snapshot(collector)
    assert np.array_equal(got.preview, np.full((4, 5), 7))
    assert (got.preview_frame, got.preview_step) == (3, 1)
    assert np.array_equal(got.preview_peaks, [[4, 2, 9, 1, 9, 4]])
    assert got.last_frame_number == 4


def test_frames_that_never_get_peaks_do_not_pile_up():
    collector = Collector()
    for number in range(100):
        collector.set_preview(np.zeros((4, 5), np.uint16), number)
    assert len(collector._without_peaks) == 8
    add(collector, frame(99))
    assert snapshot(collector).preview_frame == 99
    assert not collector._without_peaks


def test_masked_and_flagged_pixels_are_invalid_and_spots_between_pixels_are_seen():
    collector = Collector()
    image = np.ones(SHAPE, np.uint32)
    image[30, 60] = 2**32 - 1
    image[100, 400] = 5000  # not a pixel of the preview
    mask = np.zeros(SHAPE, bool)
    mask[33] = True
    collector.mask = mask
    collector.set_preview(image, 0)
    spots = [[400, 100, 9, 1, 9, 4, 5000], [2099.4, 1999.4, 9, 1, 9, 4, 80_000], [0, 33, 9, 1, 9, 4, 70]]
    add(collector, frame(0, spots))
    got = snapshot(collector)
    assert got.preview_step == 3
    expected = np.ones((667, 700), np.uint16)
    expected[10, 20] = PREVIEW_INVALID
    expected[11] = PREVIEW_INVALID
    expected[33, 133] = 5000
    expected[666, 699] = PREVIEW_INVALID - 1
    assert np.array_equal(got.preview, expected)
