"""slsDetector: modules become frames and series; messages built independently, without a network."""

import json
import math
import re
import time

import numpy as np
import pytest
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.processing.tracker import FrameTracker
from framesieve.sources.registry import open_source
from framesieve.sources.sls import SlsSource
from framesieve.sources.sls_layout import ImagePlan, Place, flag_value, read_layout
from framesieve.sources.sls_messages import parse_message
from sls_helpers import END, feed, frame_of, module, pixels_of_module, series
from sources_helpers import pixels_of


def kinds(events: list) -> list[str]:
    """Events in short: S, E (superseded: e), numbers of frames, negative (−1 − number) where broken."""
    short = []
    for event in events:
        match event:
            case SeriesStart():
                short.append("S")
            case SeriesEnd():
                short.append("e" if event.superseded else "E")
            case Frame():
                short.append(event.number)
            case BrokenFrame():
                short.append(f"broken {event.number}")
    return short


def whole(index: int, n: int = 2) -> np.ndarray:
    return np.vstack([pixels_of_module(receiver, index) for receiver in range(n)])


# ---- frames ------------------------------------------------------------------------------------------------------


def test_a_series_of_two_modules():
    target = series()
    begin, *frames, over = feed(target, *frame_of(0), *frame_of(1), (0, END), (1, END))
    assert begin == SeriesStart("run_1", (8, 6), np.dtype("u2"), 10, begin.metadata)
    assert begin.metadata["detector"] == "PSI JUNGFRAU" and begin.metadata["header"]["detshape"] == [1, 2]
    assert not begin.joined_late
    assert over == SeriesEnd("run_1")
    assert [(frame.number, frame.note) for frame in frames] == [(0, ""), (1, "")]
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(pixels_of(frame.payload), whole(index))
        assert frame.payload.stored_bytes == 96 and frame.payload.bslz4_chunk is None
    assert frames[1].timestamp - frames[0].timestamp == pytest.approx(0.002, abs=1e-6)
    assert abs(frames[0].timestamp - time.time()) < 60
    assert target.lost_by_receiver == [0, 0]


@pytest.mark.parametrize("dtype", ["<u1", "<u2", "<u4"])
def test_missing_modules_are_flagged_and_told(dtype):
    target = series(4)
    images = [(np.arange(24).reshape(4, 6) + 7 * r).astype(dtype) for r in range(4)]
    common = {"detshape": [2, 2]}
    messages = [
        (r, module(r, 0, images[r], row=row, column=column, **common))
        for r, row, column in ((0, 0, 0), (2, 1, 0))
    ]  # fmt: skip
    (begin,) = feed(target, *messages, now=5.0)
    assert begin.shape == (8, 12)
    assert target.expire(5.49, [True] * 4) == []
    # what is still in a socket has come in time
    assert target.expire(6.0, [True, True, True, False]) == []
    (frame,) = target.expire(6.0, [True] * 4)
    assert frame.note == "modules 1 and 3 of 4 are missing"
    assert target.lost_by_receiver == [0, 1, 0, 1]
    expected = np.full((8, 12), np.iinfo(dtype).max, dtype)
    expected[:4, :6], expected[4:, :6] = images[0], images[2]
    np.testing.assert_array_equal(pixels_of(frame.payload), expected)
    # they come after all
    assert feed(target, (3, module(3, 0, images[3], row=1, column=1, **common))) == []
    assert feed(target, (2, module(2, 0, images[2], row=1, column=0, **common))) == []
    assert (target.assembly.late, target.assembly.duplicates) == (1, 1)
    # each series is counted by itself
    feed(target, *((r, END) for r in range(4)), (0, module(0, 0, images[0], fileIndex=2, **common)))
    assert target.lost_by_receiver == [0, 0, 0, 0]


def test_a_receiver_that_has_gone_on_is_not_waited_for():
    target = series()
    feed(target, (0, module(0, 0)), now=1.0)
    feed(target, (1, module(1, 1)), now=1.1)
    # its socket is never empty, but what comes is newer
    (frame,) = target.expire(1.55, [False, False])
    assert (frame.number, frame.note) == (0, "module 1 of 2 is missing")


def test_only_so_many_frames_wait():
    target = series()
    events = feed(target, *((0, module(0, index)) for index in range(100)))
    assert kinds(events) == ["S", *range(36)]
    assert target.lost_by_receiver == [0, 36]


