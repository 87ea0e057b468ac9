"""Virtual datasets in a master file that put the datasets of its parts one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from . import nexus


@dataclass(frozen=True, slots=True)
class Joined:
    """A dataset (rows, *tail) that every part has at `path`."""

    path: str
    dtype: np.dtype
    tail: tuple[int, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class JoinedDatasets:
    """Virtual datasets in a new group `name` of `parent`, and links to them in `place`.

    They are made anew with each part, for what is mapped cannot be changed. The last part is mapped without an end:
    what it grows by shows at once. The group has no other links, few enough for HDF5 to keep them in one block, the
    header of the group, so that they change all at once.

    Parameters
    ----------
    datasets : sequence of Joined
        At most four.
    """

    def __init__(self, parent: h5py.Group, name: str, place: h5py.Group, datasets: Sequence[Joined]) -> None:
        self._group = nexus.group(parent, name, "NXcollection")
        self._datasets = [_Mapped(joined) for joined in datasets]
        self._in_force: list[h5py.Dataset] = []
        self._replaced: list[h5py.Dataset] = []
        self._file = b""  # the last part
        for joined in datasets:
            place[joined.name] = h5py.SoftLink(f"{self._group.name}/{joined.name}")

    def add(self, file: str, lengths: Sequence[int]) -> None:
        """Go on with the next part, a file in the directory of the master. `lengths`: of the datasets before it.

        What was mapped before is kept until `forget`, for the last complete state of the file refers to it.
        """
        self._replaced += self._in_force
        self._in_force = []
        before, self._file = self._file, file.replace("%", "%%").encode()  # HDF5 puts numbers of blocks in place of %b
        for mapped, length in zip(self._datasets, lengths, strict=True):
            if length:
                mapped.add(before, length)
            if mapped.joined.name in self._group:
                del self._group[mapped.joined.name]
            self._in_force.append(mapped.create(self._group, self._file))

    def forget(self) -> None:
        """The last complete state refers to what is mapped now."""
        self._replaced.clear()


class _Mapped:
    """The finished parts of one dataset. (h5py's `VirtualLayout` would map them all again for each new part.)"""

    def __init__(self, joined: Joined) -> None:
        self.joined = joined
        self._length = 0
        self._finished = h5p.create(h5p.DATASET_CREATE)
        self._finished.set_fill_value(np.zeros((), joined.dtype))

    def add(self, file: bytes, length: int) -> None:
        """The next `length` rows are those of `file`."""
        self._map(self._finished, file, length)
        self._length += length

    def create(self, group: h5py.Group, file: bytes) -> h5py.Dataset:
        """A new dataset of all parts, with `file` as the last one."""
        mapping = self._finished.copy()
        self._map(mapping, file, None)
        space = h5s.create_simple((self._length + 1, *self.joined.tail), (h5s.UNLIMITED, *self.joined.tail))
        kind = h5t.py_create(self.joined.dtype, logical=True)
        dataset = h5py.Dataset(h5d.create(group.id, self.joined.name.encode(), kind, space, mapping))
        dataset.attrs.update(self.joined.attributes)
        return dataset

    def _map(self, mapping: h5p.PropDCID, file: bytes, length: int | None) -> None:
        there, here = self._rows(self._length, length), self._rows(0, length)
        mapping.set_virtual(there, file, self.joined.path.encode(), here)

    def _rows(self, first: int, length: int | None) -> h5s.SpaceID:
        """So many rows from `first` on; None: without an end."""
        tail = self.joined.tail
        space = h5s.create_simple((first + (length or 1), *tail), (h5s.UNLIMITED, *tail))
        count = (h5s.UNLIMITED if length is None else 1, *(1 for _ in tail))
        block = (length or 1, *tail)
        space.select_hyperslab((first, *(0 for _ in tail)), count, (length or 1, *tail), block)
        return space
