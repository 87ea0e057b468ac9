"""A virtual powder: where all peaks of a run have been, summed and at their highest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_PIXELS = 1_000_000  # of a decimated picture


def decimation(shape: tuple[int, int]) -> int:
    """The smallest step with which every step-th pixel of every step-th row are at most `MAX_PIXELS`."""
    step = 1
    while -(-shape[0] // step) * -(-shape[1] // step) > MAX_PIXELS:
        step += 1
    return step


class VirtualPowder:
    """Maximum and sum of the intensities of peaks, per decimated pixel. Not thread-safe.

    Parameters
    ----------
    shape
        (rows, columns) of a frame.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.frames = 0  # whose peaks are in it, blank ones too
        self.step = decimation(shape)
        rows, columns = (-(-length // self.step) for length in shape)
        self._highest = np.zeros((rows, columns), np.float32)
        self._total = np.zeros((rows, columns), np.float64)  # a single one forgets the weak peaks after a long run

    def add(self, peaks: Sequence[np.ndarray]) -> None:
        """The peaks of some frames, each (n, 3 or more): x, y in pixels of the frame, intensity."""
        self.frames += len(peaks)
        together = np.concatenate([rows[:, :3] for rows in peaks]) if peaks else np.zeros((0, 3), np.float32)
        if not len(together) or not self._highest.size:
            return
        rows, columns = self._highest.shape
        x, y = np.rint(together[:, :2]).astype(np.int64).T // self.step
        place = np.clip(y, 0, rows - 1) * columns + np.clip(x, 0, columns - 1)
        np.maximum.at(self._highest.reshape(-1), place, together[:, 2])
        np.add.at(self._total.reshape(-1), place, together[:, 2].astype(np.float64))

    def clear(self) -> None:
        """Begin anew."""
        self.frames = 0
        self._highest.fill(0)
        self._total.fill(0)

    @property
    def highest(self) -> np.ndarray:
        """float32 (rows, columns): the most intense peak there has been in each pixel, 0 = none. A copy."""
        return self._highest.copy()

    @property
    def total(self) -> np.ndarray:
        """float32 (rows, columns): the intensities of all peaks in each pixel. A copy."""
        return self._total.astype(np.float32)
