"""Disks that fill up, vanish or do not answer: the state is clear, nothing is lost that was written, and the next run
in another directory needs no new server."""

from __future__ import annotations

import errno
import math
import os
import shutil
import subprocess
import threading
import time
from collections import namedtuple
from pathlib import Path

import h5py
import numpy as np
import pytest
from devices_helpers import serve
from devices_helpers import wait_until as wait_for_device
from framesieve.acquisition import controller as controllers
from framesieve.acquisition import disk_watch
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.disk_watch import DiskWatch
from framesieve.acquisition.run_state import RunState
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.errors import HardwareError, NotAllowedError
from framesieve.processing.frames import ArrayPayload, Frame, SeriesEnd, SeriesStart, Verdict
from tango import DevState

SHAPE, DTYPE = (96, 80), np.dtype("uint16")
PATIENCE = 120.0


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).poisson(9, SHAPE).astype(DTYPE)


class Detector:
    """Goes on and on, and does not wait for anybody."""

    live, sends_bslz4 = True, False
    period = 0.01

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self._next = -1

    def open(self):
        return None

    def read(self, timeout):
        self._next += 1
        if self._next == 0:
            return SeriesStart("s", SHAPE, DTYPE, self._limit)
        if self._limit is not None and self._next > self._limit:
            return SeriesEnd("s") if self._next == self._limit + 1 else None
        time.sleep(self.period)
        return Frame(self._next - 1, "s", ArrayPayload(image(self._next - 1)), time.time())

    def close(self):
        pass


def wait_until(condition, what: str):
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not happen: {what}"
        time.sleep(0.01)
    return value


class Runs:
    """A controller, and directories for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.limit: int | None = None
        self.controller = RunController(
            ring_size=4, batch_size=2, open_source=lambda _: Detector(self.limit), decode_threads=1
        )
        (folder / "a.poni").write_text(
            'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
            "Distance: 0.1\nPoni1: 0.005\nPoni2: 0.004\n"
        )
        self.controller.configure(source="stream2://unused:1", geometry=str(folder / "a.poni"), radial_bins=20)
        self.controller.parameters.update(snr_pick=2.0, min_pixels=1, veto_min_peaks=0)

    def start(self, directory: Path, **settings) -> Path:
        self.controller.configure(saving_directory=str(directory), **settings)
        path = self.controller.settings.output_path
        self.controller.start()
        wait_until(lambda: self.controller.state is not RunState.INIT, "the end of the preparation")
        return path

    def wait_for_file(self, path: Path, frames: int) -> None:
        wait_until(lambda: rows_of(path) >= frames, f"{frames} frames in {path}")

    def fault(self) -> str:
        assert self.controller.wait(PATIENCE)
        assert self.controller.state is RunState.FAULT, self.controller.status
        assert isinstance(self.controller.error, HardwareError)
        assert self.controller.status.endswith("then Reset.")
        with pytest.raises(NotAllowedError, match="Reset first"):
            self.controller.start()
        return self.controller.status

    def good_run(self) -> None:
        """What must be possible after every fault."""
        directory = self.folder / "elsewhere"
        directory.mkdir()
        self.controller.reset()
        assert self.controller.state is RunState.STANDBY
        self.limit = 20
        path = self.start(directory)
        assert self.controller.wait(PATIENCE)
        assert (self.controller.state, self.controller.error) == (RunState.STANDBY, None), self.controller.status
        assert check(path) >= 1
        ledger = SparseFile(path).ledger
        assert sorted(ledger["frame"]) == list(range(20))


def rows_of(path: Path) -> int:
    try:
        with SparseFile(path) as file:
            return len(file)
    except Exception:
        return 0


def check(path: Path) -> int:
    """The frames of the file are whole and the ledger adds up; the number of saved frames."""
    with SparseFile(path) as file:
        frames = file.ledger["frame"]
        assert frames.tolist() == list(range(len(frames)))
        saved = file.ledger["row"] >= 0
        assert saved.sum() == len(file)
        assert np.array_equal(file.ledger["verdict"][saved], np.full(len(file), Verdict.KEPT))
        for row in (*range(0, len(file), 20), *range(max(len(file) - 5, 0), len(file))):
            frame = file.frame(row)
            raw = image(frame.number)
            assert np.array_equal(raw.ravel()[frame.index], frame.intensity)
            assert np.abs(file.densify(row) - 9.0).mean() < 4  # the background, and what was picked
        return len(file)


@pytest.fixture
def runs(tmp_path):
    before = set(threading.enumerate())
    made = Runs(tmp_path)
    yield made
    made.controller.shutdown()

    def own_threads() -> list[str]:
        return [one.name for one in set(threading.enumerate()) - before if one.name.startswith("framesieve-")]

    wait_until(lambda: not own_threads(), "the end of all threads")


@pytest.fixture
def first(tmp_path):
    directory = tmp_path / "first"
    directory.mkdir()
    return directory


@pytest.fixture
def small_disk(first):
    """A file system of 2 MB at `first`."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "framesieve-test", str(first)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no small file system: {error}")
    if done.returncode:
        pytest.skip(f"no small file system may be mounted here: {done.stderr.strip()}")
    yield first
    subprocess.run(["umount", "-l", str(first)], check=True)


