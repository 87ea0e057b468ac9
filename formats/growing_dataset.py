"""Datasets that grow by rows without ever overwriting what readers see."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import h5py
import numpy as np

from .chunks import Buffer, ChunkQueue, Codec


class GrowingDataset:
    """A new dataset (0, *tail) in `parent`.

    Rows are collected in memory until they fill a chunk; `complete` writes those that do not, before a commit.

    A compressed chunk that is partly filled must be written anew when rows are added. HDF5 puts it elsewhere
    in the file, unless it happens to have the same compressed size as before: then it overwrites it, and a reader or a
    kill in that moment meets half a chunk. So the chunk is taken out and added again.

    Parameters
    ----------
    rows_per_chunk : int
        A chunk has this many rows, and all (first) columns of `tail`.
    codec : Codec or None
        How chunks are compressed. None: not at all; such chunks are filled in place, which readers do not notice.
    queue : ChunkQueue
        Takes the chunks that are full.
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
        codec: Codec | None,
        queue: ChunkQueue,
        widest: int | None = None,
    ) -> None:
        self.dataset = parent.create_dataset(
            name,
            shape=(0, *tail),
            maxshape=(None, *tail) if widest is None else (None, widest),
            chunks=(rows_per_chunk, *tail),
            dtype=dtype,
            **(codec.options if codec else {}),
        )
        self.dtype = self.dataset.dtype
        self._codec = codec
        self._queue = queue
        self._chunk_shape = (rows_per_chunk, *tail)
        self._first = 0  # row with which the chunk begins that is being filled
        self._filled = 0  # rows of it
        self._written = 0  # rows of it that the file has, or will have once the queue is empty
        self._chunk: np.ndarray | None = None  # made when it is needed: whole frames never need it

    def append(self, values: np.ndarray) -> None:
        """Add rows; they may be wider than those before.

        Raises
        ------
        ChunkError
            An earlier chunk could not be compressed.
        """
        if self._chunk is None or values.shape[1:] != self._chunk.shape[1:]:
            self._make_room(values.shape[1:])
        taken = 0
        while taken < len(values):
            count = min(len(values) - taken, len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + count] = values[taken : taken + count]
            self._filled += count
            taken += count
            if self._filled == len(self._chunk):
                self._put_full_chunk()

    def append_chunk(self, encode: Callable[[], Buffer]) -> None:
        """Add as many rows as a chunk has, where no chunk is partly filled: `encode`, called in another thread, gives
        the chunk as it is stored."""
        rows = self._chunk_shape[0]
        self._put(encode, self._first, self._chunk_shape[1:], 0, rows, False)
        self._first += rows

    def complete(self) -> None:
        """Write what does not fill a chunk yet. The queue must be empty. What is written is to be committed before
        more is added."""
        if self._filled == self._written:
            return
        chunk = self._chunk[: self._filled]
        if self._codec is None:
            self._write_in_place(chunk)
            return
        for column in self._columns():
            # chunks are always stored whole
            data = self._codec.encode(self._part(self._chunk, column))
            self._write(self._first, chunk.shape[1:], column, self._filled, self._written > 0, data)
        self._written = self._filled

    def _make_room(self, tail: tuple[int, ...]) -> None:
        chunk = np.zeros((self._chunk_shape[0], *tail), self.dtype)
        if self._chunk is not None and self._filled:
            chunk[: self._filled, : self._chunk.shape[1]] = self._chunk[: self._filled]
        self._chunk = chunk

    def _put_full_chunk(self) -> None:
        chunk, replaces = self._chunk, self._written > 0
        if self._codec is None:
            self._write_in_place(chunk)
        else:
            for column in self._columns():
                encode = partial(self._codec.encode, self._part(chunk, column))
                self._put(encode, self._first, chunk.shape[1:], column, len(chunk), replaces)
            self._chunk = np.zeros_like(chunk)  # the other one is being compressed
        self._first += len(chunk)
        self._filled = self._written = 0

    def _put(
        self,
        encode: Callable[[], Buffer],
        first: int,
        tail: tuple[int, ...],
        column: int,
        rows: int,
        replaces: bool,
    ) -> None:
        self._queue.put(encode, partial(self._write, first, tail, column, rows, replaces))

    def _columns(self) -> range:
        """First columns of the chunks that lie side by side."""
        if len(self._chunk_shape) != 2:
            return range(1)
        return range(0, self._chunk.shape[1], self._chunk_shape[1])

    def _part(self, chunk: np.ndarray, column: int) -> np.ndarray:
        return chunk[:, column : column + self._chunk_shape[1]] if len(self._chunk_shape) == 2 else chunk

    def _write(self, first: int, tail: tuple[int, ...], column: int, rows: int, replaces: bool, data: Buffer) -> None:
        """Write the chunk that begins at row `first` and `column`; `replaces`: one with fewer rows is there."""
        if column == 0:
            if replaces:
                self.dataset.id.set_extent((first, *self.dataset.shape[1:]))
            self.dataset.id.set_extent((first + rows, *tail))
        self.dataset.id.write_direct_chunk((first, column, 0)[: 1 + len(tail)], data)

    def _write_in_place(self, chunk: np.ndarray) -> None:
        start = self._first + self._written
        self.dataset.id.set_extent((self._first + len(chunk), *chunk.shape[1:]))
        self.dataset[start:] = chunk[self._written :]
        self._written = len(chunk)
