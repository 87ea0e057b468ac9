"""Geometry, mask, dark and flat field of a run: those of the settings, and those that the source tells."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from ..processing.bins import RadialBins, make_bins
from ..processing.errors import ConfigurationError
from ..processing.frames import SeriesStart
from ..processing.geometry import pixel_geometry
from ..processing.poni import Poni, read_poni
from ..sources.images import read_image
from .mask_file import MaskFile
from .settings import RunSettings
from .told_geometry import poni_of

_NOTHING_TOLD = SeriesStart("")


def check_images(settings: RunSettings, names: Collection[str]) -> None:
    """Refuse those of the images mask, dark and flat that cannot be read, or have another shape than the detector, as
    far as the geometry tells it.

    Raises
    ------
    ConfigurationError
    """
    shape = None
    if settings.geometry:
        with contextlib.suppress(ConfigurationError):  # its own fault, told where it is written or used
            shape = read_poni(settings.geometry).shape
    for name in ("mask", "dark", "flat"):
        spec = getattr(settings, name)
        if name in names and spec:
            image = read_image(spec)
            _check_shape(name, spec, image.shape, shape or image.shape)


class Images:
    """What the pixels of a run are sorted and corrected by; all of one shape.

    The mask is that of the settings together with that of the source. The flat field is that of the settings, or else
    the one that the source says is still to be applied. The geometry is that of the settings, or else made of what the
    source tells of distance, pixel size and beam centre.

    Attributes
    ----------
    shape
        (rows, columns) as far as geometry, mask, dark or flat of the settings tell it.
    dark
        (rows, columns) or None.
    told
        The series for which the bins were made last.

    Raises
    ------
    ConfigurationError
        A file cannot be used, or two do not fit each other.
    """

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._poni: Poni | None = read_poni(settings.geometry) if settings.geometry else None
        self._mask = MaskFile.read(settings.mask) if settings.mask else MaskFile()
        self._flat = _optional_image(settings.flat)
        self.dark = _optional_image(settings.dark)
        self.shape = self._poni.shape if self._poni is not None else None
        for name, image in (("mask", self._mask.pixels), ("flat", self._flat), ("dark", self.dark)):
            if image is None:
                continue
            self.shape = self.shape or image.shape
            _check_shape(name, getattr(settings, name), image.shape, self.shape)
        if self.dark is not None:
            used = np.ones(self.dark.shape, bool) if self._mask.pixels is None else self._mask.pixels == 0
            if not np.all(np.isfinite(self.dark[used])):
                raise ConfigurationError(
                    f"dark = {settings.dark!r} holds values that are not finite; mask those pixels"
                )
        self.told = _NOTHING_TOLD
        self._bins: RadialBins | None = None
        self._made_with: tuple[Any, ...] = ()

    @property
    def tells_geometry(self) -> bool:
        """Whether the settings do; else the source must."""
        return self._poni is not None

    @property
    def poni(self) -> Poni:
        """The geometry of the bins that were made last."""
        return self._poni or poni_of(self.told.metadata, self._bins.shape)

    def bins(self, shape: tuple[int, int], told: SeriesStart | None = None) -> RadialBins:
        """The pixels of frames of this shape, sorted; the same object where nothing has changed since the last time.

        Parameters
        ----------
        told
            What the source says of its series; None: nothing yet.

        Raises
        ------
        ConfigurationError
            Frames of this shape do not fit, or nobody tells the geometry.
        """
        told = self._completed(told or _NOTHING_TOLD)
        if self.shape is not None and shape != self.shape:
            raise ConfigurationError(
                f"the frames have {_text(shape)} pixels, but geometry = {self._settings.geometry!r} (or the mask, dark "
                f"or flat) is for {_text(self.shape)}: give those of this detector"
            )
        poni = self._poni or poni_of(told.metadata, shape)
        mask, flatfield = self._usable(told, shape)
        made_with = (shape, poni.text, mask, flatfield)
        if self._bins is None or not _is_same(made_with, self._made_with):
            self._bins, self._made_with = self._sorted(*made_with, poni), made_with
        self.told = told
        return self._bins

    def _completed(self, told: SeriesStart) -> SeriesStart:
        """Of a series whose beginning was missed, what the one before told is better than nothing."""
        if not told.joined_late or told.pixel_mask is not None or told.flatfield is not None:
            return told
        before = self.told
        return replace(
            told, pixel_mask=before.pixel_mask, flatfield=before.flatfield, metadata=told.metadata or before.metadata
        )

    def hold_for(self, told: SeriesStart) -> bool:
        """Whether another series brings the same mask and flat field."""
        told = self._completed(told)
        return _is_same(self._usable(told, self._bins.shape), self._usable(self.told, self._bins.shape))

    def _usable(self, told: SeriesStart, shape: tuple[int, int]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Mask and flat field of the source, where they are wanted and fit."""
        if not self._settings.source_corrections:
            return None, None
        flatfield = told.flatfield if self._flat is None else None
        fit = [image is not None and image.shape == shape for image in (told.pixel_mask, flatfield)]
        return told.pixel_mask if fit[0] else None, flatfield if fit[1] else None

    def _sorted(
        self, shape: tuple[int, int], _: str, mask: np.ndarray | None, flatfield: np.ndarray | None, poni: Poni
    ) -> RadialBins:
        settings = self._settings
        geometry = pixel_geometry(poni, shape, solid_angle=settings.solid_angle, polarization=settings.polarization)
        flat = self._flat
        if flatfield is not None:  # factors to multiply by; one that is 0 or not finite masks its pixel
            with np.errstate(divide="ignore"):
                flat = 1 / flatfield.astype(np.float32)
        factors = [f for f in (flat, geometry.solid_angle, geometry.polarization) if f is not None]
        norm = np.prod(factors, axis=0, dtype=np.float32) if factors else None
        masks = [m != 0 for m in (self._mask.pixels, mask) if m is not None]
        return make_bins(geometry.radius, settings.radial_bins, np.any(masks, axis=0) if masks else None, norm)

    def configuration(self) -> dict[str, Any]:
        """What the bins that were made last come from, for the file."""
        names = ("geometry", "mask", "dark", "flat", "polarization", "solid_angle", "radial_bins", "source_corrections")
        names += ("monitor",)
        mask, flatfield = self._usable(self.told, self._bins.shape)
        return {name: getattr(self._settings, name) for name in names} | {
            "mask_sha256": self._mask.sha256,
            "mask_loaded": self._mask.loaded,
            "geometry_from_source": not self.tells_geometry,
            "mask_from_source": mask is not None,
            "flat_from_source": flatfield is not None,
        }

    def mask_info(self, bins: RadialBins | None = None) -> dict[str, Any]:
        """Which mask is in use, JSON-able. `bins`: those of the run; None: it has not begun, and what the source masks
        is not known yet."""
        mask = self._mask
        by_source = masked = None
        if bins is not None:
            by_source, _ = self._usable(self.told, bins.shape)
            by_source = 0 if by_source is None else int(np.count_nonzero(by_source))
            masked = math.prod(bins.shape) - bins.order.size
        return {
            "file": mask.spec,
            "sha256": mask.sha256,
            "loaded": mask.loaded,
            "masked_by_file": 0 if mask.pixels is None else int(np.count_nonzero(mask.pixels)),
            "masked_by_source": by_source,
            "masked_pixels": masked,
        }


def _is_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two tuples of values and arrays are equal."""
    return len(one) == len(other) and all(a is b or np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _optional_image(spec: str) -> np.ndarray | None:
    return read_image(spec) if spec else None


def _check_shape(name: str, spec: str, shape: tuple[int, int], expected: tuple[int, int]) -> None:
    if shape != expected:
        raise ConfigurationError(
            f"{name} = {spec!r} has {_text(shape)} pixels, the detector has {_text(expected)}: give the {name} of this "
            "detector"
        )


def _text(shape: tuple[int, int]) -> str:
    return f"{shape[0]} × {shape[1]} (rows × columns)"
