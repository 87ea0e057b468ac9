"""slsDetector from the simulated detector over real sockets, into events and into a file."""

import time

import h5py
import numpy as np
import pytest
import zmq
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.processing.errors import CommunicationError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.simulators.frame_inputs import SimulatedInput
from framesieve.simulators.misbehaviour import Misbehaviour
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.sls_detector import SlsDetector
from framesieve.sources.sls import SlsSource
from sources_helpers import pixels_of, read_until

SHAPE = (96, 80)
PATIENCE = 60.0


def frames(count: int = 12, shape: tuple[int, int] = SHAPE, dtype: str = "uint16") -> SimulatedInput:
    simulator = PlantedSimulator(shape, n_peaks=8, snr=(15, 60), background=20.0, pool=3, dtype=dtype)
    return SimulatedInput(simulator, count)


def opened(detector: SlsDetector, **options) -> SlsSource:
    """A source whose deadline does not depend on the speed of the computer: none ends a frame or a series."""
    source = SlsSource("127.0.0.1", detector.port, detector.n_modules, **{"deadline": 3600} | options)
    source.open()
    return source


def expected_image(image: np.ndarray, grid: tuple[int, int], missing: set[int]) -> np.ndarray:
    image = image.copy()
    rows, columns = image.shape[0] // grid[0], image.shape[1] // grid[1]
    for module in missing:
        row, column = divmod(module, grid[1])
        image[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = np.iinfo(image.dtype).max
    return image


@pytest.mark.parametrize(
    ("dtype", "grid", "options"),
    [
        ("uint8", (1, 1), {}),
        ("uint16", (4, 2), {"flipped": [1, 6]}),
        ("uint32", (2, 1), {"detector": "eiger", "flipped": [1], "first_number": 77, "numbers_go_on": True}),
    ],
)
def test_frames_arrive_to_the_bit(dtype, grid, options):
    sent = frames(dtype=dtype)
    with SlsDetector(sent, port=0, grid=grid, series=2, **options) as detector:
        source = opened(detector)
        events = read_until(source, SeriesEnd, 2)
        source.close()
    for number in (1, 2):
        begin, *images, over = [event for event in events if event.series_id == f"run_{number}"]
        assert (begin.shape, begin.dtype, begin.number_of_frames) == (SHAPE, np.dtype(dtype), 12)
        assert over == SeriesEnd(f"run_{number}")
        assert [one.number for one in images] == list(range(12))
        for one in images:
            assert one.note == ""
            np.testing.assert_array_equal(pixels_of(one.payload), sent.simulator.frame(one.number))
        assert np.diff([one.timestamp for one in images]) == pytest.approx([1e-3] * 11, abs=1e-6)
    assert source.lost_by_receiver == [0] * detector.n_modules
    with pytest.raises(CommunicationError, match="not open"):
        source.read(0)


def test_modules_that_are_lost_late_twice_and_broken():
    sent = frames(20)
    lost = {(0, 0), (3, 1), (3, 3), (7, 2), (8, 0), (8, 1), (8, 2), (8, 3), (19, 3)}
    options = {
        "lost_modules": lost,
        "late_modules": {(5, 0): 3, (6, 2): 1, (18, 1): 9},
        "duplicated_modules": {(0, 1), (9, 2), (19, 0)},
        "corrupt_modules": {(10, 1), (11, 0), (11, 1), (11, 2), (11, 3)},
        "corrupt_headers": {(12, 0), (13, 3)},
        "incomplete_modules": {(14, 2)},
        "added": lambda place: {"monitor": f"{100 + place}", "position": f"[{place}, {-place}]"},
    }
    with SlsDetector(sent, port=0, modules=4, series=2, misbehaviour=Misbehaviour(shuffled=4), **options) as detector:
        source = opened(detector)
        events = read_until(source, SeriesEnd, 2)
        source.close()
    missing = {place: {m for p, m in lost | {(10, 1), (12, 0), (13, 3)} if p == place} for place in range(20)}
    for series in ("run_1", "run_2"):
        begin, *rest, over = [event for event in events if event.series_id == series]
        assert isinstance(begin, SeriesStart) and isinstance(over, SeriesEnd)
        unreadable = [event for event in rest if event.number < 0]
        assert len(unreadable) == 2 and all("no valid JSON" in event.reason for event in unreadable)
        found = {event.number: event for event in rest if event.number >= 0}
        # frame 8 never came
        assert len(found) == len(rest) - 2 and sorted(found) == [n for n in range(20) if n != 8]
        for number, event in found.items():
            if number == 11:
                assert isinstance(event, BrokenFrame) and "wrong number of bytes" in event.reason
                continue
            assert (event.monitor, event.position) == (100 + number, (number, -number))
            image = expected_image(sent.simulator.frame(number), (4, 1), missing[number])
            np.testing.assert_array_equal(pixels_of(event.payload), image)
            assert bool(event.note) == bool(missing[number] or number == 14)
        assert found[3].note == "modules 1 and 3 of 4 are missing"
        assert found[14].note == "packets of module 2 of 4 are missing"
        assert "module 1 of 4: wrong number of bytes" in found[10].note
    # of the last series; frame 11 counts for all, frame 8 for none
    assert source.lost_by_receiver == [3, 3, 2, 4]
    assert source.duplicate_modules + source.late_modules == 6
    assert source.stray_messages == 0


def test_a_series_is_aborted_and_strays_of_it_arrive():
    sent = frames()
    behaviour = Misbehaviour.parse("aborted=7 stray=2 lost=1 late=2:2 duplicated=4")
    with SlsDetector(sent, port=0, modules=3, series=2, misbehaviour=behaviour) as detector:
        source = opened(detector)
        events = read_until(source, SeriesEnd, 2)
        source.close()
    first = [event for event in events if event.series_id == "run_1"]
    second = [event for event in events if event.series_id == "run_2"]
    assert first[-1] == SeriesEnd("run_1", superseded=True) and second[-1] == SeriesEnd("run_2")
    assert events == first + second
    assert sorted(event.number for event in first[1:-1]) == [0, 2, 3, 4, 5]
    assert [event.number for event in second[1:-1]] == [0, 3, 4, 2, 5, 6, 7, 8, 9, 10, 11]
    assert not any(event.note for event in events if isinstance(event, Frame))
    assert source.stray_messages == 2 * 3
    assert source.duplicate_modules == 2 * 3


@pytest.mark.parametrize("counts_files", [True, False])
def test_the_end_is_never_said(counts_files):
    behaviour = Misbehaviour.parse("no-end")
    with SlsDetector(
        frames(), port=0, modules=2, series=3, misbehaviour=behaviour, counts_files=counts_files
    ) as detector:  # fmt: skip
        source = opened(detector)
        events = read_until(source, Frame, 36)
        source.close()
    assert [event.superseded for event in events if isinstance(event, SeriesEnd)] == [True, True]
    starts = [event.series_id for event in events if isinstance(event, SeriesStart)]
    assert starts == (["run_1", "run_2", "run_3"] if counts_files else ["run_1", "run_1 (2)", "run_1 (3)"])
    for series in starts:
        numbers = [event.number for event in events if isinstance(event, Frame) and event.series_id == series]
        assert numbers == list(range(12))


def test_one_receiver_never_says_the_end():
    with SlsDetector(frames(), port=0, modules=2, series=2, endless=[1]) as detector:
        source = opened(detector, deadline=0.2)
        events = read_until(source, SeriesEnd, 2)
        source.close()
    assert [event.superseded for event in events if isinstance(event, SeriesEnd)] == [False, False]
    assert sum(isinstance(event, Frame) for event in events) == 24
    assert not any(event.note for event in events if isinstance(event, Frame))


def test_a_stall_longer_than_the_deadline():
    behaviour = Misbehaviour.parse("stall=4:0.6")
    with SlsDetector(frames(), port=0, modules=2, misbehaviour=behaviour, lost_modules=[(3, 1)]) as detector:
        source = opened(detector, deadline=0.1)
        events = read_until(source, SeriesEnd)
        source.close()
    assert [event.number for event in events[1:-1]] == list(range(12))
    assert [event.number for event in events[1:-1] if event.note] == [3]


def test_a_receiver_is_gone_and_comes_back():
    sent = frames(30)
    with SlsDetector(sent, port=0, modules=3, series=2, away={1: (8, 15)}) as detector:
        source = opened(detector)
        events = read_until(source, SeriesEnd, 2)
        source.close()
    first = {event.number: event for event in events if isinstance(event, Frame) and event.series_id == "run_1"}
    assert sorted(first) == list(range(30))
    assert sorted(n for n, event in first.items() if event.note) == list(range(8, 16))
    assert {first[n].note for n in range(8, 16)} == {"module 1 of 3 is missing"}
    assert [module for *_, module in detector.dropped] == [1] * 8
    second = [event for event in events if isinstance(event, Frame) and event.series_id == "run_2"]
    assert len(second) == 30 and not any(event.note for event in second)


def test_all_receivers_die_and_come_back():
    with SlsDetector(frames(), port=0, modules=2, misbehaviour=Misbehaviour.parse("killed=5:0.3")) as detector:
        source = opened(detector)
        events = read_until(source, SeriesEnd)
        source.close()
    assert [event.number for event in events[1:-1]] == list(range(12))
    assert not any(event.note for event in events[1:-1])


def test_the_detector_is_restarted_with_another_image_size():
    first = SlsDetector(frames(), port=0, modules=2, n_frames=10**6, rate=500)
    first.start()
    source = opened(first)
    events = read_until(source, Frame, 20)
    first.stop()
    other = frames(shape=(128, 64))
    with SlsDetector(other, port=first.port, modules=2, series=2):
        events += read_until(source, SeriesEnd, 3)
        source.close()
    starts = [event for event in events if isinstance(event, SeriesStart)]
    assert [start.shape for start in starts] == [SHAPE, (128, 64), (128, 64)]
    new = events[events.index(starts[1]) :]
    images = [event for event in new if isinstance(event, Frame)]
    assert [one.number for one in images] == [*range(12), *range(12)]
    for one in images:
        np.testing.assert_array_equal(pixels_of(one.payload), other.simulator.frame(one.number))


def test_a_reader_slower_than_the_sender():
    sent = frames(4, shape=(1024, 1024))
    with SlsDetector(sent, port=0, modules=2, n_frames=120, drops=True) as detector:
        # nothing is read until all is sent: what the sockets do not hold is dropped
        source = opened(detector, queue=1)
        deadline = time.monotonic() + PATIENCE
        while detector.sent < 120 and time.monotonic() < deadline:
            time.sleep(0.05)
        events = read_until(source, SeriesEnd)
        source.close()
    dropped = {(place, module) for _, place, module in detector.dropped}
    assert dropped
    found = {event.number: event for event in events if isinstance(event, Frame)}
    assert not any(isinstance(event, BrokenFrame) for event in events)
    for place in range(120):
        missing = [module for module in (0, 1) if (place, module) in dropped]
        assert (place in found) == (len(missing) < 2)
        if place in found:
            assert found[place].note == (f"module {missing[0]} of 2 is missing" if missing else "")
    half = [place for place in range(120) if len({(place, 0), (place, 1)} & dropped) == 1]
    assert sum(source.lost_by_receiver) == len(half)


def test_joined_in_the_middle_of_a_series():
    with SlsDetector(frames(), port=0, modules=2, n_frames=10**6, rate=200) as detector:
        other = opened(detector)
        read_until(other, Frame, 10)
        source = opened(detector)
        other.close()
        begin, *images = read_until(source, Frame, 30)
        source.close()
    assert begin.joined_late and isinstance(begin, SeriesStart)
    numbers = [one.number for one in images]
    assert numbers[0] >= 9 and numbers == list(range(numbers[0], numbers[0] + 30))
    assert not any(one.note for one in images)


def test_nobody_publishes():
    with pytest.raises(CommunicationError, match=r"nothing answers at no\.such\.host\.invalid:30001.*rx_zmqstream 1"):
        SlsSource("no.such.host.invalid", 30001).open()
    with SlsDetector(frames(), port=0, modules=2) as detector:
        source = SlsSource("127.0.0.1", detector.port, 3)
        with pytest.raises(CommunicationError, match=f"127.0.0.1:{detector.port + 2}.*receiver 2 of 3"):
            source.open()
        with zmq.Context() as context, context.socket(zmq.PUSH) as push:
            port = push.bind_to_random_port("tcp://127.0.0.1")
            with pytest.raises(CommunicationError, match="is no ZeroMQ PUB socket"):
                SlsSource("127.0.0.1", port).open()


def test_a_run_holds_every_frame_once_and_no_pixel_of_what_was_missing(tmp_path):
    (tmp_path / "a.poni").write_text(
        'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
        "Distance: 0.1\nPoni1: 0.0048\nPoni2: 0.004\n"
    )
    sent = frames()
    lost = {(3, 1), (4, 0), (4, 2), (17, 0), (17, 1), (17, 2), (17, 3), (38, 3)}
    options = {"lost_modules": lost, "corrupt_modules": {(8, m) for m in range(4)} | {(9, 2)}}
    behaviour = Misbehaviour.parse("aborted=20 stray=2 late=5:6 duplicated=10 lost=30,39")
    controller = RunController(batch_size=3, ring_size=128)
    try:
        with SlsDetector(
            sent, port=0, grid=(2, 2), n_frames=40, series=2, misbehaviour=behaviour, **options
        ) as detector:  # fmt: skip
            controller.configure(
                source=f"sls://127.0.0.1:{detector.port}?modules=4&deadline=3600", geometry=str(tmp_path / "a.poni"),
                radial_bins=20, saving_file=str(tmp_path / "sls.h5"),
            )  # fmt: skip
            controller.parameters.update(snr_pick=2.0, min_pixels=1, veto_min_peaks=0)
            controller.start()
            assert controller.wait(PATIENCE)
            assert (controller.state, controller.error) == (RunState.STANDBY, None)
            told = controller.snapshot()
        # the next run needs nothing but a detector
        with SlsDetector(sent, port=detector.port, grid=(2, 2)):
            controller.configure(saving_file=str(tmp_path / "next.h5"))
            controller.start()
            assert controller.wait(PATIENCE)
            assert (controller.state, controller.error) == (RunState.STANDBY, None)
            assert controller.snapshot().frame_count == 12
    finally:
        controller.shutdown()
    with h5py.File(tmp_path / "sls.h5") as file:
        ledger = file["entry_0000/ledger"][()]
        sparse = {name: item[()] for name, item in file["entry_0000/sparse_frames"].items() if hasattr(item, "shape")}
    # all that either series sent, and what was lost between
    for series, count in (("run_1", 17), ("run_2", 40)):  # of the aborted one, two came too late, and 17 never
        rows = ledger[ledger["series"] == series.encode()]
        assert sorted(rows["frame"].tolist()) == list(range(count)), series
    assert told.frames_lost == 3
    assert (told.frames_failed, told.frames_dropped) == (2, 0)
    assert told.frame_count == 57 - 3 - 2
    for row in ledger[ledger["row"] >= 0]:
        number = int(row["frame"])
        missing = {m for p, m in lost | {(9, 2)} if p == number}
        assert (b"missing" in row["reason"] or b"wrong number" in row["reason"]) == bool(missing), row
        begin, end = sparse["frame_ptr"][row["row"] : row["row"] + 2].astype(int)
        image = expected_image(sent.simulator.frame(number % 12), (2, 2), missing)
        picked = image.ravel()[sparse["index"][begin:end]]
        assert end > begin
        assert (picked < 65535).all()
        np.testing.assert_array_equal(sparse["intensity"][begin:end], picked)
