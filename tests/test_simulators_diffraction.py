"""Simulated frames against known answers: Poisson statistics, Bragg's law, Ewald's construction, the truth table."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from framesieve.processing.errors import OutOfRangeError
from framesieve.simulators.background import BeamStop, Scattering, background_mean
from framesieve.simulators.detector_layout import DetectorLayout
from framesieve.simulators.diffraction import StillSimulator
from framesieve.simulators.experiment import Experiment
from framesieve.simulators.lattice import LYSOZYME, Imperfection, Lattice, random_orientation, structure_factors
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.spots import match_peaks

SHAPE = (390, 410)
NEAR = Experiment(SHAPE, distance=0.03)  # close, so that the small detector reaches 2 Å
SMALL_STOP = BeamStop(radius=0.8e-3, arm_width=0.3e-3)


def small_simulator(**options):
    options = {"hit_share": 0.5, "n_frames": 20, "seed": 7, "pool": 2, **options}
    layout = DetectorLayout(SHAPE, module=(180, 200), gap=(30, 10), dead_share=1e-3, noisy_pixels=5, hot_pixels=3)
    return StillSimulator(experiment=NEAR, beam_stop=SMALL_STOP, layout=layout, **options)


def test_background_is_poisson_around_its_mean_in_every_ring():
    simulator = small_simulator(hit_share=0, pool=0)
    frames = np.array([simulator.frame(i) for i in range(8)]).astype(float)
    good = simulator.mask == 0
    good.ravel()[simulator.hot_pixels] = False
    two_theta = NEAR.two_theta()
    for low, high in zip(np.arange(0.1, 0.5, 0.1), np.arange(0.2, 0.6, 0.1), strict=True):
        ring = good & (two_theta >= low) & (two_theta < high)
        mean = simulator.background[ring].astype(float)
        counts = frames[:, ring]
        total = len(frames) * mean.sum()
        assert abs(counts.sum() - total) < 4 * math.sqrt(total)
        # (n − μ)²/μ has the mean 1 and the variance 2 + 1/μ for a Poisson number n
        ratio = ((counts - mean) ** 2 / mean).mean()
        error = math.sqrt((2 + 1 / mean).mean() / counts.size)
        assert abs(ratio - 1) < 4 * error


def test_frames_that_share_no_background_are_independent():
    simulator = small_simulator(hit_share=0, pool=0)
    good = simulator.mask == 0
    good.ravel()[simulator.hot_pixels] = False
    residual = [simulator.frame(i)[good] - simulator.background[good].astype(float) for i in (0, 1)]
    assert abs(np.corrcoef(residual)[0, 1]) < 4 / math.sqrt(good.sum())


@pytest.mark.parametrize("share, n", [(0.3, 1000), (0.0, 10), (1.0, 10), (0.25, 10)])
def test_share_of_hits_is_exact(share, n):
    simulator = small_simulator(hit_share=share, n_frames=n)
    hits = [simulator.is_hit(i) for i in range(2 * n)]
    assert sum(hits[:n]) == sum(hits[n:]) == round(share * n)
    if 0 < share < 1:
        assert hits[:n] != hits[n:]


def test_same_seed_same_frames_in_any_order_and_thread():
    first, second = small_simulator(), small_simulator()
    frames = [first.frame(i) for i in range(6)]
    with ThreadPoolExecutor(3) as pool:
        again = list(pool.map(second.frame, reversed(range(6))))
    for a, b in zip(frames, reversed(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(frames, map(small_simulator(seed=8).frame, range(6)), strict=True))


@pytest.mark.parametrize("dtype, flag", [("uint8", 255), ("uint16", 65535), ("uint32", 2**32 - 1), ("int32", -1)])
def test_masked_pixels_are_flagged_and_no_others(dtype, flag):
    simulator = small_simulator(dtype=dtype, spot_counts=1e6, hit_share=1)
    image = simulator.frame(0)
    assert image.dtype == dtype
    np.testing.assert_array_equal(image == flag, simulator.pixel_mask != 0)


def test_hot_pixels_are_not_in_the_mask_and_count_at_their_rate():
    simulator = small_simulator(hit_share=0, pool=0)
    counts = np.array([simulator.frame(i).ravel()[simulator.hot_pixels] for i in range(20)], float)
    assert not simulator.mask.ravel()[simulator.hot_pixels].any()
    expected = 20 * (simulator.hot_rates + simulator.background.ravel()[simulator.hot_pixels])
    assert (np.abs(counts.sum(axis=0) - expected) < 4.5 * np.sqrt(expected)).all()


def test_default_layout_is_an_eiger2_4m_of_eight_modules():
    layout = DetectorLayout((2167, 2070), dead_share=0, noisy_pixels=0, hot_pixels=0)
    good = layout.pixel_mask() == 0
    assert good.sum() == 8 * 514 * 1030
    assert good[0, 0] and good[-1, -1]
    assert (np.flatnonzero(~good[0]) == np.arange(1030, 1040)).all()


def test_spots_satisfy_the_ewald_condition_and_none_is_missing():
    """Reciprocal basis, rotation, sphere and detector written out anew, reflection by reflection."""
    simulator = small_simulator()
    orientation = random_orientation(np.random.default_rng(5))
    np.testing.assert_allclose(orientation @ orientation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(orientation) == pytest.approx(1)
    spots = simulator.spots(orientation)
    assert len(spots) > 50
    reciprocal = np.linalg.inv(orientation @ np.diag([LYSOZYME[0], LYSOZYME[0], LYSOZYME[1]]))  # rows a*, b*, c*
    imperfection, wavelength = simulator.imperfection, NEAR.wavelength
    table = {(int(s["h"]), int(s["k"]), int(s["l"])): s for s in spots}
    f_squared = {tuple(map(int, hkl)): f for hkl, f in zip(simulator.lattice.hkl, simulator.lattice.f_squared)}  # noqa: B905
    expected = 0
    for hkl, f2 in f_squared.items():
        q = hkl @ reciprocal
        k = q + np.array([0, 0, 1 / wavelength])
        excitation = np.linalg.norm(k) - 1 / wavelength
        width = float(imperfection.width(np.linalg.norm(q), wavelength))
        if abs(excitation) > 2 * width or k[2] <= 0:
            continue
        x = NEAR.beam_center[0] + NEAR.distance / NEAR.pixel_size * k[0] / k[2]
        y = NEAR.beam_center[1] + NEAR.distance / NEAR.pixel_size * k[1] / k[2]
        if not (0 <= x <= SHAPE[1] - 1 and 0 <= y <= SHAPE[0] - 1) or f2 < 0.05:
            continue
        if simulator.shadow[round(y), round(x)] < 1:
            continue
        expected += 1
        spot = table[hkl]
        assert (spot["x"], spot["y"]) == pytest.approx((x, y), abs=1e-6)
        # Bragg: the spacing by the place on the detector is that of the lattice, as far as the width allows
        spacing = float(NEAR.resolution(spot["x"], spot["y"]))
        assert 1 / spacing == pytest.approx(np.linalg.norm(q), abs=4 * width)
    assert expected > 20


def test_resolution_follows_bragg():
    radius = NEAR.distance * math.tan(2 * math.asin(NEAR.wavelength / (2 * 3.3)))
    x = NEAR.beam_center[0] + radius / NEAR.pixel_size
    assert float(NEAR.resolution(x, NEAR.beam_center[1])) == pytest.approx(3.3)


def test_structure_factors_are_wilson_distributed_and_symmetric():
    lattice = Lattice(d_min=2.0, b_factor=0)
    h, k, l = np.abs(lattice.hkl).T  # noqa: E741
    unique = (lattice.hkl >= 0).all(axis=1) & (h > k) & (k > 0) & (l > 0)
    values = lattice.f_squared[unique]
    assert values.mean() == pytest.approx(1, abs=4 / math.sqrt(len(values)))
    assert np.mean(values > 2) == pytest.approx(math.exp(-2), abs=4 * math.sqrt(0.12 / len(values)))
    equivalent = structure_factors(np.array([[3, 5, 2], [-3, 5, 2], [5, 3, 2], [5, -3, -2]]), 1)
    assert len(set(equivalent)) == 1
    assert structure_factors(np.array([[3, 5, 2]]), 2) != equivalent[0]


def test_screw_axes_extinguish_reflections():
    present = set(map(tuple, Lattice(d_min=3.0).hkl.tolist()))
    assert (0, 0, 4) in present and (0, 0, 2) not in present
    assert (2, 0, 0) in present and (3, 0, 0) not in present and (0, -5, 0) not in present


def test_intensity_falls_with_the_excitation_error():
    reflections = Lattice(d_min=2.0).excite(np.eye(3), 1.0, Imperfection())
    lattice = {tuple(hkl): f for hkl, f in zip(Lattice(d_min=2.0).hkl.tolist(), Lattice(d_min=2.0).f_squared)}  # noqa: B905
    q = np.linalg.norm(reflections.hkl / np.array([LYSOZYME[0], LYSOZYME[0], LYSOZYME[1]]), axis=1)
    width = Imperfection().width(q, 1.0)
    relative = reflections.intensity * width / [lattice[tuple(hkl)] for hkl in reflections.hkl.tolist()]
    expected = np.exp(-0.5 * (reflections.excitation / width) ** 2)
    np.testing.assert_allclose(relative / relative.max(), expected / expected.max(), rtol=1e-6)


def test_planted_peaks_have_their_counts_places_and_snr():
    """Sums and centroids over a box, background subtracted, against the expectation within the Poisson errors."""
    simulator = PlantedSimulator((600, 600), n_peaks=300, snr=(10, 60), background=3.0, seed=2, pool=0)
    pulls, shifts = [], []
    for i in range(2):
        image, truth = simulator.frame_and_truth(i)
        spots = truth.spots
        assert len(spots) == 300 and spots["clean"].all()
        assert spots["snr"].min() >= 9.99 and spots["snr"].max() <= 60.01
        distance = np.abs(spots["x"][:, None] - spots["x"]), np.abs(spots["y"][:, None] - spots["y"])
        np.fill_diagonal(distance[0], 99)
        assert np.maximum(*distance).min() >= 15
        for spot in spots:
            x, y = round(spot["x"]), round(spot["y"])
            box = image[y - 5 : y + 6, x - 5 : x + 6] - 3.0
            pulls.append((box.sum() - spot["counts"]) / math.sqrt(spot["counts"] + 3.0 * box.size))
            offset = np.arange(-5, 6)
            shifts.append(box.sum(axis=0) @ offset / box.sum() + x - spot["x"])
            shifts.append(box.sum(axis=1) @ offset / box.sum() + y - spot["y"])
    assert np.mean(pulls) == pytest.approx(0, abs=4 / math.sqrt(len(pulls)))
    assert np.var(pulls) == pytest.approx(1, abs=4 * math.sqrt(2 / len(pulls)))
    assert np.mean(shifts) == pytest.approx(0, abs=4 * np.std(shifts) / math.sqrt(len(shifts)))


def test_spots_of_a_hit_are_on_the_frame():
    simulator = small_simulator(hit_share=1, pool=0, crystal_spread=0)
    total = expected = 0.0
    for i in range(5):
        image, truth = simulator.frame_and_truth(i)
        assert truth.hit and (np.diff(truth.spots["counts"]) <= 0).all()
        for spot in truth.spots[truth.spots["clean"] & (truth.spots["counts"] > 100)]:
            x, y = round(spot["x"]), round(spot["y"])
            around = slice(y - 3, y + 4), slice(x - 3, x + 4)
            total += image[around].sum() - simulator.background[around].sum()
            expected += spot["counts"]
    # neighbours inside the box add a little
    assert total == pytest.approx(expected, rel=0.05)


def test_clean_tells_spots_that_touch_masked_pixels_or_the_edge():
    simulator = small_simulator(hit_share=1)
    spots = np.concatenate([simulator.truth(i).spots for i in range(5)])
    bad = np.pad(simulator.mask.astype(bool), 3, constant_values=True)
    for spot in spots:
        x, y = round(spot["x"]), round(spot["y"])
        assert spot["clean"] == (not bad[y : y + 7, x : x + 7].any())
    assert 0 < spots["clean"].mean() < 1


def test_too_many_peaks_and_bad_values_are_refused():
    with pytest.raises(OutOfRangeError, match="room for"):
        PlantedSimulator((100, 100), n_peaks=100)
    with pytest.raises(OutOfRangeError, match="float32"):
        small_simulator(dtype="float32")
    with pytest.raises(OutOfRangeError, match="hit share"):
        small_simulator(hit_share=30)


def test_geometry_is_that_of_pyfai(tmp_path):
    pyfai = pytest.importorskip("pyFAI")
    (tmp_path / "g.poni").write_text(NEAR.poni_text())
    reference = pyfai.load(str(tmp_path / "g.poni"))
    np.testing.assert_allclose(NEAR.two_theta(), reference.twoThetaArray(SHAPE), atol=1e-6)
    np.testing.assert_allclose(
        NEAR.polarization_factor(*NEAR.offsets()), reference.polarization(SHAPE, factor=0.99), atol=1e-5
    )
    scattering = Scattering(ring=0, air=0, floor=1)
    expected = reference.solidAngleArray(SHAPE) * reference.polarization(SHAPE, factor=0.99)
    np.testing.assert_allclose(background_mean(NEAR, scattering), expected, rtol=1e-4)


def test_matching_is_one_to_one_and_closest_first():
    truth = np.array([[10.0, 10.0], [12.0, 10.0], [50.0, 50.0], [80.0, 20.0]])
    found = np.array([[11.2, 10.0], [11.0, 10.2], [50.3, 50.4], [30.0, 30.0]])
    match = match_peaks(found, truth, radius=1.5, wanted=[True, True, True, False])
    assert sorted(zip(match.found.tolist(), match.truth.tolist(), strict=True)) == [(0, 1), (1, 0), (2, 2)]
    assert match.recall == 1 and match.precision == 0.75
    offset = np.array([[-0.8, 0], [1.0, 0.2], [0.3, 0.4]])
    assert match.rms_error == pytest.approx(math.sqrt((offset**2).sum() / 3))


def test_matching_of_nothing():
    empty = np.zeros((0, 2))
    some = np.ones((3, 2))
    assert math.isnan(match_peaks(empty, empty).recall)
    assert match_peaks(empty, some).recall == 0 and math.isnan(match_peaks(empty, some).precision)
    assert match_peaks(some, empty).precision == 0
    assert len(match_peaks(some, some).found) == 3