def test_frames_and_modules_in_any_order_and_twice():
    target = series()
    order = [(0, 2), (1, 0), (0, 0), (1, 0), (1, 2), (0, 1), (0, 1), (1, 1)]
    events = feed(target, *((r, module(r, index)) for r, index in order))
    assert kinds(events) == ["S", 0, 2, 1]
    assert target.assembly.duplicates == 2
    for event in events[1:]:
        np.testing.assert_array_equal(pixels_of(event.payload), whole(event.number))


def test_frame_numbers_that_go_on():
    target = series()
    events = feed(target, *frame_of(0), (0, END), (1, END), *frame_of(0, first=5001), *frame_of(1, first=5001))
    assert kinds(events) == ["S", 0, "E", "S", 0, 1]


def test_a_receiver_that_missed_the_first_frame_counts_later():
    target = series()
    # receiver 0 got frame 8 first, receiver 1 frame 7
    late = (0, module(0, 1, first=7, frameIndex=0))
    events = feed(target, late, (1, module(1, 0, first=7)), (1, module(1, 1, first=7)), (0, END), (1, END))
    assert kinds(events) == ["S", 1, 0, "E"]
    assert events[2].note == "module 0 of 2 is missing"


def test_joined_in_the_middle():
    events = feed(series(), *frame_of(57), *frame_of(58), (0, END), (1, END))
    assert kinds(events) == ["S", 57, 58, "E"] and events[0].joined_late
    # later the beginning was listened for
    target = series()
    feed(target, *frame_of(0), (0, END), (1, END))
    assert feed(target, *frame_of(3))[0].joined_late is False


def test_joined_in_the_middle_nothing_behind_the_end_is_missed():
    """Frames count from 0, so ten of them end with number 9 wherever the run has joined them."""
    begin, *frames, _ = feed(series(), *(part for n in range(3, 10) for part in frame_of(n)), (0, END), (1, END))
    tracker = FrameTracker(counts_lost=True, first_number=SlsSource.first_number)
    tracker.start_series(begin.number_of_frames, joined_late=begin.joined_late)
    assert [tracker.see(frame.number) for frame in frames] == [""] * 7
    assert list(tracker.lost(at_end=True)) == []


def test_flipped_rows():
    flipped = module(1, 0, np.ascontiguousarray(pixels_of_module(1, 0)[::-1]), flipRows=1)
    _, frame = feed(series(), (0, module(0, 0)), (1, flipped))
    np.testing.assert_array_equal(pixels_of(frame.payload), whole(0))


def test_missing_packets_are_noted():
    _, frame = feed(series(), (0, module(0, 0)), (1, module(1, 0, completeImage=0, packetNumber=100)))
    assert frame.note == "packets of module 1 of 2 are missing"
    np.testing.assert_array_equal(pixels_of(frame.payload), whole(0))


@pytest.mark.parametrize(
    ("added", "monitor", "position"),
    [
        ({"monitor": "1234.5", "position": "[1.5, -2]"}, 1234.5, (1.5, -2)),
        ({"monitor": 7, "position": [1, 2.5]}, 7, (1, 2.5)),
        ({"monitor": "7e3", "position": ["1", "2"]}, 7000, (1, 2)),
        ({"position": "0.5 0.25"}, math.nan, (0.5, 0.25)),
        ({"monitor": "nan", "position": "1,2,3"}, math.nan, (math.nan, math.nan)),
        ({"monitor": "1e999", "position": [1]}, math.nan, (math.nan, math.nan)),
        ({"monitor": True, "position": "1_0 2"}, math.nan, (math.nan, 2)),
        (None, math.nan, (math.nan, math.nan)),
        ("text", math.nan, (math.nan, math.nan)),
    ],
)
def test_what_the_user_adds(added, monitor, position):
    _, frame = feed(series(), *frame_of(0, addJsonHeader=added))
    np.testing.assert_equal((frame.monitor, frame.position), (monitor, position))


# ---- series ------------------------------------------------------------------------------------------------------


def test_an_end_waits_for_the_others_for_so_long():
    target = series(3)
    feed(target, *((r, module(r, 0, detshape=[1, 3])) for r in range(3)), now=0.0)
    assert feed(target, (1, END), now=1.0) == []
    assert target.finished == {1}
    assert target.expire(1.4, [True] * 3) == []
    assert target.expire(9.0, [True, True, False]) == []
    assert kinds(target.expire(9.0, [True] * 3)) == ["E"]
    # and those that come then are strays
    assert feed(target, (0, END), (2, END)) == [] and target.strays == 2
    assert kinds(feed(target, *((r, module(r, 0, detshape=[1, 3])) for r in range(3)))) == ["S", 0]


