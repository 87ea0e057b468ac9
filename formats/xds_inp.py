"""The detector in XDS.INP: lengths in mm, coordinates in pixels with the centre of the first pixel at 1.

Its laboratory is free to choose; written is x to the right seen along the beam, y down, z along the beam, so that it is
ours turned by half a turn around the beam. Several panels are segments: their axes are in the frame of the detector
(its x axis, y axis, normal), and so are their origins, counted from where the pixel coordinates of the detector are 0.
"""

from __future__ import annotations

import math
import re

import numpy as np

from ..processing.errors import ConfigurationError
from .nxmx_geometry import rotation_about
from .panels import DetectorGeometry, Panel, check_panels

_TO_XDS = np.diag([-1.0, -1.0, 1.0])
_KEY = re.compile(r"([A-Z0-9_/'.()-]*[A-Z][A-Z0-9_/'.()-]*)\s*=", re.IGNORECASE)
_MM = 1e-3
_ANGSTROM = 1e-10
_SEGMENT_KEYS = (
    "DIRECTION_OF_SEGMENT_X-AXIS",
    "DIRECTION_OF_SEGMENT_Y-AXIS",
    "SEGMENT_DISTANCE",
    "SEGMENT_ORGX",
    "SEGMENT_ORGY",
)


def write_xds(geometry: DetectorGeometry) -> str:
    """The lines that describe the detector and the beam; the rest of XDS.INP is the user's."""
    qy, qx = geometry.panels[0].pixel_size
    single = geometry.panels[0] if len(geometry.panels) == 1 else None
    if single is not None:
        x_axis, y_axis = _TO_XDS @ single.fast / qx, _TO_XDS @ single.slow / qy
        corner, first = _TO_XDS @ single.origin, np.array(single.first[::-1])
    else:
        x_axis, y_axis = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])
        corner, first = _TO_XDS @ geometry.panels[0].origin, np.array(geometry.panels[0].first[::-1])
    normal = np.cross(x_axis, y_axis)
    origin = first + 0.5 - [corner @ x_axis / qx, corner @ y_axis / qy]
    distance = float(corner @ normal)
    lines = [
        "! written by framesieve",
        f"NX= {geometry.shape[1]} NY= {geometry.shape[0]} QX= {qx / _MM:.12g} QY= {qy / _MM:.12g}",
        f"ORGX= {origin[0]:.12g} ORGY= {origin[1]:.12g}",
        f"DETECTOR_DISTANCE= {distance / _MM:.12g}",
        f"DIRECTION_OF_DETECTOR_X-AXIS= {_numbers(x_axis)}",
        f"DIRECTION_OF_DETECTOR_Y-AXIS= {_numbers(y_axis)}",
        "INCIDENT_BEAM_DIRECTION= 0.0 0.0 1.0",
    ]
    if geometry.wavelength is not None:
        lines.append(f"X-RAY_WAVELENGTH= {geometry.wavelength / _ANGSTROM:.12g}")
    if single is not None and (single.first, single.size) == ((0, 0), geometry.shape):
        return "\n".join(lines) + "\n"
    frame = np.array([x_axis, y_axis, normal])
    # where the pixel coordinates of the detector are 0
    zero = distance * normal - origin[0] * qx * x_axis - origin[1] * qy * y_axis
    for panel in geometry.panels:
        ex, ey = frame @ _TO_XDS @ panel.fast / qx, frame @ _TO_XDS @ panel.slow / qy
        place = frame @ (_TO_XDS @ panel.origin - zero)
        (y, x), (rows, columns) = panel.first, panel.size
        lines += [
            "",
            f"SEGMENT= {x + 1} {x + columns} {y + 1} {y + rows}",
            f"DIRECTION_OF_SEGMENT_X-AXIS= {_numbers(ex)}",
            f"DIRECTION_OF_SEGMENT_Y-AXIS= {_numbers(ey)}",
            f"SEGMENT_DISTANCE= {(place @ np.cross(ex, ey)) / _MM:.12g}",
            f"SEGMENT_ORGX= {(x + 0.5 - place @ ex / qx):.12g}",
            f"SEGMENT_ORGY= {(y + 0.5 - place @ ey / qy):.12g}",
        ]
    return "\n".join(lines) + "\n"


def _numbers(vector: np.ndarray) -> str:
    return " ".join(f"{number:.12g}" for number in vector)


