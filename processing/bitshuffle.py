"""Compression of pixels as the HDF5 filter 32008 (bitshuffle, then LZ4) does it, other threads running meanwhile.

Detectors send frames in this form, and files hold them in it. The functions are those of the filter's own library,
which hdf5plugin brings along; HDF5 itself would run it under the one lock that it has for the whole process. Where
the library does not show its functions (some distributions build it differently) HDF5 does it all the same, slower.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import h5py
import hdf5plugin
import numpy as np

#: in front of the compressed blocks: 64-bit size of the raw data, 32-bit size of a block in bytes, both big endian
HEADER: Final = struct.Struct(">QI")

_file_number = itertools.count()


def encode(array: np.ndarray) -> bytes | memoryview:
    """The chunk that holds `array`, as `h5py.h5d.DatasetID.write_direct_chunk` and detectors' streams take it.

    Parameters
    ----------
    array : numpy.ndarray
        Little endian numbers of any shape, at least one; copied first where it is not C-contiguous.

    Returns
    -------
    bytes or memoryview
        The 12-byte header and the blocks, byte for byte what the filter makes with its standard block size.

    Raises
    ------
    MemoryError
        There is no room for the result, or none for the library's buffers.
    """
    array = np.ascontiguousarray(array)
    library = _library()
    if library is None:
        return _encode_by_hdf5(array)
    block = library.bshuf_default_block_size(array.itemsize)
    room = library.bshuf_compress_lz4_bound(array.size, array.itemsize, block)
    chunk = np.empty(HEADER.size + room, np.uint8)
    HEADER.pack_into(chunk, 0, array.nbytes, block * array.itemsize)
    used = library.bshuf_compress_lz4(
        array.ctypes.data, chunk.ctypes.data + HEADER.size, array.size, array.itemsize, block
    )
    if used < 0:
        raise MemoryError(f"{array.nbytes} bytes cannot be compressed (bitshuffle error {used})")
    return chunk[: HEADER.size + used].data


def open_library(functions: Mapping[str, tuple[type, list[type]]]) -> ctypes.CDLL | None:
    """The library of the filter, for a caller of its own: with the types of the result and of the arguments of these
    functions declared. None where it does not show them all."""
    for path in Path(hdf5plugin.PLUGIN_PATH).glob("*h5bshuf.*"):
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, arguments) in functions.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError):
            continue
        return library
    return None


@functools.cache
def _library() -> ctypes.CDLL | None:
    size, address = ctypes.c_size_t, ctypes.c_void_p
    return open_library(
        {
            "bshuf_default_block_size": (size, [size]),
            "bshuf_compress_lz4_bound": (size, [size] * 3),
            "bshuf_compress_lz4": (ctypes.c_int64, [address, address, size, size, size]),
        }
    )


def _encode_by_hdf5(array: np.ndarray) -> bytes:
    """The filter at work in an HDF5 file in memory."""
    flat = array.reshape(-1)
    # every open file needs a name of its own, though nothing is written to disk
    name = f"encode-{next(_file_number)}"
    with h5py.File(name, "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("chunk", data=flat, chunks=flat.shape, **hdf5plugin.Bitshuffle(cname="lz4"))
        return dataset.id.read_direct_chunk((0,))[1]
