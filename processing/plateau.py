"""Saturated plateaus: many pixels of one equal, largest value are one peak, not one per corner.

On a plateau larger than the neighbourhood several pixels are the largest of theirs. Peaks whose centres are
connected by pixels of the same raw value are merged, and a merged peak lies at the centre of the plateau.
"""

from __future__ import annotations

from collections import deque

import numpy as np

_EQUAL = 6  # column of a measured row: pixels of the neighbourhood that equal the centre, itself included
_MAXIMUM = 5
_MIN_EQUAL = 3  # a plateau beyond the neighbourhood shows at least so many in it
_MAX_PIXELS = 200_000  # of one plateau; beyond that it is cut, which costs nothing but a second peak


def merge_plateaus(rows: np.ndarray, centres: np.ndarray, image: np.ndarray, patch_size: int) -> tuple[np.ndarray, int]:
    """Merge the peaks that lie on one plateau.

    Parameters
    ----------
    rows
        float32 (m, 8), as `measure_peaks` in kernels/peaks.cl gives them.
    centres
        uint32 (m,), flat pixel index of each peak's largest pixel.
    image
        The raw frame.

    Returns
    -------
    rows, merged
        The rows that are left and how many were merged away.
    """
    suspects = np.flatnonzero(rows[:, _EQUAL] >= _MIN_EQUAL)
    if suspects.size == 0:
        return rows, 0
    keep = np.ones(len(rows), dtype=bool)
    row_of = {int(centres[i]): int(i) for i in suspects}
    width = image.shape[1]
    for i in suspects:
        if not keep[i]:
            continue
        plateau = _connected(image, int(centres[i]))
        y, x = plateau // width, plateau % width
        if max(np.ptp(y), np.ptp(x)) < patch_size // 2:
            continue  # inside of the neighbourhood: measured rightly already
        for pixel in plateau:
            other = row_of.get(int(pixel))
            if other is not None and other != i:
                keep[other] = False
                rows[i] = np.where(rows[other, 2] > rows[i, 2], rows[other], rows[i])
        rows[i, 0], rows[i, 1] = x.mean(), y.mean()
    return rows[keep], int(np.count_nonzero(~keep))


def _connected(image: np.ndarray, start: int) -> np.ndarray:
    """Flat indices of the pixels that reach `start` over neighbours (8) of the same value."""
    height, width = image.shape
    value = image[divmod(start, width)]
    seen = {start}
    queue = deque(seen)
    while queue and len(seen) < _MAX_PIXELS:
        y, x = divmod(queue.popleft(), width)
        for yy in range(max(y - 1, 0), min(y + 2, height)):
            for xx in range(max(x - 1, 0), min(x + 2, width)):
                pixel = yy * width + xx
                if image[yy, xx] == value and pixel not in seen:
                    seen.add(pixel)
                    queue.append(pixel)
    return np.fromiter(seen, dtype=np.int64)
