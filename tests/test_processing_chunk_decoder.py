"""bslz4 chunks decoded by kernels: against bitshuffle and HDF5, and a plain LZ4 decoder where they are broken."""

import functools
import struct
import threading

import bitshuffle
import h5py
import hdf5plugin
import lz4.block
import numpy as np
import oracles
import pyopencl as cl
import pytest
from framesieve.processing.chunk_decoder import (
    MAX_BLOCK,
    SMALL_BLOCK,
    ChunkDecoder,
    UnsuitableChunkError,
    largest_chunk,
)
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import PIXEL_DTYPES
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_data import data_file
from sources_helpers import encode

DTYPES = [dtype.name for dtype in PIXEL_DTYPES]
VARIANTS = [False, True]  # a work-item per block, a work-group per block
GUARD = 0xA5


@functools.cache
def queue() -> cl.CommandQueue:
    return cl.CommandQueue(cl.Context([oracles.device().device]))


@functools.cache
def decoder(n_pixels: int, dtype: str, group_per_block: bool, batch_size: int = 3) -> ChunkDecoder:
    return ChunkDecoder(
        queue().context, queue(), n_pixels, np.dtype(dtype), batch_size, group_per_block=group_per_block
    )


def decode(d: ChunkDecoder, chunks: list[bytes], slot: int = 0) -> tuple[np.ndarray, dict[int, str]]:
    """(frames, pixels) and the failures; memory around the frames must stay as it was."""
    n_bytes = d.n_pixels * d.dtype.itemsize
    room = np.full(n_bytes * (len(chunks) + 2), GUARD, np.uint8)
    flags = cl.mem_flags.READ_WRITE
    whole = cl.Buffer(queue().context, flags | cl.mem_flags.COPY_HOST_PTR, hostbuf=room)
    for i, chunk in enumerate(chunks):
        d.put(slot, i, chunk)
    d.decode(slot, len(chunks), whole)
    failures = d.failures(slot, len(chunks))
    cl.enqueue_copy(queue(), room, whole)
    assert np.all(room[n_bytes * len(chunks) :] == GUARD)
    return room[: n_bytes * len(chunks)].view(d.dtype).reshape(len(chunks), d.n_pixels), failures


