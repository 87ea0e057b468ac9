"""Frames of HDF5 files: plain stacks, NXmx, Eiger masters with their data files."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any, Final

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters)
import numpy as np

from ..processing.errors import ConfigurationError, FrameError
from ..processing.frames import ArrayPayload, Payload
from .payload import EncodedPayload
from .pixels import converted, pixel_dtype

#: where detectors and beamlines put their frames, in the order of trying, when no NeXus attribute tells
USUAL_PATHS: Final = (
    "entry/data/data",
    "entry/instrument/detector/data",
    "entry_0000/measurement/data",
    "data/data",
    "data",
)

_FILTER_BITSHUFFLE: Final = 32008
_FILTER_LZ4: Final = 32004
_METRES: Final = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "µm": 1e-6, "nm": 1e-9, "a": 1e-10, "å": 1e-10, "angstrom": 1e-10}


def open_hdf5(path: str) -> h5py.File:
    """Open for reading, without locks (they fail on some network file systems).

    Raises
    ------
    ConfigurationError
    """
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read as HDF5 ({_first_line(error)})") from None


class Hdf5Frames:
    """The frames of one file, read one by one.

    Chunks that hold one frame, bitshuffled or LZ4-compressed or plain, are handed on as they are stored.

    Attributes
    ----------
    shape, dtype
        (rows, columns) of a frame and its pixel type as reduced.
    count : int
    numbers : list of int or None
        Values of the dataset `frame_number` beside the frames, where it has one strictly increasing,
        non-negative number per frame.
    metadata : dict
        What the file tells of wavelength, distance, pixel size, beam centre …, under the names that
        `stream2_messages.StartMessage.metadata` documents.

    Raises
    ------
    ConfigurationError
        Not readable, no such dataset, not two- or three-dimensional, a pixel type that is not supported.
    """

    def __init__(self, path: str, dataset: str | None = None) -> None:
        self.path = path
        self._file = open_hdf5(path)
        try:
            self._parts = [_Part(found, f"{path}::{found.name}") for found in find_images(self._file, dataset)]
            first = self._parts[0]
            self.shape, self.dtype = first.shape, first.dtype
            for part in self._parts:
                if (part.shape, part.dtype) != (self.shape, self.dtype):
                    raise ConfigurationError(f"{part.where} and {first.where} differ in shape or pixel type")
            self._ends = list(accumulate(part.count for part in self._parts))
            self.count = self._ends[-1]
            if self.count == 0:
                raise ConfigurationError(f"{first.where}: holds no frames (shape {first.dataset.shape})")
            self.numbers = _frame_numbers(first.dataset.parent, self.count)
            self.metadata = _metadata(self._file)
        except BaseException:
            self.close()
            raise

    @property
    def is_bslz4(self) -> bool:
        """Whether frames are stored as bslz4 chunks."""
        return any(part.encoding == "bslz4" for part in self._parts)

    def payload(self, index: int) -> Payload:
        """Frame `index` of the file. FrameError where it cannot be read."""
        part = bisect_right(self._ends, index)
        try:
            return self._parts[part].payload(index - (self._ends[part - 1] if part else 0))
        except (OSError, RuntimeError, KeyError) as error:
            raise FrameError(
                f"{self._parts[part].where}: frame {index} cannot be read ({_first_line(error)})"
            ) from None

    def close(self) -> None:
        self._file.close()


class _Part:
    """One dataset of frames."""

    def __init__(self, dataset: h5py.Dataset, where: str) -> None:
        if dataset.ndim not in (2, 3):
            raise ConfigurationError(
                f"{where}: has {dataset.ndim} dimensions, not 2 (a frame) or 3 (a stack of frames)"
            )
        self.dataset, self.where = dataset, where
        self.shape: tuple[int, int] = dataset.shape[-2:]
        self.dtype = pixel_dtype(dataset.dtype, where)
        if 0 in self.shape:
            raise ConfigurationError(f"{where}: holds no pixels (shape {dataset.shape})")
        self.count = dataset.shape[0] if dataset.ndim == 3 else 1
        self.encoding, self.element_size = self._chunk_encoding()

    def _chunk_encoding(self) -> tuple[str | None, int]:
        """How a chunk is encoded, if it is one frame that `EncodedPayload` decodes; else None."""
        dataset = self.dataset
        frame = self.shape if dataset.ndim == 2 else (1, *self.shape)
        if dataset.is_virtual or dataset.chunks != frame or self.dtype != dataset.dtype.newbyteorder("="):
            return None, 0
        plan = dataset.id.get_create_plist()
        filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
        if not filters:
            return "none", 0
        identifier, _, options, _ = filters[0]
        if len(filters) == 1 and identifier == _FILTER_LZ4:
            return "lz4", 0
        if len(filters) == 1 and identifier == _FILTER_BITSHUFFLE and len(options) >= 5:
            return {2: "bslz4", 3: "bszstd"}.get(options[4]), options[2]
        return None, 0

    def payload(self, index: int) -> Payload:
        if self.encoding is not None:
            offset = (0, 0) if self.dataset.ndim == 2 else (index, 0, 0)
            try:
                skipped_filters, data = self.dataset.id.read_direct_chunk(offset)
            except (OSError, RuntimeError, MemoryError):
                pass  # never written: slicing gives the fill value, or says what is wrong
            else:
                encoding = "none" if skipped_filters else self.encoding
                return EncodedPayload(self.shape, self.dataset.dtype, encoding, data, self.element_size)
        pixels = self.dataset[()] if self.dataset.ndim == 2 else self.dataset[index]
        stored = 0 if self.dataset.is_virtual else self.dataset.id.get_storage_size() // self.count
        return ArrayPayload(converted(pixels, self.dtype), stored)


def find_images(file: h5py.File, name: str | None) -> list[h5py.Dataset]:
    """The datasets that hold the frames, in their order: one, or the `data_000001` … of an Eiger master.

    `name` is a dataset or a group that holds them; None: follow NeXus' `default` and `signal`, then try
    `USUAL_PATHS`, then take the only two- or three-dimensional dataset there is.

    Raises
    ------
    ConfigurationError
        Nothing found, or more than one could be meant; the text lists the datasets there are.
    """
    if name is not None:
        item = _get(file, name)
        found = [item] if isinstance(item, h5py.Dataset) else _of_group(item) if item is not None else []
        if found:
            return found
        raise ConfigurationError(f"{file.filename}: no dataset {name!r} {_listing(file)}")
    for group in _nexus_groups(file):
        if found := _of_group(group):
            return found
    for path in USUAL_PATHS:
        item = _get(file, path)
        if isinstance(item, h5py.Dataset) and item.ndim in (2, 3):
            return [item]
    candidates = _image_datasets(file)
    if len(candidates) == 1:
        return candidates
    if not candidates:
        raise ConfigurationError(f"{file.filename}: no dataset with 2 or 3 dimensions")
    raise ConfigurationError(f"{file.filename}: which dataset? Append ::NAME {_listing(file)}")


def _nexus_groups(file: h5py.File) -> Iterator[h5py.Group]:
    """NXdata groups, the ones that `default` leads to first."""
    for parent in (file, *_children(file, "NXentry")):
        item = parent
        while isinstance(item, h5py.Group) and isinstance(item.attrs.get("default"), str):
            following = _get(item, item.attrs["default"])
            if following is None or following == item:
                break
            item = following
        if isinstance(item, h5py.Group) and _nx_class(item) == "NXdata":
            yield item
        yield from _children(parent, "NXdata")


def _children(group: h5py.Group, nx_class: str) -> Iterator[h5py.Group]:
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.HardLink) and _nx_class(group[name]) == nx_class:
            yield group[name]


def _nx_class(item: h5py.Group | h5py.Dataset) -> str:
    value = item.attrs.get("NX_class", "")
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _of_group(group: h5py.Group) -> list[h5py.Dataset]:
    """The frames of one group: all its `data_<number>`, else its `signal`, else its `data`."""
    numbered = sorted((name for name in group if re.fullmatch(r"data_\d+", name)), key=lambda name: int(name[5:]))
    if numbered:
        return [_linked(group, name) for name in numbered]
    signal = group.attrs.get("signal", "data")
    item = _get(group, signal.decode() if isinstance(signal, bytes) else str(signal))
    return [item] if isinstance(item, h5py.Dataset) and item.ndim in (2, 3) else []


def _linked(group: h5py.Group, name: str) -> h5py.Dataset:
    item = _get(group, name)
    if isinstance(item, h5py.Dataset):
        return item
    link = group.get(name, getlink=True)
    target = f"{link.filename}::{link.path}" if isinstance(link, h5py.ExternalLink) else name
    raise ConfigurationError(f"{group.file.filename}::{group.name}/{name}: the data it links to are missing ({target})")


def _get(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    try:
        return group[name]
    except (KeyError, OSError, ValueError, RuntimeError):  # absent, or a link to a file that is missing
        return None


def _image_datasets(file: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []

    def visit(_: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (2, 3) and item.dtype.kind in "biuf":
            found.append(item)

    file.visititems(visit)
    return found


def _listing(file: h5py.File) -> str:
    items = [f"{item.name} {item.shape} {item.dtype.name}" for item in _image_datasets(file)]
    return f"(there are: {', '.join(items[:20])}{' …' if len(items) > 20 else ''})" if items else "(there are none)"


def _frame_numbers(group: h5py.Group, count: int) -> list[int] | None:
    item = _get(group, "frame_number")
    if not isinstance(item, h5py.Dataset) or item.shape != (count,) or item.dtype.kind not in "iu":
        return None
    numbers = [int(number) for number in item[()]]
    increasing = all(a < b for a, b in pairwise(numbers))
    return numbers if increasing and numbers[0] >= 0 and numbers[-1] < 1 << 63 else None


def _metadata(file: h5py.File) -> dict[str, Any]:
    entry = next(_children(file, "NXentry"), None) or _get(file, "entry")
    if not isinstance(entry, h5py.Group):
        return {}
    detector, beam = "instrument/detector/", "instrument/beam/"
    pixel = [_scalar(entry, detector + name) for name in ("y_pixel_size", "x_pixel_size")]
    center = [_scalar(entry, detector + name) for name in ("beam_center_x", "beam_center_y")]
    values = {
        # NeXus: ångström where nothing else is said
        "wavelength": _scalar(entry, beam + "incident_wavelength", 1e-10),
        "distance": _scalar(entry, detector + "detector_distance") or _scalar(entry, detector + "distance"),
        "pixel_size": None if None in pixel else pixel,
        "beam_center": None if None in center else center,
        "saturation_value": _scalar(entry, detector + "saturation_value"),
        "detector": _scalar(entry, detector + "description"),
    }
    return {name: value for name, value in values.items() if value is not None}


def _scalar(group: h5py.Group, path: str, unit: float = 1.0) -> float | int | str | None:
    """A single value, lengths in metres; `unit` (m) holds where the dataset names none."""
    item = _get(group, path)
    if not isinstance(item, h5py.Dataset) or item.size != 1:
        return None
    value = np.ravel(item[()])[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, np.number):
        return None
    units = item.attrs.get("units")
    if isinstance(units, str | bytes):
        text = (units.decode("utf-8", "replace") if isinstance(units, bytes) else units).strip().lower()
        unit = _METRES.get(text, 1.0)
    return value.item() * unit if unit != 1.0 else value.item()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
