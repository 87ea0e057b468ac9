"""Runs that follow each other on one detector: series after series without a pause, one run each."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import h5py
import numpy as np
import pytest
import sources_helpers as stream2
import zmq
from framesieve.acquisition import parking, status_notes
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.compression import compress
from framesieve.simulators.frame_inputs import DetectorInfo
from framesieve.simulators.stream1_detector import Stream1Detector
from framesieve.simulators.stream2_detector import Stream2Detector

SHAPE, DTYPE = (64, 48), np.dtype("uint16")
PATIENCE = 120.0
DETECTORS = {"stream1": Stream1Detector, "stream2": Stream2Detector}
PONI = (
    'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
    "Distance: 0.1\nPoni1: 0.0032\nPoni2: 0.0024\n"
)


class Input:
    """Frames of about 100 × `series` counts, with a mask of the row `series`."""

    n_frames = 1

    def __init__(self, series: int) -> None:
        self.mask = np.zeros(SHAPE, np.uint32)
        self.mask[series] = 1
        self.info = DetectorInfo(SHAPE, DTYPE, pixel_mask=self.mask)
        self._image = np.random.default_rng(series).poisson(100 * series, SHAPE).astype(DTYPE)

    def number(self, i: int) -> int:
        return i

    def image(self, _: int) -> np.ndarray:
        return self._image

    def encoded(self, _: int, encoding: str) -> bytes:
        return compress(self._image, encoding)

    def close(self) -> None:
        pass


class Runs:
    """A controller, and the file of each of its runs."""

    def __init__(self, folder) -> None:
        (folder / "a.poni").write_text(PONI)
        self.folder, self.count = folder, 0
        self.controller = RunController(batch_size=3, ring_size=64)
        self.controller.configure(geometry=str(folder / "a.poni"), radial_bins=10)
        self.controller.parameters.update(veto_min_peaks=0)

    def start(self, url: str, **settings: object) -> None:
        self.count += 1
        self.path = self.folder / f"{self.count}.h5"
        self.controller.configure(source=url, saving_file=str(self.path), **settings)
        self.controller.start()

    def end(self) -> np.ndarray:
        """The ledger."""
        assert self.controller.wait(PATIENCE), self.controller.status
        assert (self.controller.state, self.controller.error) == (RunState.STANDBY, None)
        with SparseFile(self.path) as file:
            return file.ledger

    def run(self, url: str, **settings: object) -> np.ndarray:
        self.start(url, **settings)
        return self.end()

    def wait_for_frames(self, count: int) -> None:
        wait_for(lambda: self.controller.snapshot().frame_count >= count)

    def check_series(self, series: int) -> None:
        """The last file was made of frames and mask of this series."""
        with h5py.File(self.path) as file:
            sparse = file["entry_0000/sparse_frames"]
            assert abs(np.nanmedian(sparse["background_avg"][()]) - 100 * series) < 30
            masked = np.isnan(sparse["mask"][()])
        np.testing.assert_array_equal(masked, Input(series).mask != 0)


@pytest.fixture
def runs(tmp_path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    made.controller.shutdown()


@pytest.fixture
def push() -> Iterator[tuple[zmq.Socket, str]]:
    """The socket of a detector, and the URL of the source that reads it."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.SNDTIMEO, int(PATIENCE * 1000))
        yield socket, f"stream2://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_connected(socket: zmq.Socket) -> bool:
    """Whether anybody would take a message."""
    return bool(socket.poll(0, zmq.POLLOUT))


def messages(series: int, count: int, *, end: bool = True) -> list[bytes]:
    given = Input(series)
    images = [stream2.image(i, given.image(0), series=series) for i in range(count)]
    mask = {"threshold_1": stream2.typed_array(given.mask)}
    begin = stream2.start(SHAPE, series=series, number_of_images=count, pixel_mask=mask)
    return [begin, *images, *([stream2.end(series)] if end else [])]


def send(socket: zmq.Socket, *parts: bytes) -> None:
    for part in parts:
        socket.send(part)