def read_xds(text: str, name: str = "XDS.INP text") -> DetectorGeometry:
    """Detector and beam of an XDS.INP.

    Raises
    ------
    ConfigurationError
        A line cannot be understood, or something is missing.
    """
    values, segments = _parse(text, name)
    size = [int(_needed(values, key, name, 1)[0]) for key in ("NX", "NY")]
    qx, qy = (_needed(values, key, name, 1)[0] * _MM for key in ("QX", "QY"))
    org = np.array([_needed(values, key, name, 1)[0] for key in ("ORGX", "ORGY")])
    distance = _needed(values, "DETECTOR_DISTANCE", name, 1)[0] * _MM
    x_axis, y_axis = (_unit_vector(values, f"DIRECTION_OF_DETECTOR_{axis}-AXIS", name) for axis in "XY")
    values.setdefault("INCIDENT_BEAM_DIRECTION", [0, 0, 1.0])
    beam = _unit_vector(values, "INCIDENT_BEAM_DIRECTION", name)
    to_ours = _TO_XDS @ _turn(beam)
    normal = np.cross(x_axis, y_axis)
    if abs(x_axis @ y_axis) > 1e-3:
        raise ConfigurationError(f"{name}: the axes of the detector are not perpendicular")
    zero = distance * normal - org[0] * qx * x_axis - org[1] * qy * y_axis
    frame = np.array([x_axis, y_axis, normal]).T
    panels = []
    for number, segment in enumerate(segments):
        x1, x2, y1, y2 = (int(edge) for edge in _needed(segment, "SEGMENT", name, 4))
        ex, ey = (_unit_vector(segment, f"DIRECTION_OF_SEGMENT_{axis}-AXIS", name) for axis in "XY")
        height, orgx, orgy = (_needed(segment, key, name, 1)[0] for key in _SEGMENT_KEYS[2:])
        # the outer corner of pixel (x1, y1)
        place = (x1 - 0.5 - orgx) * qx * ex + (y1 - 0.5 - orgy) * qy * ey + height * _MM * np.cross(ex, ey)
        vectors = (to_ours @ v for v in (zero + frame @ place, frame @ ey * qy, frame @ ex * qx))
        panels.append(Panel(f"s{number}", (y1 - 1, x1 - 1), (y2 - y1 + 1, x2 - x1 + 1), *vectors))
    if not segments:
        corner = zero + 0.5 * (qx * x_axis + qy * y_axis)
        vectors = (to_ours @ v for v in (corner, y_axis * qy, x_axis * qx))
        panels = [Panel("panel", (0, 0), (size[1], size[0]), *vectors)]
    shape = check_panels(panels, name)
    wavelength = values.get("X-RAY_WAVELENGTH")
    return DetectorGeometry(
        tuple(panels),
        (max(shape[0], size[1]), max(shape[1], size[0])),
        wavelength[0] * _ANGSTROM if wavelength else None,
    )


def _parse(text: str, name: str) -> tuple[dict[str, list[float]], list[dict[str, list[float]]]]:
    """Numbers by keyword, and those of each segment. A keyword may come several times, the last one holds."""
    values: dict[str, list[float]] = {}
    segments: list[dict[str, list[float]]] = []
    wanted = {"NX", "NY", "QX", "QY", "ORGX", "ORGY", "DETECTOR_DISTANCE", "INCIDENT_BEAM_DIRECTION"}
    wanted |= {"DIRECTION_OF_DETECTOR_X-AXIS", "DIRECTION_OF_DETECTOR_Y-AXIS", "X-RAY_WAVELENGTH"}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("!")[0]
        keys = list(_KEY.finditer(line))
        ends = [key.start() for key in keys[1:]] + [len(line)]
        for key, end in zip(keys, ends, strict=False):
            word = key[1].upper()
            if word not in wanted and word not in _SEGMENT_KEYS and word != "SEGMENT":
                continue
            content = line[key.end() : end]
            try:
                numbers = [float(item) for item in content.split()]
                if not numbers or not all(math.isfinite(item) for item in numbers):
                    raise ValueError
            except ValueError:
                raise ConfigurationError(
                    f"{name}, line {number}: {word}= {content.strip()!r}: accepted are numbers"
                ) from None
            if word == "SEGMENT":
                segments.append({})
            if word in wanted:
                values[word] = numbers
            elif segments:
                segments[-1][word] = numbers
            else:
                raise ConfigurationError(f"{name}, line {number}: {word} comes before the first SEGMENT=")
    return values, segments


def _needed(values: dict[str, list[float]], key: str, name: str, count: int) -> list[float]:
    numbers = values.get(key)
    if numbers is None:
        raise ConfigurationError(f"{name}: there is no {key}=")
    if len(numbers) != count:
        raise ConfigurationError(f"{name}: {key}= has {len(numbers)} numbers: accepted is {count}")
    return numbers


def _unit_vector(values: dict[str, list[float]], key: str, name: str) -> np.ndarray:
    vector = np.array(_needed(values, key, name, 3))
    length = np.linalg.norm(vector)
    if not length:
        raise ConfigurationError(f"{name}: {key}= is zero")
    return vector / length


def _turn(beam: np.ndarray) -> np.ndarray:
    """The smallest rotation that brings `beam` onto z."""
    axis = np.cross(beam, [0, 0, 1.0])
    sine = np.linalg.norm(axis)
    if sine < 1e-12:
        return np.eye(3) if beam[2] > 0 else np.diag([1.0, -1.0, -1.0])
    return rotation_about(axis / sine, math.atan2(sine, beam[2]))
