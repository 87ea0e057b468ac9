"""A geometry from what the source tells of the detector, for where no PONI file is given."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..processing.errors import ConfigurationError
from ..processing.poni import Poni, parse_poni

#: what must be told: name in the metadata of a series → how errors call it
_NEEDED = {"distance": "the distance", "pixel_size": "the pixel size", "beam_center": "the beam centre"}

NO_GEOMETRY = (
    "geometry is not set: give the PONI file of the detector (attribute geometry, option --geometry); "
    "pyFAI-calib2 writes it"
)


def poni_of(metadata: Mapping[str, Any], shape: tuple[int, int]) -> Poni:
    """The geometry of a detector that stands upright in the beam.

    Parameters
    ----------
    metadata
        Of a `SeriesStart`: `distance` (m), `pixel_size` (slow, fast; m), `beam_center` (x, y; pixels from the outer
        corner of the first one) are needed, `wavelength` (m) and `detector` are used.
    shape
        (rows, columns).

    Raises
    ------
    ConfigurationError
        Something that is needed is not told, or makes no sense.
    """
    told = {name: _numbers(metadata.get(name)) for name in _NEEDED}
    # a distance, pixel size or beam centre of 0 is one that nobody has set
    missing = [_NEEDED[name] for name, values in told.items() if not values or not any(values)]
    if missing:
        raise ConfigurationError(f"{NO_GEOMETRY}; the source does not tell {' and '.join(missing)}")
    (distance,), pixel, center = told["distance"], told["pixel_size"], told["beam_center"]
    if not (distance > 0 and len(pixel) == len(center) == 2 and min(pixel) > 0):
        raise ConfigurationError(
            f"{NO_GEOMETRY}; what the source tells cannot be: distance {distance} m, pixels of {pixel} m"
        )
    config = {"pixel1": pixel[0], "pixel2": pixel[1], "max_shape": list(shape), "orientation": 3}
    lines = [
        f"# as the source told it ({metadata.get('detector', 'detector unknown')}); no tilt is known",
        "poni_version: 2.1",
        "Detector: Detector",
        f"Detector_config: {json.dumps(config)}",
        f"Distance: {distance!r}",
        f"Poni1: {center[1] * pixel[0]!r}",
        f"Poni2: {center[0] * pixel[1]!r}",
        *(f"Rot{axis}: 0.0" for axis in (1, 2, 3)),
    ]
    wavelength = _numbers(metadata.get("wavelength"))
    if wavelength:
        lines.append(f"Wavelength: {wavelength[0]!r}")
    return parse_poni("\n".join(lines).replace("\r", " ") + "\n", "what the source tells")


def _numbers(value: Any) -> list[float]:
    """A finite number, or several, as a list; empty where it is something else."""
    values = value if isinstance(value, list | tuple) else [value]
    usable = [isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values]
    return [float(v) for v in values] if all(usable) else []
