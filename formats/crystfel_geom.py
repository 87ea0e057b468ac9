"""CrystFEL's geometry files (.geom): panels in pixels of a laboratory with z along the beam and y up.

A panel's `corner_x`, `corner_y` are the outer corner of its first pixel, in pixels of `res` per metre; `fs` and `ss`
lead to the next pixel; z is `clen` + `coffset`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from ..processing.errors import ConfigurationError
from .layout import DENSE_DATA, PEAKS
from .panels import DetectorGeometry, Panel, check_panels

_PLANCK_TIMES_LIGHT = 1.23984198e-6  # eV·m
_JOULE = 1.602176634e-19  # per eV

_VECTOR = re.compile(r"\s*([+-]?)\s*(\d*\.?\d*(?:[eE][+-]?\d+)?)\s*\*?\s*([xyz])")
_LENGTHS = {"m": 1.0, "mm": 1e-3, "cm": 1e-2}
_ENERGIES = {"ev": 1.0, "kev": 1e3, "mev": 1e6, "j": 1 / _JOULE}
_WAVELENGTHS = {"m": 1.0, "a": 1e-10}

#: names that are no panels
_NO_PANELS = ("bad", "group", "rigid_group")
_OF_PANELS = ("min_fs", "max_fs", "min_ss", "max_ss", "fs", "ss", "corner_x", "corner_y", "coffset", "res", "clen")
_NEEDED = ("min_fs", "max_fs", "min_ss", "max_ss", "corner_x", "corner_y", "res", "clen")


@dataclass(frozen=True, slots=True)
class _Line:
    """Where a value comes from, for errors."""

    text: str
    place: str


def read_geom(text: str, name: str = ".geom text") -> DetectorGeometry:
    """Panels, and the wavelength, of a geometry file.

    Raises
    ------
    ConfigurationError
        A line cannot be understood, something is missing, or a distance or energy is to be taken from image files.
    """
    defaults: dict[str, _Line] = {}
    panels: dict[str, dict[str, _Line]] = {}
    whole: dict[str, _Line] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition(";")[0].strip()
        if not line:
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        place = f"{name}, line {number}"
        if not equals:
            raise ConfigurationError(
                f"{place}: {line!r}: accepted is 'name = value', or a comment that begins with ';'"
            )
        owner, slash, rest = key.partition("/")
        if slash and not owner.startswith(_NO_PANELS):
            # what was said for all panels before holds until the panel says otherwise
            panels.setdefault(owner, dict(defaults))[rest] = _Line(value, place)
        elif key in _OF_PANELS:
            defaults[key] = whole[key] = _Line(value, place)
        else:
            whole[key] = _Line(value, place)
    # distance and resolution may also be told once for all at the end
    late = {key: whole[key] for key in ("clen", "res") if key in whole}
    found = [_panel(label, late | values, name) for label, values in panels.items() if _is_panel(values)]
    return DetectorGeometry(tuple(found), check_panels(found, name), _wavelength(whole))


def _is_panel(values: dict[str, _Line]) -> bool:
    return any(key in values for key in _NEEDED[:4])


def _panel(label: str, values: dict[str, _Line], name: str) -> Panel:
    missing = [key for key in _NEEDED if key not in values]
    if missing:
        raise ConfigurationError(f"{name}: panel {label!r} has no {missing[0]}")
    fs, ss, max_fs, max_ss = (_integer(values[key]) for key in ("min_fs", "min_ss", "max_fs", "max_ss"))
    pixel = 1 / _number(values["res"])
    z = _quantity(values["clen"], _LENGTHS, "m", "a distance, e.g. 'clen = 0.15 m'")
    if "coffset" in values:
        z += _quantity(values["coffset"], _LENGTHS, "m", "a distance in m")
    origin = np.array([_number(values["corner_x"]) * pixel, _number(values["corner_y"]) * pixel, z])
    fast = _vector(values["fs"]) if "fs" in values else np.array([1.0, 0, 0])
    slow = _vector(values["ss"]) if "ss" in values else np.array([0, 1.0, 0])
    return Panel(label, (ss, fs), (max_ss - ss + 1, max_fs - fs + 1), origin, slow * pixel, fast * pixel)


def _vector(line: _Line) -> np.ndarray:
    """From e.g. "-0.004x +0.9999y"; a missing number is 1."""
    vector, place = np.zeros(3), 0
    while place < len(line.text.rstrip()):
        found = _VECTOR.match(line.text, place)
        if found is None or (place and not found[1]):
            raise ConfigurationError(f"{line.place}: {line.text!r}: accepted is a sum such as '+0.9x -0.1y +0.01z'")
        size = float(found[2]) if found[2] else 1.0
        vector["xyz".index(found[3])] += -size if found[1] == "-" else size
        place = found.end()
    return vector


def _wavelength(values: dict[str, _Line]) -> float | None:
    """m; None where image files tell it."""
    try:
        if "wavelength" in values:
            return _quantity(values["wavelength"], _WAVELENGTHS, "m", "")
        if "photon_energy" in values:
            return _PLANCK_TIMES_LIGHT / _quantity(values["photon_energy"], _ENERGIES, "ev", "")
    except (ConfigurationError, ZeroDivisionError):
        pass
    return None


def _quantity(line: _Line, units: dict[str, float], default: str, accepted: str) -> float:
    number, _, unit = line.text.partition(" ")
    factor = units.get(unit.strip().lower() or default)
    if factor is None or not _is_number(number):
        hint = " (it is to be read from image files)" if line.text.startswith("/") else ""
        raise ConfigurationError(f"{line.place}: {line.text!r}{hint}: accepted is {accepted}")
    return float(number) * factor


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _number(line: _Line) -> float:
    if not _is_number(line.text):
        raise ConfigurationError(f"{line.place}: {line.text!r}: accepted is a number")
    return float(line.text)


def _integer(line: _Line) -> int:
    number = _number(line)
    if number != int(number):
        raise ConfigurationError(f"{line.place}: {line.text!r}: accepted is a whole number")
    return int(number)


def write_geom(geometry: DetectorGeometry) -> str:
    """The text of a geometry file for the files of `framesieve densify`."""
    pixel = geometry.panels[0].pixel_size[1]
    clen = float(geometry.panels[0].origin[2])
    lines = ["; written by framesieve", f"clen = {clen!r} m", f"res = {1 / pixel!r}"]
    if geometry.wavelength is not None:
        lines.append(f"photon_energy = {_PLANCK_TIMES_LIGHT / geometry.wavelength!r} eV")
    lines += [
        "adu_per_photon = 1",
        f"data = {DENSE_DATA}",
        "dim0 = %",
        "dim1 = ss",
        "dim2 = fs",
        "mask0_data = /entry/instrument/detector/pixel_mask",
        "mask0_goodbits = 0x0",
        "mask0_badbits = 0x1",
        "flag_lessthan = 0",
        f"peak_list = {PEAKS}",
        "peak_list_type = cxi",
    ]
    taken: set[str] = set()
    for number, panel in enumerate(geometry.panels):
        label = re.sub(r"[^A-Za-z0-9_]", "_", panel.name)
        if not label or label.startswith(_NO_PANELS) or label in taken:
            label = f"p{number}"
        taken.add(label)
        (y, x), (rows, columns) = panel.first, panel.size
        values = {
            "min_fs": x,
            "max_fs": x + columns - 1,
            "min_ss": y,
            "max_ss": y + rows - 1,
            "corner_x": repr(float(panel.origin[0] / pixel)),
            "corner_y": repr(float(panel.origin[1] / pixel)),
            "coffset": repr(float(panel.origin[2] - clen)),
            "fs": _vector_text(panel.fast / pixel),
            "ss": _vector_text(panel.slow / pixel),
        }
        lines.append("")
        lines += [f"{label}/{key} = {value}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _vector_text(vector: np.ndarray) -> str:
    return " ".join(f"{component:+.12f}{axis}" for component, axis in zip(vector, "xyz", strict=True))
