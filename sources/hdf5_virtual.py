"""Virtual datasets taken apart: which frame lies where in which file."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import h5py
import numpy as np

from ..processing.errors import ConfigurationError, FrameError
from ..processing.frames import ArrayPayload, Payload
from .hdf5_find import beside
from .pixels import converted, pixel_dtype

#: more sources than any detector's virtual dataset has
MAX_SOURCES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class _Axis:
    """The indices that one selection takes along one axis: `count` blocks of `block`, `stride` apart."""

    start: int
    stride: int
    count: int
    block: int

    @property
    def length(self) -> int:
        """How many they are."""
        return self.count * self.block

    @property
    def extent(self) -> int:
        """From the first to behind the last."""
        return (self.count - 1) * self.stride + self.block

    def order(self, index: int) -> int | None:
        """How many selected ones lie before `index`; None where it is not selected."""
        number, rest = divmod(index - self.start, self.stride)
        return number * self.block + rest if 0 <= number < self.count and rest < self.block else None

    def nth(self, order: int) -> int:
        """The opposite of `order`."""
        return self.start + order // self.block * self.stride + order % self.block

    def as_slice(self) -> slice | None:
        """None where it is no run without gaps."""
        whole = self.count == 1 or self.stride == self.block
        return slice(self.start, self.start + self.length) if whole else None


@dataclass(frozen=True, slots=True)
class Piece:
    """Frame `index` of the dataset `name` in the file at `path`, cut out with `source`, fills `target`."""

    path: str
    name: str
    index: int
    target: tuple[slice, slice]
    source: tuple[slice, slice] | None  # None: all of the frame, whatever its size


@dataclass(frozen=True, slots=True)
class _Source:
    path: str
    name: str
    target: tuple[_Axis, slice, slice]
    source: tuple[_Axis, slice, slice] | None  # None: everything, in its order


class VirtualFrames:
    """The frames of a virtual dataset of shape (n, rows, columns).

    HDF5 itself gives the fill value for what is missing, without a word; here it is found out.

    Raises
    ------
    ConfigurationError
        The mapping is not made of plain blocks of frames, or no shape or pixel type of frames.
    """

    encoding = None

    def __init__(self, dataset: h5py.Dataset, where: str) -> None:
        self.where = where
        if dataset.ndim != 3:
            raise ConfigurationError(f"{where}: a virtual dataset of {dataset.ndim} dimensions, not 3")
        self.count: int = dataset.shape[0]
        self.shape: tuple[int, int] = dataset.shape[1:]
        self.dtype, self._stored_dtype = pixel_dtype(dataset.dtype, where), dataset.dtype
        self._fill = dataset.fillvalue
        own = dataset.file.filename
        sources = dataset.virtual_sources()
        if len(sources) > MAX_SOURCES:
            raise ConfigurationError(f"{where}: a virtual dataset of {len(sources)} pieces")
        paths = {source.file_name for source in sources}
        found = {name: own if name == "." else beside(own, name) for name in paths}
        understood = [self._understood(source, found[source.file_name]) for source in sources]
        self._sources = sorted(understood, key=lambda source: source.target[0].start)
        self._starts = [source.target[0].start for source in self._sources]
        self._longest = max((source.target[0].extent for source in self._sources), default=0)

    def _understood(self, source: object, path: str) -> _Source:
        is_all = source.src_space.get_select_type() == h5py.h5s.SEL_ALL
        target = _axes(source.vspace)
        origin = None if is_all else _axes(source.src_space)
        if "%" in source.file_name or target is None or (origin is None and not is_all):
            raise ConfigurationError(f"{self.where}: the mapping of this virtual dataset is not understood")
        return _Source(path, source.dset_name, target, origin)

    @property
    def is_whole(self) -> bool:
        """Whether every source holds whole frames."""
        rows, columns = self.shape
        return all(s.target[1:] == (slice(0, rows), slice(0, columns)) for s in self._sources)

    def sources(self) -> dict[tuple[str, str], int]:
        """(path, dataset) of every source, with the number of frames that are taken from it."""
        found: dict[tuple[str, str], int] = {}
        for source in self._sources:
            key = (source.path, source.name)
            found[key] = found.get(key, 0) + source.target[0].length
        return found

    def pieces(self, index: int) -> list[Piece]:
        """What frame `index` is made of."""
        found = []
        first, last = bisect_right(self._starts, index - self._longest), bisect_right(self._starts, index)
        for source in self._sources[first:last]:
            frames, *target = source.target
            order = frames.order(index)
            if order is None:
                continue
            if source.source is None:
                found.append(Piece(source.path, source.name, order, tuple(target), None))
            else:
                origin, *cut = source.source
                found.append(Piece(source.path, source.name, origin.nth(order), tuple(target), tuple(cut)))
        return found

    def frame(self, pieces: Sequence[Piece], payloads: Sequence[Payload]) -> Payload:
        """The frame that is made of `pieces`, whose whole source frames are `payloads`.

        Raises
        ------
        FrameError
            There is none; a source frame cannot be decoded, or has another size than the mapping says.
        """
        if not pieces:
            raise FrameError(f"{self.where}: nothing is mapped to this frame")
        if len(pieces) == 1 and self._is_frame(pieces[0], payloads[0]):
            return payloads[0]
        pixels = np.full(self.shape, self._fill, self._stored_dtype).astype(self.dtype)
        for piece, payload in zip(pieces, payloads, strict=True):
            source = np.empty(payload.shape, payload.dtype)
            payload.read_into(source)
            part = source if piece.source is None else source[piece.source]
            if part.shape != pixels[piece.target].shape:
                raise FrameError(f"{piece.path}::{piece.name}: frames of {payload.shape} do not fit to {self.where}")
            pixels[piece.target] = converted(part, self.dtype)
        return ArrayPayload(pixels, sum(payload.stored_bytes for payload in payloads))

    def _is_frame(self, piece: Piece, payload: Payload) -> bool:
        whole = (slice(0, self.shape[0]), slice(0, self.shape[1]))
        return (
            (payload.shape, payload.dtype) == (self.shape, self.dtype)
            and piece.target == whole
            and piece.source in (None, whole)
        )


def _axes(space: h5py.h5s.SpaceID) -> tuple[_Axis, slice, slice] | None:
    """Frames, rows and columns of a selection; None where it is not made of such."""
    kind = space.get_select_type()
    if kind == h5py.h5s.SEL_ALL:
        starts, strides, counts, blocks = (0,) * len(space.shape), space.shape, (1,) * len(space.shape), space.shape
    elif kind == h5py.h5s.SEL_HYPERSLABS and space.is_regular_hyperslab():
        starts, strides, counts, blocks = space.get_regular_hyperslab()
    else:
        return None
    # the stride of a single block means nothing
    axes = [
        _Axis(int(start), int(block if count == 1 else stride), int(count), int(block))
        for start, stride, count, block in zip(starts, strides, counts, blocks, strict=True)
    ]
    if len(axes) == 2:
        axes = [_Axis(0, 1, 1, 1), *axes]
    if len(axes) != 3 or any(not 0 < axis.length < 1 << 40 for axis in axes):  # more: without a limit
        return None
    rows, columns = axes[1].as_slice(), axes[2].as_slice()
    return None if rows is None or columns is None else (axes[0], rows, columns)
