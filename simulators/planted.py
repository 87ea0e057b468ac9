"""Frames with isolated peaks of chosen strength in known places: the yardstick for a peak finder."""

from __future__ import annotations

import numpy as np

from ..processing.errors import OutOfRangeError
from .background import Scattering, background_mean
from .counting import CountingSimulator
from .detector_layout import DetectorLayout
from .experiment import EIGER2_4M_SHAPE, Experiment
from .spots import NOISE, FrameTruth, describe, pixel_fractions

SEED_PLACES = 6


class PlantedSimulator(CountingSimulator):
    """Every frame has `n_peaks` peaks at random sub-pixel places, clear of each other, of masked pixels and the edge.

    See `CountingSimulator` for the frames' statistics and the other attributes.

    Parameters
    ----------
    shape
        (rows, columns).
    n_peaks
        Per frame; a `hit` is a frame with any.
    snr
        Lowest and highest signal-to-noise ratio: expected counts of the brightest pixel above background over
        √(background + 1²). Spread evenly in the logarithm.
    sigma
        Rms width of a peak, pixels.
    separation
        Least distance of two peaks in x or in y, pixels.
    background
        Mean counts: one number, an array (rows, columns), or None for that of `Scattering`.
    seed, dtype, pool
        See `CountingSimulator`.
    experiment, layout
        Geometry and detector; by default there are no defects.
    """

    def __init__(
        self,
        shape: tuple[int, int] = EIGER2_4M_SHAPE,
        *,
        n_peaks: int = 200,
        snr: tuple[float, float] = (5.0, 50.0),
        sigma: float = 0.8,
        separation: int = 15,
        background: np.ndarray | float | None = None,
        seed: int = 0,
        dtype: np.dtype | type | str = np.uint16,
        pool: int = 4,
        experiment: Experiment | None = None,
        layout: DetectorLayout | None = None,
    ) -> None:
        experiment = experiment or Experiment(shape)
        if n_peaks < 0 or not 0 < snr[0] <= snr[1] or sigma <= 0:
            raise OutOfRangeError(f"{n_peaks} peaks of SNR {snr} and width {sigma}: positive, lowest SNR first")
        if background is None:
            background = background_mean(experiment, Scattering())
        super().__init__(
            experiment,
            layout or DetectorLayout(experiment.shape, dead_share=0, noisy_pixels=0, hot_pixels=0),
            np.broadcast_to(background, experiment.shape),
            dtype=dtype,
            seed=seed,
            pool=pool,
        )
        self.n_peaks, self.snr, self.sigma, self.separation = n_peaks, snr, sigma, separation
        self._cells = self._free_cells()
        if n_peaks > len(self._cells):
            raise OutOfRangeError(f"{n_peaks} peaks: there is room for {len(self._cells)} on this detector")

    def _free_cells(self) -> np.ndarray:
        """Corners (y, x) of squares of the side separation + 2 without a bad pixel, int64 (n, 2)."""
        side = self.separation + 2
        rows, columns = (n // side for n in self.shape)
        cut = self.bad[: rows * side, : columns * side].reshape(rows, side, columns, side)
        return np.argwhere(~cut.any(axis=(1, 3))) * side

    def truth(self, i: int) -> FrameTruth:
        """What frame `i` is made of."""
        rng = np.random.default_rng([self.seed, SEED_PLACES, i])
        corner = self._cells[rng.choice(len(self._cells), size=self.n_peaks, replace=False)]
        # the centre varies by two pixels within its square: neighbours stay `separation` apart
        y, x = (corner + self.separation / 2 + rng.uniform(-0.5, 1.5, size=corner.shape)).T
        snr = np.exp(rng.uniform(*np.log(self.snr), size=self.n_peaks))
        width = np.full(self.n_peaks, self.sigma)
        highest = pixel_fractions(x, width)[1].max(axis=1) * pixel_fractions(y, width)[1].max(axis=1)
        here = self.background[np.rint(y).astype(int), np.rint(x).astype(int)]
        counts = snr * np.sqrt(here + NOISE**2) / highest
        order = np.argsort(-counts, kind="stable")
        spots = describe(x[order], y[order], counts[order], self.sigma, self.background, self.bad)
        return FrameTruth(i, self.n_peaks > 0, spots)
