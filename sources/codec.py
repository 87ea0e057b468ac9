"""Decoding of compressed pixels straight into a buffer, other threads running meanwhile.

The functions are those of the HDF5 filter bitshuffle, whose library hdf5plugin brings along. `LZ4_decompress_safe`
touches nothing outside of the bytes and the room that it is given, whatever they are. `bshuf_decompress_lz4` and
`bshuf_decompress_zstd` call such a function for every block, but they are not told how many bytes there are: they
follow the lengths that stand in the data wherever these lead. So all lengths are followed here first. That is the only
part that holds up other threads. Where the library does not show its functions (some distributions build it
differently) HDF5 itself decodes, slower.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
from typing import Final

import h5py
import numpy as np

from ..processing.bitshuffle import HEADER, open_library

_LENGTH: Final = struct.Struct(">I")
_FILTERS: Final = {"bslz4": (32008, 2), "bszstd": (32008, 3), "lz4": (32004, 0)}
_file_number = itertools.count()


def decode(data: bytes | memoryview, encoding: str, element_size: int, out: np.ndarray) -> None:
    """Decode one HDF5 chunk (12-byte header, blocks), or a bare LZ4 block.

    Parameters
    ----------
    data
        The chunk; its header must announce `out.nbytes`.
    encoding
        `bslz4`, `bszstd` or `lz4`; or `lz4block`, one LZ4 block without header.
    element_size
        Bytes that bitshuffle took as one element; not used for `lz4` and `lz4block`.
    out
        C-contiguous, written to.

    Raises
    ------
    ValueError
        The data is corrupt; says in what.
    """
    library = _library()
    if encoding == "lz4block":
        _decode_lz4_block(library, data, out)
        return
    size, block = HEADER.unpack_from(data)
    if size != out.nbytes:
        raise ValueError(f"{size} bytes are announced, not {out.nbytes}")
    if library is None:
        _decode_by_hdf5(data, encoding, element_size, out)
    elif encoding == "lz4":
        _decode_lz4(library, np.frombuffer(data, np.uint8), size, block, out)
    else:
        _decode_bitshuffle(library, np.frombuffer(data, np.uint8), encoding, element_size, block, out)


@functools.cache
def _library() -> ctypes.CDLL | None:
    size, number, address = ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
    decompress = (ctypes.c_int64, [address, address, size, size, size])
    return open_library(
        {
            "bshuf_decompress_lz4": decompress,
            "bshuf_decompress_zstd": decompress,
            "LZ4_decompress_safe": (number, [address, address, number, number]),
        }
    )


def _decode_bitshuffle(
    library: ctypes.CDLL, data: np.ndarray, encoding: str, element_size: int, block: int, out: np.ndarray
) -> None:
    elements, per_block = out.nbytes // element_size, block // element_size
    if per_block == 0 or per_block % 8 or block % element_size:
        raise ValueError(f"blocks of {block} bytes for elements of {element_size}")
    # whole blocks, a shorter one of a multiple of 8 elements, and up to 7 elements as they are
    blocks = elements // per_block + (elements % per_block >= 8)
    _check_lengths(memoryview(data), blocks, elements % 8 * element_size)
    function = library.bshuf_decompress_lz4 if encoding == "bslz4" else library.bshuf_decompress_zstd
    used = function(data.ctypes.data + HEADER.size, out.ctypes.data, elements, element_size, per_block)
    if used < 0:
        raise ValueError("a block cannot be decompressed")


def _check_lengths(data: memoryview, blocks: int, rest: int) -> None:
    """Whether all blocks, and the bytes that remain, lie within the data."""
    # as little as can be per block, since there are thousands; reading behind the end is an error of its own
    unpack, end = _LENGTH.unpack_from, HEADER.size
    try:
        for _ in range(blocks):
            end += unpack(data, end)[0] + 4
    except struct.error:
        raise ValueError(f"truncated: a block begins at byte {end} of {len(data)}") from None
    if end + rest > len(data):
        raise ValueError(f"truncated: its blocks take {end + rest} bytes, there are {len(data)}")


def _decode_lz4(library: ctypes.CDLL, data: np.ndarray, size: int, block: int, out: np.ndarray) -> None:
    """Blocks one after the other; one that LZ4 could not make smaller is stored as it is."""
    place, done = HEADER.size, 0
    target = out.reshape(-1).view(np.uint8)
    while done < size:
        wanted = min(block, size - done)
        if place + _LENGTH.size > data.size:
            raise ValueError(f"truncated: {done} of {size} bytes decoded")
        (length,) = _LENGTH.unpack_from(data, place)
        place += _LENGTH.size
        if place + length > data.size:
            raise ValueError(f"truncated: a block of {length} bytes, {data.size - place} are there")
        if length == wanted:
            target[done : done + wanted] = data[place : place + length]
        elif length > wanted:
            raise ValueError(f"a block of {length} bytes for {wanted}")
        else:
            made = library.LZ4_decompress_safe(data.ctypes.data + place, target.ctypes.data + done, length, wanted)
            if made != wanted:
                raise ValueError("a block cannot be decompressed")
        place += length
        done += wanted


def _decode_lz4_block(library: ctypes.CDLL | None, data: bytes | memoryview, out: np.ndarray) -> None:
    if library is None:
        if len(data) == out.nbytes:
            # HDF5 takes a block of this size for one that is not compressed
            raise ValueError("LZ4 that saves no byte cannot be decoded without hdf5plugin's own library")
        chunk = HEADER.pack(out.nbytes, out.nbytes) + _LENGTH.pack(len(data)) + data
        _decode_by_hdf5(chunk, "lz4", 1, out)
        return
    source = np.frombuffer(data, np.uint8)
    made = library.LZ4_decompress_safe(source.ctypes.data, out.ctypes.data, source.size, out.nbytes)
    if made != out.nbytes:
        what = "cannot be decompressed" if made < 0 else f"holds {made} bytes, not {out.nbytes}"
        raise ValueError(f"the block {what}")


def _decode_by_hdf5(data: bytes | memoryview, encoding: str, element_size: int, out: np.ndarray) -> None:
    number, algorithm = _FILTERS[encoding]
    options = (0, algorithm) if number == 32008 else ()
    dtype = np.dtype(f"u{element_size}")
    shape = (out.nbytes // element_size,)
    try:
        with h5py.File(f"decode-{next(_file_number)}", "w", driver="core", backing_store=False) as file:
            dataset = file.create_dataset(
                "frame", shape, dtype, chunks=shape, compression=number, compression_opts=options
            )
            dataset.id.write_direct_chunk((0,), bytes(data))
            dataset.read_direct(out.reshape(-1).view(dtype))
    except OSError as error:
        raise ValueError(str(error)) from None