def test_a_series_that_was_ended_without_a_receiver_has_strays():
    target = series()
    feed(target, *frame_of(0), (0, END), now=0.0)
    assert kinds(target.expire(1.0, [True, True])) == ["E"]
    # the other one was slow, and then begins anew, with the same numbers as ever
    assert feed(target, (1, module(1, 1)), (1, module(1, 2)), (1, END)) == []
    assert target.strays == 3
    assert kinds(feed(target, *frame_of(0))) == ["S", 0]


def test_a_new_series_without_an_end():
    target = series()
    events = feed(target, *frame_of(0), (0, module(0, 1)), (0, module(0, 0, fileIndex=2)))
    assert kinds(events) == ["S", 0]
    # receiver 1 still has something of the old one to say
    events = feed(target, (1, module(1, 1)), (1, module(1, 0, fileIndex=2)))
    assert kinds(events) == [1, "e", "S", 0]
    assert [event.series_id for event in events] == ["run_1", "run_1", "run_2", "run_2"]
    # strays of the old one
    assert feed(target, *frame_of(2)) == [] and target.strays == 2


def test_a_new_series_of_one_receiver_when_the_other_is_dead():
    target = series()
    feed(target, *frame_of(0), (0, module(0, 0, fileIndex=2)), now=0.0)
    events = target.expire(0.6, [True, True])
    assert kinds(events) == ["e", "S"]
    assert kinds(feed(target, (0, module(0, 1, fileIndex=2)), (0, END), now=1.0)) == []
    assert kinds(target.expire(2.0, [True, True])) == [0, 1, "E"]


def test_file_indices_need_not_count():
    target = series()
    names = []
    for _ in range(3):
        events = feed(target, *frame_of(0), *frame_of(1), (0, END), (1, END))
        assert kinds(events) == ["S", 0, 1, "E"]
        names.append(events[0].series_id)
    assert names == ["run_1", "run_1 (2)", "run_1 (3)"]
    # also where the end got lost
    events = feed(target, *frame_of(0), *frame_of(1), *frame_of(0), *frame_of(1))
    assert kinds(events) == ["S", 0, 1, "e", "S", 0, 1]
    # and where somebody sets it back
    feed(target, *frame_of(0, fileIndex=7), (0, END), (1, END))
    assert kinds(feed(target, *frame_of(0))) == ["S", 0]


def test_strays_that_do_not_stop_are_a_series():
    target = series()
    feed(target, *frame_of(0), *frame_of(0, fileIndex=2))
    events = [event for index in range(1, 70) for event in feed(target, *frame_of(index))]
    assert kinds(events) == ["e", "S", *range(65, 70)]
    assert target.strays == 128


# ---- what is wrong with messages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"bitmode": 4}, "bitmode 4 is not supported .accepted: 8, 16, 32"),
        ({"bitmode": 32}, "wrong number of bytes: 4 × 6 uint32 are 96, but 48 arrived"),
        ({"shape": [6, 3]}, "wrong number of bytes: 3 × 6 uint16 are 36, but 48"),
        ({"shape": [0, 3]}, "shape is .0, 3., not two numbers above 0"),
        ({"shape": None}, "shape is None"),
        ({"shape": [1 << 40, 1 << 40]}, "impossible image size"),
        ({"detshape": [2]}, "detshape is .2., not two"),
        ({"detshape": [2, 1], "row": 1}, "the module is 4 × 6 uint16, grid 1 × 2, but the series has .*grid 2 × 1"),
        ({"size": 24}, "announces 24 bytes, but 48 arrived"),
        ({"row": -1}, "row is no count: -1"),
        ({"row": 2}, "row 2, column 0 is beyond the grid of 2 × 1"),
        ({"row": 0}, "receivers 0 and 1 both say row 0, column 0: name a layout file"),
    ],
)
def test_a_module_that_cannot_be_used_is_missing(fields, reason):
    target = series()
    begin, frame = feed(target, (0, module(0, 0)), (1, module(1, 0, **fields)))
    assert begin.shape == (8, 6) and frame.number == 0
    assert frame.note.startswith("module 1 of 2: ")
    assert re.search(reason, frame.note), frame.note
    assert (pixels_of(frame.payload)[4:] == 65535).all()
    assert target.lost_by_receiver == [0, 1]


