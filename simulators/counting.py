"""Frames of a photon-counting detector: Poisson background, Poisson spots, flagged pixels."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..processing.errors import OutOfRangeError
from .detector_layout import DetectorLayout, all_ones, saturation
from .experiment import Experiment
from .spots import FrameTruth, expected_pixels

#: pixel types that detectors of the kind deliver
DTYPES = tuple(np.dtype(name) for name in ("uint8", "uint16", "uint32", "int32"))

# each purpose has its own random numbers: [seed, purpose, …] seeds its generator
SEED_BACKGROUND = 2
SEED_FRAME = 3

STRIP = 128  # rows that one generator draws: the result does not depend on the number of threads


def poisson_image(mean: np.ndarray, seed: list[int], dtype: np.dtype, threads: int | None = None) -> np.ndarray:
    """Independent Poisson counts around `mean` (rows, columns), drawn by several threads, clipped to saturation.

    numpy's generators release the interpreter lock while they draw. Each strip of rows has its own generator,
    so that the same seed gives the same image whatever the number of threads.
    """
    out = np.empty(mean.shape, dtype)
    top = saturation(dtype)

    def draw(first: int) -> None:
        rows = slice(first, first + STRIP)
        counts = np.random.default_rng([*seed, first]).poisson(mean[rows])
        out[rows] = np.minimum(counts, top, out=counts)

    starts = range(0, mean.shape[0], STRIP)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(draw, starts))
    return out


class CountingSimulator:
    """Base of the simulators: subclasses say in `truth(i)` which spots a frame has.

    A frame is a background realisation plus independently drawn Poisson spots, and a sum of Poisson numbers is a
    Poisson number: every frame by itself has exact statistics. To be fast, frames share `pool` background
    realisations, drawn once; frames that use the same one are correlated with each other. `pool=0` draws every
    background afresh. The same seed gives the same frames, in any order and from any thread.

    Parameters
    ----------
    experiment
        Geometry and beam.
    layout
        Modules and defects; its shape is the experiment's.
    background
        Mean counts, float (rows, columns).
    shadowed
        bool (rows, columns): pixels in the shadow of the beam stop, for `mask`; the detector does not flag them.
    dtype
        uint8, uint16, uint32 or int32. Masked pixels hold the all-ones value of the type (−1 for int32),
        counts are clipped one below (unsigned).
    seed
        Not negative.
    pool
        Number of shared background realisations.

    Attributes
    ----------
    background : float32 (rows, columns)
        Mean counts per pixel without spots and hot pixels; 0 where there is no working pixel.
    pixel_mask : uint32 (rows, columns)
        As the detector reports it, DECTRIS bits, 0 = good.
    mask : uint8 (rows, columns)
        For the reduction, 1 = bad: the detector's mask and the shadow of the beam stop.
    hot_pixels : int64 (n,)
        Flat index of pixels that count too much though no mask tells, `hot_rates` (n,) their mean counts.
    """

    def __init__(
        self,
        experiment: Experiment,
        layout: DetectorLayout,
        background: np.ndarray,
        *,
        shadowed: np.ndarray | None = None,
        dtype: np.dtype | type | str = np.uint16,
        seed: int = 0,
        pool: int = 8,
    ) -> None:
        self.experiment = experiment
        self.shape = experiment.shape
        self.dtype = np.dtype(dtype)
        if self.dtype not in DTYPES:
            raise OutOfRangeError(f"pixel type {self.dtype}: one of {', '.join(t.name for t in DTYPES)} is expected")
        if seed < 0 or pool < 0:
            raise OutOfRangeError(f"seed {seed}, pool {pool}: neither may be negative")
        self.seed = int(seed)
        self.pixel_mask = layout.pixel_mask()
        self._flagged = self.pixel_mask != 0
        self._flagged_index = np.flatnonzero(self._flagged)
        self.bad = self._flagged if shadowed is None else self._flagged | shadowed
        self.mask = self.bad.astype(np.uint8)
        self.background = np.where(self._flagged, 0, background).astype(np.float32)
        self.hot_pixels, self.hot_rates = layout.hot()
        self._pool: list[np.ndarray | None] = [None] * pool
        self._pool_lock = threading.Lock()

    def truth(self, i: int) -> FrameTruth:
        """What frame `i` is made of."""
        raise NotImplementedError

    def frame(self, i: int) -> np.ndarray:
        """Frame `i`, C-contiguous (rows, columns) of `dtype`; a new array at every call."""
        return self.frame_and_truth(i)[0]

    def frame_and_truth(self, i: int) -> tuple[np.ndarray, FrameTruth]:
        """Frame `i` and what it is made of, in one go."""
        truth = self.truth(i)
        rng = np.random.default_rng([self.seed, SEED_FRAME, i])
        image = self._background(i, rng)
        index, mean = expected_pixels(truth.spots, self.shape)
        index = np.concatenate([index, self.hot_pixels])
        counts = rng.poisson(np.concatenate([mean, self.hot_rates]))
        # pixels may repeat where spots overlap; those without a sensor count nothing
        counted = (counts > 0) & ~self._flagged.ravel()[index]
        pixel, inverse = np.unique(index[counted], return_inverse=True)
        total = image.ravel()[pixel] + np.bincount(inverse, counts[counted], minlength=len(pixel)).astype(np.int64)
        image.ravel()[pixel] = np.minimum(total, saturation(self.dtype))
        return image, truth

    def prepare(self) -> None:
        """Draw the pool of backgrounds now; otherwise each is drawn when a frame first needs it."""
        for k in range(len(self._pool)):
            self._pooled(k)

    def poni_text(self) -> str:
        """The geometry as the text of a PONI file."""
        return self.experiment.poni_text()

    def _background(self, i: int, rng: np.random.Generator) -> np.ndarray:
        if not self._pool:
            return self._draw([self.seed, SEED_BACKGROUND, 1, i])
        return self._pooled(int(rng.integers(len(self._pool)))).copy()

    def _pooled(self, k: int) -> np.ndarray:
        with self._pool_lock:
            if self._pool[k] is None:
                self._pool[k] = self._draw([self.seed, SEED_BACKGROUND, 0, k])
            return self._pool[k]

    def _draw(self, seed: list[int]) -> np.ndarray:
        image = poisson_image(self.background, seed, self.dtype)
        image.ravel()[self._flagged_index] = all_ones(self.dtype)
        return image
