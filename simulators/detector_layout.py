"""Modules, gaps and defective pixels of a simulated detector."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: rows × columns of an EIGER module, and of the gap that follows it
MODULE = (514, 1030)
MODULE_GAP = (37, 10)

# bits of a DECTRIS pixel mask (SIMPLON API, `pixel_mask`)
BIT_GAP = 1 << 0
BIT_DEAD = 1 << 1
BIT_NOISY = 1 << 4

# no second use of the same random numbers: each purpose has its own number beside the seed
SEED_DEFECTS = 1


def all_ones(dtype: np.dtype) -> int:
    """The value with every bit set, by which a DECTRIS detector flags pixels without a count: −1 if signed."""
    return -1 if np.dtype(dtype).kind == "i" else int(np.iinfo(dtype).max)


def saturation(dtype: np.dtype) -> int:
    """Largest count that is not the flag."""
    info = np.iinfo(dtype)
    return int(info.max) if info.kind == "i" else int(info.max) - 1


@dataclass(frozen=True)
class DetectorLayout:
    """Modules with gaps between them, dead and noisy pixels in random places.

    Parameters
    ----------
    shape
        (rows, columns).
    module, gap
        (rows, columns) of a module and of the gap after it; the default makes a 2167 × 2070 EIGER2 4M of eight.
    dead_share
        Share of pixels that are dead and known to be so: in the mask, flagged in every frame.
    noisy_pixels
        Number of pixels that count far too much and are known to: masked and flagged too.
    hot_pixels
        Number of pixels that count too much and are *not* known: a peak finder must cope with them.
    seed
        For the places of the defects.
    """

    shape: tuple[int, int]
    module: tuple[int, int] = MODULE
    gap: tuple[int, int] = MODULE_GAP
    dead_share: float = 5e-5
    noisy_pixels: int = 20
    hot_pixels: int = 8
    seed: int = 0

    def pixel_mask(self) -> np.ndarray:
        """uint32 (rows, columns) with the bits of a DECTRIS pixel mask, 0 = good."""
        return self._defects()[0]

    def hot(self) -> tuple[np.ndarray, np.ndarray]:
        """Hot pixels that no mask knows: flat index int64 (n,), mean counts per frame float64 (n,)."""
        return self._defects()[1:]

    def _defects(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mask = np.zeros(self.shape, np.uint32)
        for axis in (0, 1):
            place = np.arange(self.shape[axis]) % (self.module[axis] + self.gap[axis])
            in_gap = place >= self.module[axis]
            mask[(in_gap, slice(None)) if axis == 0 else (slice(None), in_gap)] = BIT_GAP
        rng = np.random.default_rng([self.seed, SEED_DEFECTS])
        active = np.flatnonzero(mask == 0)
        n_dead = round(self.dead_share * active.size)
        chosen = rng.choice(active, size=n_dead + self.noisy_pixels + self.hot_pixels, replace=False)
        dead, noisy, hot = np.split(chosen, [n_dead, n_dead + self.noisy_pixels])
        mask.ravel()[dead] = BIT_DEAD
        mask.ravel()[noisy] = BIT_NOISY
        rates = np.exp(rng.uniform(np.log(30), np.log(3000), size=hot.size))
        return mask, hot, rates
