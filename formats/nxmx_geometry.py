"""Detector geometry as NXmx has it: NXdetector_module groups with their chains of transformations."""

from __future__ import annotations

import math
import posixpath
from pathlib import Path

import h5py
import numpy as np

from ..processing.errors import ConfigurationError
from .panels import DetectorGeometry, Panel, check_panels

_LENGTHS = {"m": 1.0, "metre": 1.0, "meter": 1.0, "cm": 1e-2, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "nm": 1e-9}
_LENGTHS |= {"angstrom": 1e-10, "angstroms": 1e-10, "a": 1e-10, "å": 1e-10}
_ANGLES = {"deg": math.pi / 180, "degree": math.pi / 180, "degrees": math.pi / 180, "rad": 1.0, "radians": 1.0}
_LONGEST_CHAIN = 100
_MODULE = "module"


def write_modules(detector: h5py.Group, geometry: DetectorGeometry) -> None:
    """An NXdetector_module for each panel. Origins are the outer corners of first pixels."""
    for panel in geometry.panels:
        name = f"{_MODULE}_{panel.name}" if len(geometry.panels) > 1 else _MODULE
        module = detector.create_group(name)
        module.attrs["NX_class"] = "NXdetector_module"
        module["data_origin"] = np.array(panel.first, np.int64)
        module["data_size"] = np.array(panel.size, np.int64)
        distance = float(np.linalg.norm(panel.origin))
        offset = _axis(module, "module_offset", distance, panel.origin / distance, ".")
        offset.attrs["long_name"] = "from the sample to the outer corner of the first pixel"
        for axis, vector, size in (
            ("fast", panel.fast, panel.pixel_size[1]),
            ("slow", panel.slow, panel.pixel_size[0]),
        ):
            _axis(module, f"{axis}_pixel_direction", size, vector / size, offset.name)


def _axis(module: h5py.Group, name: str, value: float, vector: np.ndarray, depends_on: str) -> h5py.Dataset:
    # an array of one, not a scalar: that is how detectors write it, and what readers count on
    axis = module.create_dataset(name, data=np.array([value]))
    axis.attrs["transformation_type"] = "translation"
    axis.attrs["units"] = "m"
    axis.attrs["vector"] = np.asarray(vector, float)
    axis.attrs["offset"] = np.zeros(3)
    axis.attrs["offset_units"] = "m"
    axis.attrs["depends_on"] = depends_on
    return axis


def read_nxmx(path: str | Path) -> DetectorGeometry:
    """The geometry of the first NXdetector of an NXmx file.

    Raises
    ------
    ConfigurationError
        The file is missing, not HDF5, or has no NXdetector_module.
    """
    try:
        with h5py.File(path, "r") as file:
            return _read(file, str(path))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read as HDF5: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigurationError(f"{path}: its NXmx geometry cannot be understood: {error}") from None


def _read(file: h5py.File, name: str) -> DetectorGeometry:
    entry = _first_of_class(file, "NXentry") or file
    instrument = _first_of_class(entry, "NXinstrument")
    detector = _first_of_class(instrument, "NXdetector") if instrument else None
    modules = _of_class(detector, "NXdetector_module") if detector else []
    if not modules:
        raise ConfigurationError(f"{name}: there is no NXdetector_module in it; accepted is an NXmx file")
    panels = []
    for module in modules:
        origin = np.zeros(3)
        steps = []
        for axis in ("slow_pixel_direction", "fast_pixel_direction"):
            step = module[axis]
            size = float(np.ravel(step[()])[0]) * _unit(step, _LENGTHS)
            vector = np.asarray(step.attrs["vector"], float)
            chain = _chain(step)
            rotation, origin = chain[:3, :3], chain[:3, 3]
            offset = np.asarray(step.attrs.get("offset", np.zeros(3)), float) * _unit(step, _LENGTHS, "offset_units")
            origin = origin + rotation @ offset
            steps.append(rotation @ (vector / np.linalg.norm(vector)) * size)
        label = module.name.rsplit("/", 1)[-1].removeprefix(f"{_MODULE}_")
        first, extent = (tuple(int(i) for i in module[key][()][-2:]) for key in ("data_origin", "data_size"))
        panels.append(Panel(label, first, extent, origin, *steps))
    beam = _first_of_class(instrument, "NXbeam") or (
        _first_of_class(sample, "NXbeam") if (sample := _first_of_class(entry, "NXsample")) else None
    )
    wavelength = None
    if beam is not None and "incident_wavelength" in beam:
        dataset = beam["incident_wavelength"]
        wavelength = float(np.ravel(dataset[()])[0]) * _unit(dataset, _LENGTHS)
    description = detector.get("description")
    label = description.asstr()[()] if description is not None and description.shape == () else "Detector"
    return DetectorGeometry(tuple(panels), check_panels(panels, name), wavelength, str(label))


def _chain(axis: h5py.Dataset) -> np.ndarray:
    """4 × 4: everything that `axis` depends on."""
    total = np.eye(4)
    for _ in range(_LONGEST_CHAIN):
        depends_on = axis.attrs["depends_on"]
        depends_on = depends_on.decode() if isinstance(depends_on, bytes) else str(depends_on)
        if depends_on == ".":
            return total
        axis = axis.file[posixpath.normpath(posixpath.join(axis.parent.name, depends_on))]  # HDF5 knows no ".."
        total = _matrix(axis) @ total
    raise ConfigurationError(f"{axis.name} depends on itself")


def _matrix(axis: h5py.Dataset) -> np.ndarray:
    value = float(np.ravel(axis[()])[0])
    vector = np.asarray(axis.attrs["vector"], float)
    vector = vector / np.linalg.norm(vector)
    kind = axis.attrs["transformation_type"]
    matrix = np.eye(4)
    if (kind.decode() if isinstance(kind, bytes) else kind) == "rotation":
        angle = value * _unit(axis, _ANGLES)
        matrix[:3, :3] = rotation_about(vector, angle)
    else:
        matrix[:3, 3] = vector * value * _unit(axis, _LENGTHS)
    if "offset" in axis.attrs:
        fallback = "units" if (axis.attrs["transformation_type"] != "rotation") else None
        key = "offset_units" if "offset_units" in axis.attrs else fallback
        matrix[:3, 3] += np.asarray(axis.attrs["offset"], float) * (_unit(axis, _LENGTHS, key) if key else 1.0)
    return matrix


def rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """3 × 3, right-handed (Rodrigues' formula); `axis` is a unit vector, `angle` in rad."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _unit(dataset: h5py.Dataset, units: dict[str, float], name: str = "units") -> float:
    text = dataset.attrs.get(name, dataset.attrs.get("units"))
    text = text.decode() if isinstance(text, bytes) else str(text)
    if text.lower() not in units:
        raise ConfigurationError(f"{dataset.name}: unit {text!r}: accepted are {', '.join(units)}")
    return units[text.lower()]


def _of_class(parent: h5py.Group, nx_class: str) -> list[h5py.Group]:
    def class_of(item: h5py.Group) -> str:
        found = item.attrs.get("NX_class", "")
        return found.decode() if isinstance(found, bytes) else str(found)

    return [item for item in parent.values() if isinstance(item, h5py.Group) and class_of(item) == nx_class]


def _first_of_class(parent: h5py.Group, nx_class: str) -> h5py.Group | None:
    return next(iter(_of_class(parent, nx_class)), None)
