"""Chunks of datasets: compressed in threads, written as they are by the thread that appends.

HDF5 would compress within its global lock, one chunk after the other and every other use of HDF5 waiting. Here only
the finished bytes pass through it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..processing import bitshuffle
from ..processing.threads import thread_pool
from . import layout

#: of the whole process, for all files that are being written
THREADS = min(4, os.cpu_count() or 1)

#: chunks of one file that wait to be compressed or written; memory is bounded by it
IN_FLIGHT = THREADS + 2

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Codec:
    """How chunks of a dataset are stored: arguments of `create_dataset`, and what makes the same by hand."""

    options: Mapping[str, Any]
    encode: Callable[[np.ndarray], Buffer]


def _encode_table(rows: np.ndarray) -> bytes:
    """HDF5's filters shuffle (first bytes of all rows, then second bytes, …) and deflate."""
    table = np.frombuffer(rows.tobytes(), np.uint8).reshape(rows.size, rows.itemsize)
    return zlib.compress(table.T.tobytes(), layout.TABLE_COMPRESSION["compression_opts"])


PIXELS = Codec(layout.COMPRESSION, bitshuffle.encode)
TABLE = Codec(layout.TABLE_COMPRESSION, _encode_table)


class ChunkError(Exception):
    """A chunk could not be made; tells why."""


@contextlib.contextmanager
def compressing() -> Iterator[None]:
    """Around what makes chunks: whatever fails becomes `ChunkError`."""
    try:
        yield
    except Exception as error:
        raise ChunkError(f"a chunk cannot be compressed: {str(error) or type(error).__name__}") from error


class ChunkQueue:
    """Chunks on their way into one file, in order. Used by one thread."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Future[list[Buffer]], Callable[[list[Buffer]], None]]] = deque()

    def put(self, encode: Callable[[], list[Buffer]], write: Callable[[list[Buffer]], None]) -> None:
        """Have `encode` called in another thread, and `write` with its result: in this thread, after the `write` of
        all chunks before it, in a later call of `put` or `drain`.

        Raises
        ------
        ChunkError
            An earlier chunk could not be made.
        """
        try:
            future = _threads().submit(encode)
        except RuntimeError:  # Python is ending and starts nothing new
            future = Future()
            with compressing():
                future.set_result(encode())
        self._waiting.append((future, write))
        while len(self._waiting) > IN_FLIGHT or (self._waiting and self._waiting[0][0].done()):
            self._write_first()

    def drain(self) -> None:
        """Write all that was put."""
        while self._waiting:
            self._write_first()

    def _write_first(self) -> None:
        future, write = self._waiting.popleft()
        with compressing():
            parts = future.result()
        write(parts)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return thread_pool(THREADS, "compress")
