"""`bench live`: the arithmetic with made-up numbers, and two seconds of the real thing with small frames."""

from __future__ import annotations

import collections
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from framesieve.benchmarks import live
from framesieve.benchmarks.live import Load, memory, rates
from framesieve.benchmarks.live_system import LiveSystem
from framesieve.benchmarks.process_times import OTHERS
from framesieve.processing.errors import CommunicationError, ConfigurationError, OutOfRangeError
from framesieve.simulators.diffraction import StillSimulator
from framesieve.simulators.frame_inputs import SimulatedInput
from test_benchmarks import check_png

SHAPE, RATE = (512, 512), 60


def test_the_slope_of_memory_leaves_out_the_beginning():
    seconds = [10 + 0.5 * i for i in range(41)]
    mb = [100.0 if t < 12 else 500 + 2 * t for t in seconds]  # buffers are made, then 2 MB/s are lost
    assert memory(seconds, mb) == {"start": 524.0, "end": 560.0, "highest": 560.0, "slope_per_minute": 120.0}
    flat = memory([0, 1, 2, 3, 4, 5], [700.0] * 6)
    assert flat == {"start": 700.0, "end": 700.0, "highest": 700.0, "slope_per_minute": 0.0}
    assert memory([0.0, 0.5], [10.0, 12.0])["end"] == 12.0  # too short to settle: all of it counts
    assert memory([], [])["slope_per_minute"] == 0.0


def test_memory_is_that_of_the_time_in_which_frames_are_sent():
    samples = live._Samples([0, 1, 2, 3, 4, 5, 6], sent=[0, 9, 50, 70, 99, 100, 100], memory_mb=[7] * 5 + [4, 3])
    assert samples.memory_while_sending(100) == {"start": 7, "end": 7, "highest": 7, "slope_per_minute": 0}
    all_at_once = live._Samples([0.0, 0.5], sent=[9, 9], memory_mb=[5.0, 6.0])
    assert all_at_once.memory_while_sending(9)["end"] == 6.0


def test_rates_are_those_between_two_samples():
    assert rates([0, 0.5, 1.5, 2.0], [0, 10, 40, 40]) == [20, 20, 30, 0]
    assert rates([1.0], [5]) == [0.0]


@pytest.mark.parametrize("change", [{"warm_up": 1}, {"seconds": float("nan")}, {"seconds": float("inf")}])
def test_a_load_that_makes_no_sense_is_refused(change):
    with pytest.raises(OutOfRangeError):
        Load(**change).check()


def test_a_disk_that_is_too_small_is_refused_and_the_first_file_removed(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 0, 50_000_000))
    said = []
    for frames, fits in ((440, True), (460, False)):  # 0.1 MB each; 45 MB may be used
        file = tmp_path / "warm.h5"
        file.write_bytes(bytes(1_000_000))
        if fits:
            live._check_disk(tmp_path, file, 10, frames, said.append)
            assert "44 MB" in said[0]
        else:
            with pytest.raises(ConfigurationError, match=r"46 MB are needed, 50 MB are free"):
                live._check_disk(tmp_path, file, 10, frames, said.append)
        assert not file.exists()


def test_a_server_that_is_gone_is_not_waited_for(tmp_path):
    simulator = StillSimulator((128, 128), hit_share=0.5, n_frames=2, seed=1, dtype="uint16")
    gone = "^the device server FrameSieve demo ended by signal 9; its last output:"
    with LiveSystem(simulator, 2, tmp_path, opencl_device="portable:") as system:
        with pytest.raises(CommunicationError, match=gone):
            system.run(10_000, 20.0, lambda *_: os.kill(system.server.pid, signal.SIGKILL), lambda: None)
        with pytest.raises(CommunicationError, match=gone), system._errors():
            system.acquisition.state()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """Of the command itself, which prints one JSON object and nothing else."""
    folder, plot = tmp_path_factory.mktemp("live"), tmp_path_factory.mktemp("plot") / "live.png"
    command = [sys.executable, "-m", "framesieve.cli.main", "bench", "live", "--json", "--device", "portable:"]
    command += ["--seconds", "3", "--rate", "60", "--hits", "50", "--distinct", "4", "--shape", "512", "512"]
    command += ["--output", str(folder), "--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "MB go to" in done.stderr  # what it takes on the disk is said
    assert list(folder.iterdir()) == []  # nothing is left behind
    check_png(plot)
    return json.loads(done.stdout)


def test_no_frame_is_lost_and_the_numbers_add_up(results):
    frames = results["frames"]
    assert results["none_lost"] is True
    assert frames["sent"] == frames["received"] == frames["reduced"] == frames["in_ledger"] == 180
    assert frames["lost"] == frames["dropped"] == frames["failed"] == 0
    assert frames["kept"] + frames["vetoed"] == frames["reduced"]
    assert frames["saved"] == frames["kept"]


def test_bytes_are_those_of_the_frames_sent(results):
    simulator = StillSimulator(SHAPE, hit_share=0.5, n_frames=4, seed=Load().seed, dtype="uint16")
    frames = SimulatedInput(simulator, 4)
    frames.prepare("bslz4")
    assert results["bytes"]["in"] == 45 * sum(len(frames.encoded(i, "bslz4")) for i in range(4))
    assert results["bytes"]["raw"] == 180 * 512 * 512 * 2
    assert 0 < results["bytes"]["out"] < results["bytes"]["in"]


def test_the_rate_asked_for_is_kept(results):
    # the detector waits where it must: it can be slower than asked, on average it cannot be faster
    assert 0 < results["frames_per_s"] <= 1.2 * RATE
    samples = results["samples"]
    assert len({len(samples[name]) for name in samples}) == 1 and len(samples["seconds"]) >= 4
    assert samples["seconds"] == sorted(samples["seconds"])


def test_memory_and_threads_are_told(results):
    assert 30 < results["memory_mb"]["start"] <= results["memory_mb"]["highest"] < 3000
    threads = {(row["process"], row["thread"]): row for row in results["threads"]}
    named = {"receive", "fill", "reduce-0", "deliver", "publisher", "run", "opencl", OTHERS}
    assert named <= {thread for process, thread in threads if process == "server"}
    assert {("detector", "detector"), ("detector", OTHERS), ("database", OTHERS)} <= set(threads)
    assert threads["server", "receive"]["count"] == threads["server", "fill"]["count"] == 1
    busy = sum(row["cpu_ms_per_s"] for row in results["threads"])
    assert 0 < busy <= 1050 * results["cpus"]
    assert sum(row["cpu_ms_per_s"] for row in results["threads"] if row["process"] == "server") > 0.2 * busy
    assert 0 <= results["elsewhere_ms_per_s"] <= 1050 * results["cpus"] - busy


def test_the_table_has_the_numbers(results):
    text = live.table(results)
    assert "180 sent, 180 reduced" in text and "0 lost, 0 dropped, 0 failed" in text
    assert f"frames per second  {results['frames_per_s']:.1f}" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for row in results["threads"]:
        start = f"{row['process']} {row['thread']} {row['count']} {row['cpu_ms_per_s']:.1f} "
        assert (row["cpu_ms_per_s"] >= 0.05) == any(line.startswith(start) for line in lines)
