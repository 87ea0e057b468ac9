"""Decoding frames: every pixel type and encoding, and everything that can be wrong with the bytes."""

import struct
import threading
import tracemalloc

import numpy as np
import pytest
from framesieve.processing.errors import FrameError
from framesieve.sources import codec
from framesieve.sources.payload import EncodedPayload
from sources_helpers import encode, pixels_of, random_pixels

DTYPES = ["uint8", "uint16", "uint32", "int16", "int32", "float32"]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("encoding", ["none", "bslz4", "lz4", "lz4block"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decodes_every_pixel_type(dtype, encoding, order):
    pixels = random_pixels(dtype)
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    data = encode(stored, encoding)
    payload = EncodedPayload(pixels.shape, stored.dtype, encoding, memoryview(data))
    assert payload.dtype == np.dtype(dtype)
    assert payload.dtype.isnative
    assert payload.stored_bytes == len(data)
    assert payload.raw_bytes == pixels.nbytes
    np.testing.assert_array_equal(pixels_of(payload), pixels)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 8192), (127, 129)])
@pytest.mark.parametrize("encoding", ["bslz4", "lz4", "lz4block"])
def test_any_shape(shape, encoding):
    pixels = np.random.default_rng(1).integers(0, 1 << 16, shape, np.uint16)  # does not compress
    np.testing.assert_array_equal(
        pixels_of(EncodedPayload(shape, pixels.dtype, encoding, encode(pixels, encoding))), pixels
    )


PIXELS = random_pixels("uint16")
GOOD = encode(PIXELS, "bslz4")


def with_header(data: bytes, raw: int, block: int = 8192) -> bytes:
    return struct.pack(">QI", raw, block) + data[12:]


@pytest.mark.parametrize(
    ("shape", "dtype", "encoding", "data", "element_size", "text"),
    [
        (PIXELS.shape, "u2", "bslz4", b"", 0, "truncated"),
        (PIXELS.shape, "u2", "lz4", GOOD[:11], 0, "truncated"),
        ((37, 54), "u2", "bslz4", GOOD, 0, "37 × 54 uint16 are 3996 bytes, but the bslz4 header announces 3922"),
        (PIXELS.shape, "u4", "bslz4", GOOD, 0, "header announces 3922"),
        (PIXELS.shape, "u2", "bslz4", with_header(GOOD, 1 << 63), 0, "header announces 9223372036854775808"),
        (PIXELS.shape, "u2", "bslz4", with_header(GOOD, 3922, 0), 0, "blocks of 0 bytes"),
        (PIXELS.shape, "u2", "bslz4", with_header(GOOD, 3922, 0xFFFFFFFF), 0, "blocks of 4294967295 bytes"),
        (PIXELS.shape, "u2", "bslz4", GOOD, 3, "elements of 3 bytes"),
        (PIXELS.shape, "u2", "bslz4", GOOD, 4, "elements of 4 bytes"),
        (PIXELS.shape, "u2", "none", b"123", 0, "3922 bytes, but 3 arrived"),
        (PIXELS.shape, "u2", "lz4block", b"", 0, "3922 bytes, which 0 bytes of LZ4 cannot hold"),
        (PIXELS.shape, "u2", "lz4block", b"1" * 15, 0, "3922 bytes, which 15 bytes of LZ4 cannot hold"),
        (PIXELS.shape, "u2", "blosc", GOOD, 0, "unknown compression 'blosc'"),
        (PIXELS.shape, "f8", "none", b"", 0, "pixel type float64 is not supported"),
        (PIXELS.shape, "u8", "none", b"", 0, "pixel type uint64 is not supported"),
        ((0, 53), "u2", "none", b"", 0, "impossible shape"),
        ((-1, -1), "u2", "none", b"12", 0, "impossible shape"),
        ((1 << 40, 1 << 40), "u2", "bslz4", GOOD, 0, "impossible shape"),
    ],
)
def test_wrong_sizes_are_found_before_decoding(shape, dtype, encoding, data, element_size, text):
    with pytest.raises(FrameError, match=text):
        EncodedPayload(shape, np.dtype(dtype), encoding, data, element_size)


@pytest.mark.parametrize("encoding", ["bslz4", "lz4"])
def test_corrupt_bytes_are_a_frame_error(encoding):
    good = encode(PIXELS, encoding)
    out = np.empty_like(PIXELS)
    broken = [good[:-1], good[:40], good[:12], good[:12] + b"\xff" * (len(good) - 12)]
    broken.append(good[:12] + struct.pack(">I", 0xFFFFFFF0) + good[16:])
    for data in broken:
        with pytest.raises(FrameError, match=f"corrupt {encoding} data"):
            EncodedPayload(PIXELS.shape, PIXELS.dtype, encoding, data).read_into(out)


