"""Pixel types of files: which are taken as they are, which are converted, which are refused."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..processing.errors import ConfigurationError, FrameError
from ..processing.frames import PIXEL_DTYPES

#: types that are not reduced as they are, but whose usual values fit into one that is; every frame is checked
CONVERSIONS: Final = {
    np.dtype("int8"): np.dtype("int16"),
    np.dtype("int64"): np.dtype("int32"),
    np.dtype("uint64"): np.dtype("uint32"),
}


def pixel_dtype(stored: np.dtype, where: str) -> np.dtype:
    """The type, in native byte order, in which pixels stored as `stored` are reduced; `where` is for the error.

    Raises
    ------
    ConfigurationError
        There is none that holds the values exactly.
    """
    native = stored.newbyteorder("=")
    native = CONVERSIONS.get(native, native)
    if native not in PIXEL_DTYPES:
        accepted = ", ".join(dtype.name for dtype in (*PIXEL_DTYPES, *CONVERSIONS))
        raise ConfigurationError(f"{where}: pixel type {stored.name} is not supported (accepted: {accepted})")
    return native


def converted(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`pixels` C-contiguous as `dtype`, a type given by `pixel_dtype`; a copy only where needed.

    Raises
    ------
    FrameError
        A value does not fit.
    """
    if dtype.itemsize < pixels.dtype.itemsize:
        limits = np.iinfo(dtype)
        for extreme in (int(pixels.min()), int(pixels.max())):
            if not limits.min <= extreme <= limits.max:
                raise FrameError(f"the value {extreme} ({pixels.dtype.name}) does not fit into {dtype.name}")
    return np.ascontiguousarray(pixels, dtype)
