"""Runs on files that another process is writing, from Start to the ledger."""

from __future__ import annotations

import subprocess
import sys

import follow_writer
import h5py
import numpy as np
import pytest
from follow_writer import SHAPE
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.cli.main import main
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.experiment import Experiment

N = 100
PATIENCE = 120.0


@pytest.fixture
def poni(tmp_path):
    (tmp_path / "a.poni").write_text(Experiment(SHAPE).poni_text())
    return tmp_path / "a.poni"


@pytest.fixture
def writer():
    processes = []

    def start(kind: str, path: object, rate: float = 50) -> subprocess.Popen:
        command = [sys.executable, follow_writer.__file__, kind, str(path), str(N), str(rate)]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def contents(path: object) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        sparse = file["entry_0000/sparse_frames"]
        return {name: item[()] for name, item in sparse.items() if isinstance(item, h5py.Dataset)}


def test_a_run_that_is_started_before_the_detector_writes(tmp_path, poni, writer):
    """Every frame is in the ledger, and the file is the one that the finished files give."""
    master = tmp_path / "x_master.h5"
    controller = RunController()
    results = {}
    try:
        for name, source in (("followed", f"follow:{master}"), ("afterwards", f"file:{master}")):
            controller.configure(
                source=source,
                geometry=str(poni),
                radial_bins=20,
                saving_file=str(tmp_path / f"{name}.h5"),
            )
            controller.parameters.update(veto_min_peaks=0, snr_pick=1.0)
            controller.start()
            if name == "followed":
                assert not controller.wait(0.5) or controller.error is None
                writer("master", master)
            assert controller.wait(PATIENCE)
            assert (controller.state, controller.error) == (RunState.STANDBY, None)
            snapshot = controller.snapshot()
            assert (snapshot.frame_count, snapshot.frames_lost, snapshot.frames_failed) == (N, 0, 0)
            with SparseFile(snapshot.output_file) as file:
                assert file.ledger["frame"].tolist() == list(range(N))
                assert (file.ledger["verdict"] == Verdict.KEPT).all()
            results[name] = contents(snapshot.output_file)
    finally:
        controller.shutdown()
    assert results["followed"].keys() == results["afterwards"].keys()
    assert results["followed"]["frame_ptr"][-1] > N
    for name, values in results["followed"].items():
        np.testing.assert_array_equal(values, results["afterwards"][name], err_msg=name)


def test_reduce_follow(tmp_path, poni, writer, capfd):
    out = tmp_path / "out.h5"
    writer("virtual", tmp_path / "x_master.h5")
    options = ["-o", str(out), "--geometry", str(poni), "--min-peaks", "0", "--radial-bins", "20"]
    assert main(["reduce", "--follow", "--timeout", "60", str(tmp_path / "x_master.h5"), *options]) == 0
    told = capfd.readouterr()
    assert f"{N} frames reduced" in told.out
    with SparseFile(out) as file:
        assert file.ledger["frame"].tolist() == list(range(N))


def test_reduce_follow_of_nothing(tmp_path, poni, capfd):
    options = ["-o", str(tmp_path / "out.h5"), "--geometry", str(poni)]
    for arguments, words in (
        (["--timeout", "0.5", "none.h5"], "no frame came within 0.5 s: none.h5: there is no such file"),
        (["a.cbf", "b.cbf"], "--follow takes one input, not 2; put a pattern in quotes"),
        (["--timeout", "0", "a.cbf"], "timeout must be from 0.1"),
    ):
        assert main(["reduce", "--follow", *arguments, *options]) == 2
        told = capfd.readouterr()
        assert told.out == ""
        assert words in told.err and len(told.err.splitlines()) == 1, told.err
        assert not (tmp_path / "out.h5").exists()
