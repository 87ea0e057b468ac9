"""Peak counts over the positions of a raster scan, as a picture."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from .errors import ReductionError

MAX_PIXELS = 10_000  # as many frames as the device remembers
_WIDE = 0.3  # of the widest gap between neighbouring positions: as wide is a step of the motor
_ALIKE = 0.12  # scatter of the steps of a motor, of their mean
_SMALLEST = 400  # pixels that the longer side of a picture has at least
_MISSING = (90, 30, 30)  # dark red


def raster_map(
    counters: np.ndarray, rows: int, columns: int, *, first_frame: int = 0, snake: bool = False
) -> np.ndarray:
    """Peak counts of the frames of a raster scan, row by row.

    Parameters
    ----------
    counters
        From `Reduction.counters`.
    rows, columns
        Positions of the scan, 10 000 altogether at most.
    first_frame
        Number of the frame at the first position; every position has one frame.
    snake
        Every second row was scanned backwards.

    Returns
    -------
    float64 (rows, columns); NaN where there is no frame.

    Raises
    ------
    ReductionError
        So many rows and columns are not accepted (DATA_OUT_OF_RANGE).
    """
    _check(rows, columns)
    image = np.full(rows * columns, np.nan)
    at = counters["frame"] - first_frame
    inside = (at >= 0) & (at < image.size)
    image[at[inside]] = counters["n_peaks"][inside]
    image = image.reshape(rows, columns)
    if snake:
        image[1::2] = image[1::2, ::-1].copy()
    return image


def map_of_positions(counters: np.ndarray, rows: int = 0, columns: int = 0) -> np.ndarray | None:
    """Peak counts of the frames of a scan where the source says that the sample was, whatever the order.

    Parameters
    ----------
    counters
        From `Reduction.counters`.
    rows, columns
        Positions along y and x of the whole scan; 0: as many as there are so far.

    Returns
    -------
    float64 (rows, columns): the row with the smallest y first, the most peaks where several frames are at one position,
    NaN where there is no frame. None where the source tells no positions.
    """
    known = np.isfinite(counters["position_x"]) & np.isfinite(counters["position_y"])
    if not known.any():
        return None
    row, rows = _places(counters["position_y"][known], rows)
    column, columns = _places(counters["position_x"][known], columns)
    _check(rows, columns)
    image = np.full((rows, columns), -1.0)
    np.maximum.at(image, (row, column), counters["n_peaks"][known].astype(np.float64))
    image[image < 0] = np.nan
    return image


def _places(positions: np.ndarray, wanted: int) -> tuple[np.ndarray, int]:
    """At which of how many steps of a motor each position is. With `wanted` places and more steps than that, so many
    share the range."""
    centres = _lines(np.unique(positions))
    first, span = centres[0], float(centres[-1] - centres[0])
    step = float(np.median(np.diff(centres))) if len(centres) > 1 else 0.0
    found = round(span / step) + 1 if step else 1
    if wanted and found > wanted:
        first, span, found = positions.min(), float(np.ptp(positions)), wanted
    if found < 2:
        return np.zeros(len(positions), np.intp), wanted or 1
    place = np.rint((positions - first) * ((found - 1) / span))
    return np.clip(place, 0, found - 1).astype(np.intp), wanted or found


def _lines(values: np.ndarray) -> np.ndarray:
    """Where the motor stood, from its readings (ascending). Those of an encoder scatter: where the motor moved are the
    gaps that are wide."""
    gaps = np.diff(values)
    limit = _WIDE * gaps.max(initial=0.0)
    small = gaps[gaps <= limit]
    # a few gaps much wider than the many others, which are all alike: there lines are missing
    while len(small):
        lower = _WIDE * small.max()
        steps = small[small > lower]
        if len(steps) < 3 or len(steps) < np.count_nonzero(gaps > limit) or np.std(steps) > _ALIKE * np.mean(steps):
            break
        limit, small = lower, small[small <= lower]
    line = np.concatenate([[0], np.cumsum(gaps > limit)])
    return np.bincount(line, values) / np.bincount(line)


def _check(rows: int, columns: int) -> None:
    if rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise ReductionError(
            "DATA_OUT_OF_RANGE", f"{rows} rows of {columns}: accepted are 1 to {MAX_PIXELS} positions altogether"
        )


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write a map as a grey picture, black = no peak, white = most peaks, dark red = no frame; small maps are enlarged
    by whole numbers. PNG: ISO/IEC 15948.

    Parameters
    ----------
    path
        The file; one that exists is replaced.
    image
        (rows, columns), from `raster_map`.

    Raises
    ------
    ReductionError
        The file cannot be written (CONFIGURATION_ERROR).
    """
    most = np.nanmax(image, initial=0.0) or 1.0
    grey = np.nan_to_num(255 * image / most).astype(np.uint8)
    pixels = np.where(np.isnan(image)[..., None], np.uint8(_MISSING), grey[..., None])
    factor = max(1, _SMALLEST // max(image.shape))
    pixels = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = pixels.shape[:2]
    lines = np.hstack([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)])  # filter 0 in front of each
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bit, RGB
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    try:
        Path(path).write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    except OSError as error:
        raise ReductionError("CONFIGURATION_ERROR", f"{path}: cannot be written ({error.strerror})") from None
