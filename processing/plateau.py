"""Saturated plateaus: many pixels of one equal, largest value are one peak, not one per corner.

On a plateau larger than the neighbourhood several pixels are the largest of theirs. Peaks whose centres are
connected by pixels of the same raw value are merged, and a merged peak lies at the centre of the plateau. A plateau
that lies within the neighbourhood of its peak is left as it is: it has been measured whole.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_EQUAL = 6  # column of a measured row: pixels of the neighbourhood that equal the centre, itself included
_INTENSITY = 2
#: pixels that all plateaus of a frame together may reach out, a fraction of a second; beyond that (nothing but
#: plateaus) peaks stay unmerged
_MAX_STEPS = 2000


def merge_plateaus(
    rows: np.ndarray, centres: np.ndarray, get_image: Callable[[], np.ndarray], patch_size: int
) -> tuple[np.ndarray, int]:
    """Merge the peaks that lie on one plateau.

    Parameters
    ----------
    rows
        float32 (m, 8), as `measure_peaks` in kernels/peaks.cl gives them.
    centres
        uint32 (m,), flat pixel index of each peak's largest pixel, ascending.
    get_image
        Gives the raw frame; called only where there may be a plateau.

    Returns
    -------
    rows, merged
        The rows that are left and how many were merged away.
    """
    half = patch_size // 2
    # a plateau that leaves the neighbourhood has at least a line of equal pixels in it
    suspects = np.flatnonzero(rows[:, _EQUAL] > half)
    if suspects.size == 0:
        return rows, 0
    image = get_image()
    keep = np.ones(len(rows), dtype=bool)
    reached = np.zeros(image.size, dtype=bool)
    steps_left = _MAX_STEPS
    for i in suspects:
        if not keep[i]:
            continue
        if steps_left <= 0:
            break
        plateau, steps = _connected(image, int(centres[i]), reached, steps_left)
        steps_left -= steps
        y, x = np.divmod(plateau, image.shape[1])
        if max(np.abs(y - y[0]).max(), np.abs(x - x[0]).max()) <= half:
            continue
        same = suspects[np.isin(centres[suspects], plateau)]
        strongest = same[np.argmax(rows[same, _INTENSITY])]
        keep[same] = False
        keep[strongest] = True
        rows[strongest, :2] = x.mean(), y.mean()
    return rows[keep], int(np.count_nonzero(~keep))


def _connected(image: np.ndarray, start: int, reached: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Flat indices of the pixels that reach `start` over neighbours (8) of the same value, `start` first, in at most
    `most` steps; and the steps that it took.

    They are marked in `reached` (flat), which is not entered again.
    """
    height, width = image.shape
    flat = image.reshape(-1)
    front = np.array([start])
    reached[start] = True
    found = [front]
    while front.size and len(found) <= most:
        y, x = np.divmod(front, width)
        around = [
            (front + dy * width + dx)[_inside(y, dy, height) & _inside(x, dx, width)]
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
            if dy or dx
        ]
        front = np.unique(np.concatenate(around))
        front = front[(flat[front] == flat[start]) & ~reached[front]]
        reached[front] = True
        found.append(front)
    return np.concatenate(found), len(found) - 1


def _inside(position: np.ndarray, step: int, size: int) -> np.ndarray:
    return (position + step >= 0) & (position + step < size)
