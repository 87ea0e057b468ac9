"""Files that another process writes while they are read: every frame is taken, once, and whole."""

import logging
import subprocess
import sys
import time
from pathlib import Path

import fabio
import follow_writer
import h5py
import hdf5plugin
import numpy as np
import pytest
from follow_writer import KINDS, SHAPE, frame
from framesieve.processing.errors import CommunicationError, ConfigurationError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.sources.follow import FollowSource
from framesieve.sources.registry import open_source
from sources_helpers import pixels_of

N = 60
DEADLINE = 120.0  # s
IMAGES = ("cbf", "edf", "tif")
PLAIN = ("contiguous", "flushed, plain", "flushed, gzip", "flushed, chunks of four", "swmr, chunks of four")


def writer(kind: str, path: Path, count: int = N, rate: float = 50) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, follow_writer.__file__, kind, str(path), str(count), str(rate)])


def target(folder: Path, kind: str) -> Path:
    return folder / ("run" if kind in IMAGES else "x_master.h5")


def read_frames(source: FollowSource, count: int, events: list) -> list:
    """Add events to a list until it has so many frames; those of a source that was opened."""
    until = time.monotonic() + DEADLINE
    while sum(isinstance(event, Frame | BrokenFrame) for event in events) < count:
        assert time.monotonic() < until, f"{len(events)} events: {events[-1:]}"
        event = source.read(0.05)
        if event is not None:
            events.append(event)
            assert not isinstance(event, SeriesEnd), len(events)
    return events


def read_to_end(source: FollowSource, events: list) -> list:
    until = time.monotonic() + DEADLINE
    while not isinstance(events[-1] if events else None, SeriesEnd):
        assert time.monotonic() < until, f"{len(events)} events: {events[-1:]}"
        if (event := source.read(0.05)) is not None:
            events.append(event)
    assert source.read(0.05) is None
    return events


def check(events: list, first: int = 0) -> list[int]:
    """All of them are whole frames, each the one that its number says; these numbers. Images count from one."""
    assert all(isinstance(event, Frame) for event in events), [e for e in events if not isinstance(e, Frame)][:3]
    for event in events:
        pixels = pixels_of(event.payload)
        np.testing.assert_array_equal(pixels, frame(event.number - first, pixels.dtype.name))
    return [event.number for event in events]


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_of_a_file_that_is_written_at_50_frames_a_second(tmp_path, kind):
    path = target(tmp_path, kind)
    source = open_source(f"follow:{path}")
    assert not source.live
    assert source.open() is None  # nothing is there, and that is no error
    assert source.read(0) is None
    process = writer(kind, path)
    count = N - (kind in PLAIN)  # the last one is waited for until nothing more comes, as another test shows
    try:
        events = read_frames(source, count, [])
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
    begin, *frames = events
    assert isinstance(begin, SeriesStart)
    first = 1 if kind in IMAGES else 0
    assert check(frames, first) == list(range(first, count + first))
    assert (begin.shape, begin.dtype) == (SHAPE, np.int32 if kind in IMAGES else np.uint16)
    if "master" in kind or kind in ("virtual", "contiguous"):  # these say how many there will be
        assert begin.number_of_frames == N
        assert count < N or isinstance(source.read(DEADLINE), SeriesEnd)
    if "master" in kind or kind == "virtual":
        np.testing.assert_array_equal(begin.pixel_mask, np.eye(*SHAPE))
        assert begin.metadata["detector"] == "Dectris EIGER2 Si 500K"
    source.close()


@pytest.mark.parametrize("kind", ["swmr", "flushed", "contiguous", "virtual", "cbf"])
def test_a_writer_that_is_killed_in_the_middle(tmp_path, kind, caplog):
    path = target(tmp_path, kind)
    source = FollowSource(str(path))
    source.open()
    process = writer(kind, path, count=30_000, rate=100)  # for longer than is waited
    try:
        events = read_frames(source, 30, [])
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    source.timeout = 1.5
    with caplog.at_level(logging.WARNING):
        *frames, end = read_to_end(source, events)[1:]
    source.close()
    assert isinstance(end, SeriesEnd)
    assert "no new frame for 1.5 s" in caplog.text
    if isinstance(frames[-1], BrokenFrame):  # the image in which it was killed
        assert kind in (*IMAGES, *PLAIN)
        del frames[-1]
    first = 1 if kind in IMAGES else 0
    assert check(frames, first) == list(range(first, len(frames) + first))
    with_holes = {name: len(list(path.glob(f"*.{name}"))) for name in IMAGES}
    if kind in IMAGES:
        assert len(frames) >= with_holes[kind] - 1  # all but the last one were whole


