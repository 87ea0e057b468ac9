"""Simulated frames with peaks in known places: how many are found, where, and how strong.

The signal-to-noise ratio here is that of the simulator's truth: expected counts of a peak's brightest pixel above
the background, over √(background + 1).
"""

import math
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
from framesieve.processing.bins import make_bins
from framesieve.processing.geometry import pixel_geometry
from framesieve.processing.parameters import ErrorModel, Parameters
from framesieve.processing.poni import parse_poni
from framesieve.processing.reducer import Reducer
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.spots import match_peaks, pixel_fractions

N_FRAMES = 6
BINS = 200
MODELS = list(ErrorModel)
#: solvent ring and air scatter with solid angle and polarization, 1.6 to 12 counts; and flat backgrounds
BACKGROUNDS = {"scattering": None, "2 counts": 2.0, "20 counts": 20.0}


def reduce_frames(simulator, parameters: Parameters, *, corrected: bool, n: int = N_FRAMES, count: int = BINS):
    poni = parse_poni(simulator.poni_text())
    polarization = simulator.experiment.polarization if corrected else 0.0
    geometry = pixel_geometry(poni, simulator.shape, solid_angle=corrected, polarization=polarization)
    norm = geometry.solid_angle * geometry.polarization if corrected else None
    bins = make_bins(geometry.radius, count, simulator.mask, norm)
    reducer = Reducer(bins, simulator.dtype, oracles.device(), batch_size=1)
    results = []
    for i in range(n):
        frame, truth = simulator.frame_and_truth(i)
        reducer.inputs[0][0] = frame
        results.append((reducer.reduce(0, 1, parameters)[0], truth.spots))
    reducer.close()
    return bins, results


@pytest.fixture(scope="module", params=BACKGROUNDS)
def planted(request):
    background = BACKGROUNDS[request.param]
    simulator = PlantedSimulator((1024, 1024), n_peaks=300, snr=(5, 100), background=background, seed=3)
    bins, results = reduce_frames(simulator, Parameters(), corrected=background is None)
    return SimpleNamespace(simulator=simulator, bins=bins, results=results)


def matches(planted):
    for reduction, spots in planted.results:
        wanted = (spots["snr"] > 8) & spots["clean"]
        yield reduction, spots, wanted, match_peaks(reduction.peaks[:, :2], np.c_[spots["x"], spots["y"]], 1.5, wanted)


def test_recall_and_precision(planted):
    """Default settings; of all frames together."""
    wanted = found = right = reported = 0
    for reduction, _, is_wanted, match in matches(planted):
        wanted += is_wanted.sum()
        found += round(match.recall * is_wanted.sum())
        right += len(match.found)
        reported += len(reduction.peaks)
    print(f"recall {found / wanted:.4f} of {wanted}, precision {right / reported:.4f} of {reported}")
    assert wanted > 1000
    assert found / wanted >= 0.98
    assert right / reported >= 0.98


def test_centroids(planted):
    strong, offsets, truth = [], [], []
    for reduction, spots, _, match in matches(planted):
        offsets.append(match.offset)
        strong.append(spots["snr"][match.truth] > 30)
        nearest = np.rint(np.c_[spots["x"], spots["y"]])
        truth.append((np.c_[spots["x"], spots["y"]] - nearest)[match.truth])
        assert len(reduction.peaks) > 200
    strong, offsets, truth = np.concatenate(strong), np.concatenate(offsets), np.concatenate(truth)
    rms = math.sqrt((offsets[strong] ** 2).sum(axis=1).mean())
    slope = np.polyfit(truth[strong].ravel(), offsets[strong].ravel(), 1)[0]
    mean = offsets[strong].mean(axis=0)
    print(f"{strong.sum()} peaks above 30 σ: {rms:.3f} px rms, mean {mean}, {slope:+.3f} of the true offset")
    assert strong.sum() > 300
    assert rms <= 0.1
    assert abs(slope) < 0.05  # weights of the noise would pull towards the middle of the pixel
    assert np.abs(mean).max() < 0.01


