"""The numbers behind the plots of the panel, against counting and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from framesieve.clients.panel.curves import (
    INVALID,
    bright_level,
    colours,
    kept_fraction,
    log_ticks,
    picking_threshold,
    pitch,
    shade,
    spots,
)
from framesieve.clients.panel.names import GROUPS, page_of
from scipy.special import erfc
from scipy.stats import poisson


@pytest.mark.parametrize("max_peaks", [0, 7, 40])
def test_kept_fraction_is_what_counting_says(max_peaks):
    counts = np.random.default_rng(1).poisson(12, 500)
    kept = kept_fraction(np.bincount(counts, minlength=50), max_peaks)
    for threshold in range(50):
        hits = (counts >= threshold) & ((counts <= max_peaks) if max_peaks else True)
        assert kept[threshold] == pytest.approx(100 * hits.mean())


def test_a_limit_in_the_last_bin_is_none():
    histogram = np.array([3, 2, 5])  # the five have two peaks or more
    assert kept_fraction(histogram, 2) == pytest.approx([100, 70, 50])
    assert kept_fraction(histogram, 1) == pytest.approx([50, 20, 0])


def test_no_frames_no_share():
    assert not kept_fraction(np.zeros(5)).any()


def test_the_threshold_is_that_of_the_documents():
    mean, std = np.array([10.0, 0.5, np.nan]), np.array([3.0, 0.0, np.nan])
    got = picking_threshold(mean, std, 4.0, 2.0, "azimuthal")
    assert got[:2] == pytest.approx([10 + 2 * 5, 0.5 + 2 * 4])
    assert np.isnan(got[2])


@pytest.mark.parametrize("snr", [2.0, 3.0, 5.0])
def test_the_exact_threshold_is_the_smallest_count_that_chance_does_not_explain(snr):
    means = np.array([0.003, 0.1, 1.0, 7.3, 60.0])
    chance = 0.5 * erfc(snr / np.sqrt(2))
    got = picking_threshold(means, np.sqrt(means), 1.0, snr, "exact")
    for mean, count in zip(means, got, strict=True):
        assert count == int(count)
        assert poisson.sf(count - 1, mean) <= chance < poisson.sf(count - 2, mean)


def test_beyond_the_tables_the_exact_threshold_is_the_normal_one():
    got = picking_threshold(np.array([1e4, np.nan]), np.array([100.0, np.nan]), 1.0, 3.0, "exact")
    assert got[0] == pytest.approx(1e4 + 300)
    assert np.isnan(got[1])


def test_colours_are_logarithmic_and_invalid_pixels_have_their_own():
    grey = np.array([[0, 0, 0], [200, 200, 200]], np.float64)
    lut = colours(99.0, grey, (1, 2, 3))
    assert lut.shape == (65536, 3)
    assert tuple(lut[INVALID]) == (1, 2, 3)
    assert tuple(lut[0]) == (0, 0, 0)
    assert tuple(lut[9]) == (100, 100, 100)  # log(10) is half of log(100)
    assert tuple(lut[99]) == tuple(lut[50_000]) == (200, 200, 200)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (-2.2, 4.1, ["0.01", "1", "100", "10⁴"]),
        (-0.3, 2.2, ["1", "10", "100"]),
        (0.2, 1.2, ["3", "10"]),
        (2.01, 2.9, ["200", "500"]),
        (-0.6, 0.3, ["0.3", "1"]),
        (4.9, 6.1, ["10⁵", "10⁶"]),
        (-5.2, -4.1, ["10⁻⁵", "3·10⁻⁵"]),
        (1.1, 1.2, []),
    ],
)
def test_a_logarithmic_axis_has_a_few_labels_that_can_be_read(low, high, labels):
    got = log_ticks(low, high)
    assert [text for _, text in got] == labels
    for place, text in got:
        assert low <= place <= high
        if text.replace(".", "").isdecimal():
            assert place == pytest.approx(np.log10(float(text)))


def test_the_pitch_of_a_scan_is_the_distance_of_neighbours():
    y, x = np.mgrid[:30, :40]
    grid = np.stack([x.ravel() * 0.002, y.ravel() * 0.005], axis=1)
    assert pitch(grid) == pytest.approx(0.002)
    assert pitch(np.repeat(grid, 3, axis=0)) == pytest.approx(0.002)
    assert pitch(grid[:1]) == pitch(np.zeros((0, 2))) == 1


def test_spots_are_seen_however_large_the_powder_is():
    powder = np.zeros((100, 50), np.float32)
    powder[0, 0], powder[99, 49], powder[52, 21], powder[53, 21] = 5, 7, 8, 9
    assert np.argwhere(spots(powder, 100) == 5).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    small = spots(powder, 40)  # of every 3 × 3 pixels the highest
    assert small.shape == (34, 17)
    expected = np.zeros((34, 17))
    expected[:2, :2], expected[32:, 15:], expected[16:19, 6:9] = 5, 7, 9
    assert np.array_equal(small, expected)


def test_shades_go_from_nothing_to_the_brightest():
    grey = np.array([[0, 0, 0], [255, 255, 255]], np.float64)
    shown = shade(np.array([[0, 9, 99, 1e6]]), grey)
    assert shown.shape == (1, 4, 3)
    assert tuple(shown[0, 0]) == (0, 0, 0) and tuple(shown[0, 3]) == (255, 255, 255)
    assert 0 < shown[0, 1, 0] < shown[0, 2, 0] < 255
    assert not shade(np.zeros((2, 2)), grey).any()


def test_the_bright_level_ignores_invalid_pixels():
    preview = np.full((90, 90), INVALID, np.uint16)
    assert bright_level(preview) == 10
    preview[:60] = 500
    assert bright_level(preview) == 500


def test_a_setting_that_the_panel_does_not_know_is_shown_all_the_same():
    known = next(iter(GROUPS["Thresholds"].values()))[0]
    pages = page_of({known, "veto/new_setting"})
    assert [key for groups in pages.values() for keys in groups.values() for key in keys] == [known, "veto/new_setting"]