@pytest.mark.parametrize("library", ["own", "hdf5"])
def test_a_bare_block_holds_exactly_the_frame(monkeypatch, library):
    if library == "hdf5":
        monkeypatch.setattr(codec, "_library", lambda: None)
    good = encode(PIXELS, "lz4block")
    np.testing.assert_array_equal(pixels_of(EncodedPayload(PIXELS.shape, PIXELS.dtype, "lz4block", good)), PIXELS)
    out = np.empty_like(PIXELS)
    for data in (
        good[:-1],
        good[:40],
        b"\xff" * len(good),
        encode(PIXELS[1:], "lz4block"),
        encode(out[:0], "lz4block"),
    ):
        with pytest.raises(FrameError, match=r"corrupt lz4block data|cannot hold"):
            EncodedPayload(PIXELS.shape, PIXELS.dtype, "lz4block", data).read_into(out)
    larger = encode(np.concatenate([PIXELS, PIXELS]), "lz4block")
    with pytest.raises(FrameError, match="corrupt lz4block data"):
        EncodedPayload(PIXELS.shape, PIXELS.dtype, "lz4block", larger).read_into(out)


@pytest.mark.parametrize("encoding", ["bslz4", "lz4", "lz4block"])
def test_mutated_bytes_never_crash_or_cost_memory(encoding):
    rng = np.random.default_rng(2)
    good = np.frombuffer(encode(PIXELS, encoding), np.uint8)
    out = np.empty_like(PIXELS)
    tracemalloc.start()
    for _ in range(2000):
        data = good.copy()
        for position in rng.integers(0, len(data), rng.integers(1, 4)):
            data[position] = rng.integers(256)
        try:
            EncodedPayload(PIXELS.shape, PIXELS.dtype, encoding, data.tobytes()).read_into(out)
        except FrameError as error:
            assert "bslz4" in str(error) or "lz4" in str(error)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("encoding", ["bslz4", "bszstd"])
@pytest.mark.parametrize("length", [5000, 1 << 31, (1 << 32) - 4, (1 << 32) - 1])
@pytest.mark.parametrize("block", [0, 1])
def test_lengths_that_lead_away_never_reach_the_library(monkeypatch, block, length, encoding):
    """The library would follow them: a small frame of two blocks, one of which claims another length."""
    pixels = np.zeros(1024 + 8, np.uint16)
    data = bytearray(encode(pixels, "bslz4", 2048))
    second = 16 + struct.unpack_from(">I", data, 12)[0]
    struct.pack_into(">I", data, (12, second)[block], length)

    class Library:
        def __getattr__(self, name):
            raise AssertionError(f"{name} was called")

    monkeypatch.setattr(codec, "_library", Library)
    with pytest.raises(ValueError, match="truncated"):
        codec.decode(data, encoding, 2, np.empty_like(pixels))


def test_which_chunks_a_device_may_decode():
    def chunk(stored: str, encoding: str = "bslz4", element_size: int = 0) -> bytes | None:
        return EncodedPayload(PIXELS.shape, np.dtype(stored), encoding, GOOD, element_size).bslz4_chunk

    assert chunk("=u2") is GOOD
    assert chunk("=i2", element_size=2) is GOOD
    assert chunk("=u2", element_size=1) is None
    assert chunk("=u2", "lz4") is None
    assert chunk(np.dtype("u2").newbyteorder("S").str) is None


def test_a_buffer_that_does_not_fit_is_refused():
    payload = EncodedPayload(PIXELS.shape, PIXELS.dtype, "bslz4", GOOD)
    with pytest.raises(ValueError, match="the buffer is"):
        payload.read_into(np.empty(PIXELS.shape, np.uint32))


def test_other_threads_run_while_decoding():
    pixels = np.random.default_rng(3).poisson(2, (2000, 2000)).astype(np.uint32)
    payload = EncodedPayload(pixels.shape, pixels.dtype, "bslz4", encode(pixels, "bslz4"))
    out, steps, done = np.empty_like(pixels), 0, threading.Event()

    def decode() -> None:
        for _ in range(5):
            payload.read_into(out)
        done.set()

    thread = threading.Thread(target=decode)
    thread.start()
    while not done.is_set():
        steps += 1
    thread.join()
    # with the lock held each frame would let through about one slice of the interpreter
    assert steps > 1000
