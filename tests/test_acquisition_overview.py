"""Virtual powder, map of the scan and last hit, against peaks and pixels that were planted."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
from framesieve.acquisition.overview import INVALID, MAP_FRAMES, Overview
from framesieve.acquisition.virtual_powder import MAX_PIXELS, VirtualPowder, decimation
from framesieve.processing.bins import make_bins
from framesieve.processing.frames import NOWHERE, ReducedFrame, Verdict
from framesieve.processing.parameters import Parameters, ParameterSet

ANY = ParameterSet(1, Parameters(veto_min_peaks=2))
SHAPE = (6, 8)


def bins_of(shape, mask=None, norm=None):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return make_bins(np.hypot(x, y).astype(np.float64), 10, mask, norm)


def frame(number, peaks=(), *, picked=(), background=3.0, position=NOWHERE, verdict=Verdict.KEPT):
    """`peaks`: (x, y, intensity) each; `picked`: (flat index, value) each."""
    rows = np.array([(*peak, 1, 9, 4, 50) for peak in peaks], np.float32).reshape(-1, 7)
    index, intensity = np.array(picked, np.int64).reshape(-1, 2).T
    curve = np.full(10, background, np.float32)
    return ReducedFrame(
        number, "s", 0.0, verdict, parameter_set=1, n_peaks=len(rows), index=index.astype(np.uint32),
        intensity=intensity.astype(np.uint16), background_mean=curve, background_std=np.ones_like(curve), peaks=rows,
        position=position,
    )  # fmt: skip


def begun(shape=SHAPE, **options) -> Overview:
    overview = Overview()
    overview.begin(bins_of(shape, **options), np.uint16)
    return overview


def test_the_powder_is_the_maximum_and_the_sum_of_what_was_planted():
    overview = begun()
    overview.add([frame(0, [(2.4, 1.6, 10), (7, 5, 4)]), frame(1)], ANY)
    overview.add([frame(2, [(2, 2, 30), (2, 2, 5)], verdict=Verdict.VETOED)], ANY)  # twice in one frame
    view = overview.view()
    highest, total = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    highest[2, 2], highest[5, 7] = 30, 4
    total[2, 2], total[5, 7] = 45, 4
    assert np.array_equal(view.virtual_powder_max, highest)
    assert np.array_equal(view.virtual_powder_sum, total)
    assert view.virtual_powder_max.dtype == view.virtual_powder_sum.dtype == np.float32
    assert (view.virtual_powder_frames, view.virtual_powder_step) == (3, 1)


def test_a_large_detector_is_decimated_as_its_preview():
    powder = VirtualPowder((2167, 2070))
    assert powder.step == 3
    powder.add([np.array([[2069, 2166, 7], [0, 0, 5], [2, 2, 6], [3, 2, 1]], np.float32)])
    preview = np.zeros((2167, 2070), bool)[::3, ::3]
    assert powder.highest.shape == preview.shape == (723, 690)
    assert np.argwhere(powder.highest).tolist() == [[0, 0], [0, 1], [722, 689]]
    assert powder.highest[[0, 0, 722], [0, 1, 689]].tolist() == [6, 1, 7]
    assert powder.total[0, 0] == 11


@pytest.mark.parametrize("shape", [(1, 1), (1000, 1000), (1001, 1000), (4362, 4148), (1, 3_000_000)])
def test_the_step_is_the_smallest_that_is_enough(shape):
    def pixels(step):
        return math.prod(len(range(0, length, step)) for length in shape)

    step = decimation(shape)
    assert pixels(step) <= MAX_PIXELS
    assert step == 1 or pixels(step - 1) > MAX_PIXELS


def test_a_sum_does_not_forget_weak_peaks_beside_strong_ones():
    powder = VirtualPowder((1, 1))
    powder.add([np.array([[0, 0, 2**24]], np.float32)])
    for _ in range(64):
        powder.add([np.array([[0, 0, 1]], np.float32)])
    assert powder.total[0, 0] == 2**24 + 64


def test_clear_begins_anew_and_keeps_the_last_hit():
    overview = begun()
    overview.add([frame(4, [(1, 1, 5), (2, 2, 5)], position=(1, 2))], ANY)
    overview.clear()
    view = overview.view()
    assert not view.virtual_powder_max.any() and not view.virtual_powder_sum.any()
    assert (view.virtual_powder_frames, len(view.hit_map), view.last_hit_number) == (0, 0, 4)
    overview.add([frame(5, [(1, 1, 5)], position=(3, 4))], ANY)
    assert overview.view().hit_map.tolist() == [[3, 4, 1]]
    assert overview.view().virtual_powder_sum[1, 1] == 5


def test_the_map_has_the_peaks_of_every_frame_whose_position_is_known():
    overview = begun()
    overview.add([frame(0, [(1, 1, 1)], position=(0.5, -2)), frame(1), frame(2, position=(math.nan, 1))], ANY)
    overview.add([frame(3, position=(0.25, 7))], ANY)
    assert overview.view().hit_map.tolist() == [[0.5, -2, 1], [0.25, 7, 0]]


def test_the_map_is_bounded_and_in_order():
    overview = begun()
    for number in range(MAP_FRAMES + 3):
        overview.add([frame(number, position=(number, 0))], ANY)
    assert overview.view().hit_map[:, 0].tolist() == list(range(3, MAP_FRAMES + 3))


def test_the_last_hit_is_pictured_by_its_background_and_its_picked_pixels():
    mask = np.zeros(SHAPE, bool)
    mask[0, 3] = True
    norm = np.ones(SHAPE)
    norm[5] = 2.0
    overview = begun(mask=mask, norm=norm)
    hit = frame(7, [(1, 1, 5), (2, 2, 6)], picked=[(9, 70), (3, 80), (18, 90)], background=3.0)
    overview.add([frame(6, [(0, 0, 1)] * 3), hit, frame(8, [(1, 1, 5)])], ANY)  # the last one is none
    view = overview.view()
    expected = np.full(SHAPE, 3, np.uint16)
    expected[5] = 6
    expected[1, 1], expected[2, 2] = 70, 90
    expected[0, 3] = INVALID
    assert view.last_hit_number == 7
    assert np.array_equal(view.last_hit_peaks, hit.peaks[:, :6])
    assert np.array_equal(view.last_hit_preview, expected)


def test_a_picked_pixel_between_those_of_a_decimated_picture_is_seen():
    shape = (1500, 1000)  # every second pixel
    overview = begun(shape)
    overview.add([frame(0, [(1, 1, 5)] * 2, picked=[(3 * 1000 + 5, 70), (2 * 1000 + 4, 9), (0, 99)])], ANY)
    picture = overview.view().last_hit_preview
    assert picture.shape == (750, 500)
    assert picture[1, 2] == 70
    assert picture[0, 0] == 99
    assert np.count_nonzero(picture != 3) == 2


def test_a_hit_of_the_same_number_in_the_next_series_is_another_one():
    overview = begun()
    for value in (70, 80):
        overview.add([frame(1, [(1, 1, 5)] * 2, picked=[(9, value)])], ANY)
        assert overview.view().last_hit_preview[1, 1] == value


def test_a_view_is_made_once_and_may_be_a_little_older():
    overview = begun()
    overview.add([frame(0)], ANY)
    view = overview.view()
    assert overview.view() is view
    overview.add([frame(1)], ANY)
    assert overview.view(max_age=1e6) is view
    assert overview.view().virtual_powder_frames == 2
    assert view.virtual_powder_frames == 1  # it does not change afterwards


def test_before_the_first_frame_all_is_empty():
    view = Overview().view()
    assert view.virtual_powder_max.shape == view.last_hit_preview.shape == (0, 0)
    assert (view.last_hit_number, view.last_hit_peaks.shape, view.hit_map.shape) == (-1, (0, 6), (0, 3))


def test_views_while_frames_come_are_of_one_moment():
    overview = begun()
    done = threading.Event()

    def add():
        for number in range(400):
            overview.add([frame(number, [(1, 1, 1), (2, 3, 1)], position=(number, 0))], ANY)
        done.set()

    thread = threading.Thread(target=add)
    thread.start()
    while not done.is_set():
        view = overview.view()
        n = view.virtual_powder_frames
        assert view.virtual_powder_sum.sum() == 2 * n
        assert len(view.hit_map) == n
        assert view.last_hit_number == n - 1
    thread.join()
    assert overview.view().virtual_powder_frames == 400
