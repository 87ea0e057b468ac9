"""What the devices show of the newest frame, as numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from .connection import Connection

#: a peak of the newest frame; x, y are pixel indices, the centre of the first pixel is 0; intensities in counts
PEAKS = np.dtype([(name, "f4") for name in ("x", "y", "intensity", "sigma", "snr", "n_pixels")])
#: the background of the newest frame; radius in mm, mean and std in counts
CURVES = np.dtype([("radius", "f8"), ("mean", "f8"), ("std", "f8")])


def read_preview(connection: Connection) -> np.ndarray:
    """The frame, decimated: uint16 (rows, columns)."""
    return _image(connection.read("preview"), np.uint16)


def read_peaks(connection: Connection) -> np.ndarray:
    """Its peaks: `PEAKS` (peaks,)."""
    table = _image(connection.read("last_peaks"), np.float32)
    peaks = np.zeros(len(table), PEAKS)
    for column, name in enumerate(PEAKS.names):
        peaks[name] = table[:, column]
    return peaks


def read_curves(connection: Connection) -> np.ndarray:
    """Its background over the radius: `CURVES` (bins,)."""
    names = ["radius", "background_mean", "background_std"]
    columns = [np.zeros(0) if c is None else c for c in connection.read_several("sparsifier", names)]
    curves = np.zeros(min(map(len, columns)), CURVES)
    for name, column in zip(CURVES.names, columns, strict=True):
        curves[name] = column[: len(curves)]
    return curves


def _image(value: Any, dtype: Any) -> np.ndarray:
    """An image as Tango gives it; an empty one has no shape there."""
    image = np.zeros((0, 0), dtype) if value is None else np.asarray(value, dtype)
    return image if image.ndim == 2 else np.zeros((0, 0), dtype)
