"""Reading PONI files: the description of a diffraction experiment that pyFAI's calibration writes.

Versions 1, 2, 2.1 and 3 of flat detectors, orientations 1 to 4. What would need more than that (version 4 and
later, parallax, distorted or curved detectors) is refused, since reducing with a wrong geometry ruins data.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .detectors import is_irregular, known_detector
from .errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Poni:
    """Geometry of an experiment with a flat detector. Lengths in m, angles in rad.

    Axis 1 is slow (rows, y), axis 2 fast (columns, x). `shape` (rows, columns) is None where the file does not
    tell it, `wavelength` None likewise. `orientation` 1 to 4 as in pyFAI; 3 is pyFAI's native one.
    """

    distance: float
    poni1: float
    poni2: float
    rot1: float
    rot2: float
    rot3: float
    pixel1: float
    pixel2: float
    wavelength: float | None = None
    shape: tuple[int, int] | None = None
    orientation: int = 3
    detector: str = "Detector"
    text: str = ""

    @property
    def beam_center(self) -> tuple[float, float]:
        """(x, y) in pixels of the point where the direct beam hits, 0 = outer corner of the first pixel
        (centre of the first pixel = 0.5), of the array as stored whatever the orientation."""
        # the ray (0, 0, 1) in the laboratory, seen in the detector's frame, reaches the plane at `distance`
        along = self.rotation[2]  # third row of R = transpose applied to z
        y = (along[0] / along[2] * self.distance + self.poni1) / self.pixel1
        x = (along[1] / along[2] * self.distance + self.poni2) / self.pixel2
        if self.shape is not None:
            if self.orientation in (1, 2):
                y = self.shape[0] - y
            if self.orientation in (1, 4):
                x = self.shape[1] - x
        return x, y

    @property
    def rotation(self) -> tuple[tuple[float, float, float], ...]:
        """R = R3·R2·R1 (rot1 and rot2 left-handed, rot3 right-handed): laboratory (t1, t2, t3) = R · detector
        (p1, p2, p3)."""
        c1, c2, c3 = (math.cos(angle) for angle in (self.rot1, self.rot2, self.rot3))
        s1, s2, s3 = (math.sin(angle) for angle in (self.rot1, self.rot2, self.rot3))
        # R1 = [[1,0,0],[0,c1,s1],[0,-s1,c1]]; R2 = [[c2,0,-s2],[0,1,0],[s2,0,c2]]; R3 = [[c3,-s3,0],[s3,c3,0],[0,0,1]]
        return (
            (c2 * c3, -c1 * s3 + s1 * s2 * c3, -s1 * s3 - c1 * s2 * c3),
            (c2 * s3, c1 * c3 + s1 * s2 * s3, s1 * c3 - c1 * s2 * s3),
            (s2, -s1 * c2, c1 * c2),
        )


def read_poni(path: str | Path) -> Poni:
    """Read a PONI file.

    Raises
    ------
    ConfigurationError
        The file is missing, is no PONI file, or describes something that is not supported.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: not a PONI file: it is not text") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: the PONI file cannot be read: {error.strerror}") from None
    return parse_poni(text, str(path))


