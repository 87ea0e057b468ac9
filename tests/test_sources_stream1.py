"""Stream v1: what becomes of each message, good and bad, in order and out of it."""

import json
import math
import re
import struct
import tracemalloc

import numpy as np
import pytest
import sources_helpers as stream2
import stream1_helpers as v1
from framesieve.processing.errors import FrameError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.simulators.recorded import read_stream1
from framesieve.sources.stream1 import Stream1Source
from framesieve.sources.stream1_messages import parse_message
from framesieve.sources.stream2 import Stream2Source
from measured_data import data_file
from sources_helpers import decode, encode, pixels_of, random_pixels
from stream1_helpers import end, feed, header, image, part

PIXELS = random_pixels("uint16")
ARMED = 1772366400.0  # 2026-03-01T12:00:00Z


@pytest.fixture
def source() -> Stream1Source:
    return Stream1Source("localhost", 9999)


def test_a_series_from_header_to_end(source):
    events = feed(source, header(), image(0, PIXELS, encoding="bs16-lz4<"), image(3, PIXELS, encoding="lz4<"), end())
    begin, first, second, over = events
    assert isinstance(begin, SeriesStart)
    assert (begin.series_id, begin.shape, begin.dtype) == ("1", (37, 53), np.uint16)
    assert begin.number_of_frames == 10  # 5 for each of 2 triggers
    assert not begin.joined_late
    assert [first.number, second.number] == [0, 3]
    assert first.timestamp == pytest.approx(ARMED, abs=1e-6)
    assert second.timestamp == pytest.approx(ARMED + 0.03, abs=1e-6)
    np.testing.assert_array_equal(pixels_of(first.payload), PIXELS)
    np.testing.assert_array_equal(pixels_of(second.payload), PIXELS)
    assert over == SeriesEnd("1")


@pytest.mark.parametrize("appendix", [None, b'{"sample": "G\xc3\xb6"}'])
@pytest.mark.parametrize("detail", ["none", "basic", "all"])
def test_every_header_detail_with_and_without_appendix(source, detail, appendix):
    begin, frame = feed(source, header(1, detail, appendix), image(0, PIXELS, appendix=appendix))
    known = detail != "none"
    assert begin.shape == ((37, 53) if known else None)
    assert begin.dtype == (np.uint16 if known else None)
    assert begin.number_of_frames == (10 if known else None)
    assert begin.metadata["header"]["header_detail"] == detail
    assert begin.metadata["header"].get("header_appendix") == (None if appendix is None else '{"sample": "Gö"}')
    assert math.isnan(frame.timestamp) != known
    np.testing.assert_array_equal(pixels_of(frame.payload), PIXELS)
    assert begin.problems == () and begin.flatfield is None
    if detail == "all":
        assert begin.pixel_mask.dtype == np.uint32
        assert np.argwhere(begin.pixel_mask).tolist() == [[3, 4]]
    else:
        assert begin.pixel_mask is None


@pytest.mark.parametrize("applied", [False, 0, True, None])
def test_a_flat_field_is_told_where_the_detector_has_not_applied_it(source, applied):
    (begin,) = feed(source, header(1, "all", flatfield_correction_applied=applied))
    if applied in (False, 0):
        assert begin.flatfield.dtype == np.float32
        np.testing.assert_array_equal(begin.flatfield, np.full((37, 53), 1.5))
    else:
        assert begin.flatfield is None


def test_monitor_and_position_of_each_image(source):
    told = [b'{"monitor": 5, "position": [1.5, -2]}', b'{"i0": 7}', None, b"{", b'{"i0": 7}' + b" " * (1 << 17)]
    _, *frames = feed(source, header(), *(image(i, PIXELS, appendix=each) for i, each in enumerate(told)))
    assert [frames[0].monitor, frames[0].position, frames[1].monitor] == [5, (1.5, -2), 7]
    assert all(math.isnan(value) for one in frames[2:] for value in (one.monitor, *one.position))


