"""Geometry files of four dialects, told apart by their names: PONI, CrystFEL's .geom, NXmx, XDS.INP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py

from ..processing.errors import ConfigurationError
from ..processing.poni import parse_poni
from . import nxmx_geometry
from .crystfel_geom import read_geom, write_geom
from .panels import DetectorGeometry, from_poni, to_poni
from .xds_inp import read_xds, write_xds

_ACCEPTED = "FILE.poni, FILE.geom, FILE.nxs or FILE.h5 (NXmx), XDS.INP or FILE.inp"


def _read_poni(text: str, name: str) -> DetectorGeometry:
    return from_poni(parse_poni(text, name))


#: suffix → how a text is read and written
_TEXTS: dict[str, tuple[Callable[[str, str], DetectorGeometry], Callable[[DetectorGeometry], str]]] = {
    ".poni": (_read_poni, to_poni),
    ".geom": (read_geom, write_geom),
    ".inp": (read_xds, write_xds),
}
_HDF5 = (".nxs", ".h5", ".hdf5", ".nx", ".cxi")


def read_geometry(path: Path) -> DetectorGeometry:
    """The geometry that a file describes; of HDF5 files that of NXmx, or the PONI text of a file of framesieve.

    Raises
    ------
    ConfigurationError
        The file is missing or cannot be understood, or its name tells no dialect.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ConfigurationError(f"{path} does not exist; accepted is {_ACCEPTED}")
    if suffix in _HDF5:
        return _sparse_geometry(path) or nxmx_geometry.read_nxmx(path)
    if suffix not in _TEXTS:
        raise ConfigurationError(f"{path}: its name tells no dialect: accepted is {_ACCEPTED}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read as text: {error}") from None
    return _TEXTS[suffix][0](text, str(path))


def _sparse_geometry(path: Path) -> DetectorGeometry | None:
    try:
        with h5py.File(path, "r") as file:
            group = file.get("entry_0000/geometry")
            if group is None:
                return None
            shape = group["mask"].shape
            return from_poni(parse_poni(group["poni"].asstr()[()], str(path)), shape)
    except (OSError, KeyError):
        return None


def write_geometry(geometry: DetectorGeometry, path: Path, *, overwrite: bool = False) -> None:
    """Describe a geometry in the dialect of the file's name.

    Raises
    ------
    ConfigurationError
        The file exists, its name tells no dialect, or the dialect has no words for this geometry.
    OSError
        The disk refuses.
    """
    suffix = path.suffix.lower()
    if suffix not in _TEXTS and suffix not in _HDF5:
        raise ConfigurationError(f"{path}: its name tells no dialect: accepted is {_ACCEPTED}")
    if path.exists() and not overwrite:
        raise ConfigurationError(f"{path} exists; name another file, or replace it with --overwrite")
    if not path.parent.is_dir():
        raise ConfigurationError(f"{path}: the directory {path.parent} does not exist; create it or name another one")
    if suffix in _TEXTS:
        path.write_text(_TEXTS[suffix][1](geometry), encoding="utf-8")
        return
    with h5py.File(path, "w", libver="earliest") as file:
        _write_nxmx(file, geometry)


def _write_nxmx(file: h5py.File, geometry: DetectorGeometry) -> None:
    """Nothing but the geometry."""
    entry = file.create_group("entry")
    instrument = entry.create_group("instrument")
    detector = instrument.create_group("detector")
    for group, nx_class in (
        (file, "NXroot"),
        (entry, "NXentry"),
        (instrument, "NXinstrument"),
        (detector, "NXdetector"),
    ):
        group.attrs["NX_class"] = nx_class
    entry["definition"] = "NXmx"
    detector["description"] = geometry.detector
    detector["depends_on"] = "."
    nxmx_geometry.write_modules(detector, geometry)
    if geometry.wavelength is not None:
        beam = instrument.create_group("beam")
        beam.attrs["NX_class"] = "NXbeam"
        beam["incident_wavelength"] = geometry.wavelength * 1e10
        beam["incident_wavelength"].attrs["units"] = "angstrom"


def dialects(poni_text: str, shape: tuple[int, int], name: str = "PONI text") -> dict[str, str]:
    """The other texts of a PONI file, by dialect: "geom", "xds".

    Raises
    ------
    ConfigurationError
        The text cannot be used.
    """
    geometry = from_poni(replace(parse_poni(poni_text, name), shape=shape))
    return {"geom": write_geom(geometry), "xds": write_xds(geometry)}
