"""Compress frames as DECTRIS detectors do: as HDF5's filters.

The streams carry the bytes of an HDF5 chunk: for bitshuffle-LZ4 as for plain LZ4 a 12-byte header, the size of
the raw data as a big-endian 64-bit number and that of a block as a 32-bit one, then the compressed blocks. For plain
LZ4 an HDF5 file in memory, with the very filter, makes them; HDF5 has one lock for the whole process, so more threads
are not faster there.
"""

from __future__ import annotations

import itertools

import h5py
import hdf5plugin
import numpy as np

from ..processing.bitshuffle import encode
from ..processing.errors import OutOfRangeError

#: encodings of a frame in a stream; "none" is the raw bytes
ENCODINGS = ("bslz4", "lz4", "none")

#: HDF5's registered numbers of the filters
FILTER_BITSHUFFLE = 32008
FILTER_LZ4 = 32004
BITSHUFFLE_WITH_LZ4 = 2  # fifth parameter of the bitshuffle filter

_file_number = itertools.count()


def check_encoding(encoding: str) -> str:
    """The encoding itself.

    Raises
    ------
    OutOfRangeError
        It is none of `ENCODINGS`.
    """
    if encoding not in ENCODINGS:
        raise OutOfRangeError(f"encoding {encoding!r}: one of {', '.join(ENCODINGS)} is expected")
    return encoding


def compress(frame: np.ndarray, encoding: str) -> bytes:
    """The bytes of `frame` (rows, columns) in `encoding` (see `ENCODINGS`), or in "lz4block": one LZ4 block without any
    header."""
    if encoding == "lz4block":
        return _lz4_block(frame)
    if check_encoding(encoding) == "none":
        return np.ascontiguousarray(frame).tobytes()
    if encoding == "bslz4":
        return bytes(encode(frame))
    return _lz4_chunk(frame, 0)


def _lz4_chunk(frame: np.ndarray, block: int) -> bytes:
    """A chunk as HDF5 stores it, of blocks of so many bytes (0: as the filter likes it)."""
    # every open file needs a name of its own, though nothing is written to disk
    with h5py.File(f"frame-{next(_file_number)}", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset(
            "frame", shape=frame.shape, chunks=frame.shape, dtype=frame.dtype, compression=hdf5plugin.LZ4(block)
        )
        dataset[...] = frame
        filter_mask, chunk = dataset.id.read_direct_chunk((0, 0))
    if filter_mask:  # HDF5 may leave a filter out; the streams have no word for that
        raise OutOfRangeError("the frame cannot be compressed as lz4")
    return chunk


def _lz4_block(frame: np.ndarray) -> bytes:
    # a chunk of one block, without the size of the chunk, of the block, and of its content
    block = _lz4_chunk(frame, frame.nbytes)[16:]
    if len(block) < frame.nbytes:
        return block
    # The filter stores what it cannot make smaller; LZ4 itself has a block of literals for that: a token and a length,
    # in bytes of 255 and a last one that is less.
    more, last = divmod(frame.nbytes - 15, 255)
    token = b"\xf0" + b"\xff" * more + bytes([last]) if more >= 0 else bytes([frame.nbytes << 4])
    return token + block


def stored_encoding(dataset: h5py.Dataset) -> str | None:
    """The encoding in which the chunks of `dataset` can be sent as they are, None where they cannot.

    That needs one frame (the last two axes) per chunk, one filter, and no byte swapping.
    """
    if dataset.chunks is None or dataset.chunks != (1,) * (dataset.ndim - 2) + dataset.shape[-2:]:
        return None
    if dataset.dtype.newbyteorder("<") != dataset.dtype:
        return None
    filters = dataset.id.get_create_plist()
    if filters.get_nfilters() != 1:
        return None
    number, _, parameters, _ = filters.get_filter(0)
    if number == FILTER_LZ4:
        return "lz4"
    # the third parameter is the element size, which the receiver takes from the pixel type
    if number == FILTER_BITSHUFFLE and parameters[4:5] == (BITSHUFFLE_WITH_LZ4,):
        return "bslz4" if parameters[2] == dataset.dtype.itemsize else None
    return None