def test_intensities(planted):
    """Σd is the share of the peak that the neighbourhood catches: the sum of the profile over the 5 × 5 pixels around
    the brightest, known from the truth. Where there is a norm, intensities are divided by it."""
    ratios, weights = [], []
    for reduction, spots, _, match in matches(planted):
        strong = spots["snr"][match.truth] > 20
        spot, peak = spots[match.truth[strong]], reduction.peaks[match.found[strong]]
        sigma = spot["sigma"].astype(float)
        caught = np.ones(len(spot))
        for axis in ("x", "y"):
            first, share = pixel_fractions(spot[axis], sigma)
            middle = np.rint(spot[axis]).astype(int) - first
            columns = middle[:, None] + np.arange(-2, 3)
            caught *= np.take_along_axis(share, columns, axis=1).sum(axis=1)
        if planted.bins.norm is not None:
            norm = planted.bins.norm.reshape(planted.simulator.shape)
            caught /= norm[np.rint(spot["y"]).astype(int), np.rint(spot["x"]).astype(int)]
        ratios.append(peak[:, 2] / (spot["counts"] * caught))
        weights.append(spot["counts"])
    ratio = np.average(np.concatenate(ratios), weights=np.concatenate(weights))
    print(f"found / true intensity {ratio:.4f}")
    assert ratio == pytest.approx(1, abs=0.01)


def test_uncertainties_are_those_of_the_background(planted):
    """√Σσ² over 25 pixels, σ² = background + noise² (the azimuthal std of a Poisson background)."""
    if planted.bins.norm is not None:
        pytest.skip("only where the background is flat")
    level = float(planted.simulator.background.max())
    for reduction, _ in planted.results:
        np.testing.assert_allclose(reduction.peaks[:, 3], math.sqrt(25 * (level + 1)), rtol=0.1)


#: a bin can tell 1 % when that is more than four standard errors of its mean (from its counts, all frames together)
TOLD = 0.01 / 4


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("background", [1.1, 5.0, 40.0])
def test_background_mean(background, model):
    """Within 1 % of the truth in every bin that can tell, peaks on it or not."""
    simulator = PlantedSimulator((1024, 1024), n_peaks=100, background=background, seed=4, pool=0)
    bins, results = reduce_frames(simulator, Parameters(error_model=model), corrected=False, n=12, count=40)
    pixels = np.diff(bins.bounds) * len(results)
    told = 1 / np.sqrt(background * pixels) < TOLD
    means = np.mean([reduction.mean for reduction, _ in results], axis=0)
    worst = np.abs(means[told] / background - 1).max()
    overall = np.average(means, weights=pixels) / background - 1
    print(f"{told.sum()} bins, worst {worst:.4f}, all pixels {overall:+.4f}")
    assert told.sum() >= 20
    assert worst < 0.01
    assert abs(overall) < 0.005


@pytest.mark.parametrize("model", MODELS)
def test_background_mean_of_scattering(model):
    """The same where the background falls with the radius, with solid angle and polarization, wherever there is more
    than one count per pixel."""
    simulator = PlantedSimulator((1024, 1024), n_peaks=100, seed=5, pool=0)
    bins, results = reduce_frames(simulator, Parameters(error_model=model), corrected=True, n=12)
    signal, norm = simulator.background.ravel().astype(float), bins.norm.astype(float)
    runs = np.split(bins.order, bins.bounds[1:-1])
    truth = np.array([signal[run].sum() / norm[run].sum() for run in runs])
    counts = np.array([signal[run].mean() for run in runs])
    size = np.array([run.size for run in runs]) * len(results)
    told = (counts > 1) & (1 / np.sqrt(counts * size) < TOLD)
    means = np.mean([reduction.mean for reduction, _ in results], axis=0)
    ratio = means[told] / truth[told]
    print(f"{told.sum()} bins, worst {np.abs(ratio - 1).max():.4f}, mean {ratio.mean() - 1:+.4f}")
    assert told.sum() > 50
    assert np.abs(ratio - 1).max() < 0.01