@pytest.mark.parametrize("protocol, queue", [("stream1", 100), ("stream2", 7)])
def test_five_series_without_a_pause_are_five_runs(runs, protocol, queue):
    series = range(1, 6)
    with DETECTORS[protocol]([Input(k) for k in series], n_frames=12, series=5, port=0) as detector:
        for k in series:
            ledger = runs.run(f"{detector.url}?queue={queue}")
            assert ledger["frame"].tolist() == list(range(12)) and set(ledger["verdict"]) == {Verdict.KEPT}
            runs.check_series(k)
            assert runs.controller.snapshot().last_error == ""
        assert detector.wait(PATIENCE) and detector.sent == 60


@pytest.mark.parametrize("protocol", ["stream1", "stream2"])
def test_stop_in_the_middle_of_a_series(runs, protocol):
    """What is left of it may be another run, or none; the series behind it is whole."""
    with DETECTORS[protocol]([Input(1), Input(2)], n_frames=200, series=2, rate=250, port=0) as detector:
        runs.start(detector.url)
        runs.wait_for_frames(5)
        runs.controller.stop()
        of_first, ledger = runs.end(), runs.run(detector.url)
        if ledger["series"][0] == of_first["series"][0]:
            runs.check_series(1)
            assert set(ledger["verdict"]) == {Verdict.KEPT}
            of_first, ledger = np.concatenate([of_first, ledger]), runs.run(detector.url)
    assert np.all(np.diff(of_first["frame"]) > 0) and len(of_first) >= 5
    assert ledger["frame"].tolist() == list(range(200)) and set(ledger["verdict"]) == {Verdict.KEPT}
    runs.check_series(2)


def test_a_series_that_was_stopped_goes_on_in_the_next_run(runs, push):
    socket, url = push
    runs.start(url)
    images = messages(1, 9)
    send(socket, *images[:4])
    runs.wait_for_frames(3)
    runs.controller.stop()
    assert runs.end()["frame"].tolist() == [0, 1, 2]
    send(socket, *images[4:6])
    time.sleep(0.3)  # until they are here
    runs.start(url)
    wait_for(lambda: runs.controller.state is RunState.RUNNING)
    send(socket, *images[6:])
    assert runs.end()["frame"].tolist() == [5, 6, 7, 8]
    runs.check_series(1)
    assert "it had begun before this run" in runs.controller.snapshot().last_error
    assert "began before" not in runs.controller.status


def test_number_of_frames_is_that_of_the_series(runs):
    """The end of a series comes after its last frame, and is not that of the next run."""
    with Stream2Detector([Input(1), Input(2)], n_frames=6, series=2, port=0) as detector:
        for k in (1, 2):
            assert runs.run(detector.url, number_of_frames=6)["frame"].tolist() == list(range(6))
            runs.check_series(k)


def test_a_series_that_ends_long_before_its_end_is_an_error(runs, push):
    socket, url = push
    runs.start(url)
    _, *images, end = messages(1, 2)
    send(socket, stream2.start(SHAPE, series=1, number_of_images=5000), *images, end)
    assert runs.end()["frame"].tolist() == [0, 1]
    told = "series unique-1: it was stopped: 5000 frames were announced, the last one is 1"
    assert runs.controller.snapshot().last_error.startswith(told)


def test_status_tells_that_a_series_began_before_the_run(runs, push, caplog):
    caplog.set_level(logging.INFO)
    socket, url = push
    runs.start(url)
    send(socket, *messages(1, 2), *messages(2, 3))
    runs.end()
    assert "began before" not in runs.controller.status
    wait_for(lambda: runs.controller._parking._place[1].has_waiting)
    time.sleep(0.3)  # for the messages behind the first one
    assert runs.run(url)["frame"].tolist() == [0, 1, 2]
    note = "Series unique-2 began before this run started: 3 frames taken from the connection kept since the last run."
    assert note in runs.controller.status and note in caplog.text
    runs.start(url)
    wait_for(lambda: runs.controller.state is RunState.RUNNING)
    send(socket, *messages(3, 1))
    assert runs.end()["frame"].tolist() == [0] and "began before" not in runs.controller.status