def parse_poni(text: str, name: str = "PONI text") -> Poni:
    """Parse the text of a PONI file; `name` is what errors call it. Raises as `read_poni`."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition("#")[0].partition(":") if "{" not in line else line.partition(":")
        if colon and not line.lstrip().startswith("#"):
            values[key.strip().lower()] = value.strip()  # the last one wins

    _check_version(values, name)
    if "distance" not in values:
        raise ConfigurationError(f"{name}: not a PONI file: there is no line 'Distance: …' (metres)")
    pixel1, pixel2, shape, orientation, detector = _detector(values, name)
    poni = Poni(
        distance=_number(values, "distance", name),
        **{key: _number(values, key, name, 0.0) for key in ("poni1", "poni2", "rot1", "rot2", "rot3")},
        pixel1=pixel1,
        pixel2=pixel2,
        wavelength=_number(values, "wavelength", name, 0.0) or None,
        shape=shape,
        orientation=orientation,
        detector=detector,
        text=text,
    )
    if poni.distance <= 0:
        raise ConfigurationError(f"{name}: Distance = {poni.distance} m: accepted is a length above 0")
    if poni.wavelength is not None and not 1e-13 < poni.wavelength < 1e-7:
        raise ConfigurationError(
            f"{name}: Wavelength = {poni.wavelength} m: not an X-ray; it is given in metres, 1 Å = 1e-10"
        )
    return poni


def _check_version(values: dict[str, str], name: str) -> None:
    version = _number(values, "poni_version", name, 1.0)
    if version > 3 or version < 1:
        raise ConfigurationError(
            f"{name}: poni_version {values['poni_version']} is not supported; accepted are 1, 2, 2.1 and 3. "
            "Export the calibration again in one of them"
        )
    if values.get("parallax", "").lower() in ("true", "1", "yes", "on"):
        raise ConfigurationError(
            f"{name}: the parallax correction (Parallax: True) is not supported; calibrate without it"
        )
    if values.get("splinefile", "").lower() not in ("", "none"):
        raise ConfigurationError(f"{name}: distortion by a spline file is not supported; accepted are flat detectors")


def _detector(values: dict[str, str], name: str) -> tuple[float, float, tuple[int, int] | None, int, str]:
    """Pixel sizes, shape, orientation and name from the lines of any version."""
    label = values.get("detector", "Detector")
    config = _config(values, name)
    if config.get("splineFile") or config.get("filename"):
        raise ConfigurationError(
            f"{name}: detector {label!r} is described by a file of its own (distortion); accepted are flat detectors"
        )
    if is_irregular(label):
        raise ConfigurationError(
            f"{name}: detector {label!r} is curved or has pixels of several sizes; accepted are flat, regular detectors"
        )
    known = known_detector(label)
    pixel1 = config.get("pixel1", values.get("pixelsize1"))
    pixel2 = config.get("pixel2", values.get("pixelsize2"))
    if known is not None:
        pixel1, pixel2 = pixel1 or known[0], pixel2 or known[0]
    if pixel1 is None or pixel2 is None:
        raise ConfigurationError(
            f"{name}: the pixel size of detector {label!r} is not known; write 'Detector: Detector' and "
            'Detector_config: {"pixel1": …, "pixel2": …, "max_shape": [rows, columns]} in metres'
        )
    sizes = [_number({"pixel size": str(size)}, "pixel size", name) for size in (pixel1, pixel2)]
    if not all(1e-7 < size < 0.1 for size in sizes):
        raise ConfigurationError(f"{name}: pixel size {sizes} m: accepted is 1e-7 to 0.1, in metres")
    shape = config.get("max_shape", config.get("shape"))
    if shape is None and known is not None:
        shape = known[1]
    if shape is not None:
        try:
            rows, columns = (int(size) for size in shape)
            if rows < 1 or columns < 1:
                raise ValueError
            shape = (rows, columns)
        except (TypeError, ValueError, OverflowError):  # OverflowError: Infinity
            raise ConfigurationError(f"{name}: max_shape = {shape!r}: accepted is [rows, columns]") from None
    orientation = config.get("orientation") or 3
    if orientation not in (1, 2, 3, 4):
        raise ConfigurationError(f"{name}: orientation {orientation!r} is not supported; accepted are 1 to 4")
    return sizes[0], sizes[1], shape, orientation, label


def _config(values: dict[str, str], name: str) -> dict[str, Any]:
    text = values.get("detector_config", "")
    if not text:
        return {}
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{name}: Detector_config is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigurationError(f"{name}: Detector_config = {text}: accepted is a JSON object {{…}}")
    return config


def _number(values: dict[str, str], key: str, name: str, default: float | None = None) -> float:
    text = values.get(key, "")
    if default is not None and text.lower() in ("", "none"):
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigurationError(f"{name}: {key} = {text!r}: accepted is a finite number")
    return number