def complete(kind: str, path: Path, count: int = 12) -> Path:
    KINDS[kind](path, count, follow_writer.Clock(1e6))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_complete_already(tmp_path, kind):
    path = complete(kind, target(tmp_path, kind), 46)
    source = FollowSource(str(path), timeout=0.6)
    events = read_to_end(source, [event for event in [source.open()] if event])
    source.close()
    first = 1 if kind in IMAGES else 0
    assert check(events[1:-1], first) == list(range(first, 46 + first))


def test_the_file_is_not_there_or_holds_nothing(tmp_path):
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("no HDF5" * 100)
    with h5py.File(tmp_path / "nothing.h5", "w") as file:
        follow_writer.growing(file)
    with h5py.File(tmp_path / "line.h5", "w") as file:
        file["entry/data/data"] = np.zeros(4)
    for name, text in [
        ("absent.h5", r"absent\.h5: there is no such file"),
        ("absent/x_*.cbf", r"x_\*\.cbf: no file yet"),
        ("absent/x.cbf", r"x\.cbf: there is no such file"),
        ("empty.h5", r"empty\.h5: is empty"),
        ("text.h5", r"text\.h5: cannot be read as HDF5"),
        ("nothing.h5", r"nothing\.h5::/entry/data/data: no frame 0 yet"),
        ("line.h5", "no dataset with 2 or 3 dimensions"),
        ("nothing.h5::/entry/other", "no dataset '/entry/other'"),
    ]:
        source = open_source(f"follow:{tmp_path}/{name}?timeout=0.3")
        assert source.open() is None
        with pytest.raises(CommunicationError, match=f"no frame came within 0.3 s: .*{text}"):
            read_to_end(source, [])
        source.close()


