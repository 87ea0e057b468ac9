"""The encoder makes what the HDF5 filter makes, byte for byte."""

from __future__ import annotations

import h5py
import hdf5plugin
import numpy as np
import pytest
from framesieve.processing import bitshuffle

DTYPES = ["uint8", "uint16", "uint32", "int16", "int32", "float32", "float64"]
BLOCK_BYTES = 8192  # the filter's standard


def by_filter(array: np.ndarray) -> bytes:
    with h5py.File("filter", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("x", data=array, chunks=array.shape, **hdf5plugin.Bitshuffle(cname="lz4"))
        return dataset.id.read_direct_chunk((0,) * array.ndim)[1]


@pytest.mark.parametrize("library", ["its own", "hidden"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bytes_as_the_filter(monkeypatch, dtype, library):
    if library == "hidden":
        monkeypatch.setattr(bitshuffle, "_library", lambda: None)
    else:
        assert bitshuffle._library() is not None
    block = BLOCK_BYTES // np.dtype(dtype).itemsize
    rng = np.random.default_rng(5)
    for size in (1, 7, 8, 9, 1000, block - 1, block, block + 1, block + 8, 3 * block + 17):
        noise = rng.integers(0, 256, size * np.dtype(dtype).itemsize, dtype=np.uint8).view(dtype)
        for array in (rng.poisson(3, size).astype(dtype), noise, np.zeros(size, dtype)):
            assert bytes(bitshuffle.encode(array)) == by_filter(array)


def test_images_and_arrays_with_gaps():
    image = np.random.default_rng(1).poisson(5, (211, 397)).astype(np.uint16)
    assert bytes(bitshuffle.encode(image)) == by_filter(image)
    assert bytes(bitshuffle.encode(image[::2, 3:-5])) == by_filter(np.ascontiguousarray(image[::2, 3:-5]))


def test_no_memory_is_said(monkeypatch):
    class OutOfMemory:
        bshuf_default_block_size = staticmethod(lambda size: 4096)
        bshuf_compress_lz4_bound = staticmethod(lambda *_: 100)
        bshuf_compress_lz4 = staticmethod(lambda *_: -1)

    monkeypatch.setattr(bitshuffle, "_library", OutOfMemory)
    with pytest.raises(MemoryError, match="20 bytes"):
        bitshuffle.encode(np.zeros(10, np.uint16))