def test_metadata_is_json_in_si_units(source):
    (begin,) = feed(source, header(frame_period=math.nan))
    metadata = json.loads(json.dumps(begin.metadata, allow_nan=False))
    told = metadata.pop("header")
    assert metadata.pop("wavelength") == pytest.approx(1.0332e-10)
    assert metadata == {
        "distance": 0.25,
        "pixel_size": [8e-05, 7.5e-05],
        "beam_center": [26.5, 18.25],
        "saturation_value": 18533,
        "detector": "Dectris EIGER2 Si 500K",
        "sensor_material": "Si",
        "sensor_thickness": 0.00045,
    }
    assert told == v1.CONFIG | {"header_detail": "basic", "frame_period": None}


def test_wavelength_of_the_energy_and_values_that_were_never_set(source):
    (begin,) = feed(source, header(wavelength=None, photon_energy=12398.419843, detector_distance=0))
    assert begin.metadata["wavelength"] == pytest.approx(1e-10)
    assert "distance" not in begin.metadata
    (_, begin) = feed(source, header(2, wavelength=0, beam_center_x="middle"))
    assert not {"wavelength", "beam_center"} & set(begin.metadata)


def test_metadata_has_the_names_of_stream2(source):
    (first,) = feed(source, header())
    (second,) = stream2.feed(Stream2Source("localhost", 1), stream2.start())
    assert set(second.metadata) <= set(first.metadata)


ENCODINGS = {"uint8": "bs8-lz4", "uint16": "bs16-lz4", "uint32": "bs32-lz4"}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", ["", "lz4", "bs"])
@pytest.mark.parametrize("dtype", ENCODINGS)
def test_every_pixel_type_and_encoding(source, dtype, compression, order):
    pixels = random_pixels(dtype)
    encoding = (ENCODINGS[dtype] if compression == "bs" else compression) + order
    bits = int(dtype[4:])
    begin, frame = feed(source, header(bit_depth_image=bits), image(0, pixels, encoding=encoding))
    assert begin.dtype == frame.payload.dtype == pixels.dtype
    np.testing.assert_array_equal(pixels_of(frame.payload), pixels)
    can_go_to_the_device = compression == "bs" and (order == "<" or dtype == "uint8")
    assert (frame.payload.bslz4_chunk is not None) == can_go_to_the_device


def test_the_same_frames_as_stream2():
    images = [random_pixels("uint16", seed=seed) for seed in range(4)]
    first, second = Stream1Source("localhost", 1), Stream2Source("localhost", 1)
    ours = feed(
        first, header(), *(image(i, one, encoding="bs16-lz4<") for i, one in enumerate(images) if i != 2), end()
    )
    theirs = stream2.feed(
        second,
        stream2.start(),
        *(stream2.image(i, one, encoding="bslz4") for i, one in enumerate(images) if i != 2),
        stream2.end(),
    )
    assert [type(event) for event in ours] == [type(event) for event in theirs]
    assert (ours[0].shape, ours[0].dtype, ours[0].number_of_frames) == (
        theirs[0].shape, theirs[0].dtype, theirs[0].number_of_frames,
    )  # fmt: skip
    for one, other in zip(ours[1:-1], theirs[1:-1], strict=True):
        assert one.number == other.number
        assert one.timestamp == pytest.approx(other.timestamp, abs=1e-6)
        assert bytes(one.payload.bslz4_chunk) == bytes(other.payload.bslz4_chunk)
        np.testing.assert_array_equal(pixels_of(one.payload), pixels_of(other.payload))


