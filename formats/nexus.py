"""The parts of a file that are fixed for a run: instrument, geometry, provenance, in NeXus and CXI terms."""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import h5py
import numpy as np

from ..processing.errors import ConfigurationError
from ..processing.frames import RunInfo
from ..processing.poni import Poni, parse_poni
from . import geometry_files, nxmx_geometry, panels
from .hdf5_writer import PROGRAM, VERSION, iso_time
from .layout import COMPRESSION

METRES_TO_ANGSTROM = 1e10


def group(parent: h5py.Group, name: str, nx_class: str, **attributes: Any) -> h5py.Group:
    """A new group `name` with its NeXus class."""
    new = parent.create_group(name)
    new.attrs["NX_class"] = nx_class
    new.attrs.update(attributes)
    return new


def value(parent: h5py.Group, name: str, data: Any, units: str = "") -> h5py.Dataset:
    """A new scalar or small array, with its units."""
    dataset = parent.create_dataset(name, data=data)
    if units:
        dataset.attrs["units"] = units
    return dataset


def image(parent: h5py.Group, name: str, data: np.ndarray, **attributes: Any) -> h5py.Dataset:
    """A new, compressed array in the shape of the detector."""
    dataset = parent.create_dataset(name, data=data, chunks=data.shape, **COMPRESSION)
    dataset.attrs["interpretation"] = "image"
    dataset.attrs.update(attributes)
    return dataset


def masked_pixels(info: RunInfo) -> np.ndarray:
    """bool (rows, columns), True where a pixel takes no part."""
    return ~np.isfinite(info.radius_image)


def write_process(entry: h5py.Group, name: str, info: RunInfo) -> h5py.Group:
    """NXprocess: which program made the file, from what."""
    process = group(entry, name, "NXprocess")
    process["program"] = PROGRAM
    process["version"] = VERSION
    process["date"] = iso_time()
    process["sequence_index"] = 1
    process["source"] = info.source
    return process


#: as NeXus' readers want them
_MATERIALS = {"si": "Si", "silicon": "Si", "cdte": "CdTe", "gaas": "GaAs"}


def write_detector(parent: h5py.Group, info: RunInfo, name: str = "detector") -> h5py.Group:
    """NXdetector: sizes and distances in metres, the beam centre in pixels from the corner of the first one."""
    detector = group(parent, name, "NXdetector")
    detector["description"] = info.detector
    value(detector, "distance", info.distance, "m")
    value(detector, "x_pixel_size", info.pixel_size[1], "m")
    value(detector, "y_pixel_size", info.pixel_size[0], "m")
    value(detector, "beam_center_x", float(info.beam_center[0]), "pixel")
    value(detector, "beam_center_y", float(info.beam_center[1]), "pixel")
    for name, units in (("saturation_value", ""), ("sensor_material", ""), ("sensor_thickness", "m")):
        if name in info.source_metadata:
            told = info.source_metadata[name]
            value(detector, name, _MATERIALS.get(str(told).lower(), told), units)
    return detector


def write_instrument(entry: h5py.Group, info: RunInfo) -> None:
    """NXinstrument under `entry` with detector and wavelength, where pyFAI's files have them."""
    instrument = group(entry, "instrument", "NXinstrument")
    write_detector(instrument, info, re.sub(r"[^\w-]+", "_", info.detector).strip("_") or "detector")
    if info.wavelength is not None:
        monochromator = group(instrument, "monochromator", "NXmonochromator")
        value(monochromator, "wavelength", np.float32(info.wavelength * METRES_TO_ANGSTROM), "Å")


def write_geometry(entry: h5py.Group, info: RunInfo) -> None:
    """What is needed to reduce the frames again in the same way."""
    geometry = group(entry, "geometry", "NXcollection")
    geometry["poni"] = info.poni_text
    with contextlib.suppress(ConfigurationError):
        for name, text in geometry_files.dialects(info.poni_text, info.shape).items():
            geometry[name] = text
    geometry["detector"] = info.detector
    geometry["source"] = info.source
    geometry["configuration"] = json.dumps(info.configuration, sort_keys=True)
    geometry["source_metadata"] = json.dumps(info.source_metadata, sort_keys=True, default=str)
    mask = masked_pixels(info).astype(np.uint8)
    image(geometry, "mask", mask, long_name="1 where a pixel is masked, else 0")
    value(geometry, "distance", info.distance, "m")
    value(geometry, "pixel_size", np.array(info.pixel_size), "m").attrs["long_name"] = "slow (y), fast (x)"
    if info.wavelength is not None:
        value(geometry, "wavelength", info.wavelength, "m")


