"""The parts of the benchmark of fidelity that need no DIALS."""

from __future__ import annotations

import numpy as np
import pytest
from framesieve.benchmarks.fidelity import DataSet, Spots, box_mean, compare, permuted, redrawn
from scipy.ndimage import uniform_filter


def spots(*rows: tuple[float, float, float, float], sigma: float = 10.0) -> Spots:
    """Of frame, x, y, net counts."""
    frame, x, y, net = np.array(rows, float).T
    box = np.column_stack([x - 1, x + 2, y - 1, y + 2]).astype(int)
    return Spots(frame.astype(int), x, y, box, net + 20, np.full(x.size, 9), net, np.full(x.size, sigma))


def test_comparing():
    raw = spots((0, 10, 10, 100), (0, 30, 10, 200), (1, 10, 10, 60), (1, 50, 50, 20))
    other = spots((0, 10.6, 10.6, 110), (1, 30, 10, 300), (1, 10, 10, 60), (0, 80, 80, 30))
    result = compare(raw, other)
    assert result["strong_raw"] == 3
    assert result["found"] == pytest.approx(200 / 3)  # one lies in another frame now
    assert result["found_above_10"] == 0  # of one
    assert result["new"] == pytest.approx(100 * 2 / 4)
    assert result["new_strong"] == pytest.approx(100 / 3)
    assert result["intensity"] == pytest.approx(100 * (10 / 120) / 2)
    assert result["net_intensity"] == pytest.approx(5) and result["net_bias"] == pytest.approx(5)


def data_set() -> DataSet:
    frames = np.random.default_rng(4).poisson(5, (2, 60, 70))
    mask = np.zeros((60, 70), bool)
    mask[20:23] = True
    return DataSet(frames, mask, [])


def test_box_mean():
    data = data_set()
    weight = uniform_filter((~data.mask).astype(float), 7, mode="constant")
    expected = uniform_filter(np.where(data.mask, 0.0, data.frames[0]), 7, mode="constant") / weight
    np.testing.assert_allclose(box_mean(data.frames[0], ~data.mask, 7), expected)


def test_references():
    data, rng = data_set(), np.random.default_rng(1)
    found = spots((0, 30, 40, 100))
    image = redrawn(data, found, rng)[0]
    near = np.s_[39 - 3 : 42 + 3, 29 - 3 : 32 + 3]
    np.testing.assert_array_equal(image[near], data.frames[0][near])
    changed = image != data.frames[0]
    assert changed.mean() > 0.7
    kept = [np.array([5, 800, 801]), np.array([7])]
    for before, after, index in zip(data.frames, permuted(data, kept, rng), kept, strict=True):
        np.testing.assert_array_equal(after.ravel()[index], before.ravel()[index])
        np.testing.assert_array_equal(after[data.mask], before[data.mask])
        np.testing.assert_array_equal(np.sort(after[:16, :16], axis=None), np.sort(before[:16, :16], axis=None))
        assert (before != after).mean() > 0.5