def test_the_recorded_series_decodes_to_the_last_bit(source):
    begin_parts = read_stream1(data_file("dectris_stream1/header"))
    frame_parts = read_stream1(data_file("dectris_stream1/image000044"))
    begin, frame = feed(source, begin_parts, frame_parts)
    assert (begin.shape, begin.dtype, begin.number_of_frames) == ((2162, 2068), np.uint16, 80)
    assert begin.metadata["wavelength"] == pytest.approx(9.76246e-11, rel=1e-6)
    assert begin.metadata["distance"] == 0.337
    assert begin.metadata["beam_center"] == pytest.approx([1041.2470038560409, 1115.7474063453324])
    assert begin.metadata["detector"] == "Dectris EIGER2 Si 16M"
    assert begin.metadata["saturation_value"] == 18533
    assert begin.pixel_mask is None and begin.problems == ()  # the recording announces the tables and leaves them out
    assert (frame.number, frame.series_id) == (43, begin.series_id)
    blob = frame_parts[2]
    expected = decode(blob, "bslz4", (2162, 2068), np.dtype("uint16"))
    assert expected.max() == 65535 and 0.1 < expected[expected < 65535].mean() < 100  # no noise of wrong bits
    np.testing.assert_array_equal(pixels_of(frame.payload), expected)
    assert bytes(frame.payload.bslz4_chunk) == blob
    assert frame.timestamp == pytest.approx(1599508014.965, abs=1e-3)  # 2020-09-07T19:46:54.965Z


def test_the_clock_of_the_detector(source):
    config = {"data_collection_date": None}
    _, frame = feed(source, header(**config), image(0, PIXELS))
    assert math.isnan(frame.timestamp)
    parts = image(1, PIXELS)
    parts[3] = part(htype="dconfig-1.0", start_time=1_772_366_400_500_000_000)  # counts from 1970
    (frame,) = feed(source, parts)
    assert frame.timestamp == pytest.approx(ARMED + 0.5, abs=1e-6)


@pytest.mark.parametrize("start", [None, "now", math.nan, 1e999, [1], 10**400, True])
def test_an_unreadable_time_is_not_a_number(source, start):
    parts = image(0, PIXELS)
    parts[3] = part(htype="dconfig-1.0", start_time=start)
    _, frame = feed(source, header(), parts)
    assert math.isnan(frame.timestamp)


def test_joined_in_the_middle(source):
    begin, frame, over = feed(source, image(7, PIXELS), end())
    assert begin == SeriesStart("1", (37, 53), np.dtype("uint16"), joined_late=True)
    assert frame.number == 7
    assert math.isnan(frame.timestamp)
    assert over == SeriesEnd("1")


def test_without_details_the_first_image_tells_what_the_others_are(source):
    _, broken, frame, other = feed(
        source,
        header(detail="none"),
        image(0, PIXELS, size=5),
        image(1, PIXELS),
        image(2, PIXELS[1:]),
    )
    assert isinstance(broken, BrokenFrame) and isinstance(frame, Frame) and isinstance(other, BrokenFrame)
    assert "36 × 53 uint16, but the series has 37 × 53 uint16" in other.reason


def test_a_new_series_ends_one_that_was_aborted(source):
    events = feed(source, header(1), image(0, PIXELS, 1), header(2), image(1, PIXELS, 1), image(0, PIXELS, 2), end(2))
    kinds = [SeriesStart, Frame, SeriesEnd, SeriesStart, Frame, SeriesEnd]
    assert [type(event) for event in events] == kinds
    assert [event.series_id for event in events] == ["1"] * 3 + ["2"] * 3
    assert source.stray_messages == 1


def test_a_new_series_whose_header_went_to_another_client(source):
    events = feed(source, header(1), image(0, PIXELS, 1), image(3, PIXELS, 2))
    assert [type(event) for event in events] == [SeriesStart, Frame, SeriesEnd, SeriesStart, Frame]
    assert events[3].joined_late


def test_strays_are_counted_not_reported(source):
    feed(source, header(4), end(4), header(5))
    strays = [image(1, PIXELS, 4), end(4), image(9, PIXELS, 3), end(9), image(1, PIXELS, 4, type="float64"), header(5)]
    assert feed(source, *strays) == []
    assert source.stray_messages == len(strays)
    (frame,) = feed(source, image(0, PIXELS, 5))
    assert frame.series_id == "5"