def geometry_of(info: RunInfo) -> panels.DetectorGeometry:
    """Where the pixels are: as the PONI text says, or where there is none (or none that can be used) a detector that is
    perpendicular to the beam."""
    try:
        return panels.from_poni(parse_poni(info.poni_text), info.shape)
    except ConfigurationError:
        (slow, fast), (x, y) = info.pixel_size, info.beam_center
        straight = Poni(info.distance, y * slow, x * fast, 0, 0, 0, slow, fast, info.wavelength, detector=info.detector)
        return panels.from_poni(straight, info.shape)


#: sensors by what the name of a detector has in it: material, thickness in m
_SENSORS = {"cdte": ("CdTe", 750e-6), "jungfrau": ("Si", 320e-6), "pilatus": ("Si", 320e-6), "eiger": ("Si", 450e-6)}
_UNKNOWN_SENSOR = ("Si", 450e-6)


def write_nxmx(entry: h5py.Group, info: RunInfo, dtype: np.dtype, *, upside_down: bool = False) -> h5py.Group:
    """NXinstrument, NXsample and what belongs to them as NXmx demands it; the NXdetector.

    `dtype`: of the images in the file. `upside_down`: see `DetectorGeometry.upside_down`.
    """
    group(entry, "sample", "NXsample")["depends_on"] = "."  # nothing turns: stills
    instrument = group(entry, "instrument", "NXinstrument")
    detector = write_detector(instrument, info)
    detector["depends_on"] = "."
    geometry = geometry_of(info)
    nxmx_geometry.write_modules(detector, geometry.upside_down() if upside_down else geometry)
    _write_sensor(detector, info)
    if np.issubdtype(dtype, np.integer):
        largest = min(int(np.iinfo(np.dtype(dtype)).max), int(_largest_value(info.dtype)))
        if "saturation_value" not in detector:
            value(detector, "saturation_value", largest).attrs["note"] = "largest number that the pixels can have"
        value(detector, "underload_value", 0)
        value(detector, "bit_depth_readout", np.dtype(dtype).itemsize * 8)
    # not compressed, and in both places: XDS' plugins look in one or the other
    detector["pixel_mask"] = masked_pixels(info).astype(np.uint32)
    specific = group(detector, "detectorSpecific", "NXcollection")
    specific["pixel_mask"] = detector["pixel_mask"]
    specific["ntrigger"] = np.uint32(1)
    value(specific, "x_pixels_in_detector", np.uint32(info.shape[1]))
    value(specific, "y_pixels_in_detector", np.uint32(info.shape[0]))
    if info.wavelength is not None:
        beam = group(instrument, "beam", "NXbeam")
        value(beam, "incident_wavelength", info.wavelength * METRES_TO_ANGSTROM, "angstrom")
    return detector


def _largest_value(dtype: np.dtype) -> int:
    """The largest that is no flag."""
    if not np.issubdtype(dtype, np.integer):
        return np.iinfo(np.int32).max - 2
    limits = np.iinfo(dtype)
    return limits.max - 1 if limits.min == 0 else limits.max - 2


def _write_sensor(detector: h5py.Group, info: RunInfo) -> None:
    name = info.detector.lower()
    key = next((key for key in _SENSORS if key in name), "")
    material, thickness = _SENSORS.get(key, _UNKNOWN_SENSOR)
    why = f"assumed for a detector called {info.detector!r}; the source did not tell"
    for field, assumed, units in (("sensor_material", material, ""), ("sensor_thickness", thickness, "m")):
        if field not in detector:
            value(detector, field, assumed, units).attrs["note"] = why


def write_cxi_instrument(entry: h5py.Group, info: RunInfo) -> None:
    """CXI's `instrument_1`: what a reader of the peaks needs to know of the experiment."""
    instrument = group(entry, "instrument_1", "NXinstrument")
    instrument["name"] = info.detector
    write_detector(instrument, info, "detector_1")
    if info.wavelength is not None:
        value(group(instrument, "beam_1", "NXbeam"), "incident_wavelength", info.wavelength, "m")