def test_what_is_prepared_and_given_up_for_another_setting_is_not_lost(runs, push):
    socket, url = push
    runs.start(url)
    send(socket, *messages(1, 1))
    runs.end()
    runs.controller.configure(saving_file=str(runs.folder / "other.h5"))
    runs.controller.prepare()
    assert runs.controller.wait(PATIENCE) and runs.controller.state is RunState.ON
    send(socket, *messages(2, 2))
    assert runs.run(url)["frame"].tolist() == [0, 1]


def fail(runs: Runs) -> None:
    """Prepare fails."""
    runs.controller.configure(saving_file="", saving_directory="")
    runs.controller.prepare()
    assert runs.controller.wait(PATIENCE) and runs.controller.state is RunState.FAULT


GIVE_UP: dict[str, Callable[[Runs], object]] = {
    "another source": lambda runs: runs.controller.configure(source="stream2://127.0.0.1:9"),
    "Reset": lambda runs: runs.controller.reset(),
    "Abort": lambda runs: runs.controller.abort(),
    "Init": lambda runs: runs.controller.disconnect(),
    "FAULT": fail,
    "exit": lambda runs: runs.controller.shutdown(),
}


@pytest.mark.parametrize("how", GIVE_UP)
def test_what_gives_the_connection_up(runs, push, how):
    socket, url = push
    runs.start(url)
    send(socket, *messages(1, 1))
    runs.end()
    runs.controller.configure(source=url, radial_bins=12)
    assert is_connected(socket)
    GIVE_UP[how](runs)
    wait_for(lambda: not is_connected(socket))


def test_an_aborted_run_keeps_nothing(runs, push):
    socket, url = push
    runs.start(url)
    send(socket, *messages(1, 2, end=False))
    runs.wait_for_frames(2)
    runs.controller.abort()
    runs.end()
    wait_for(lambda: not is_connected(socket))


@pytest.mark.parametrize("has_come", [False, True])
def test_it_is_kept_for_a_while_only(runs, push, has_come, monkeypatch, caplog):
    monkeypatch.setattr(parking, "KEPT", 0.3)
    monkeypatch.setattr(parking, "KEPT_WITH_MESSAGES", 1.2)
    socket, url = push
    runs.start(url)
    send(socket, *messages(1, 1), *messages(2, 1)[: 3 * has_come])
    runs.end()
    begin = time.monotonic()
    wait_for(lambda: not is_connected(socket))
    assert (time.monotonic() - begin > 0.8) == has_come
    assert ("what came after the last run is given up" in caplog.text) == has_come
    runs.start(url)
    wait_for(lambda: is_connected(socket))
    send(socket, *messages(3, 2))
    assert runs.end()["frame"].tolist() == [0, 1]


SCRIPT = """
import sys
from framesieve.acquisition.controller import RunController

folder, url = sys.argv[1:]
controller = RunController()
controller.configure(source=url, geometry=f"{folder}/a.poni", saving_file=f"{folder}/out.h5", radial_bins=10)
controller.start()
assert controller.wait(100)
print(controller.state.name)
"""


def test_a_program_that_ends_leaves_no_connection(tmp_path, push):
    (tmp_path / "a.poni").write_text(PONI)
    socket, url = push
    program = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        send(socket, *messages(1, 1), *messages(2, 1))
        assert program.communicate(timeout=90) == ("STANDBY\n", "")
        assert program.returncode == 0
        wait_for(lambda: not is_connected(socket))
    finally:
        program.kill()


def test_status_tells_of_a_silence(runs, push, monkeypatch, caplog):
    monkeypatch.setattr(status_notes, "SILENCE", 0.2)
    socket, url = push
    runs.start(url)
    wait_for(lambda: "Nothing has arrived for 0 s, and no frame yet." in runs.controller.status)
    begin, first, second, end = messages(1, 2)
    send(socket, begin, first)
    wait_for(lambda: "Nothing has arrived for 0 s (the last frame was 0); Stop ends" in runs.controller.status)
    before = len(caplog.records)
    time.sleep(0.5)
    assert len(caplog.records) == before and runs.controller.state is RunState.RUNNING
    monkeypatch.setattr(status_notes, "SILENCE", PATIENCE)
    assert "Nothing has arrived" not in runs.controller.status
    send(socket, second, end)
    assert runs.end()["frame"].tolist() == [0, 1]
    assert "Nothing" not in runs.controller.status