def test_a_frame_of_which_no_module_can_be_used_is_broken_once():
    target = series()
    small = np.zeros((4, 3), "<u2")
    events = feed(target, *frame_of(0), *frame_of(1, pixels=small), *frame_of(2))
    assert kinds(events) == ["S", 0, "broken 1", 2]
    assert "module 0 of 2: the module is 4 × 3 uint16" in events[2].reason
    # the next series may have it
    events = feed(target, (0, END), (1, END), *frame_of(0, pixels=small, fileIndex=2))
    assert kinds(events) == ["E", "S", 0] and events[1].shape == (8, 3)


def test_the_first_module_is_the_broken_one():
    target = series()
    cut = module(0, 0)
    cut[1] = cut[1][:20]
    events = feed(target, (0, cut), (1, module(1, 0)), *frame_of(1))
    assert kinds(events) == ["S", 0, 1]
    assert events[0].shape is None and "but 20 arrived" in events[0].problems[0]
    assert pixels_of(events[2].payload).tolist() == whole(1).tolist()


def test_a_detector_that_cannot_be_read_fails_frame_by_frame():
    events = feed(series(), *frame_of(0, bitmode=4), *frame_of(1, bitmode=4), (0, END), (1, END))
    assert kinds(events) == ["S", "broken 0", "broken 1", "E"]
    events = feed(series(1), (0, module(0, 0)), (0, module(0, 1)), (0, END))
    assert kinds(events) == ["S", "broken 0", "broken 1", "E"]
    assert "2 × 1 receivers, but 1 are read: write modules=2 in the source" in events[1].reason


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ([b"\xff\xfe"], "no valid JSON"),
        ([b"[1]"], "no object"),
        ([b'{"jsonversion": 4}'], "jsonversion 4 is not supported .accepted: 5"),
        ([b'{"htype": "dheader-1.0"}'], "stream1://"),
        ([b" " * 70000], "too long"),
        (module(0, 0, data=None), "data is missing"),
        (module(0, 0, frameNumber="7"), "frameNumber is no count: '7'"),
        (module(0, 0, frameNumber=1 << 63), "no count"),
        (module(0, 0, fileIndex=-1), "fileIndex is no count"),
        (module(0, 0, frameIndex=2), "frameIndex 2 is beyond frameNumber 1"),
    ],
)
def test_a_message_of_no_frame(message, reason):
    (event,) = feed(series(), (1, message))
    assert isinstance(event, BrokenFrame) and event.number == -1
    assert event.reason.startswith("receiver 1: ")
    assert re.search(reason, event.reason), event.reason


def test_numbers_of_frames_that_cannot_be_believed():
    for progress in (0, -1, 101, float("nan"), "5", None):
        assert feed(series(), (0, module(0, 0, progress=progress)))[0].number_of_frames is None
    assert feed(series(), (0, module(0, 2, progress=float(f"{300 / 47999:.6g}"))))[0].number_of_frames == 47999


# ---- layout ------------------------------------------------------------------------------------------------------


def layout_file(tmp_path, text: str) -> str:
    path = tmp_path / "layout.yaml"
    path.write_text(text)
    return str(path)


def test_a_layout_with_gaps_flips_and_turns(tmp_path):
    path = layout_file(
        tmp_path,
        "shape: [12, 9]\nmodules:\n"
        "  - {row: 1, column: 0, flip_columns: true}\n"
        "  - {row: 6, column: 5, flip_rows: true, rotate: 90}\n",
    )
    target = series(2, read_layout(path))
    begin, frame = feed(target, *frame_of(3))
    assert begin.shape == (12, 9)
    expected = np.full((12, 9), 65535, "u2")
    first, second = pixels_of_module(0, 3), pixels_of_module(1, 3)
    for row in range(4):
        for column in range(6):
            expected[1 + row, 5 - column] = first[row, column]
            # flipped, the row is 3 − row; turned counterclockwise, (r, c) goes to (5 − c, r)
            expected[6 + 5 - column, 5 + 3 - row] = second[row, column]
    np.testing.assert_array_equal(pixels_of(frame.payload), expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("shape: [8, 6", "is no valid YAML"),
        ("shape: [8, 6]", "must have the entries shape and modules"),
        ("shape: 8\nmodules: []", r"shape must be \[rows, columns\], not 8"),
        ("shape: [8, 6]\nmodules: []", "modules must be a list of 1 to 256"),
        ("shape: [8, 6]\nmodules: [{row: 0}]", r"modules\[0\]: must have row and column"),
        ("shape: [8, 6]\nmodules: [{row: 0, column: 0, flip: true}]", "may have flip_rows, flip_columns, rotate"),
        (
            "shape: [8, 6]\nmodules: [{row: 0, column: 0}, {row: 8, column: 0}]",
            r"\[1\]: row must be from 0 to 7, not 8",
        ),
        ("shape: [8, 6]\nmodules: [{row: 0, column: x}]", "column must be from 0 to 5, not 'x'"),
        ("shape: [8, 6]\nmodules: [{row: 0, column: 0, rotate: 45}]", "rotate must be 0, 90, 180 or 270, not 45"),
        ("shape: [8, 6]\nmodules: [{row: 0, column: 0, flip_rows: 1}]", "flip_rows must be true or false, not 1"),
    ],
)
def test_a_layout_file_that_is_not_understood(tmp_path, text, reason):
    with pytest.raises(ConfigurationError, match=reason):
        read_layout(layout_file(tmp_path, text))


