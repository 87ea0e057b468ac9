"""`kill -9` in the middle of a run: sparse file, master and parts, and whole frames are good, and can be made dense.
FRAMESIEVE_KILLS=50 does it more often, and then also looks at the clock: what was reduced a second before is in the
file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.formats.dense_files import densify_file
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import ArrayPayload, Frame, SeriesStart

KILLS = int(os.environ.get("FRAMESIEVE_KILLS", "2"))
SHAPE, DTYPE = (96, 80), np.dtype("uint16")
FRAMES_PER_FILE = 25  # of every second run; the others write one file
FLUSHED = 1.0  # s


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).poisson(9, SHAPE).astype(DTYPE)


class Detector:
    live, sends_bslz4 = False, False  # not live: nothing is dropped, however busy the computer is

    def open(self):
        self._next = -1

    def read(self, timeout):
        self._next += 1
        if self._next == 0:
            return SeriesStart("s", SHAPE, DTYPE)
        time.sleep(0.005)
        return Frame(self._next - 1, "s", ArrayPayload(image(self._next - 1)), time.time())

    def close(self):
        pass


def run_until_killed(folder: Path, frames_per_file: int) -> None:
    """Tells when how many frames have been reduced."""
    (folder / "a.poni").write_text(
        'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
        "Distance: 0.1\nPoni1: 0.005\nPoni2: 0.004\n"
    )
    controller = RunController(open_source=lambda _: Detector(), batch_size=2)
    controller.configure(
        source="stream2://unused:1", geometry=str(folder / "a.poni"), radial_bins=20, saving_directory=str(folder),
        saving_prefix="run", saving_dense=True, saving_frames_per_file=frames_per_file,
    )  # fmt: skip
    controller.parameters.update(snr_pick=2.0, min_pixels=1, veto_min_peaks=0)
    controller.start()
    while controller.state in (RunState.INIT, RunState.RUNNING):
        print(time.monotonic(), controller.snapshot().frame_count, flush=True)
        time.sleep(0.02)
    print(controller.status, file=sys.stderr)


def start(folder: Path) -> subprocess.Popen:
    folder.mkdir()
    parted = int(folder.name) % 2 == 0
    command = [sys.executable, __file__, str(folder), str(FRAMES_PER_FILE if parted else 0)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_somewhen(process: subprocess.Popen) -> int:
    """The number of frames that had been reduced long enough before."""
    reports = []
    while not (reports and reports[-1][1] > 2 * FRAMES_PER_FILE):
        reports.append([float(word) for word in process.stdout.readline().split()])
    time.sleep(random.uniform(0, 1.5))
    killed_at = time.monotonic()
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    reports += [[float(word) for word in line.split()] for line in rest if len(line.split()) == 2]
    return int(max((count for when, count in reports if when < killed_at - FLUSHED), default=0))


def check_sparse(path: Path, *, part: bool = False) -> tuple[int, list[int]]:
    """The frames of a file are right, the newest ones above all; the number of rows of the ledger and the numbers of
    the saved frames."""
    with SparseFile(path) as file:
        numbers = file.ledger["frame"].tolist()
        assert part or numbers == list(range(len(numbers)))
        saved = file.ledger["frame"][file.ledger["row"] >= 0].tolist()  # a busy computer drops frames
        assert len(saved) == len(file)
        for row in (*range(0, len(file), 10), *range(max(len(file) - 10, 0), len(file))):
            frame = file.frame(row)
            assert frame.number == saved[row]
            assert np.array_equal(image(frame.number).ravel()[frame.index], frame.intensity)
        if len(file):
            dense = densify_file(file, path.with_name("dense.h5"), overwrite=True, threads=1)
            with h5py.File(dense[0]) as h5:
                assert h5["entry/data/frame_number"][()].tolist() == saved
                assert np.abs(h5["entry/data/data"][-1] - 9.0).mean() < 4
        return len(numbers), saved


def check_dense(path: Path) -> list[int]:
    """The numbers of the frames of a file."""
    with h5py.File(path) as file:
        numbers = file["entry/data/frame_number"][()].tolist()
        if numbers:
            data = file["entry/data/data"]
            assert len(data) >= len(numbers)
            for row in (0, len(numbers) // 2, len(numbers) - 1):
                assert np.array_equal(data[row], image(numbers[row]))
        return numbers


def check(folder: Path, reduced: int) -> int:
    rows, saved = check_sparse(folder / "run_0000.h5")
    whole = check_dense(folder / "run_0000_nxmx.h5")
    both = min(len(saved), len(whole))
    assert saved[:both] == whole[:both]
    if "FRAMESIEVE_KILLS" in os.environ:
        assert rows >= reduced, "what was reduced a second before"
        assert len(whole) >= len([number for number in saved if number < reduced])
    parts = sorted(folder.glob("run_0000_0*.h5"))
    dense_parts = sorted(folder.glob("run_0000_nxmx_0*.h5"))
    assert bool(parts) == bool(dense_parts) == (int(folder.name) % 2 == 0)
    if parts:
        in_parts = [check_sparse(path, part=True)[1] for path in parts]
        assert all(len(numbers) == FRAMES_PER_FILE for numbers in in_parts[:-1])
        assert list(chain(*in_parts))[: len(saved)] == saved
        assert list(chain(*map(check_dense, dense_parts)))[: len(whole)] == whole
    return rows


def test_killed_at_any_moment(tmp_path):
    running, reduced = [start(tmp_path / "0")], []
    for number in range(KILLS):
        if number + 1 < KILLS:  # Python takes longer to start than to be killed
            running.append(start(tmp_path / str(number + 1)))
        reduced.append(kill_somewhen(running.pop(0)))
    found = [check(tmp_path / str(number), count) for number, count in enumerate(reduced)]
    print("reduced a second before, in the file:", *zip(reduced, found, strict=True))
    # one may be killed before anything was due in the file; most are not
    assert 2 * sum(rows > FRAMES_PER_FILE for rows in found) >= KILLS


if __name__ == "__main__":
    run_until_killed(Path(sys.argv[1]), int(sys.argv[2]))
