"""Stream2: what becomes of each message, good and bad, in order and out of it."""

import json
import math
import re
import tracemalloc

import cbor2
import numpy as np
import pytest
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.sources.stream2 import Stream2Source
from framesieve.sources.stream2_messages import parse_message
from measured_data import data_file
from sources_helpers import (
    DATE,
    decode,
    dumps,
    encode,
    end,
    feed,
    image,
    pixels_of,
    random_pixels,
    start,
    typed_array,
)

PIXELS = random_pixels("uint16")


@pytest.fixture
def source() -> Stream2Source:
    return Stream2Source("localhost", 31001)


def test_a_series_from_start_to_end(source):
    events = feed(source, start(), image(0, PIXELS, encoding="bslz4"), image(1, PIXELS, encoding="lz4"), end())
    begin, first, second, over = events
    assert isinstance(begin, SeriesStart)
    assert (begin.series_id, begin.shape, begin.dtype, begin.number_of_frames) == ("unique-1", (37, 53), np.uint16, 10)
    assert [first.number, second.number] == [0, 1]
    assert second.timestamp == pytest.approx(DATE.timestamp() + 0.01, abs=1e-6)
    np.testing.assert_array_equal(pixels_of(first.payload), PIXELS)
    np.testing.assert_array_equal(pixels_of(second.payload), PIXELS)
    assert over == SeriesEnd("unique-1")


def test_metadata_is_json_in_si_units(source):
    mask = np.zeros((37, 53), np.uint32)
    mask[3, 4] = 1
    flat = np.full((37, 53), 1.25, np.float32)
    message = start(
        pixel_mask={"threshold_1": typed_array(mask, "bslz4")},
        flatfield={"threshold_1": typed_array(flat)},
        flatfield_enabled=False,
        countrate_correction_lookup_table=cbor2.CBORTag(85, b"\0" * 8000),
        sensor_thickness=math.nan,
    )
    (begin,) = feed(source, message)
    metadata = json.loads(json.dumps(begin.metadata, allow_nan=False))
    assert metadata["wavelength"] == pytest.approx(1.0332e-10)
    assert metadata["pixel_size"] == [7.5e-05, 7.5e-05]
    assert metadata["beam_center"] == [26.5, 18.25]
    assert metadata["saturation_value"] == 65534
    assert metadata["detector"] == "Dectris EIGER2 Si 500K"
    assert metadata["header"]["user_data"] == {"sample": "Größe 💙"}
    assert metadata["header"]["arm_date"].startswith("2026-03-01T12:00:00")
    assert not {"pixel_mask", "flatfield", "countrate_correction_lookup_table"} & set(metadata["header"])
    np.testing.assert_array_equal(begin.pixel_mask, mask)
    np.testing.assert_array_equal(begin.flatfield, flat)
    assert begin.flatfield.dtype == np.float32 and begin.problems == ()


def test_without_header_detail_there_is_no_mask(source):
    (begin,) = feed(source, start(flatfield_enabled=False))
    assert begin.pixel_mask is None and begin.flatfield is None and begin.problems == ()


@pytest.mark.parametrize("enabled", [{}, {"flatfield_enabled": True}, {"flatfield_enabled": None}])
def test_a_flat_field_that_the_detector_has_applied_is_not_applied_again(source, enabled):
    flat = typed_array(np.full((37, 53), 2, np.float32))
    (begin,) = feed(source, start(flatfield={"threshold_1": flat}, **enabled))
    assert begin.flatfield is None and begin.problems == ()


def test_a_flat_field_of_ones_is_none(source):
    flat = typed_array(np.ones((37, 53), np.float32))
    (begin,) = feed(source, start(flatfield={"threshold_1": flat}, flatfield_enabled=False))
    assert begin.flatfield is None


def test_tables_are_those_of_the_channel_that_is_read():
    masks = {f"threshold_{k}": typed_array(np.full((37, 53), k, np.uint32)) for k in (1, 2, 3)}
    begins = [
        feed(Stream2Source("localhost", 1, channel), start(pixel_mask=masks, channels=["threshold_2", "threshold_3"]))[
            0
        ]
        for channel in (None, "threshold_1", "threshold_3", "difference")
    ]
    assert [None if begin.pixel_mask is None else begin.pixel_mask[0, 0] for begin in begins] == [2, 1, 3, None]


def compressed(algorithm, size, data, shape=(37, 53), tag=69, array_tag=40):
    content = cbor2.CBORTag(56500, [algorithm, size, data])
    return {"threshold_1": cbor2.CBORTag(array_tag, [list(shape), cbor2.CBORTag(tag, content)])}