def test_no_layout_file(tmp_path):
    with pytest.raises(ConfigurationError, match="No such file"):
        read_layout(str(tmp_path / "none.yaml"))
    path = layout_file(tmp_path, "shape: [8, 6]\nmodules: [{row: 0, column: 0}]")
    with pytest.raises(ConfigurationError, match="has 1 modules, but modules=2 are to be read"):
        SlsSource("127.0.0.1", 30001, 2, layout=path).open()


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        ("row: 3, column: 0", "modules 0 and 1 of 4 × 6 pixels overlap"),
        ("row: 5, column: 0", "module 1 .* is beyond the image"),
    ],
)
def test_a_layout_that_does_not_fit_the_modules(tmp_path, second, reason):
    path = layout_file(tmp_path, f"shape: [8, 6]\nmodules: [{{row: 0, column: 0}}, {{{second}}}]")
    begin, broken = feed(series(2, read_layout(path)), *frame_of(0))
    assert re.search(reason, broken.reason), broken.reason
    assert re.search(reason, begin.problems[0])


def test_flag_values_take_no_part_in_the_reduction():
    assert [flag_value(np.dtype(name)) for name in ("u1", "u2", "u4", "i2", "i4")] == [255, 65535, 2**32 - 1, -1, -1]
    assert math.isnan(flag_value(np.dtype("f4")))


def test_a_payload_wants_the_right_buffer():
    _, frame = feed(series(), *frame_of(0))
    with pytest.raises(ValueError, match="the buffer is"):
        frame.payload.read_into(np.empty((8, 6), "u4"))


def test_a_module_that_moves(tmp_path):
    plan = ImagePlan(2, None)
    message = parse_message([memoryview(part) for part in module(0, 0)])
    assert plan.problem(0, message) == "" and plan.places == {0: Place(0, 0)}
    moved = parse_message([memoryview(part) for part in module(0, 1, row=1)])
    assert plan.problem(0, moved) == "the module has moved to row 1, column 0, or was flipped"


# ---- URLs --------------------------------------------------------------------------------------------------------


def test_urls():
    source = open_source("sls://receiver:30001?modules=8&deadline=0.25&layout=/a/b.yaml&queue=7")
    assert (source.host, source.port, source.deadline, source.queue) == ("receiver", 30001, 0.25, 7)
    assert source.live and not source.sends_bslz4


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("sls://receiver", "must be written sls://HOST:PORT, e.g. sls://detector.example.org:30001"),
        ("sls://receiver:30001?modules=0", "modules must be from 1 to 256"),
        ("sls://receiver:30001?deadline=0", "deadline must be from 0.001 to 3600 seconds"),
        ("sls://receiver:30001?gap=3", "unknown option 'gap' .accepted: modules, deadline, layout, queue"),
        ("sls://receiver:65535?modules=2", "beyond port 65535"),
    ],
)
def test_urls_that_are_not_understood(url, reason):
    with pytest.raises(ConfigurationError, match=reason):
        open_source(url)


def test_the_metadata_are_json():
    begin = feed(series(), *frame_of(0, detType=99, fname="a" * 999, addJsonHeader={"x": 1e400}))[0]
    json.dumps(begin.metadata, allow_nan=False)
    assert "detector" not in begin.metadata and len(begin.series_id) == 102
