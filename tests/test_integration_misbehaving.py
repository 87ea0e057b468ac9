"""Detectors that misbehave, over both DECTRIS streams, from the wire to the ledger.

One controller takes all runs, one after the other: none needs a restart, whatever the one before went through.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.acquisition.sink import RunSink
from framesieve.acquisition.statistics import Snapshot
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.frame_inputs import SimulatedInput
from framesieve.simulators.misbehaviour import Misbehaviour
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.push_detector import PushDetector
from framesieve.simulators.stream1_detector import Stream1Detector
from framesieve.simulators.stream2_detector import Stream2Detector

SHAPE, OTHER_SHAPE = (96, 80), (64, 100)
COUNT = 40
PATIENCE = 120.0
DETECTORS = {"stream1": Stream1Detector, "stream2": Stream2Detector}
BAD = (Verdict.LOST, Verdict.DROPPED, Verdict.FAILED)

#: of a series: number of frame → "reduced" or the name of the verdict
Rows = dict[int, str]


@functools.cache
def simulator(shape: tuple[int, int]) -> PlantedSimulator:
    return PlantedSimulator(shape, n_peaks=8, snr=(15, 60), background=20.0, pool=3)


def frames(shape: tuple[int, int] = SHAPE) -> SimulatedInput:
    return SimulatedInput(simulator(shape), 12)


def detector(protocol: str, words: str = "", **options) -> PushDetector:
    options = {"port": 0, "n_frames": COUNT, "misbehaviour": Misbehaviour.parse(words), **options}
    return DETECTORS[protocol](options.pop("frames", None) or frames(), **options)


class Beamline:
    """A controller, and the file of each run."""

    def __init__(self, folder: Path, ring_size: int) -> None:
        self.folder = folder
        (folder / "a.poni").write_text(
            'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
            "Distance: 0.1\nPoni1: 0.0048\nPoni2: 0.004\n"
        )
        self.controller = RunController(batch_size=3, ring_size=ring_size)
        self.controller.configure(geometry=str(folder / "a.poni"), radial_bins=20)
        self.controller.parameters.update(snr_pick=2.0, min_pixels=1, veto_min_peaks=0)
        self.runs = 0

    def start(self, protocol: str, port: int) -> None:
        self.runs += 1
        self.path = self.folder / f"{self.runs}.h5"
        self.controller.configure(source=f"{protocol}://127.0.0.1:{port}", saving_file=str(self.path))
        self.controller.start()

    def end(self) -> tuple[Snapshot, list[Rows]]:
        """Wait for the end of the run; counters, and the rows of each series in the order in which they came. The
        ledger has each frame once, and adds up to the counters."""
        assert self.controller.wait(PATIENCE), self.controller.status
        assert (self.controller.state, self.controller.error) == (RunState.STANDBY, None)
        told = self.controller.snapshot()
        with SparseFile(self.path) as file:
            ledger = file.ledger
        series: dict[bytes, Rows] = {}
        for row in ledger:
            rows = series.setdefault(row["series"], {})
            assert row["frame"] >= 0 and int(row["frame"]) not in rows, "each frame once"
            verdict = Verdict(row["verdict"])
            rows[int(row["frame"])] = verdict.name if verdict in BAD else "reduced"
            assert row["reason"] or verdict not in BAD
        verdicts = [name for rows in series.values() for name in rows.values()]
        counters = (told.frame_count, told.frames_lost, told.frames_dropped, told.frames_failed)
        assert counters == tuple(verdicts.count(name) for name in ("reduced", "LOST", "DROPPED", "FAILED"))
        return told, list(series.values())

    def run(self, protocol: str, port: int) -> tuple[Snapshot, list[Rows]]:
        self.start(protocol, port)
        return self.end()

    def run_until(self, protocol: str, port: int, is_enough: Callable[[Snapshot], bool]) -> tuple[Snapshot, list[Rows]]:
        """A run that does not end by itself."""
        self.start(protocol, port)
        wait_for(lambda: is_enough(self.controller.snapshot()))
        time.sleep(0.3)  # were there more frames than that, they would come now
        assert self.controller.state is RunState.RUNNING, "without an end it goes on"
        self.controller.stop()
        return self.end()

    def check_good_run(self, protocol: str, shape: tuple[int, int] = SHAPE) -> None:
        """The next series works."""
        with detector(protocol, n_frames=5, frames=frames(shape)) as good:
            assert self.run(protocol, good.port)[1] == [expected(count=5)]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def expected(lost=(), failed=(), *, first: int = 0, count: int = COUNT) -> Rows:
    """What must become of frames first … count − 1."""
    return {n: "LOST" if n in lost else "FAILED" if n in failed else "reduced" for n in range(first, count)}


@pytest.fixture(scope="module")
def beamline(tmp_path_factory) -> Iterator[Beamline]:
    # all frames have room: kernels that are built meanwhile make none of them wait too long
    made = Beamline(tmp_path_factory.mktemp("misbehaving"), ring_size=128)
    yield made
    made.controller.shutdown()


@pytest.fixture(params=DETECTORS)
def protocol(request) -> str:
    return request.param


ENDED = {
    # words: (series, what must become of the frames of each)
    "lost=0,3,17,39": (1, [expected(lost=(0, 3, 17, 39))]),
    "lost=0,1,2": (1, [expected(lost=(0, 1, 2))]),
    "corrupt=0,8,9,39": (1, [expected(failed=(0, 8, 9, 39))]),
    "duplicated=0,5,39": (1, [expected()]),
    "duplicated=5 corrupt=5": (1, [expected(failed=(5,))]),
    "late=0:3,6:10,38:20": (1, [expected()]),
    "late=0:1 duplicated=0": (1, [expected()]),
    "shuffled=8": (1, [expected()]),
    "stall=20:1.5": (1, [expected()]),
    "no-start lost=7": (1, [expected(lost=(7,))]),
    "no-start shuffled=8 duplicated=1,2": (1, [expected()]),
    "no-start corrupt=0 duplicated=0": (1, [expected(failed=(0,))]),
    "aborted=30 stray=2": (2, [expected(count=28), expected()]),
    "aborted=30 stray=5 lost=2,26 shuffled=4": (2, None),
    "aborted=0": (2, [expected()]),
    "lost=3 corrupt=9 duplicated=9,12 late=20:15 shuffled=4 stall=30:0.3": (1, [expected(lost=(3,), failed=(9,))]),
}


@pytest.mark.parametrize("words", ENDED)
def test_a_series_that_ends(beamline, protocol, words):
    series, rows = ENDED[words]
    with detector(protocol, words, series=series) as bad:
        told, found = beamline.run(protocol, bad.port)
        assert bad.wait(PATIENCE)
    if rows is not None:
        assert found == rows
    # where no series is cut short, the counters are what the detector did
    done, n_rows = bad.done, sum(map(len, found))
    assert told.frames_dropped == 0
    assert told.frame_count + told.frames_failed == done.images - done.duplicated - done.strays
    assert n_rows == done.images - done.duplicated - done.strays + told.frames_lost
    assert told.frames_lost == done.lost
    assert told.frames_failed == len(set(Misbehaviour.parse(words).corrupt))
    beamline.check_good_run(protocol)


def test_broken_at_once(beamline, protocol):
    """Pixels that are not compressed show at once that half of them are missing, before a series is open."""
    with detector(protocol, "no-start corrupt=0,1,6 duplicated=0,6", encoding="none") as bad:
        assert beamline.run(protocol, bad.port)[1] == [expected(failed=(0, 1, 6))]
    beamline.check_good_run(protocol)


def test_without_an_end_the_run_goes_on_until_it_is_stopped(beamline, protocol):
    """Whether those that did not come at the end were lost, or are still to come, nobody knows."""
    with detector(protocol, "no-end lost=5,38,39") as bad:
        _, found = beamline.run_until(protocol, bad.port, lambda told: told.frame_count == COUNT - 3)
    assert found == [expected(lost=(5,), count=38)]
    beamline.check_good_run(protocol)


def test_without_an_end_the_next_series_ends_it(beamline, protocol):
    with detector(protocol, "no-end lost=5", series=2) as bad:
        _, found = beamline.run_until(protocol, bad.port, lambda told: told.frame_count == 2 * (COUNT - 1))
    assert found == [expected(lost=(5,))] * 2
    beamline.check_good_run(protocol)


def test_neither_beginning_nor_end(beamline, protocol):
    with detector(protocol, "no-start no-end lost=5 shuffled=4", series=2) as bad:
        _, found = beamline.run_until(protocol, bad.port, lambda told: told.frame_count == 2 * (COUNT - 1))
    assert found == [expected(lost=(5,))] * 2
    beamline.check_good_run(protocol)


def test_the_sender_dies_and_is_back(beamline, protocol):
    """What it had handed over when it died may be gone with it; nothing else is."""
    with detector(protocol, "killed=20:0.3") as bad:
        told, (found,) = beamline.run(protocol, bad.port)
        assert bad.wait(PATIENCE) and bad.done.died == [20]
    lost = [n for n, what in found.items() if what == "LOST"]
    assert sorted(found) == list(range(COUNT)) and set(found.values()) <= {"reduced", "LOST"}
    assert lost == list(range(20 - len(lost), 20))
    assert told.frames_failed == told.frames_dropped == 0
    beamline.check_good_run(protocol)


def test_a_detector_that_is_restarted_within_a_run(beamline, protocol):
    """It counts its series from 1 again: both are in the ledger, under two names."""
    first = detector(protocol, n_frames=10**6, rate=100)
    first.start()
    beamline.start(protocol, first.port)
    wait_for(lambda: beamline.controller.snapshot().frame_count >= 20)
    first.stop()
    with detector(protocol, port=first.port):
        _, (before, after) = beamline.end()
    assert before == expected(count=len(before)) and len(before) >= 20
    assert after == expected()
    with SparseFile(beamline.path) as file:
        names = list(dict.fromkeys(file.ledger["series"].tolist()))
    assert len(names) == 2
    if protocol == "stream1":
        assert names == [b"1", b"1 (2)"]


def test_images_of_another_size_in_the_same_run(beamline, protocol):
    """A run has one size: those of the second series fail, and say why."""
    inputs = [frames(), frames(OTHER_SHAPE)]
    with detector(protocol, "aborted=10", n_frames=15, series=2, frames=inputs) as bad:
        told, found = beamline.run(protocol, bad.port)
    assert found == [expected(count=10), expected(failed=range(15), count=15)]
    assert "64 × 100" in told.last_error and "96 × 80" in told.last_error
    beamline.check_good_run(protocol)


def test_images_of_another_size_in_the_next_run(beamline, protocol, tmp_path):
    for shape in (SHAPE, OTHER_SHAPE, SHAPE):
        beamline.check_good_run(protocol, shape)
    np.save(tmp_path / "mask.npy", np.zeros(SHAPE, np.uint8))
    controller = beamline.controller
    try:
        controller.configure(mask=str(tmp_path / "mask.npy"))
        beamline.check_good_run(protocol)
        with detector(protocol, frames=frames(OTHER_SHAPE)) as other:
            beamline.start(protocol, other.port)
            assert controller.wait(PATIENCE)
            assert controller.state is RunState.FAULT
            assert "64 × 100" in controller.status and "96 × 80" in controller.status
            assert controller.snapshot().last_error == str(controller.error)
            assert not beamline.path.exists(), "a file in which nothing could be written"
        controller.reset()
        beamline.check_good_run(protocol)
        controller.configure(mask="")
        beamline.check_good_run(protocol, OTHER_SHAPE)
    finally:
        controller.shutdown()
        controller.reset()
        controller.configure(mask="")


def test_a_reader_slower_than_the_sender(tmp_path, protocol, monkeypatch):
    """What finds no room is dropped and counted; the sender is not held up for longer than `drop_after`."""
    gate, count = threading.Event(), 2000
    real = RunSink.deliver

    def slow(self, *args) -> None:
        assert gate.wait(PATIENCE)
        real(self, *args)

    monkeypatch.setattr(RunSink, "deliver", slow)
    beamline = Beamline(tmp_path, ring_size=4)
    try:
        # 30 MB: far more than what fits into the queues and the buffers of the network
        words = "lost=5 corrupt=1200 duplicated=7,1995"
        with detector(protocol, words, n_frames=count, encoding="none") as fast:
            beamline.start(protocol, fast.port)
            assert fast.wait(PATIENCE), "the sender hangs"
            gate.set()
            told, (found,) = beamline.end()
        assert sorted(found) == list(range(count))
        assert [n for n, what in found.items() if what == "LOST"] == [5]
        assert told.frame_count + told.frames_dropped + told.frames_failed == count - 1
        assert told.frames_dropped > 500
        assert found[1200] == "FAILED"
        with SparseFile(beamline.path) as file:
            dropped = file.ledger[file.ledger["verdict"] == Verdict.DROPPED]
        assert all(b"ring of 4 frames stayed full" in reason for reason in dropped["reason"])
        beamline.check_good_run(protocol)
    finally:
        gate.set()
        beamline.controller.shutdown()