class Hanging:
    """System calls that do not come back as long as they concern what lies below a directory."""

    def __init__(self, directory: Path, monkeypatch) -> None:
        self._directory = f"{directory}/"
        self._free = threading.Event()
        self._free.set()
        self.hit = threading.Event()
        for name in ("pwrite", "pread", "ftruncate"):
            monkeypatch.setattr(os, name, self._around(getattr(os, name)))
        monkeypatch.setattr(os, "open", self._around(os.open))

    def _around(self, call):
        def wrapped(target, *args, **options):
            if not self._free.is_set():
                path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
                if path.startswith(self._directory):
                    self.hit.set()
                    assert self._free.wait(PATIENCE)
            return call(target, *args, **options)

        return wrapped

    def hang(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()


@pytest.fixture
def hanging(first, monkeypatch):
    monkeypatch.setattr(disk_watch, "SILENCE", 0.3)
    monkeypatch.setattr(controllers, "_DISK_PATIENCE", 0.3)
    made = Hanging(first, monkeypatch)
    yield made
    made.release()


# ---- full, gone ----------------------------------------------------------------------------------------------


def check_whole_frames(sparse: Path) -> int:
    """The frames of the dense file beside it are as they came; their number."""
    with h5py.File(sparse.with_name(f"{sparse.stem}_nxmx.h5")) as file:
        numbers = file["entry/data/frame_number"][()].tolist()
        assert numbers == list(range(len(numbers)))
        for row in (*range(0, len(numbers), 20), len(numbers) - 1):
            assert np.array_equal(file["entry/data/data"][row], image(row))
        return len(numbers)


@pytest.mark.parametrize("frames_per_file, whole", [(0, False), (30, False), (0, True)])
def test_disk_full(runs, small_disk, frames_per_file, whole):
    Detector.period = 0.001
    try:
        path = runs.start(small_disk, saving_frames_per_file=frames_per_file, saving_dense=whole)
        status = runs.fault()
    finally:
        Detector.period = 0.01
    assert "No space left on device" in status and "saving_directory" in status and str(small_disk) in status
    assert check(path) > (10 if whole else 50)
    if whole:
        assert check_whole_frames(path) > 10
    assert runs.controller.snapshot().free_space < 0.003
    runs.good_run()


def test_over_quota(runs, first, monkeypatch):
    path = runs.start(first)
    runs.wait_for_file(path, 5)
    plain = os.pwrite

    def over_quota(fd, *args):
        if os.readlink(f"/proc/self/fd/{fd}").startswith(str(first)):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return plain(fd, *args)

    monkeypatch.setattr(os, "pwrite", over_quota)
    before = rows_of(path)
    assert "quota" in runs.fault()
    assert check(path) >= before
    runs.good_run()


def test_directory_removed(runs, first):
    path = runs.start(first)
    runs.wait_for_file(path, 1)
    shutil.rmtree(first)
    assert "the file or its directory was removed" in runs.fault()
    runs.good_run()


def test_part_that_cannot_be_created(runs, first):
    """The permission is gone when the next file is due. (root may do everything, so a directory is in the way.)"""
    (first / "frames_0000_000003.h5").mkdir()
    runs.controller.configure(saving_overwrite_policy="overwrite")
    path = runs.start(first, saving_frames_per_file=5)
    assert runs.controller.wait(PATIENCE)
    assert runs.controller.state is RunState.FAULT
    assert "frames_0000_000003.h5 is a directory" in runs.controller.status
    assert check(path) == 10
    runs.controller.configure(saving_frames_per_file=0) if runs.controller.reset() else None
    runs.good_run()


# ---- no answer -----------------------------------------------------------------------------------------------


def test_disk_that_hangs_for_a_while(runs, first, hanging):
    """Frames that come meanwhile are dropped, and the run goes on."""
    path = runs.start(first)
    runs.wait_for_file(path, 5)
    hanging.hang()
    alarm = wait_until(lambda: runs.controller.snapshot().disk_alarm, "an alarm")
    assert str(first) in alarm and "Abort" in alarm
    assert runs.controller.state is RunState.RUNNING
    wait_until(lambda: runs.controller.snapshot().buffer_occupancy == 100, "a full ring")
    wait_until(lambda: runs.controller.snapshot().frames_dropped > 50, "dropped frames in the counter meanwhile")
    hanging.release()
    wait_until(lambda: not runs.controller.snapshot().disk_alarm, "the end of the alarm")
    dropped = wait_until(lambda: runs.controller.snapshot().frames_dropped, "dropped frames in the counter")
    runs.controller.stop()
    assert runs.controller.wait(PATIENCE)
    assert (runs.controller.state, runs.controller.error) == (RunState.STANDBY, None)
    with SparseFile(path) as file:
        frames = file.ledger["frame"]
        assert sorted(frames) == list(range(len(frames))), "every number once"
        assert (file.ledger["verdict"] == Verdict.DROPPED).sum() >= dropped > 0


@pytest.mark.parametrize("frames_per_file", [0, 3])
def test_disk_that_hangs_for_ever(runs, first, hanging, frames_per_file):
    path = runs.start(first, saving_frames_per_file=frames_per_file)
    runs.wait_for_file(path, 5)
    before = rows_of(path)
    hanging.hang()
    wait_until(lambda: runs.controller.snapshot().disk_alarm, "an alarm")
    assert runs.controller.state is RunState.RUNNING
    runs.controller.abort()
    status = runs.fault()
    assert "the disk does not answer" in status and str(path.stem) in status
    assert not hanging._free.is_set()
    # the next run, while the first disk still hangs
    threads = [thread for thread in threading.enumerate() if thread.name == "framesieve-disk"]
    assert threads
    if frames_per_file:
        runs.controller.reset()
        runs.controller.configure(saving_frames_per_file=0)
    runs.good_run()
    hanging.release()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert check(path) >= before
    assert path.stat().st_size < 10_000_000, "of its true length again"


def test_disk_that_hangs_at_the_end(runs, first, hanging, monkeypatch):
    """Stop waits for the disk, Abort does not."""
    path = runs.start(first)
    runs.wait_for_file(path, 5)
    before = rows_of(path)
    hanging.hang()
    runs.controller.stop()
    assert hanging.hit.wait(PATIENCE)
    assert not runs.controller.wait(1.0)
    runs.controller.abort()
    assert "the disk does not answer" in runs.fault()
    runs.good_run()
    hanging.release()
    wait_until(lambda: "framesieve-disk" not in [thread.name for thread in threading.enumerate()], "all is closed")
    assert check(path) >= before


def test_disk_that_hangs_at_the_beginning(runs, first, hanging, monkeypatch):
    monkeypatch.setattr(controllers, "_PREPARE_PATIENCE", 0.5)
    runs.controller.configure(saving_directory=str(first))
    hanging.hang()
    runs.controller.start()
    assert hanging.hit.wait(PATIENCE)
    assert runs.controller.state is RunState.INIT
    runs.controller.abort()
    assert "does not end" in runs.fault()
    runs.good_run()
    hanging.release()
    wait_until(lambda: not list(first.iterdir()), "what nobody waits for any more is taken back")
    assert runs.controller.state is RunState.STANDBY


def test_disk_that_hangs_when_what_was_prepared_is_given_up(runs, first, hanging):
    runs.controller.configure(saving_directory=str(first))
    runs.controller.prepare()
    assert runs.controller.wait(PATIENCE) and runs.controller.state is RunState.ON
    hanging.hang()
    runs.controller.stop()
    assert runs.controller.state is RunState.STANDBY
    assert hanging.hit.is_set()
    runs.good_run()
    hanging.release()
    wait_until(lambda: "framesieve-disk" not in [thread.name for thread in threading.enumerate()], "all is closed")


# ---- nearly full ---------------------------------------------------------------------------------------------


def test_what_is_left(monkeypatch, tmp_path):
    Found = namedtuple("Found", "f_bavail f_frsize")
    monkeypatch.setattr(os, "statvfs", lambda path: Found(2_000_000, 4096))
    monkeypatch.setattr(disk_watch, "PERIOD", 0.01)
    begin = time.monotonic()
    # 100 MB/s
    watch = DiskWatch(tmp_path, lambda: int(1e8 * (time.monotonic() - begin)), lambda: 0.0)
    wait_until(lambda: not math.isnan(watch.seconds_left), "two looks")
    assert watch.free == 2_000_000 * 4096
    wait_until(lambda: abs(watch.seconds_left - 81.92) < 2, "a rate that is about right")
    assert watch.alarm == ""
    watch.close()
    assert math.isnan(watch.seconds_left)


def test_nothing_is_written(tmp_path):
    watch = DiskWatch(tmp_path / "gone", lambda: 7, lambda: 0.0)
    wait_until(lambda: len(watch._samples) >= 1, "a look")
    assert math.isnan(watch.free) and math.isnan(watch.seconds_left)
    watch.close()


def test_alarm_before_the_disk_is_full():
    with serve() as devices:
        acquisition = devices.acquisition
        acquisition.Start()
        wait_for_device(lambda: acquisition.state() == DevState.RUNNING, PATIENCE)
        assert math.isnan(acquisition.free_space) and math.isnan(acquisition.time_until_full)
        for values, words in (
            ({"free_space": 4.9, "time_until_full": math.nan}, ["free_space = 4.9", "limit of 5"]),
            ({"free_space": 500.0, "time_until_full": 59.0}, ["time_until_full = 59", "limit of 60"]),
        ):
            devices.feed(**values)
            wait_for_device(lambda: acquisition.state() == DevState.ALARM, PATIENCE)
            status = acquisition.status()
            for word in (*words, "disk is nearly full", "saving_directory"):
                assert word in status
            devices.feed(free_space=5.1, time_until_full=61.0)
            wait_for_device(lambda: acquisition.state() == DevState.RUNNING, PATIENCE)
        devices.feed(disk_alarm="The disk of /d has not answered for 5 s.")
        wait_for_device(lambda: acquisition.state() == DevState.ALARM, PATIENCE)
        assert "has not answered" in acquisition.status()
        assert devices.veto.state() == DevState.RUNNING
        acquisition.Stop()