BAD_TABLES = {
    "shape": (typed_array(np.zeros((37, 54), np.uint32)), "has the shape 37 × 54, the image 37 × 53"),
    "huge": (cbor2.CBORTag(40, [[1 << 13, 1 << 13], cbor2.CBORTag(70, b"")]), "wrong number of bytes"),
    "no array": (5, "no multi-dimensional typed array"),
    "cut": (
        compressed("bslz4", 4, encode(np.zeros((37, 53), "u4"), "bslz4")[:-3], tag=70)["threshold_1"],
        "corrupt bslz4",
    ),
}


@pytest.mark.parametrize("field", ["pixel_mask", "flatfield"])
@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_broken_table_costs_no_frame(source, case, field):
    table, reason = BAD_TABLES[case]
    message = start(flatfield_enabled=False, **{field: {"threshold_1": table}})
    begin, frame = feed(source, message, image(0, PIXELS))
    assert isinstance(begin, SeriesStart) and isinstance(frame, Frame)
    assert begin.pixel_mask is None and begin.flatfield is None
    (problem,) = begin.problems
    assert re.search(reason, problem) and len(problem) <= 300


def test_a_mask_of_fractions_is_refused(source):
    (begin,) = feed(source, start(pixel_mask={"threshold_1": typed_array(np.zeros((37, 53), np.float32))}))
    assert begin.pixel_mask is None
    assert begin.problems == ("pixel_mask: its values are float32, integers are expected",)


def test_monitor_and_position_of_each_image(source):
    told = [{"monitor": 5, "position": [1.5, -2]}, '{"i0": 7}', None, [1]]
    _, *frames = feed(source, start(), *(image(i, PIXELS, user_data=each) for i, each in enumerate(told)))
    assert [frames[0].monitor, frames[0].position, frames[1].monitor] == [5, (1.5, -2), 7]
    assert all(math.isnan(value) for one in frames[2:] for value in (one.monitor, *one.position))


def test_a_name_is_given_once(source):
    """Two series that bring the same unique id, whatever made them so."""
    events = feed(source, start(), end(), start(series=2, series_unique_id="unique-1"), image(0, PIXELS, 2))
    assert [event.series_id for event in events if isinstance(event, SeriesStart)] == [
        "unique-1",
        "unique-1 (2)",
        "unique-2",
    ]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("encoding", ["none", "bslz4", "lz4"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "int32", "float32"])
def test_every_pixel_type_and_encoding(source, dtype, encoding, order):
    pixels = random_pixels(dtype)
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    begin, frame = feed(source, start(dtype=dtype), image(0, stored, encoding=encoding))
    assert begin.dtype == frame.payload.dtype == pixels.dtype
    np.testing.assert_array_equal(pixels_of(frame.payload), pixels)


@pytest.mark.parametrize(
    ("wanted", "in_start", "read"),
    [
        (None, ["low", "high"], "low"),  # the first one of the start message, not of the image
        ("high", ["low", "high"], "high"),
        ("high", None, "high"),
        (None, None, "high"),  # no start message: the first one of the image
    ],
)
def test_choice_of_the_channel(wanted, in_start, read):
    source = Stream2Source("localhost", 31001, channel=wanted)
    low, high = PIXELS, random_pixels("uint16", seed=1)
    messages = [start(channels=in_start)] if in_start else []
    *_, frame = feed(source, *messages, image(0, {"high": typed_array(high, "bslz4"), "low": typed_array(low)}))
    np.testing.assert_array_equal(pixels_of(frame.payload), {"low": low, "high": high}[read])


def test_joined_in_the_middle(source):
    begin, frame, over = feed(source, image(7, PIXELS), end())
    assert begin == SeriesStart("unique-1", (37, 53), np.dtype("uint16"), joined_late=True)
    assert frame.number == 7
    assert over == SeriesEnd("unique-1")


def test_a_series_without_unique_id_is_named_by_its_number(source):
    begin, *_ = feed(source, start(series=12, series_unique_id=None))
    assert begin.series_id == "12"


def test_a_new_series_ends_one_that_was_aborted(source):
    events = feed(source, start(series=1), image(0, PIXELS, series=1), start(series=2), image(0, PIXELS, series=2))
    assert [type(event) for event in events] == [SeriesStart, Frame, SeriesEnd, SeriesStart, Frame]
    assert [event.series_id for event in events] == ["unique-1"] * 3 + ["unique-2"] * 2


