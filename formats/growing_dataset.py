"""Datasets that grow by rows without ever overwriting what readers see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from .layout import COMPRESSION


class GrowingDataset:
    """A new dataset (0, *tail) in `parent`.

    A compressed chunk that is partly filled must be written anew when rows are added. HDF5 puts it elsewhere
    in the file, unless it happens to have the same compressed size as before: then it overwrites it, and a reader or a
    kill in that moment meets half a chunk. So the chunk is taken out and added again, once after every commit.

    Parameters
    ----------
    rows_per_chunk : int
        A chunk has this many rows, and all (first) columns of `tail`.
    compression : mapping
        Arguments of `create_dataset`; empty: none. Uncompressed chunks are filled in place, which readers do not
        notice.
    widest : int, optional
        The second dimension may grow up to this.
    """

    def __init__(
        self,
        parent: h5py.Group,
        name: str,
        dtype: np.dtype | type,
        tail: tuple[int, ...],
        rows_per_chunk: int,
        *,
        compression: Mapping[str, Any] = COMPRESSION,
        widest: int | None = None,
    ) -> None:
        self.dataset = parent.create_dataset(
            name,
            shape=(0, *tail),
            maxshape=(None, *tail) if widest is None else (None, widest),
            chunks=(rows_per_chunk, *tail),
            dtype=dtype,
            **compression,
        )
        self._rows_per_chunk = rows_per_chunk
        self._compressed = bool(compression)
        self._last_chunk_is_committed = False

    def put(self, start: int, values: np.ndarray) -> None:
        """Write `values` from row `start` on; they are the last rows then, and may be wider than those before."""
        if self._compressed and self._last_chunk_is_committed:
            first = start - start % self._rows_per_chunk
            self.dataset.resize((start, *values.shape[1:]))
            values = np.concatenate([self.dataset[first:start], values])
            self.dataset.resize(first, axis=0)
            start = first
        self._last_chunk_is_committed = False
        self.dataset.resize((start + len(values), *values.shape[1:]))
        self.dataset[start:] = values

    def committed(self) -> None:
        """What was put so far is visible to readers."""
        self._last_chunk_is_committed = True
