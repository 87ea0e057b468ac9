"""Frames of HDF5 files: plain stacks, NXmx, Eiger masters with their data files, virtual datasets."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate, pairwise
from typing import Final

import h5py
import numpy as np

from ..processing.errors import ConfigurationError, FrameError
from ..processing.frames import Payload
from .hdf5_dataset import StoredFrames
from .hdf5_find import find_images, first_line, get, open_hdf5
from .hdf5_metadata import FrameValues, read_flatfield, read_metadata, read_pixel_mask
from .hdf5_virtual import VirtualFrames

#: sources of a virtual dataset that are held open
_MAX_OPEN: Final = 32


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
    values : FrameValues
        What the file holds for each frame beside its pixels: times, monitor, positions.
    metadata : dict
        What the file tells of wavelength, distance, pixel size, beam centre …, under the names that
        `stream2_messages.StartMessage.metadata` documents.

    Raises
    ------
    ConfigurationError
        Not readable, no such dataset, not two- or three-dimensional, a pixel type that is not supported, data that
        it links to are missing.
    """

    def __init__(self, path: str, dataset: str | None = None) -> None:
        self.path = path
        self._sources: OrderedDict[tuple[str, str], StoredFrames] = OrderedDict()
        self._file = open_hdf5(path)
        try:
            found = find_images(self._file, dataset)
            self._parts = [self._part(item, f"{path}::{item.name}") for item in found]
            first = self._parts[0]
            self.shape, self.dtype = first.shape, first.dtype
            for part in self._parts:
                if (part.shape, part.dtype) != (self.shape, self.dtype):
                    raise ConfigurationError(f"{part.where} and {first.where} differ in shape or pixel type")
            self._ends = list(accumulate(part.count for part in self._parts))
            self.count = self._ends[-1]
            if self.count == 0:
                raise ConfigurationError(f"{first.where}: holds no frames (shape {found[0].shape})")
            self.numbers = _frame_numbers(found[0].parent, self.count)
            self.values = FrameValues(self._file, found[0].parent, self.count)
            self.metadata = read_metadata(self._file)
        except (OSError, RuntimeError) as error:
            self.close()
            raise ConfigurationError(f"{path}: cannot be read ({first_line(error)})") from None
        except BaseException:
            self.close()
            raise

    def _part(self, dataset: h5py.Dataset, where: str) -> StoredFrames | VirtualFrames:
        if not dataset.is_virtual or dataset.ndim != 3:
            return StoredFrames(dataset, where)
        try:
            part = VirtualFrames(dataset, where)
        except ConfigurationError:  # a mapping that only HDF5 knows how to follow
            return StoredFrames(dataset, where)
        for (path, name), _ in part.sources().items():
            if not os.path.isfile(path):
                raise ConfigurationError(f"{where}: the data of this virtual dataset are missing ({path}::{name})")
        return part

    @property
    def is_bslz4(self) -> bool:
        """Whether frames are stored as bslz4 chunks."""
        return any(self._encoding(part) == "bslz4" for part in self._parts)

    def _encoding(self, part: StoredFrames | VirtualFrames) -> str | None:
        if isinstance(part, StoredFrames):
            return part.encoding
        try:
            return self._source(*next(iter(part.sources()))).encoding if part.is_whole else None
        except (ConfigurationError, FrameError, StopIteration):
            return None

    def images(self) -> tuple[np.ndarray | None, np.ndarray | None, tuple[str, ...]]:
        """Pixel mask and flat field as `SeriesStart` has them, and what is wrong with them."""
        mask, mask_problem = read_pixel_mask(self._file, self.shape)
        flat, flat_problem = read_flatfield(self._file, self.shape)
        return mask, flat, tuple(filter(None, (mask_problem, flat_problem)))

    def payload(self, index: int) -> Payload:
        """Frame `index` of the file. FrameError where it cannot be read."""
        number = bisect_right(self._ends, index)
        part, place = self._parts[number], index - (self._ends[number - 1] if number else 0)
        try:
            if isinstance(part, StoredFrames):
                return part.payload(place)
            pieces = part.pieces(place)
            return part.frame(pieces, [self._source(piece.path, piece.name).payload(piece.index) for piece in pieces])
        except (OSError, RuntimeError, KeyError, ValueError, IndexError) as error:
            raise FrameError(f"{part.where}: frame {index} cannot be read ({first_line(error)})") from None

    def _source(self, path: str, name: str) -> StoredFrames:
        """A dataset behind a virtual one."""
        key = (path, name)
        if key not in self._sources:
            while len(self._sources) >= _MAX_OPEN:
                self._sources.popitem(last=False)[1].dataset.file.close()
            file = open_hdf5(path)
            dataset = get(file, name)
            if not isinstance(dataset, h5py.Dataset):
                file.close()
                raise FrameError(f"{path}: no dataset {name!r}")
            self._sources[key] = StoredFrames(dataset, f"{path}::{name}")
        self._sources.move_to_end(key)
        return self._sources[key]

    def close(self) -> None:
        for frames in self._sources.values():
            frames.dataset.file.close()
        self._sources.clear()
        self._file.close()


def _frame_numbers(group: h5py.Group, count: int) -> list[int] | None:
    item = get(group, "frame_number")
    if not isinstance(item, h5py.Dataset) or item.shape != (count,) or item.dtype.kind not in "iu":
        return None
    numbers = [int(number) for number in item[()]]
    increasing = all(a < b for a, b in pairwise(numbers))
    return numbers if increasing and numbers[0] >= 0 and numbers[-1] < 1 << 63 else None