def frames_of(dtype: np.dtype, n: int) -> dict[str, np.ndarray]:
    """What compresses well, badly and not at all."""
    rng = np.random.default_rng(n)
    bits = rng.integers(0, 256, n * dtype.itemsize, np.uint8).view(dtype)
    largest = 100 if dtype.itemsize == 1 else 30_000
    mostly_zero = np.zeros(n, dtype)
    mostly_zero[rng.integers(0, n, n // 50 + 1)] = 1
    return {
        "random bits": bits,
        "zeros": np.zeros(n, dtype),
        "constant": np.full(n, 37, dtype),
        "ramp": (np.arange(n) % largest).astype(dtype),
        "poisson": rng.poisson(13, n).astype(dtype),
        "mostly zero": mostly_zero,
        "blocks of flags": np.where(np.arange(n) // 700 % 2, bits[0], rng.poisson(0.3, n).astype(dtype)),
        "period of 7": np.resize(rng.integers(0, largest, 7), n).astype(dtype),
    }


@pytest.mark.parametrize("group_per_block", VARIANTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000, 4096, 12345])
def test_decodes_what_bitshuffle_encodes(n, dtype, group_per_block):
    d = decoder(n, dtype, group_per_block)
    for name, pixels in frames_of(np.dtype(dtype), n).items():
        got, failures = decode(d, [encode(pixels, "bslz4")])
        assert failures == {}, name
        assert got[0].tobytes() == pixels.tobytes(), name  # bytes, since random float32 may be NaN


@pytest.mark.parametrize("group_per_block", VARIANTS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("elements", [8, 16, 24, 128, 136, 1000, 2048])
def test_other_block_sizes(elements, dtype, group_per_block):
    pixels = np.random.default_rng(1).poisson(3, 6 * 2048 + 13).astype(dtype)
    chunk = encode(pixels, "bslz4", elements * pixels.itemsize)
    d = decoder(pixels.size, dtype, group_per_block)
    if len(chunk) > d.capacity:  # so small that the lengths of the blocks take more room than the pixels
        assert elements * pixels.itemsize < SMALL_BLOCK
        assert not d.accepts(chunk)
        return
    got, failures = decode(d, [chunk])
    assert failures == {}
    np.testing.assert_array_equal(got[0], pixels)


def hdf5_chunk(pixels: np.ndarray) -> bytes:
    with h5py.File("chunk", "w", driver="core", backing_store=False) as file:
        compression = hdf5plugin.Bitshuffle(cname="lz4")
        dataset = file.create_dataset("frame", data=pixels, chunks=pixels.shape, compression=compression)
        return dataset.id.read_direct_chunk((0,) * pixels.ndim)[1]


@pytest.mark.parametrize("group_per_block", VARIANTS)
def test_decodes_what_hdf5_writes(group_per_block):
    pixels = np.random.default_rng(2).poisson(11, (251, 333)).astype(np.uint16)
    got, failures = decode(decoder(pixels.size, "uint16", group_per_block), [hdf5_chunk(pixels)])
    assert failures == {}
    np.testing.assert_array_equal(got[0], pixels.ravel())


@pytest.mark.parametrize("group_per_block", VARIANTS)
def test_decodes_measured_frames(group_per_block):
    with h5py.File(data_file("thaumatin_grid.h5")) as file:
        pixels = file["entry/data/data"][3]
    with h5py.File(data_file("speckle_stack.h5")) as file:
        speckle = file["data"][5]
    for frame in (pixels, speckle):
        got, failures = decode(decoder(frame.size, frame.dtype.name, group_per_block, 1), [hdf5_chunk(frame)])
        assert failures == {}
        np.testing.assert_array_equal(got[0], frame.ravel())


@pytest.mark.parametrize("group_per_block", VARIANTS)
def test_batches_and_slots_do_not_mix(group_per_block):
    rng = np.random.default_rng(3)
    n = 5003
    d = decoder(n, "uint16", group_per_block)
    frames = rng.poisson([[0.01], [3], [100], [9], [0], [1]], (6, n)).astype(np.uint16)
    chunks = [encode(frame, "bslz4", block) for frame, block in zip(frames, [8192, 256, 4096] * 2, strict=True)]
    outs = [cl.Buffer(queue().context, cl.mem_flags.READ_WRITE, 3 * n * 2) for _ in range(2)]
    for i in range(3):
        d.put(0, i, chunks[i])
        d.put(1, i, chunks[3 + i])
    d.decode(0, 3, outs[0])
    d.decode(1, 3, outs[1])
    assert d.failures(0, 3) == d.failures(1, 3) == {}
    got = np.empty((3, n), np.uint16)
    for slot in range(2):
        cl.enqueue_copy(queue(), got, outs[slot])
        np.testing.assert_array_equal(got, frames[3 * slot : 3 * slot + 3])
    for count in (1, 2):
        d.decode(1, count, outs[0])
        cl.enqueue_copy(queue(), got, outs[0])
        np.testing.assert_array_equal(got, [*frames[3 : 3 + count], *frames[count:3]])


def test_threads_put_side_by_side():
    n, batch = 40_000, 8
    d = decoder(n, "uint32", False, batch)
    frames = np.random.default_rng(4).poisson(5, (batch, n)).astype(np.uint32)
    chunks = [encode(frame, "bslz4") for frame in frames]
    threads = [threading.Thread(target=d.put, args=(0, i, memoryview(chunks[i]))) for i in range(batch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out = cl.Buffer(queue().context, cl.mem_flags.READ_WRITE, frames.nbytes)
    d.decode(0, batch, out)
    got = np.empty_like(frames)
    cl.enqueue_copy(queue(), got, out)
    assert d.failures(0, batch) == {}
    np.testing.assert_array_equal(got, frames)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("group_per_block", VARIANTS)
def test_nothing_waits_for_the_device(group_per_block):
    """The queue is held up by an event that comes only after `decode` has returned."""
    pixels = np.random.default_rng(10).poisson(5, 9000).astype(np.uint16)
    d = decoder(pixels.size, "uint16", group_per_block)
    out = cl.Buffer(queue().context, cl.mem_flags.READ_WRITE, pixels.nbytes)
    d.put(0, 0, encode(pixels, "bslz4"))
    gate = cl.UserEvent(queue().context)
    cl.enqueue_barrier(queue(), wait_for=[gate])
    _, (*_, done) = d.decode(0, 1, out)
    assert done.command_execution_status != cl.command_execution_status.COMPLETE
    gate.set_status(cl.command_execution_status.COMPLETE)
    got = np.empty_like(pixels)
    cl.enqueue_copy(queue(), got, out)
    assert d.failures(0, 1) == {}
    np.testing.assert_array_equal(got, pixels)


# what is refused before anything is copied

N = 3000
PIXELS = np.random.default_rng(5).poisson(2, N).astype(np.uint16)
GOOD = encode(PIXELS, "bslz4", 1024)


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (b"", "truncated: 0 bytes"),
        (GOOD[:11], "truncated: 11 bytes"),
        (struct.pack(">QI", 6002, 1024) + GOOD[12:], "6002 bytes are announced, not 6000"),
        (struct.pack(">QI", 1 << 63, 1024) + GOOD[12:], "9223372036854775808 bytes are announced"),
        (struct.pack(">QI", 6000, 0) + GOOD[12:], "blocks of 0 bytes"),
        (struct.pack(">QI", 6000, 1023) + GOOD[12:], "blocks of 1023 bytes for elements of 2"),
        (struct.pack(">QI", 6000, 1032) + GOOD[12:], "blocks of 1032 bytes for elements of 2"),
    ],
)
def test_a_wrong_header_is_an_error(chunk, text):
    d = decoder(N, "uint16", False)
    with pytest.raises(ValueError, match=text) as caught:
        d.put(0, 0, chunk)
    assert not isinstance(caught.value, UnsuitableChunkError)
    assert not d.accepts(chunk)


def test_what_is_only_for_the_host_says_so():
    d = decoder(N, "uint16", False)
    assert d.accepts(GOOD)
    large = encode(PIXELS, "bslz4", 2 * MAX_BLOCK)
    with pytest.raises(
        UnsuitableChunkError, match=f"blocks of {2 * MAX_BLOCK} bytes, a device takes up to {MAX_BLOCK}"
    ):
        d.put(0, 0, large)
    long = GOOD + bytes(d.capacity + 1 - len(GOOD))
    with pytest.raises(UnsuitableChunkError, match=f"a chunk of {d.capacity + 1} bytes"):
        d.put(0, 0, long)
    assert not d.accepts(large)
    assert not d.accepts(long)
    d.put(0, 0, long[:-1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("n", [5, 8, 4095, 4096, 4104, 100_003])
def test_a_frame_that_does_not_compress_has_room(n, dtype):
    pixels = np.random.default_rng(6).integers(0, 256, n * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    for block in (MAX_BLOCK, 1024, SMALL_BLOCK):
        assert len(encode(pixels, "bslz4", block)) <= largest_chunk(n, pixels.itemsize)


def test_other_pixel_types_are_refused():
    with pytest.raises(ConfigurationError, match="float64 cannot be decoded; accepted are uint8"):
        ChunkDecoder(queue().context, queue(), 100, np.dtype("float64"), 1)


# chunks that are broken behind the header


class BrokenError(Exception):
    pass


def plain_lz4(data: bytes, size: int) -> bytes:
    """Written from the description of the format, a byte at a time."""
    out, i = bytearray(), 0

    def take() -> int:
        nonlocal i
        if i >= len(data):
            raise BrokenError
        i += 1
        return data[i - 1]

    def continued(nibble: int) -> int:
        length = nibble
        while nibble == 15 or nibble == 255:
            nibble = take()
            length += nibble
            if nibble != 255:
                break
        return length

    while True:
        token = take()
        for _ in range(continued(token >> 4)):
            out.append(take())
        if len(out) > size:
            raise BrokenError
        if i == len(data):
            if len(out) != size:
                raise BrokenError
            return bytes(out)
        offset = take() + 256 * take()
        length = continued(token & 15) + 4
        if offset == 0 or offset > len(out) or len(out) + length > size:
            raise BrokenError
        for _ in range(length):
            out.append(out[-offset])


def plain_decode(chunk: bytes, n: int, dtype: np.dtype) -> np.ndarray | None:
    """The pixels, None where the chunk is broken."""
    itemsize = dtype.itemsize
    per_block = struct.unpack_from(">QI", chunk)[1] // itemsize
    at, pixels = 12, []
    try:
        for start in range(0, n // 8 * 8, per_block):
            count = min(per_block, n // 8 * 8 - start)
            if at + 4 > len(chunk):
                return None
            (length,) = struct.unpack_from(">I", chunk, at)
            if at + 4 + length > len(chunk):
                return None
            raw = plain_lz4(chunk[at + 4 : at + 4 + length], count * itemsize)
            pixels.append(bitshuffle.bitunshuffle(np.frombuffer(raw, dtype), count))
            at += 4 + length
    except BrokenError:
        return None
    rest = n % 8 * itemsize
    if at + rest > len(chunk):
        return None
    pixels.append(np.frombuffer(chunk[at : at + rest], dtype))
    return np.concatenate(pixels)


BROKEN_N = 1003
BROKEN_PIXELS = {
    "poisson": np.random.default_rng(7).poisson(2, BROKEN_N).astype(np.uint16),
    "zeros": np.zeros(BROKEN_N, np.uint16),
    "random": np.random.default_rng(8).integers(0, 1 << 16, BROKEN_N, np.uint16),
}
BROKEN_CHUNKS = {name: encode(pixels, "bslz4", 512) for name, pixels in BROKEN_PIXELS.items()}
NEIGHBOUR = np.random.default_rng(9).poisson(4, BROKEN_N).astype(np.uint16)
NEIGHBOUR_CHUNK = encode(NEIGHBOUR, "bslz4", 512)


def check_broken(chunk: bytes) -> None:
    """Both variants find out the same as the plain decoder, and leave the frames before and after alone."""
    expected = plain_decode(chunk, BROKEN_N, np.dtype(np.uint16))
    reasons = []
    for group_per_block in VARIANTS:
        d = decoder(BROKEN_N, "uint16", group_per_block)
        got, failures = decode(d, [NEIGHBOUR_CHUNK, chunk, NEIGHBOUR_CHUNK])
        np.testing.assert_array_equal(got[0], NEIGHBOUR)
        np.testing.assert_array_equal(got[2], NEIGHBOUR)
        assert set(failures) == (set() if expected is not None else {1})
        if expected is not None:
            np.testing.assert_array_equal(got[1], expected)
        reasons.append(failures)
    assert reasons[0] == reasons[1]


def test_the_plain_decoder_knows_good_chunks():
    for name, pixels in BROKEN_PIXELS.items():
        np.testing.assert_array_equal(plain_decode(BROKEN_CHUNKS[name], BROKEN_N, pixels.dtype), pixels)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(BROKEN_CHUNKS)))
def test_changed_bytes(data, name):
    chunk = bytearray(BROKEN_CHUNKS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(12, len(chunk) - 1))
        chunk[position] = data.draw(st.sampled_from([0, 1, 15, 0xF0, 0xFF]) | st.integers(0, 255))
    check_broken(bytes(chunk))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), name=st.sampled_from(list(BROKEN_CHUNKS)))
def test_truncated_or_followed_by_something(data, name):
    chunk = BROKEN_CHUNKS[name]
    length = data.draw(st.integers(12, len(chunk)))
    check_broken(chunk[:length])
    room = decoder(BROKEN_N, "uint16", False).capacity - len(chunk)
    check_broken(chunk + data.draw(st.binary(max_size=min(100, room))))


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=1500), lead=st.lists(st.integers(0, 600), max_size=3))
def test_any_bytes_at_all(body, lead):
    chunk = struct.pack(">QI", 2 * BROKEN_N, 512)
    for length in lead:
        chunk += struct.pack(">I", length) + body[:length]
    check_broken((chunk + body)[: decoder(BROKEN_N, "uint16", False).capacity])


def lz4_chunk(*blocks: bytes, rest: bytes = b"\1\0\2\0\3\0") -> bytes:
    """A chunk of blocks of 512 bytes, of the given LZ4 blocks followed by good ones of zeros."""
    zeros = lz4.block.compress(bytes(512), store_size=False)
    end = lz4.block.compress(bytes(1000 // 8 * 8 * 2 - 3 * 512), store_size=False)
    blocks = (*blocks, *[zeros] * (3 - len(blocks)), end)
    framed = b"".join(struct.pack(">I", len(block)) + block for block in blocks)
    return struct.pack(">QI", 2 * BROKEN_N, 512) + framed + rest


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"", "block 0 of 4 cannot"),
        (b"\xf0" + b"\xff" * 500, "block 0 of 4 cannot"),  # a length without end
        (b"\x10\x07\x00\x00\x00", "block 0 of 4 cannot"),  # offset 0
        (b"\x10\x07\x02\x00\x00", "block 0 of 4 cannot"),  # offset before the beginning
        (b"\x1f\x07\x01\x00\xff\xff\x50", "block 0 of 4 cannot"),  # a match that goes on too long
        (b"\x1f\x07\x01\x00\xff\xec", "block 0 of 4 cannot"),  # the right size, but no literals at the end
        (b"\x1f\x07\x01", "block 0 of 4 cannot"),  # half an offset
        (b"\x10\x07", "block 0 of 4 cannot"),  # well-formed, but of one byte
        (lz4.block.compress(bytes(511), store_size=False), "block 0 of 4 cannot"),
        (lz4.block.compress(bytes(513), store_size=False), "block 0 of 4 cannot"),
        (bytes(600), "truncated, or a wrong length, at block 0 of 4"),
    ],
)
def test_broken_blocks_are_named(block, reason):
    check_broken(lz4_chunk(block))
    for group_per_block in VARIANTS:
        failures = decode(decoder(BROKEN_N, "uint16", group_per_block), [GOOD_ZEROS, lz4_chunk(block)])[1]
        assert list(failures) == [1]
        assert failures[1].startswith(reason)
    assert decode(decoder(BROKEN_N, "uint16", False), [lz4_chunk(GOOD_BLOCK, block)])[1][0].startswith(
        reason.replace("block 0", "block 1")
    )


GOOD_ZEROS = lz4_chunk()
GOOD_BLOCK = lz4.block.compress(bytes(512), store_size=False)


@pytest.mark.parametrize("group_per_block", VARIANTS)
def test_the_first_broken_block_is_named(group_per_block):
    d = decoder(BROKEN_N, "uint16", group_per_block)
    bad = b"\x10\x07"
    reason = {0: "block 1 of 4 cannot be decompressed"}
    assert decode(d, [lz4_chunk(GOOD_BLOCK, bad, bad)])[1] == reason
    assert decode(d, [lz4_chunk(GOOD_BLOCK, bad, GOOD_BLOCK)[:-7]])[1] == reason  # and the end is missing


def test_a_missing_rest_is_named():
    d = decoder(BROKEN_N, "uint16", False)
    size = len(GOOD_ZEROS) - 1
    assert decode(d, [GOOD_ZEROS[:-1]])[1] == {0: f"truncated, or a wrong length, behind its blocks ({size} bytes)"}


@pytest.mark.parametrize("offset", range(1, 40))
def test_matches_that_repeat_themselves(offset):
    """Every short offset, at lengths around those that are copied in one go."""
    head = bytes(range(1, offset + 1))
    for length in [*range(4, 24), 31, 32, 33, 63, 64, 65, 200]:
        whole = (head * 300)[: offset + length]
        tail = bytes(512 - len(whole))
        token = bytes([min(offset, 15) << 4 | min(length - 4, 15)])
        block = token + (bytes([offset - 15]) if offset >= 15 else b"") + head + struct.pack("<H", offset)
        block += bytes([length - 4 - 15]) if length >= 19 else b""
        rest = len(tail)
        block += b"\xf0" + b"\xff" * ((rest - 15) // 255) + bytes([(rest - 15) % 255]) + tail
        expected = bitshuffle.bitunshuffle(np.frombuffer(whole + tail, np.uint16), 256)
        for group_per_block in VARIANTS:
            got, failures = decode(decoder(BROKEN_N, "uint16", group_per_block), [lz4_chunk(block)])
            assert failures == {}
            np.testing.assert_array_equal(got[0, :256], expected)
            assert not got[0, 256:-3].any()
            assert got[0, -3:].tolist() == [1, 2, 3]


def test_memory_is_given_back():
    d = ChunkDecoder(queue().context, queue(), 1000, np.dtype("uint16"), 2)
    d.close()
    with pytest.raises((IndexError, ValueError)):
        d.put(0, 0, encode(np.zeros(1000, np.uint16), "bslz4"))