def test_a_new_series_whose_start_went_to_another_client(source):
    events = feed(source, start(series=1), image(0, PIXELS, series=1), image(3, PIXELS, series=2))
    assert [type(event) for event in events] == [SeriesStart, Frame, SeriesEnd, SeriesStart, Frame]


def test_strays_are_counted_not_reported(source):
    feed(source, start(series=4), end(series=4), start(series=5))
    strays = [image(1, PIXELS, series=4), end(series=4), start(series=4), image(9, PIXELS, series=3), end(series=9)]
    strays.append(image(1, np.zeros((2, 2), "f8"), series=4))  # broken, but nobody waits for it
    strays.append(start(series=5))  # once more
    assert feed(source, *strays) == []
    assert source.stray_messages == len(strays)
    (frame,) = feed(source, image(0, PIXELS, series=5))
    assert frame.series_id == "unique-5"


def test_messages_of_jungfraujoch_that_hold_no_frame_are_left_out(source):
    assert feed(source, dumps({"type": "calibration", "data": {}}), dumps({"type": "metadata", "images": []})) == []


CHUNK = encode(PIXELS, "bslz4")
GOOD = image(3, PIXELS, encoding="bslz4")
BAD = {
    "empty": (b"", -1, "no valid CBOR: truncated"),
    "truncated": (GOOD[:-5], -1, "no valid CBOR: truncated"),
    "text": ("Grüße".encode(), -1, "no valid CBOR"),
    "garbage": (b"\xff" * 100, -1, "no valid CBOR"),
    "not a map": (cbor2.dumps([1, 2]), -1, "CBOR, but no map"),
    "stream v1": (b'{"htype":"dheader-1.0","series":1}', -1, "stream v1.*format to cbor"),
    "no type": (dumps({"series_id": 1}), -1, "unknown message type None"),
    "unknown type": (dumps({"type": "picture"}), -1, "unknown message type 'picture'"),
    "no series": (image(3, PIXELS, series_id=None), 3, "series_id is missing"),
    "no number": (image(3, PIXELS, image_id=None), -1, "image_id is missing"),
    "negative number": (image(3, PIXELS, image_id=-3), -1, "image_id is no count: -3"),
    "huge number": (image(3, PIXELS, image_id=1 << 63), -1, "image_id is no count"),
    "text number": (image(3, PIXELS, image_id="a" * 1000), -1, "image_id is no count: 'aaa.*…$"),
    "no data": (image(3, {}), 3, "image without data"),
    "other channel": (image(3, {"x": typed_array(PIXELS)}), 3, r"no channel 'threshold_1' in the image \(has: x\)"),
    "other shape": (image(3, PIXELS[:-1]), 3, "image is 36 × 53 uint16, but the series has 37 × 53 uint16"),
    "other type": (image(3, PIXELS.astype("u4")), 3, "37 × 53 uint32, but the series has 37 × 53 uint16"),
    "three dimensions": (
        image(3, compressed("bslz4", 2, CHUNK, (1, 37, 53))),
        3,
        r"has the shape \[1, 37, 53\], not two",
    ),
    "negative shape": (image(3, compressed("bslz4", 2, CHUNK, (-37, -53))), 3, "impossible shape"),
    "huge shape": (image(3, compressed("bslz4", 2, CHUNK, (2**40, 2**40))), 3, "impossible shape"),
    "text shape": (image(3, compressed("bslz4", 2, CHUNK, ("a", 2))), 3, "has the shape"),
    "column-major": (image(3, compressed("bslz4", 2, CHUNK, array_tag=1040)), 3, "no row-major array"),
    "no typed array": (image(3, compressed("bslz4", 2, CHUNK, tag=99)), 3, "no typed array"),
    "bare bytes": (image(3, {"threshold_1": CHUNK}), 3, "no multi-dimensional typed array"),
    "float64": (image(3, PIXELS.astype("f8")), 3, "pixel type float64 is not supported"),
    "uint64": (image(3, PIXELS.astype("u8")), 3, "pixel type uint64 is not supported"),
    "unknown compression": (image(3, compressed("zip", 2, CHUNK)), 3, "unknown compression 'zip'"),
    "compression none": (image(3, compressed("none", 2, CHUNK)), 3, "unknown compression 'none'"),
    "no bytes": (image(3, compressed("bslz4", 2, "text")), 3, "tagged 56500 and cannot be read"),
    "element size": (image(3, compressed("bslz4", 3, CHUNK)), 3, "elements of 3 bytes"),
    "empty chunk": (image(3, compressed("bslz4", 2, b"")), 3, "truncated: 0 bytes"),
    "wrong byte count": (image(3, compressed("bslz4", 2, encode(PIXELS[1:], "bslz4"))), 3, "header announces 3816"),
    "too few bytes": (
        image(3, {"threshold_1": cbor2.CBORTag(40, [[37, 53], cbor2.CBORTag(69, b"12")])}),
        3,
        "2 arrived",
    ),
    "start: no size": (start(series=2, image_size_x=None), -1, "image_size_x is missing"),
    "start: zero size": (start(series=2, image_size_x=0), -1, "impossible image size"),
    "start: huge size": (start(series=2, image_size_x=2**50), -1, "impossible image size"),
    "start: float64": (start(series=2, image_dtype="float64"), -1, "image_dtype 'float64' is not supported"),
    "start: channels": (start(series=2, channels="low"), -1, "channels of the start message"),
    "end: no series": (dumps({"type": "end"}), -1, "series_id is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_costs_that_message_only(source, name):
    message, number, reason = BAD[name]
    feed(source, start())
    source.channel = "threshold_1"
    (broken,) = feed(source, message)
    assert isinstance(broken, BrokenFrame)
    assert broken.number == number
    assert re.search(reason, broken.reason), broken.reason
    assert len(broken.reason) <= 300
    (frame,) = feed(source, GOOD)
    np.testing.assert_array_equal(pixels_of(frame.payload), PIXELS)


def test_several_parts_are_refused(source):
    (broken,) = source.handle([memoryview(GOOD), memoryview(b"x")])
    assert "2 parts" in broken.reason
    (broken,) = source.handle([memoryview(b'{"htype": "dimage-1.0"}'), memoryview(b"x")])
    assert "stream v1" in broken.reason


def test_a_broken_image_opens_no_series(source):
    (broken,) = feed(source, image(3, PIXELS.astype("f8")))
    assert isinstance(broken, BrokenFrame)
    assert broken.series_id == "unique-1"


@pytest.mark.parametrize(
    "times",
    [
        {"series_date": None},
        {"series_date": "yesterday"},
        {"series_date": cbor2.CBORTag(0, "not a date")},
        {"start_time": None},
        {"start_time": [1, 0]},
        {"start_time": [1, -5]},
        {"start_time": 1.5},
        {"start_time": [2**64 - 1, 1]},
    ],
)
def test_an_unreadable_time_is_not_a_number(source, times):
    _, frame = feed(source, image(0, PIXELS, **times))
    assert math.isnan(frame.timestamp) or times["start_time"] == [2**64 - 1, 1]


RECORDED = [("bslz4", 8), ("bslz4", 16), ("bslz4", 32), ("lz4", 8), ("lz4", 16)]


@pytest.mark.parametrize("channel", ["threshold_1", "threshold_2", "difference"])
@pytest.mark.parametrize(("encoding", "bits"), RECORDED)
def test_recorded_images_decode_bit_exact(encoding, bits, channel):
    folder = data_file(f"dectris_stream2/r500k_bm_{encoding}_{bits}bit")
    messages = [path.read_bytes() for path in sorted(folder.glob("*.cbor"))]
    source = Stream2Source("localhost", 31001, channel=channel)
    begin, *frames, over = feed(source, *messages)
    assert isinstance(begin, SeriesStart)
    assert isinstance(over, SeriesEnd)
    assert begin.shape == (514, 1030)
    assert begin.dtype == np.dtype(f"uint{bits}")
    assert [frame.number for frame in frames] == [0, 1]
    for frame, message in zip(frames, messages, strict=False):
        found = {}
        cbor2.loads(message, tag_hook=lambda *given, into=found: _collect(given, into))
        algorithm, _, data = found["compressed"][["threshold_1", "threshold_2", "difference"].index(channel)]
        assert algorithm == encoding
        expected = decode(data, encoding, begin.shape, begin.dtype)
        np.testing.assert_array_equal(pixels_of(frame.payload), expected)
        assert 1.676e9 < frame.timestamp < 1.677e9  # 10 February 2023


def _collect(given, into):
    # cbor2 5 calls with (decoder, tag), cbor2 6 with (tag, immutable)
    tag = next(item for item in given if isinstance(item, cbor2.CBORTag))
    if tag.tag == 56500:
        into.setdefault("compressed", []).append(tag.value)


def test_parsing_copies_no_pixels():
    pixels = np.random.default_rng(6).integers(0, 1 << 16, (1000, 1000), np.uint16)
    message = image(0, pixels, encoding="bslz4")
    tracemalloc.start()
    payload = parse_message(message).payload(None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert payload.stored_bytes > 1_000_000
    assert peak < 100_000