@pytest.mark.parametrize("detail", ["none", "basic"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_restarted_detector_counts_its_series_from_one_again(source, ended, detail):
    feed(source, header(1, detail), image(0, PIXELS), *([end()] if ended else []))
    again = header(1, detail, data_collection_date="2026-03-01T15:00:00+01:00")
    events = feed(source, again, image(0, PIXELS), end())
    assert [event.series_id for event in events] == ["1"] * (not ended) + ["1 (2)"] * 3
    assert [type(event) for event in events] == [SeriesEnd] * (not ended) + [SeriesStart, Frame, SeriesEnd]
    # and from 1 though it had come to 7 before
    events = feed(source, header(7, detail), header(2, detail), image(0, PIXELS, 2))
    assert [event.series_id for event in events] == ["7", "7", "2", "2"]
    assert [type(event) for event in events] == [SeriesStart, SeriesEnd, SeriesStart, Frame]


GOOD = image(3, PIXELS, encoding="bs16-lz4<")
HUGE = b'{"htype": "dheader-1.0", "x": "' + b"a" * (1 << 20) + b'"}'


def changed(place: int, new: bytes, parts: list[bytes] = GOOD) -> list[bytes]:
    return [*parts[:place], new, *parts[place + 1 :]]


ALL = header(2, "all")
BAD = {
    "empty": ([b""], -1, "first part is no valid JSON"),
    "truncated": ([GOOD[0][:-5], *GOOD[1:]], -1, "first part is no valid JSON"),
    "garbage": ([b"\xff" * 100], -1, "first part is no valid JSON"),
    "nested": ([b"[" * 100_000], -1, "first part is no valid JSON"),
    "long": ([HUGE], -1, "too long"),
    "many digits": ([b'{"series": ' + b"9" * 5000 + b"}"], -1, "no valid JSON"),
    "no object": ([b"[1, 2]"], -1, "JSON, but no object"),
    "stream2": ([stream2.start()], -1, "is CBOR and not JSON: read it as stream2://"),
    "no type": ([part(series=1)], -1, "unknown message type None"),
    "unknown type": ([part(htype="picture-1.0", series=1)], -1, "unknown message type 'picture-1.0'"),
    "next version": ([part(htype="dimage-2.0", series=1)], -1, "unknown message type 'dimage-2.0'"),
    "a stray part": (GOOD[1:], -1, "unknown message type 'dimage_d-1.0'"),
    "no series": (changed(0, part(htype="dimage-1.0", frame=3)), 3, "series is missing"),
    "no number": (changed(0, part(htype="dimage-1.0", series=1)), -1, "frame is missing"),
    "negative number": (changed(0, part(htype="dimage-1.0", series=1, frame=-3)), -1, "frame is no count: -3"),
    "huge number": (changed(0, part(htype="dimage-1.0", series=1, frame=1 << 63)), -1, "frame is no count"),
    "text number": (changed(0, part(htype="dimage-1.0", series=1, frame="a" * 1000)), -1, "no count: 'aaa.*…$"),
    "one part": (GOOD[:1], 3, "an image in 1 parts, 4 are expected, or 5 with an appendix"),
    "three parts": (GOOD[:3], 3, "an image in 3 parts"),
    "six parts": ([*GOOD, b"", b""], 3, "an image in 6 parts"),
    "parts swapped": ([GOOD[0], GOOD[3], GOOD[2], GOOD[1]], 3, "'dconfig-1.0' where dimage_d-1.0 is expected"),
    "no times": (changed(3, b"{}"), 3, "None where dconfig-1.0 is expected"),
    "times": (changed(3, b"\0\1"), 3, "fourth part of the image is no valid JSON"),
    "shape part": (changed(1, b"null"), 3, "second part of the image is JSON, but no object"),
    "size": (changed(2, GOOD[2][:-1]), 3, r"announces \d+ bytes, but \d+ arrived"),
    "negative size": (image(3, PIXELS, size=-1), 3, "size is no count: -1"),
    "other shape": (image(3, PIXELS[:-1]), 3, "image is 36 × 53 uint16, but the series has 37 × 53 uint16"),
    "turned": (image(3, PIXELS.T.copy()), 3, "image is 53 × 37 uint16, but the series has 37 × 53"),
    "other type": (image(3, PIXELS.astype("u4")), 3, "37 × 53 uint32, but the series has 37 × 53 uint16"),
    "three dimensions": (image(3, PIXELS, shape=[1, 53, 37]), 3, r"shape is \[1, 53, 37\], not two"),
    "negative shape": (image(3, PIXELS, shape=[-53, -37]), 3, "impossible shape"),
    "huge shape": (image(3, PIXELS, shape=[2**40, 2**40]), 3, "impossible shape"),
    "text shape": (image(3, PIXELS, shape=["a", 2]), 3, "shape is"),
    "logical shape": (image(3, PIXELS, shape=[True, 2]), 3, "shape is"),
    "no shape": (image(3, PIXELS, shape=None), 3, "shape is None"),
    "float64": (image(3, PIXELS.astype("f8")), 3, "pixel type 'float64' is not supported"),
    "no pixel type": (image(3, PIXELS, type=[]), 3, "pixel type"),
    "encoding": (changed(1, GOOD[1].replace(b"bs16-lz4<", b"zip<")), 3, "unknown encoding 'zip<'"),
    "no byte order": (changed(1, GOOD[1].replace(b"lz4<", b"lz4")), 3, "unknown encoding 'bs16-lz4'"),
    "only shuffled": (changed(1, GOOD[1].replace(b"-lz4<", b"<")), 3, "unknown encoding 'bs16<'"),
    "64 bits": (changed(1, GOOD[1].replace(b"bs16", b"bs64")), 3, "unknown encoding 'bs64-lz4<'"),
    "no encoding": (changed(1, GOOD[1].replace(b'"bs16-lz4<"', b"null")), 3, "unknown encoding None"),
    "too few bytes": (changed(2, b"12", image(3, PIXELS, size=None)), 3, "3922 bytes, but 2 arrived"),
    "too few compressed": (image(3, PIXELS, encoding="lz4<", shape=[5300, 3700]), 3, "cannot hold"),
    "wrong byte count": (image(3, PIXELS[1:], encoding="bs16-lz4<", shape=[53, 37]), 3, "header announces 3816"),
    "header: detail": ([part(htype="dheader-1.0", series=2, header_detail="some")], -1, "header_detail 'some' is unk"),
    "header: no detail": ([part(htype="dheader-1.0", series=2)], -1, "header_detail None is unknown"),
    "header: list": ([part(htype="dheader-1.0", series=2, header_detail=[])], -1, r"header_detail \[\] is unknown"),
    "header: no series": ([part(htype="dheader-1.0", header_detail="none")], -1, "series is missing"),
    "header: too few": (header(2)[:1], -1, "header_detail basic in 1 parts, 2 are expected, or 3"),
    "header: too many": ([*header(2), b"", b""], -1, "header_detail basic in 4 parts"),
    "header: lost table": (ALL[:-1], -1, "header_detail all in 7 parts, 8 are expected"),
    "header: swapped": ([*ALL[:2], *ALL[4:6], *ALL[2:4], *ALL[6:]], -1, "'dpixelmask-1.0' where dflatfield-1.0"),
    "header: config": ([header(2)[0], b"{"], -1, "configuration in the header is no valid JSON"),
    "header: zero size": (header(2, x_pixels_in_detector=0), -1, "impossible image size"),
    "header: huge size": (header(2, x_pixels_in_detector=2**50), -1, "impossible image size"),
    "header: half a size": (header(2, x_pixels_in_detector=None), -1, "x_pixels_in_detector is missing"),
    "header: bits": (header(2, bit_depth_image=12), -1, "bit_depth_image 12 is not supported"),
    "header: images": (header(2, nimages="many"), -1, "nimages is no count"),
    "end: no series": ([part(htype="dseries_end-1.0")], -1, "series is missing"),
    "end: parts": ([*end(), b""], -1, "the end of a series in 2 parts"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_costs_that_message_only(source, name):
    parts, number, reason = BAD[name]
    feed(source, header())
    (broken,) = feed(source, parts)
    assert isinstance(broken, BrokenFrame)
    assert broken.number == number
    assert re.search(reason, broken.reason), broken.reason
    assert len(broken.reason) <= 300
    (frame,) = feed(source, GOOD)
    np.testing.assert_array_equal(pixels_of(frame.payload), PIXELS)


@pytest.mark.parametrize("encoding", ["bs16-lz4<", "lz4<"])
def test_a_corrupt_blob_is_found_when_it_is_decoded(source, encoding):
    good = image(3, PIXELS, encoding=encoding)
    blob = good[2][:12] + b"\xff" * (len(good[2]) - 12)
    _, frame = feed(source, header(), changed(2, blob, good))
    with pytest.raises(FrameError, match="corrupt"):
        pixels_of(frame.payload)


@pytest.mark.parametrize(
    ("place", "new", "name", "reason"),
    [
        (5, b"123", "pixel_mask", "pixel_mask: wrong number of bytes"),
        (4, part(htype="dpixelmask-1.0", shape=[53, 37], type="u4"), "pixel_mask", "pixel_mask: pixel type 'u4'"),
        (4, part(htype="dpixelmask-1.0", shape=[37, 53], type="uint32"), "pixel_mask", "53 × 37, the image 37 × 53"),
        (2, part(htype="dflatfield-1.0", shape="?", type="float32"), "flatfield", "flatfield: the shape is '.'"),
    ],
)
def test_a_broken_table_costs_no_frame(source, place, new, name, reason):
    message = changed(place, new, header(1, "all", flatfield_correction_applied=False))
    begin, frame = feed(source, message, image(0, PIXELS))
    assert isinstance(begin, SeriesStart) and isinstance(frame, Frame)
    (problem,) = begin.problems
    assert re.search(reason, problem)
    assert getattr(begin, name) is None
    assert (begin.pixel_mask is None) != (begin.flatfield is None), "the other one is there"


def test_a_long_appendix_and_deep_nesting_are_not_kept(source):
    (begin,) = feed(source, header(appendix=b"x" * (1 << 20)))
    assert begin.metadata["header"]["header_appendix"] == "(1048576 bytes)"
    deep: list = []
    for _ in range(400):
        deep = [deep]
    _, begin = feed(source, header(2, deep=deep))
    assert len(json.dumps(begin.metadata)) < 3000


def test_a_broken_image_opens_no_series(source):
    (broken,) = feed(source, image(3, PIXELS.astype("f8")))
    assert isinstance(broken, BrokenFrame)
    assert broken.series_id == "1"


def test_parsing_copies_no_pixels():
    pixels = np.random.default_rng(6).integers(0, 1 << 16, (1000, 1000), np.uint16)
    parts = [memoryview(one) for one in image(0, pixels, encoding="bs16-lz4<")]
    tracemalloc.start()
    payload = parse_message(parts).payload
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert payload.stored_bytes > 1_000_000
    assert peak < 100_000


def test_the_helpers_frame_as_the_recording_does():
    """The messages made here have the very parts and keys that a detector sends."""
    sent, made = read_stream1(data_file("dectris_stream1/image000044")), GOOD
    assert len(sent) == len(made)
    for place in (1, 3):
        assert set(json.loads(sent[place])) == set(json.loads(made[place]))
    assert struct.unpack_from(">QI", sent[2])[1] == struct.unpack_from(">QI", encode(PIXELS, "bslz4"))[1]
    sent, made = read_stream1(data_file("dectris_stream1/header")), ALL
    assert len(sent) == len(made)
    assert set(v1.CONFIG) <= set(json.loads(sent[1]))
    for place in (2, 4, 6):
        assert set(json.loads(sent[place])) == set(json.loads(made[place]))
        assert json.loads(sent[place])["htype"] == json.loads(made[place])["htype"]
