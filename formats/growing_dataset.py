"""Datasets that grow by rows without ever overwriting what readers see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import h5py
import numpy as np

from .chunks import Buffer, ChunkQueue, Codec, compressing


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
        self._spare: list[np.ndarray] = []  # to be filled again: fresh memory costs more than filling it

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
        rows, *tail = self._chunk_shape
        self._queue.put(lambda: [encode()], partial(self._write, self._first, rows, tail, False))
        self._first += rows

    def complete(self) -> None:
        """Write what does not fill a chunk yet. The queue must be empty. What is written is to be committed before
        more is added.

        Raises
        ------
        ChunkError
            It could not be compressed.
        """
        if self._filled == self._written:
            return
        if self._codec is None:
            self._write_in_place()
            return
        self._chunk[self._filled :] = np.zeros((), self.dtype)  # chunks are always stored whole
        with compressing():
            parts = self._encode(self._chunk)
        self._write(self._first, self._filled, self._chunk.shape[1:], self._written > 0, parts)
        self._written = self._filled

    def _make_room(self, tail: tuple[int, ...]) -> None:
        chunk = np.zeros((self._chunk_shape[0], *tail), self.dtype)
        if self._filled:
            chunk[: self._filled, : self._chunk.shape[1]] = self._chunk[: self._filled]
        self._chunk, self._spare = chunk, []

    def _put_full_chunk(self) -> None:
        chunk = self._chunk
        if self._codec is None:
            self._write_in_place()
        else:
            replaces = self._written > 0
            self._queue.put(partial(self._encode, chunk), partial(self._write_full, self._first, replaces, chunk))
            self._chunk = self._spare.pop() if self._spare else np.empty_like(chunk)
        self._first += len(chunk)
        self._filled = self._written = 0

    def _encode(self, chunk: np.ndarray) -> list[Buffer]:
        """The chunks that lie side by side in these rows."""
        if len(self._chunk_shape) == 1:
            return [self._codec.encode(chunk)]
        width = self._chunk_shape[1]
        return [self._codec.encode(chunk[:, i : i + width]) for i in range(0, chunk.shape[1], width)]

    def _write_full(self, first: int, replaces: bool, chunk: np.ndarray, parts: list[Buffer]) -> None:
        self._write(first, len(chunk), chunk.shape[1:], replaces, parts)
        if chunk.shape == self._chunk.shape:
            self._spare.append(chunk)

    def _write(self, first: int, rows: int, tail: Sequence[int], replaces: bool, parts: list[Buffer]) -> None:
        """Write the chunks that begin at row `first`; `replaces`: some with fewer rows are there."""
        if replaces:
            self.dataset.id.set_extent((first, *tail))
        self.dataset.id.set_extent((first + rows, *tail))
        for i, part in enumerate(parts):
            place = (first, i * self._chunk_shape[1], 0) if i else (first, 0, 0)
            self.dataset.id.write_direct_chunk(place[: 1 + len(tail)], part)

    def _write_in_place(self) -> None:
        """Write the rows that the file does not have yet."""
        start, end = self._first + self._written, self._first + self._filled
        self.dataset.id.set_extent((end, *self._chunk.shape[1:]))
        self.dataset[start:] = self._chunk[self._written : self._filled]
        self._written = self._filled
