"""Which datasets of an HDF5 file hold its frames: NeXus, Eiger masters, plain stacks."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters)

from ..processing.errors import ConfigurationError

#: where detectors and beamlines put their frames, in the order of trying, when no NeXus attribute tells
USUAL_PATHS: Final = (
    "entry/data/data",
    "entry/instrument/detector/data",
    "entry_0000/measurement/data",
    "data/data",
    "data",
)


def open_hdf5(path: str) -> h5py.File:
    """Open for reading, without locks (they fail on some network file systems), also while another program writes in
    SWMR mode.

    Raises
    ------
    ConfigurationError
    """
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        reason = first_line(error)
    try:
        return h5py.File(path, "r", locking=False, swmr=True)
    except OSError:
        raise ConfigurationError(f"{path}: cannot be read as HDF5 ({reason})") from None


@dataclass(frozen=True, slots=True)
class Place:
    """Where frames are, or will be: a link may lead to a file that is not there yet."""

    group: h5py.Group
    name: str

    def dataset(self) -> h5py.Dataset:
        """What is there. ConfigurationError where that is nothing."""
        item = get(self.group, self.name)
        if isinstance(item, h5py.Dataset):
            return item
        path, name = self.target()
        raise ConfigurationError(
            f"{self.group.file.filename}::{self.group.name}/{self.name}: "
            f"the data it links to are missing ({os.path.basename(path)}::{name})"
        )

    def target(self) -> tuple[str, str]:
        """Path of the file and name of the dataset in it; nothing is opened for it but what is there already."""
        link = self.group.get(self.name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return beside(self.group.file.filename, link.filename), link.path
        item = get(self.group, self.name)
        if item is None:
            return self.group.file.filename, f"{self.group.name.rstrip('/')}/{self.name}"
        return item.file.filename, item.name


def beside(path: str, name: str) -> str:
    """The file that is called `name` in the file at `path`: found as HDF5 does it, relative to the folder of `path`."""
    folder = os.path.dirname(os.path.abspath(path))
    tried = [os.path.join(folder, name), os.path.join(folder, os.path.basename(name)), name]
    return next((found for found in tried if os.path.exists(found)), tried[0])


def find_images(file: h5py.File, name: str | None) -> list[h5py.Dataset]:
    """The datasets that hold the frames, in their order: one, or the `data_000001` … of an Eiger master.

    `name` is a dataset or a group that holds them; None: follow NeXus' `default` and `signal`, then try
    `USUAL_PATHS`, then take the only two- or three-dimensional dataset there is.

    Raises
    ------
    ConfigurationError
        Nothing found, or more than one could be meant; the text lists the datasets there are.
    """
    return [place.dataset() for place in find_places(file, name)]


def find_places(file: h5py.File, name: str | None) -> list[Place]:
    """As `find_images`, but what numbered links lead to need not be there yet."""
    if name is not None:
        item = get(file, name)
        found = [Place(file, name)] if isinstance(item, h5py.Dataset) else _of_group(item) if item is not None else []
        if found:
            return found
        raise ConfigurationError(f"{file.filename}: no dataset {name!r} {_listing(file)}")
    for group in _nexus_groups(file):
        if found := _of_group(group):
            return found
    for path in USUAL_PATHS:
        if _is_image(get(file, path)):
            return [Place(file, path)]
    candidates = _image_datasets(file)
    if len(candidates) == 1:
        return [Place(file, candidates[0].name)]
    if not candidates:
        raise ConfigurationError(f"{file.filename}: no dataset with 2 or 3 dimensions")
    raise ConfigurationError(f"{file.filename}: which dataset? Append ::NAME {_listing(file)}")


def linked_files(path: str, name: str | None) -> list[str]:
    """Paths of the other files that hold the frames of this one; none where it cannot be told."""
    try:
        with open_hdf5(path) as file:
            places = find_places(file, name)
            targets = [place.target()[0] for place in places]
            item = get(places[0].group, places[0].name)
            if isinstance(item, h5py.Dataset) and item.is_virtual:
                targets += [beside(path, source.file_name) for source in item.virtual_sources()]
    except (ConfigurationError, OSError, RuntimeError):
        return []
    return [target for target in targets if os.path.realpath(target) != os.path.realpath(path)]


def _nexus_groups(file: h5py.File) -> Iterator[h5py.Group]:
    """NXdata groups, the ones that `default` leads to first."""
    for parent in (file, *children(file, "NXentry")):
        item = parent
        while isinstance(item, h5py.Group) and isinstance(item.attrs.get("default"), str):
            following = get(item, item.attrs["default"])
            if following is None or following == item:
                break
            item = following
        if isinstance(item, h5py.Group) and nx_class(item) == "NXdata":
            yield item
        yield from children(parent, "NXdata")


def children(group: h5py.Group, wanted: str) -> Iterator[h5py.Group]:
    """The groups in `group` that are of this NeXus class."""
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.HardLink) and nx_class(group[name]) == wanted:
            yield group[name]


def nx_class(item: h5py.Group | h5py.Dataset) -> str:
    value = item.attrs.get("NX_class", "")
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _of_group(group: h5py.Group) -> list[Place]:
    """The frames of one group: all its `data_<number>`, else its `signal`, else its `data`."""
    numbered = sorted((name for name in group if re.fullmatch(r"data_\d+", name)), key=lambda name: int(name[5:]))
    if numbered:
        return [Place(group, name) for name in numbered]
    signal = group.attrs.get("signal", "data")
    name = signal.decode() if isinstance(signal, bytes) else str(signal)
    return [Place(group, name)] if _is_image(get(group, name)) else []


def get(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """What `name` leads to; None where that is nothing."""
    try:
        return group[name]
    except (KeyError, OSError, ValueError, RuntimeError):  # absent, or a link to a file that is missing
        return None


def _is_image(item: object) -> bool:
    return isinstance(item, h5py.Dataset) and item.ndim in (2, 3)


def _image_datasets(file: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []

    def visit(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if _is_image(item) and item.dtype.kind in "biuf":
            found.append(item)

    file.visititems(visit)
    return found


def _listing(file: h5py.File) -> str:
    items = [f"{item.name} {item.shape} {item.dtype.name}" for item in _image_datasets(file)]
    return f"(there are: {', '.join(items[:20])}{' …' if len(items) > 20 else ''})" if items else "(there are none)"


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
