"""Whole frames from sparse ones: background curve, its noise, and the pixels that were kept."""

from __future__ import annotations

import numpy as np

from ..processing.frames import ReducedFrame
from ..processing.parameters import Parameters
from .background import Mean, Noise, rounded
from .noise import LARGEST_NUMBER
from .rings import Pixels, Rings, blocks


class Densifier:
    """Makes frames of one detector dense. Frames may be made by several threads at a time.

    Parameters
    ----------
    radius_image : numpy.ndarray
        Radius of each pixel (rows, columns), NaN where masked.
    radius : numpy.ndarray
        Bin centres (bins,), ascending, in the same unit.
    dtype : numpy.dtype
        Of the stored intensities: whether they are counts.
    normalization : numpy.ndarray, optional
        Norm of each pixel (rows, columns); one where absent.
    """

    def __init__(
        self,
        radius_image: np.ndarray,
        radius: np.ndarray,
        dtype: np.dtype,
        normalization: np.ndarray | None = None,
    ) -> None:
        self.shape = radius_image.shape
        self._dtype = np.dtype(dtype)
        self._counts = self._dtype.kind in "iu"
        self._rings = Rings(radius_image, radius, normalization)

    def image(
        self,
        frame: ReducedFrame,
        *,
        noise: Parameters | None = None,
        rng: np.random.Generator | None = None,
        dtype: np.dtype | None = None,
        masked: float = 0,
        lowest: float = -np.inf,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """The frame as an image.

        The background of a pixel is interpolated linearly between bin centres, constant beyond the first and the last,
        times the norm of the pixel.

        Parameters
        ----------
        frame : ReducedFrame
            Its `index`, `intensity` and curves.
        noise : Parameters, optional
            Those that the frame was reduced with: draw the noise. None: the background without it.
        rng : numpy.random.Generator
            What noise is drawn from.
        dtype : numpy.dtype, optional
            Of the image, that of the intensities unless given. Values beyond its range are limited to it.
        masked : float
            Value of masked pixels.
        lowest : float
            No other pixel has a lower value. 0 where negative values mark bad pixels.
        out : numpy.ndarray, optional
            Where the image is made (rows, columns), C-contiguous, of the type `dtype`; a new array unless given.

        Returns
        -------
        numpy.ndarray
            (rows, columns)
        """
        dtype = self._dtype if dtype is None else np.dtype(dtype)
        image = np.empty(self.shape, dtype) if out is None else out
        flat = image.reshape(-1)
        if frame.background_mean is None:
            flat[:] = 0
        else:
            low, high = _limits(dtype)
            self._fill(flat, frame, noise, rng, max(low, lowest), high)
        if frame.index is not None:
            intensity = frame.intensity
            if dtype.kind in "iu" and (dtype != intensity.dtype or lowest > -np.inf):
                limits = np.iinfo(dtype)
                intensity = np.clip(np.rint(intensity), max(limits.min, lowest), limits.max)
            flat[frame.index] = intensity
        flat[self._rings.masked] = masked
        return image

    def _fill(
        self,
        image: np.ndarray,
        frame: ReducedFrame,
        parameters: Parameters | None,
        rng: np.random.Generator | None,
        low: float,
        high: float,
    ) -> None:
        """The background into `image` (pixels,), limited to `low` and `high`."""
        # other programs write NaN where no pixel is
        mean = np.nan_to_num(frame.background_mean).astype(np.float64)
        std = None if frame.background_std is None else np.nan_to_num(frame.background_std).astype(np.float64)
        whole = image.dtype.kind in "iu"
        parts = list(blocks(image.size))

        def store(pixels: Pixels, values: np.ndarray) -> None:
            if values.dtype == np.uint16 and whole and low <= 0 and high >= LARGEST_NUMBER:
                image[pixels] = values
            elif whole:
                image[pixels] = rounded(values.astype(np.float32), low, high)
            else:
                image[pixels] = np.clip(values, low, high)

        if parameters is None or std is None or not std.any():
            smooth = Mean(self._rings, mean)
            if whole:
                smooth.whole_numbers(image, parts, low, high)
            else:
                for part in parts:
                    store(part, smooth.values(part))
            return
        noise = Noise(self._rings, mean, std, parameters, self._counts, rng)
        for part in parts:
            store(part, noise.draw(part))
        store(*noise.draw_again())

    @property
    def masked(self) -> np.ndarray:
        """bool (rows, columns)"""
        mask = np.zeros(self.shape, bool)
        mask.ravel()[self._rings.masked] = True
        return mask


def _limits(dtype: np.dtype) -> tuple[float, float]:
    """Least and largest value of the background. The largest of an unsigned type marks a bad pixel."""
    if dtype.kind not in "iu":
        return -np.inf, np.inf
    limits = np.iinfo(dtype)
    return float(limits.min), float(np.nextafter(np.float32(limits.max), np.float32(0)))
