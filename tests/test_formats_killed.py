"""A sparse file opens at every moment: while it is written, and after its writer was killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import fabio
import formats_helpers
import h5py
import numpy as np

KILLS = 40


def start_writer(path: Path) -> subprocess.Popen:
    writer = subprocess.Popen([sys.executable, formats_helpers.__file__, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"started\n"
    return writer


def check(path: Path) -> int:
    """Everything that frame_ptr and the ledger promise is there and right; returns the number of saved frames."""
    with h5py.File(path, "r") as file:
        frames, peaks = file["entry_0000/sparse_frames"], file["entry_1/result_1"]
        ledger = file["entry_0000/ledger"][()]
        frame_ptr = frames["frame_ptr"][()]
        index, intensity = frames["index"][()], frames["intensity"][()]
        rows = len(frame_ptr) - 1
        assert frame_ptr[-1] <= min(len(index), len(intensity))
        assert all(len(dataset) >= rows for dataset in peaks.values())
        assert min(len(frames["background_avg"]), len(frames["background_std"])) >= rows
        saved = ledger[ledger["row"] >= 0]
        assert np.array_equal(saved["row"], np.arange(len(saved)))
        assert len(saved) <= rows
        assert np.array_equal(ledger["frame"], np.arange(len(ledger)))
        last = saved[-1]
        expected = formats_helpers.reduced_frame(int(last["frame"]))
        row = slice(*frame_ptr[last["row"] : last["row"] + 2].astype(int))
        assert np.array_equal(index[row], expected.index)
        assert np.array_equal(intensity[row], expected.intensity)
        assert np.array_equal(frames["background_avg"][last["row"]], expected.background_mean)
        assert np.array_equal(peaks["peakXPosRaw"][last["row"], :5], expected.peaks[:, 0])
    with fabio.open(path) as image:
        assert image.nframes >= rows
        assert image.data.shape == formats_helpers.SHAPE
    return rows


def test_killed_at_any_moment(tmp_path):
    # two at a time: starting Python takes longer than writing
    pending = [start_writer(tmp_path / "0.h5")]
    rows = []
    for number in range(KILLS):
        if number + 1 < KILLS:
            pending.append(start_writer(tmp_path / f"{number + 1}.h5"))
        writer = pending.pop(0)
        time.sleep(random.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        rows.append(check(tmp_path / f"{number}.h5"))
    assert len(set(rows)) > 1


def test_readable_while_written(tmp_path):
    path = tmp_path / "live.h5"
    writer = start_writer(path)
    try:
        rows = [check(path) for _ in range(100)]
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert rows == sorted(rows)
    assert rows[-1] > rows[0]
