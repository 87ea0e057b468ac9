"""`DATA_ARRAY` of LImA and LImA2: read to the last bit, and every fault named."""

import struct

import numpy as np
import pytest
from framesieve.processing.errors import FrameError
from framesieve.simulators.data_array_messages import data_array
from framesieve.sources.data_array import parse_data_array
from hypothesis import given, settings
from hypothesis import strategies as st

TYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
PIXELS = np.arange(12, dtype="<u2").reshape(3, 4)  # 3 rows, 4 columns

# fields of the header: byte at which they begin, and how they are packed
FIELDS = {
    "magic": (0, "<I"), "version": (4, "<H"), "header_size": (6, "<H"), "category": (8, "<I"), "type": (12, "<I"),
    "order": (16, "<H"), "n_dimensions": (18, "<H"), "columns": (20, "<H"), "rows": (22, "<H"), "third": (24, "<H"),
    "pixel_step": (32, "<I"), "row_step": (36, "<I"), "number": (56, "<Q"),
}  # fmt: skip


def message(pixels=PIXELS, data: bytes | None = None, **fields: int) -> bytes:
    """An image as LImA packs it, by hand; `fields` replace those of the header."""
    values = {
        "magic": 0x44544159, "version": 3, "header_size": 64, "category": 2, "type": TYPES.index(pixels.dtype.name),
        "order": 0, "n_dimensions": 2, "columns": pixels.shape[1], "rows": pixels.shape[0], "third": 0,
        "pixel_step": 1, "row_step": pixels.shape[1], "number": 7,
    } | fields  # fmt: skip
    header = bytearray(64)
    for name, value in values.items():
        place, kind = FIELDS[name]
        struct.pack_into(kind, header, place, value)
    return bytes(header) + (pixels.tobytes() if data is None else data)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_in_both_byte_orders(dtype, order):
    pixels = np.arange(12).reshape(3, 4).astype(np.dtype(dtype).newbyteorder(order))
    data = message(pixels.astype(dtype), pixels.tobytes(), order=int(order == ">"))
    image = parse_data_array("DATA_ARRAY", data)
    assert image.number == 7
    np.testing.assert_array_equal(image.pixels, np.arange(12).reshape(3, 4))
    assert image.pixels.dtype.newbyteorder("=") == dtype


def test_what_older_and_newer_versions_send():
    assert parse_data_array("DATA_ARRAY", message(version=2)).number is None  # the numbers came with version 3
    newer = message(version=4, header_size=80)[:64] + bytes(16) + PIXELS.tobytes()
    image = parse_data_array("DATA_ARRAY", newer)
    assert image.number == 7
    np.testing.assert_array_equal(image.pixels, PIXELS)


def test_what_lima2_sends():
    """A third dimension of one channel, category and steps not filled in; another name in newer versions."""
    data = message(category=0, n_dimensions=3, third=1, pixel_step=1, row_step=1)
    np.testing.assert_array_equal(parse_data_array("DENSE_FRAME", data).pixels, PIXELS)
    np.testing.assert_array_equal(parse_data_array("DATA_ARRAY", memoryview(data)).pixels, PIXELS)


def test_steps_in_bytes():
    np.testing.assert_array_equal(parse_data_array("DATA_ARRAY", message(pixel_step=2, row_step=8)).pixels, PIXELS)


def test_the_message_of_the_simulator_is_the_one_above():
    # steps of dimensions that are not used are 0 in both
    assert data_array(PIXELS, 7) == message()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (message(magic=0x44544158), "begins with 0x44544158, not 0x44544159"),
        (message(version=0), "version 0"),
        (message(header_size=63), "header of 63 bytes"),
        (message(header_size=1000), "header of 1000 bytes"),
        (message(category=1), "category 1 holds no image"),
        (message(category=9), "category 9 holds no image"),
        (message(type=10), "pixel type 10"),
        (message(order=2), "byte order 2"),
        (message(n_dimensions=1), "dimensions"),
        (message(n_dimensions=3, third=2), "dimensions"),
        (message(n_dimensions=7), "dimensions"),
        (message(rows=0), "0 × 4 pixels"),
        (message(rows=65535, columns=65535), "65535 × 65535 pixels"),
        (message(row_step=5), "steps 1, 5"),
        (message(pixel_step=3, row_step=12), "steps 3, 12"),
        (message(rows=4), "truncated DATA_ARRAY: 4 × 4 uint16 are 32 bytes, 24 came"),
        (message(rows=2), "overlong DATA_ARRAY: 2 × 4 uint16 are 16 bytes, 24 came"),
        (message()[:-1], "truncated DATA_ARRAY: 3 × 4 uint16 are 24 bytes, 23 came"),
        (message()[:63], "its header alone has 64"),
        (b"", "its header alone has 64"),
    ],
)  # fmt: skip
def test_each_fault_is_named(data, words):
    with pytest.raises(FrameError, match="DATA_ARRAY") as caught:
        parse_data_array("DATA_ARRAY", data)
    assert words in str(caught.value)


def test_another_encoding():
    with pytest.raises(FrameError, match=r"'SPARSE_FRAME' .accepted: DATA_ARRAY, DENSE_FRAME"):
        parse_data_array("SPARSE_FRAME", message())


@settings(deadline=None, max_examples=1000)
@given(st.integers(0, 63), st.integers(0, 255), st.integers(0, 200), st.binary(max_size=20))
def test_whatever_comes_is_an_image_or_one_error(place, value, length, tail):
    data = bytearray(message())
    data[place] = value
    data = bytes(data)[:length] + tail
    try:
        image = parse_data_array("DATA_ARRAY", data)
    except FrameError as error:
        assert len(str(error)) < 300
    else:
        assert image.pixels.ndim == 2 and image.pixels.nbytes <= len(data)
