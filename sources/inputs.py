"""What the user names, to files: one, several, a pattern, a folder; and the numbers in their names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Iterable
from itertools import pairwise
from typing import Final

from ..processing.errors import ConfigurationError
from .hdf5_find import linked_files

#: HDF5 files and images are found in folders by how their names end, images also with .gz or .bz2 behind that
HDF5_SUFFIXES: Final = (".h5", ".hdf5", ".nxs", ".nx5", ".nx", ".hdf", ".cxi")
IMAGE_SUFFIXES: Final = (".cbf", ".tif", ".tiff", ".edf", ".img", ".mccd", ".mar3450", ".osc", ".sfrm", ".raxis")
#: these hold one image each: they need not be read to be counted
SINGLE_IMAGE: Final = (".cbf", ".cbf.gz", ".cbf.bz2", ".img", ".mccd")
_PACKED: Final = (".gz", ".bz2")


def split_spec(spec: str) -> tuple[str, str | None]:
    """`PATH[::DATASET]` → path, dataset.

    Raises
    ------
    ConfigurationError
        The file is missing, is a directory or may not be read.
    """
    path, dataset = spec, None
    if not os.path.exists(spec) and "::" in spec:
        path, _, dataset = spec.rpartition("::")
    path = os.path.expanduser(path)
    if os.path.isfile(path) and os.path.getsize(path) == 0:
        raise ConfigurationError(f"{path}: is empty")
    if not path:
        raise ConfigurationError(f"no file is named in {spec!r}")
    if not os.path.exists(path):
        raise ConfigurationError(f"{path}: {absence(path)}")
    if os.path.isdir(path):
        raise ConfigurationError(f"{path}: is a directory, name a file in it")
    if not os.access(path, os.R_OK):
        raise ConfigurationError(f"{path}: may not be read")
    return path, dataset or None


def absence(path: str) -> str:
    """Why there is no file at `path`, as far as can be told."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(folder) and not os.access(folder, os.X_OK):
        return f"the folder {folder} may not be read"
    return "there is no such file"


def natural_order(path: str) -> list[tuple[bool, int, str]]:
    """A key for sorting: x_2 comes before x_10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"([0-9]+)", path)]


def kind_of(path: str) -> str:
    """ "HDF5", or the suffix of an image, .gz and the like left away; '' for what is neither by its name."""
    stem, suffix = os.path.splitext(path.lower())
    if suffix in _PACKED:
        suffix = os.path.splitext(stem)[1]
    elif suffix in HDF5_SUFFIXES:
        return "HDF5"
    return {".tiff": ".tif"}.get(suffix, suffix) if suffix in IMAGE_SUFFIXES else ""


def matching(path: str, known: Collection[str] = ()) -> list[str]:
    """The files that a pattern, or a folder, stands for now, in natural order, without those in `known`: in a folder
    those that are HDF5 or images by their names. Hidden ones are left out."""
    path = os.path.expanduser(path)
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            found = [
                entry.path
                for entry in entries
                if entry.path not in known and kind_of(entry.name) and entry.name[0] != "." and entry.is_file()
            ]
    else:
        found = [name for name in glob.iglob(path) if name not in known]
    return sorted(found, key=natural_order)


def is_pattern(path: str) -> bool:
    """Whether it is no file, but may stand for some."""
    return not os.path.exists(path) and glob.has_magic(path)


def expanded(spec: str) -> list[str]:
    """`PATH[::DATASET]`, or what the folder or the wildcards in PATH stand for; data files that a master among them
    links to are left out.

    Raises
    ------
    ConfigurationError
        No file matches; a folder holds several kinds of files, or cannot be read.
    """
    path, separator, dataset = spec.partition("::")
    path = os.path.expanduser(path)
    is_folder = os.path.isdir(path)
    if not is_folder and (os.path.exists(spec) or not is_pattern(path)):
        return [spec]
    try:
        found = matching(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    if not found:
        known = f"{', '.join(HDF5_SUFFIXES)}, {', '.join(IMAGE_SUFFIXES)}"
        raise ConfigurationError(
            f"{path}: is a directory, and no file in it ends in {known}" if is_folder else f"{path}: no file matches"
        )
    if is_folder:
        _refuse_mix(path, found)
    return [name + separator + dataset for name in without_linked(found, dataset or None)]


def _refuse_mix(folder: str, found: list[str]) -> None:
    kinds: dict[str, list[str]] = {}
    for name in found:
        kinds.setdefault(kind_of(name), []).append(os.path.basename(name))
    if len(kinds) > 1:
        told = ", ".join(f"{len(names)} {kind.lstrip('.')} ({names[0]} …)" for kind, names in kinds.items())
        raise ConfigurationError(f"{folder}: holds files of several kinds: {told}; name one kind, e.g. {folder}/*.cbf")


def without_linked(paths: Iterable[str], dataset: str | None = None) -> list[str]:
    """`paths` without the HDF5 files whose frames others of them have too: the data files of a master."""
    paths = list(paths)
    if len(paths) < 2:
        return paths
    linked = {
        os.path.realpath(target)
        for path in paths
        if kind_of(path) == "HDF5" and os.path.isfile(path)
        for target in linked_files(path, dataset)
    }
    return [path for path in paths if os.path.realpath(path) not in linked]


def number_in(path: str) -> tuple[str, int] | None:
    """What lies before the number at the end of the name of a file, suffixes left away, and the number."""
    name = os.path.basename(path)
    for _ in range(2):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in (*_PACKED, *IMAGE_SUFFIXES):
            name = stem
    found = re.fullmatch(r"(.*?)([0-9]{1,18})", name, re.DOTALL)
    return (found[1], int(found[2])) if found else None


def numbers_in(paths: list[str]) -> list[int] | None:
    """The numbers at the end of the names, where all have one, increasing, behind the same text; else None."""
    found = [number_in(path) for path in paths]
    if any(item is None for item in found) or len({item[0] for item in found}) != 1:
        return None
    numbers = [item[1] for item in found]
    return numbers if all(a < b for a, b in pairwise(numbers)) else None