def test_what_can_never_be_used_is_refused_at_once(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["data"] = np.zeros((3, 4, 5), complex)
    with pytest.raises(ConfigurationError, match="pixel type complex128 is not supported"):
        FollowSource(str(tmp_path / "x.h5")).open()
    complete("cbf", tmp_path / "run", 1)
    with pytest.raises(ConfigurationError, match="is no HDF5 file, it has no dataset 'data'"):
        open_source(f"follow:{tmp_path}/run/scan_1.cbf::data").open()
    with pytest.raises(ConfigurationError, match="not open"):
        FollowSource("x").read(0)


def test_a_chunk_that_is_counted_and_never_written(tmp_path):
    """Room for ten frames, and the fourth and the tenth are missing, the sixth cannot be decoded."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (10, *SHAPE), "u2", chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle())
        for i in (0, 1, 2, 4, 5, 6, 7, 8):
            data[i] = frame(i)
        chunk = data.id.read_direct_chunk((5, 0, 0))[1]
        data.id.write_direct_chunk((5, 0, 0), chunk[: len(chunk) // 2])
    source = FollowSource(str(path), timeout=1.0)
    _, *events, _ = read_to_end(source, [event for event in [source.open()] if event])
    source.close()
    assert [(event.number, type(event)) for event in events] == [
        (i, BrokenFrame if i in (3, 5) else Frame) for i in range(9)
    ]
    assert "frame 3 was not written" in events[3].reason
    assert "corrupt bslz4 data" in events[5].reason
    check([event for event in events if isinstance(event, Frame)])


def test_half_a_frame_at_the_end(tmp_path):
    """What never becomes whole is told at the end."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        data = follow_writer.growing(file)
        data.resize(2, 0)
        data[0] = frame(0)
        data.id.write_direct_chunk((1, 0, 0), follow_writer.bslz4(frame(1))[:-100])
    source = FollowSource(str(path), timeout=1.0)
    _, *events, _ = read_to_end(source, [event for event in [source.open()] if event])
    source.close()
    assert [type(event) for event in events] == [Frame, BrokenFrame]


PIECES = {
    "contiguous": {},
    "plain chunks": {"chunks": (1, *SHAPE)},
    "chunks of two": {"chunks": (2, *SHAPE)},
    "parts of frames": {"chunks": (1, 60, SHAPE[1]), "compression": "gzip"},
}


@pytest.mark.parametrize(
    ("layout", "swmr"),
    [(layout, swmr) for layout in PIECES for swmr in (True, False)][1:],  # SWMR needs chunks
)
def test_a_frame_that_is_written_in_pieces(tmp_path, layout, swmr):
    """However long the pause between the pieces is, a frame without a checksum is not taken while it goes on."""
    path, seen = tmp_path / "x.h5", tmp_path / "seen.h5"
    source = FollowSource(str(seen), timeout=1e9)
    assert source.open() is None
    with h5py.File(path, "w", libver="latest" if swmr else "earliest") as file:
        data = file.create_dataset("data", (4, *SHAPE), "u2", **PIECES[layout])
        if swmr:
            file.swmr_mode = True

        def piece(number: int, rows: slice) -> None:
            data[number, rows] = frame(number)[rows]
            data.flush() if swmr else file.flush()
            seen.write_bytes(path.read_bytes())  # for a process of its own

        events = []
        for number in range(3):
            piece(number, slice(0, 60))
            if number:
                read_frames(source, number, events)
            assert source.read(0.2) is None
            piece(number, slice(60, None))
            assert source.read(0.2) is None
        assert check(events[1:]) == [0, 1]
    source.close()


def test_early_allocated_frames_are_not_there_before_they_are_written(tmp_path):
    """HDF5 makes all chunks at once here, and fills them: they exist, and mean nothing."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((1, *SHAPE))
        plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple((6, *SHAPE))
        data = h5py.Dataset(h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_UINT16, space, plan))
        for i in range(3):
            data[i] = frame(i)
    source = FollowSource(str(path), timeout=1.0)
    events = read_to_end(source, [event for event in [source.open()] if event])
    source.close()
    assert check(events[1:-1]) == [0, 1, 2]


@pytest.mark.parametrize("lows", [True, False])
def test_a_data_file_that_never_comes(tmp_path, lows):
    path = tmp_path / "x_master.h5"
    follow_writer.eiger(path, 70, follow_writer.Clock(1e6), lows=lows)
    (tmp_path / "x_data_000002.h5").unlink()
    source = FollowSource(str(path), timeout=1.5)
    _, *events, _ = read_to_end(source, [event for event in [source.open()] if event])
    source.close()
    broken = [event.number for event in events if isinstance(event, BrokenFrame)]
    assert broken == list(range(20, 40))
    assert "x_data_000002.h5" in events[20].reason
    assert check([event for event in events if isinstance(event, Frame)]) == [*range(20), *range(40, 70)]


def test_a_data_file_that_still_grows_when_the_next_one_has_begun(tmp_path, monkeypatch):
    """As of a file writer with several threads; nothing says how many frames a file is to have."""
    monkeypatch.setattr("framesieve.sources.hdf5_growing.SETTLED", 1e9)
    follow_writer.master(tmp_path / "x_master.h5", 12, 6)
    first, second = (tmp_path / f"x_data_00000{k}.h5" for k in (1, 2))
    source, events = FollowSource(str(tmp_path / "x_master.h5"), timeout=1e9), []
    assert source.open() is None

    def write(path: Path, numbers: range) -> None:
        """In place, though the source has the file open: HDF5 would refuse that within one process."""
        follow_writer.data_file(tmp_path / "aside", numbers, follow_writer.Clock(1e6), None)
        path.write_bytes((tmp_path / "aside").read_bytes())

    write(first, range(4))
    write(second, range(6, 10))
    read_frames(source, 4, events)
    assert source.read(0.3) is None  # the file may not be finished
    write(first, range(6))
    read_frames(source, 6, events)
    monkeypatch.setattr("framesieve.sources.hdf5_growing.SETTLED", 0.0)
    read_frames(source, 10, events)
    assert check(events[1:]) == list(range(10))
    source.close()


def test_modules_side_by_side_and_files_in_turn(tmp_path):
    """A virtual dataset of four files: two modules, and every other frame in another file; one is short."""
    count, (rows, columns) = 9, SHAPE
    layout = h5py.VirtualLayout((count, rows * 2 + 3, columns), "u2")
    for module in range(2):
        for turn in range(2):
            path = tmp_path / f"{module}{turn}.h5"
            numbers = range(turn, count, 2)
            with h5py.File(path, "w") as file:
                there = [i for i in numbers if (module, i) != (1, 8)]
                stack = np.array([frame(i + 1000 * module) for i in there])
                file.create_dataset("d", data=stack, chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle())
            top = module * (rows + 3)
            source = h5py.VirtualSource(str(path), "d", (len(numbers), *SHAPE))
            layout[turn::2, top : top + rows] = source
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("data", layout, fillvalue=65535)
    source = FollowSource(str(tmp_path / "v.h5"), timeout=1.5)
    _, *frames, last, _ = read_to_end(source, [event for event in [source.open()] if event])
    source.close()
    assert [event.number for event in frames] == list(range(8))
    assert isinstance(last, BrokenFrame) and "10.h5::d: no frame 4 yet" in last.reason
    for event in frames:
        pixels = pixels_of(event.payload)
        np.testing.assert_array_equal(pixels[:rows], frame(event.number))
        np.testing.assert_array_equal(pixels[rows + 3 :], frame(event.number + 1000))
        assert np.all(pixels[rows : rows + 3] == 65535)


# ---- images --------------------------------------------------------------------------------------------------


def write_cbf(path: Path, number: int) -> None:
    fabio.cbfimage.CbfImage(data=frame(number, "int32")).write(str(path))


def test_a_truncated_image_is_never_a_frame(tmp_path):
    for number in (8, 9, 10, 11):
        write_cbf(tmp_path / f"a_{number}.cbf", number)
    cut = tmp_path / "a_9.cbf"
    cut.write_bytes(cut.read_bytes()[:-4000])
    source = FollowSource(f"{tmp_path}/a_*.cbf", timeout=1.0)
    begin, *events, _ = read_to_end(source, [event for event in [source.open()] if event])
    source.close()
    assert begin.series_id == "a_8.cbf"
    assert [(event.number, type(event)) for event in events] == [
        (8, Frame), (9, BrokenFrame), (10, Frame), (11, Frame)
    ]  # fmt: skip
    assert "a_9.cbf: is cut off" in events[1].reason
    check([event for event in events if isinstance(event, Frame)])


def test_pixels_that_do_not_have_their_checksum_are_waited_for(tmp_path):
    """As of a file system that shows the size of a file before its contents."""
    path = tmp_path / "a_1.cbf"
    write_cbf(path, 1)
    content = path.read_bytes()
    path.write_bytes(content[:-5000] + bytes(4000) + content[-1000:])
    source = FollowSource(str(tmp_path), timeout=30)
    assert source.open() is None
    assert source.read(2.0) is None
    path.write_bytes(content)
    events = read_frames(source, 1, [])
    assert check(events[1:]) == [1]
    source.close()


def test_numbers_are_those_of_the_names_while_these_go_on(tmp_path, caplog):
    source = FollowSource(str(tmp_path), timeout=1.0)
    assert source.open() is None
    events = []
    for name, number in (("a_3", 3), ("a_7", 7), ("a_5", 5), ("b", 8), ("a_20", 9)):
        write_cbf(tmp_path / f"{name}.cbf", number)
        read_frames(source, max(len(events), 1), events)
    assert check(events[1:]) == [3, 7, 5, 8, 9]
    assert "b.cbf: the name does not go on like those before" in caplog.text
    assert isinstance(read_to_end(source, events)[-1], SeriesEnd)
    source.close()


def test_images_without_numbers_are_counted(tmp_path):
    for number, name in enumerate(("a.cbf", "b.cbf", "c7.cbf")):
        write_cbf(tmp_path / name, number)
    source = FollowSource(str(tmp_path), timeout=1.0)
    _, *events, _ = read_to_end(source, [event for event in [source.open()] if event])
    assert check(events) == [0, 1, 2]
    source.close()


def test_frames_that_are_appended_to_an_edf_file(tmp_path):
    path = tmp_path / "a.edf"
    source = FollowSource(str(path), timeout=30)
    assert source.open() is None
    events = []
    for number in range(3):
        image = fabio.edfimage.EdfImage(data=frame(0, "int32"))
        for more in range(1, number + 1):
            image.append_frame(data=frame(more, "int32"))
        image.write(str(path))
        read_frames(source, number + 1, events)
    assert check(events[1:]) == [0, 1, 2]
    source.close()


def test_a_pattern_of_hdf5_files_means_the_master(tmp_path):
    complete("master", tmp_path / "x_master.h5", 30)
    for path in (tmp_path, tmp_path / "*.h5"):
        source = FollowSource(str(path), timeout=2.0)
        begin, *events, _ = read_to_end(source, [event for event in [source.open()] if event])
        source.close()
        assert begin.metadata["files"] == [str(tmp_path / "x_master.h5")]
        assert check(events) == list(range(30))
