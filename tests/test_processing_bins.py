"""Radial bins: each valid pixel belongs to one, sorted."""

import numpy as np
import oracles
import pytest
from framesieve.processing.bins import make_bins
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.geometry import pixel_geometry
from framesieve.processing.poni import read_poni
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_data import data_file


def check_partition(bins, valid):
    """Every valid pixel once, ascending within its bin, at a position that belongs to the bin."""
    assert np.array_equal(np.sort(bins.order), np.flatnonzero(valid))
    assert bins.bounds[0] == 0 and bins.bounds[-1] == valid.sum()
    assert (np.diff(bins.bounds.astype(np.int64)) >= 0).all()
    assert np.array_equal(bins.mask, ~valid)
    for b in range(bins.count):
        run = bins.order[bins.bounds[b] : bins.bounds[b + 1]]
        assert (np.diff(run.astype(np.int64)) > 0).all()
        position = bins.position[run]
        assert ((position >= b - 0.5 - 1e-3) & (position <= b + 0.5 + 1e-3)).all()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    count=st.integers(1, 40),
    seed=st.integers(0, 1000),
    masked=st.sampled_from([0.0, 0.3, 0.9]),
    bad_norm=st.sampled_from([None, 0.0, 0.3]),
)
def test_partition(rows, columns, count, seed, masked, bad_norm):
    rng = np.random.default_rng(seed)
    radius = rng.choice([rng.random((rows, columns)), np.ones((rows, columns))])
    mask = rng.random((rows, columns)) < masked
    norm = None
    if bad_norm is not None:
        norm = rng.uniform(0.5, 1.5, (rows, columns))
        norm[rng.random((rows, columns)) < bad_norm] = rng.choice([0.0, -1.0, np.nan, np.inf])
    valid = ~mask if norm is None else ~mask & np.isfinite(norm) & (norm > 0)
    if not valid.any():
        with pytest.raises(ConfigurationError, match="no pixel"):
            make_bins(radius, count, mask, norm)
        return
    bins = make_bins(radius, count, mask, norm)
    check_partition(bins, valid)
    assert bins.count == count and bins.radius.size == count


def test_pixels_are_where_the_edges_put_them():
    radius = oracles.radius_image((40, 50), (17.3, 22.8))
    valid = np.random.default_rng(0).random(radius.shape) > 0.2
    for count in (1, 2, 7, 100, 800):
        bins = make_bins(radius, count, ~valid)
        for b, expected in enumerate(oracles.bins_of(radius, valid, count)):
            assert np.array_equal(bins.order[bins.bounds[b] : bins.bounds[b + 1]], expected), (count, b)


def test_norm_is_none_where_it_is_one_and_masks_where_it_is_not_positive():
    radius = oracles.radius_image((6, 6))
    assert make_bins(radius, 3).norm is None
    assert make_bins(radius, 3, None, np.ones((6, 6))).norm is None
    norm = np.ones((6, 6))
    norm[0] = [0, -1, np.nan, np.inf, -np.inf, 0.5]
    bins = make_bins(radius, 3, None, norm)
    assert np.flatnonzero(bins.mask).tolist() == [0, 1, 2, 3, 4]
    assert bins.norm[5] == 0.5 and bins.norm.dtype == np.float32
    assert np.isfinite(bins.norm).all()
    norm[0, 5] = 1
    assert make_bins(radius, 3, None, norm).norm is None  # ones wherever a pixel is left


def test_mask_of_any_type():
    radius = oracles.radius_image((4, 4))
    for dtype in (bool, np.uint8, np.int32, np.uint32, np.float32):
        mask = np.zeros((4, 4), dtype)
        mask[1, 2] = 1
        assert np.flatnonzero(make_bins(radius, 2, mask).mask).tolist() == [6]


def test_nothing_left():
    with pytest.raises(ConfigurationError, match="no pixel"):
        make_bins(oracles.radius_image((4, 4)), 5, np.ones((4, 4)))
    with pytest.raises(ConfigurationError, match="no pixel"):
        make_bins(oracles.radius_image((4, 4)), 5, None, np.zeros((4, 4)))


@pytest.mark.parametrize(
    "radius, count",
    [
        (np.ones((3, 5)), 1),  # one radius, one bin
        (np.ones((3, 5)), 10),  # one radius, many bins
        (np.zeros((2, 2)), 4),
        (np.arange(15.0).reshape(3, 5), 1),
        (np.array([[7.0]]), 800),  # one pixel
        (np.arange(15.0).reshape(3, 5), 60_000),  # many more bins than pixels
    ],
)
def test_extremes(radius, count):
    bins = make_bins(radius, count)
    check_partition(bins, np.ones(radius.shape, bool))
    assert np.isfinite(bins.radius).all()
    assert np.isfinite(bins.radius_image).all()
    np.testing.assert_allclose(bins.radius_image, radius, rtol=1e-4, atol=1e-9)
    reduction = oracles.reduce_once(np.full(radius.shape, 5, np.uint16), bins)
    assert np.nanmax(reduction.mean) == np.nanmin(reduction.mean) == 5
    assert reduction.index.size == 0


def test_radius_image_gives_the_radius_back():
    radius = oracles.radius_image((30, 40), (11.2, 3.4))
    mask = np.zeros(radius.shape, bool)
    mask[3:5] = True
    image = make_bins(radius, 50, mask).radius_image
    assert np.array_equal(np.isnan(image), mask)
    np.testing.assert_allclose(image[~mask], radius[~mask], rtol=1e-5, atol=1e-9)


def test_centres_as_in_pyfai_on_a_real_frame():
    pyfai = pytest.importorskip("pyFAI")
    fabio = pytest.importorskip("fabio")
    path = data_file("pilatus6m_x06sa.cbf.gz")
    poni_path = data_file("pilatus6m_x06sa.poni")
    mask = fabio.open(path).data < 0
    bins = make_bins(pixel_geometry(read_poni(poni_path), mask.shape).radius, 800, mask)
    ai = pyfai.load(str(poni_path))
    engine = ai.setup_sparse_integrator(
        mask.shape, 800, mask=mask.astype(np.int8), unit="r_m", split="no", algo="CSR", empty=0, scale=False
    )
    np.testing.assert_allclose(bins.radius, engine.bin_centers, atol=1e-3 * (bins.radius[1] - bins.radius[0]))
    # pyFAI divides in float32: a pixel on an edge may fall into the neighbouring bin
    difference = np.diff(bins.bounds.astype(int)) - np.diff(engine.lut[2])
    assert np.abs(difference).max() <= 8 and np.abs(difference).sum() <= 200
