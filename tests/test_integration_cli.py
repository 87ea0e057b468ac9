"""The program `framesieve`: reduce, info, and the demo, as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import h5py
import numpy as np
import pytest
from framesieve.cli import demo
from framesieve.cli.common import program
from framesieve.cli.main import main
from framesieve.clients import ReductionError
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import Verdict
from framesieve.simulators.compression import compress
from framesieve.simulators.experiment import Experiment
from integration_helpers import (
    MARKER,
    SHAPE,
    Recomputed,
    check_against,
    end_processes,
    framesieve,
    marked_processes,
    small_images,
    wait_until,
)
from measured_data import data_file

pytest_plugins = ["integration_fixtures"]

N = 6


@pytest.fixture
def stack(tmp_path):
    """A file of six frames, more of them beside it, and their geometry."""
    images = np.array(small_images(N))
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file["/entry/data/data"] = images
        file["/somewhere/else"] = images[:2]
        mask = np.zeros(SHAPE, np.uint8)
        mask[100:140] = 1
        file["/mask"] = mask
        file["/dark"] = np.full(SHAPE, 3.0)
        file["/flat"] = np.full(SHAPE, 2.0)
        file["/small"] = np.zeros((5, 5))
    (tmp_path / "stack.poni").write_text(Experiment(SHAPE).poni_text())
    (tmp_path / "other.poni").write_text(Experiment((SHAPE[1], SHAPE[0])).poni_text())
    return tmp_path / "stack.h5"


def reduce(*arguments: object) -> int:
    return main(["reduce", *map(str, arguments)])


COMMANDS = ["", "demo", "reduce", "densify", "geometry", "info", "register"]
COMMANDS += [f"simulate {kind}".strip() for kind in ("", "stream1", "stream2", "sls", "recorded", "file")]
COMMANDS += [f"bench {kind}".strip() for kind in ("", "core", "live", "clients", "sources", "peers")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    assert f"Usage: framesieve {command}".strip() in capsys.readouterr().out


def test_brackets_in_the_help_are_shown(capsys):
    """They are no markup."""
    main(["reduce", "--help"])
    main(["simulate", "stream1", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "PLATFORM:DEVICE[/PARTS]" in shown
    assert "Images per series [default: the input's, or 100]" in shown


# ---- what works ----------------------------------------------------------------------------------------------


def test_pilatus_frame_of_the_papers(tmp_path):
    frame, out = data_file("pilatus6m_x06sa.cbf.gz"), tmp_path / "out.h5"
    process = framesieve(
        "reduce", frame, "-o", out, "--geometry", data_file("pilatus6m_x06sa.poni"), "--snr-pick", 2,
        "--radial-bins", 800, "--snr-clip", 0, "--clip-cycles", 5, "--noise", 1, "--no-solid-angle",
        "--snr-peak", 3, "--patch-size", 5, "--min-pixels", 4,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    peaks = int(re.search(r"(\d+) peaks", process.stdout)[1])
    assert abs(peaks - 290) <= 3
    with SparseFile(out) as file:
        assert len(file) == 1
        assert file.frame(0).n_pixels == pytest.approx(143_689, rel=0.005)
        assert file.frame(0).n_peaks == peaks
    told = framesieve("info", out)
    assert told.returncode == 0
    assert "1 sparse frames of 2527 × 2463 pixels" in told.stdout and "snr_pick 2.0" in told.stdout


@pytest.mark.parametrize("dataset", ["", "::/entry/data/data", "::/somewhere/else"])
def test_datasets_of_an_hdf5_file(stack, tmp_path, capfd, dataset):
    out = tmp_path / "out.h5"
    status = reduce(
        f"{stack}{dataset}", "-o", out, "--geometry", stack.with_suffix(".poni"), "--mask", f"{stack}::/mask"
    )
    assert status == 0
    assert capfd.readouterr().err == ""
    with SparseFile(out) as file:
        assert len(file) == (2 if "else" in dataset else N)
        rows = file.frame(0).index // SHAPE[1]
        assert len(rows) and not np.any((rows >= 100) & (rows < 140))


def test_several_inputs_are_one_series(stack, tmp_path):
    second = tmp_path / "second.h5"
    shutil.copy(stack, second)
    out = tmp_path / "out.h5"
    poni = stack.with_suffix(".poni")
    assert reduce(stack, second, "-o", out, "--geometry", poni, "--min-peaks", 0, "--radial-bins", 100) == 0
    with SparseFile(out) as file:
        assert file.ledger["frame"].tolist() == list(range(2 * N))
        recomputed = Recomputed(poni, small_images(N))
        check_against(recomputed, file)
        recomputed.close()


def test_dark_and_flat(stack, tmp_path):
    out, plain = tmp_path / "out.h5", tmp_path / "plain.h5"
    common = ["--geometry", stack.with_suffix(".poni"), "--min-peaks", 0]
    assert reduce(stack, "-o", plain, *common) == 0
    assert reduce(stack, "-o", out, *common, "--dark", f"{stack}::/dark", "--flat", f"{stack}::/flat") == 0
    with SparseFile(plain) as one, SparseFile(out) as other:
        # (raw − 3) / 2; clipping may take other pixels, so nearly
        expected = (one.frame(0).background_mean - 3) / 2
        assert np.allclose(other.frame(0).background_mean, expected, rtol=0.02)
        raw = small_images(1)[0].ravel()
        frame = other.frame(0)
        assert np.array_equal(frame.intensity, raw[frame.index] - 3)


def test_verdicts_and_the_hint(stack, tmp_path, capfd):
    out = tmp_path / "out.h5"
    arguments = [stack, "-o", out, "--geometry", stack.with_suffix(".poni")]
    assert reduce(*arguments, "--min-peaks", 1000, "--control-fraction", 0) == 0
    told = capfd.readouterr()
    assert "0 kept, 6 vetoed" in told.out
    assert "--min-peaks 0" in told.err
    assert reduce(*arguments, "--overwrite") == 0
    assert "6 kept, 0 vetoed" in capfd.readouterr().out


def test_a_broken_frame_in_the_middle(stack, tmp_path, capfd):
    images = small_images(N)
    broken = tmp_path / "broken.h5"
    with h5py.File(broken, "w") as file:
        data = file.create_dataset(
            "/entry/data/data", (N, *SHAPE), "u2", chunks=(1, *SHAPE), compression=32008, compression_opts=(0, 2)
        )
        for i, pixels in enumerate(images):
            chunk = compress(pixels, "bslz4")
            data.id.write_direct_chunk((i, 0, 0), chunk[: len(chunk) // 2] if i == 3 else chunk)
    out = tmp_path / "out.h5"
    assert reduce(broken, "-o", out, "--geometry", stack.with_suffix(".poni")) == 1
    error = capfd.readouterr().err
    assert len(error.splitlines()) == 1 and "1 frames failed: frame 3" in error and "corrupt" in error
    with SparseFile(out) as file:
        assert [file.frame(row).number for row in range(len(file))] == [0, 1, 2, 4, 5]
        assert file.ledger["verdict"][file.ledger["frame"] == 3] == Verdict.FAILED


# ---- what is refused -----------------------------------------------------------------------------------------

UNUSABLE = {
    "no input": (["{dir}/none.cbf"], "none.cbf"),
    "no such dataset": (["{dir}/stack.h5::/nothing"], "/nothing"),
    "not an image": (["{dir}/stack.poni"], "stack.poni"),
    "not a stack": (["{dir}/stack.h5::/mask", "--geometry", "{dir}/other.poni"], "other.poni"),
    "no geometry file": (["{dir}/stack.h5", "--geometry", "{dir}/none.poni"], "none.poni"),
    "a source instead of a file": (["file:{dir}/stack.h5"], "without 'file:'"),
    "a timeout without --follow": (["{dir}/stack.h5", "--timeout", "5"], "--timeout goes with --follow"),
    "no geometry": (["{dir}/stack.h5", "--geometry", ""], "geometry"),
    "not a geometry": (["{dir}/stack.h5", "--geometry", "{dir}/stack.h5"], "stack.h5"),
    "geometry of another shape": (["{dir}/stack.h5", "--geometry", "{dir}/other.poni"], "240 × 256"),
    "no mask file": (["{dir}/stack.h5", "--mask", "{dir}/none.h5::/mask"], "none.h5"),
    "mask of another shape": (["{dir}/stack.h5", "--mask", "{dir}/stack.h5::/small"], "5 × 5"),
    "dark of another shape": (["{dir}/stack.h5", "--dark", "{dir}/stack.h5::/small"], "5 × 5"),
    "flat of another shape": (["{dir}/stack.h5", "--flat", "{dir}/stack.h5::/small"], "5 × 5"),
    "out of range": (["{dir}/stack.h5", "--snr-pick", "-1"], "snr_pick"),
    "not a number": (["{dir}/stack.h5", "--snr-pick", "much"], "--snr-pick"),
    "NaN": (["{dir}/stack.h5", "--noise", "nan"], "noise"),
    "even patch": (["{dir}/stack.h5", "--patch-size", "4"], "patch_size"),
    "too few bins": (["{dir}/stack.h5", "--radial-bins", "1"], "radial_bins"),
    "unknown error model": (["{dir}/stack.h5", "--error-model", "gauss"], "azimuthal, poisson, hybrid, exact"),
    "unknown device": (["{dir}/stack.h5", "--device", "nobody:nothing"], "nobody:nothing"),
    "unknown option": (["{dir}/stack.h5", "--colour", "red"], "--colour"),
    "output exists": (["{dir}/stack.h5", "-o", "{dir}/stack.poni"], "--overwrite"),
    "output over its input": (["{dir}/stack.h5", "-o", "{dir}/stack.h5", "--overwrite"], "read by this run"),
    "output over the geometry": (["{dir}/stack.h5", "-o", "{dir}/stack.poni", "--overwrite"], "read by this run"),
    "output nowhere": (["{dir}/stack.h5", "-o", "{dir}/none/out.h5"], "does not exist"),
    "output is a directory": (["{dir}/stack.h5", "-o", "{dir}", "--overwrite"], "is a directory"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_arguments(stack, tmp_path, capfd, case):
    given, words = UNUSABLE[case]
    arguments = [text.format(dir=tmp_path) for text in given]
    if "--geometry" not in arguments:
        arguments += ["--geometry", str(stack.with_suffix(".poni"))]
    if "-o" not in arguments:
        arguments += ["-o", str(tmp_path / "out.h5")]
    before = {path: path.stat().st_size for path in tmp_path.iterdir()}
    assert main(["reduce", *arguments]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1, told.err
    assert told.err.startswith("framesieve reduce: ") and words in told.err
    assert {path: path.stat().st_size for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["reduce"],
        ["reduce", "some.h5"],
        ["info", "/no/such/file.h5"],
        ["info", __file__],
        ["demo", "--frames", "many"],
        ["demo", "--rate", "-1"],
        ["demo", "--rate", "nan"],
        ["demo", "--input", "/no/such/file.h5", "--geometry", "/no/such/file.poni"],
        ["demo", "--input", "/no/such/file.h5"],
        ["demo", "--output", "/proc/nowhere"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments, capfd):
    assert main(arguments) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1 and told.err.startswith("framesieve"), told.err


@pytest.mark.parametrize("command", [[], ["simulate"], ["bench"]], ids=str)
def test_a_command_alone_shows_its_help(command, capfd):
    assert main(command) == 2
    told = capfd.readouterr()
    assert told.out == "" and told.err.startswith(" ".join(["Usage: framesieve", *command]))
    assert "--help)" not in told.err


def test_the_program_is_named_as_it_can_be_called_here(monkeypatch, tmp_path):
    here = Path(sys.executable).with_name("framesieve")
    if not here.exists():
        pytest.skip("it was not installed as a program")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert program() == str(here)
    monkeypatch.chdir(here.parent.parent)
    assert program() == f"{here.parent.name}/framesieve"
    (tmp_path / "framesieve").symlink_to(here)
    assert program() == "framesieve"
    (tmp_path / "framesieve").unlink()
    (tmp_path / "framesieve").write_text("#!/bin/sh\n")  # of another environment
    (tmp_path / "framesieve").chmod(0o755)
    assert program() == f"{here.parent.name}/framesieve"


def test_two_demos_do_not_write_into_one_directory(tmp_path, capfd):
    with contextlib.ExitStack() as stack:
        demo._take(tmp_path, stack)
        assert main(["demo", "--frames", "3", "--output", str(tmp_path)]) == 2
        assert "another demo writes into it; name another directory" in capfd.readouterr().err
    with contextlib.ExitStack() as stack:
        demo._take(tmp_path, stack)  # it is free again


def test_a_demo_with_which_somebody_interferes_ends_with_one_line(tmp_path, monkeypatch, capsys):
    def interfered(*_):
        raise ReductionError("OPERATION_NOT_ALLOWED", "Start is refused while RUNNING: a run is going on")

    frames = tmp_path / "frames.npy"
    np.save(frames, np.zeros(SHAPE, np.uint16))
    monkeypatch.setattr(demo, "_start_everything", lambda *_: (None, lambda: None))
    monkeypatch.setattr(demo, "_run", interfered)
    options = ["--input", str(frames), "--geometry", "detector.poni", "--output", str(tmp_path)]
    assert main(["demo", *options]) == 1
    assert "framesieve demo: Start is refused while RUNNING" in capsys.readouterr().err


def test_exit_status_of_the_program(tmp_path):
    """The tests above call `main`; what the shell sees comes from the script."""
    process = framesieve("reduce", tmp_path / "none.h5", "-o", tmp_path / "out.h5", "--geometry", tmp_path / "none")
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1


def test_reduce_can_be_interrupted(stack, tmp_path):
    big = tmp_path / "big.h5"
    with h5py.File(big, "w") as file:
        layout = h5py.VirtualLayout((20_000, *SHAPE), "u2")
        for i in range(0, 20_000, N):
            count = min(N, 20_000 - i)
            layout[i : i + count] = h5py.VirtualSource(str(stack), "/entry/data/data", (N, *SHAPE))[:count]
        file.create_virtual_dataset("/entry/data/data", layout)
    out = tmp_path / "out.h5"

    def has_frames() -> bool:
        try:
            with SparseFile(out) as file:
                return len(file) > 0
        except ConfigurationError:  # not there yet, or nothing in it
            return False

    command = [sys.executable, "-m", "framesieve.cli.main", "reduce", str(big), "-o", str(out), "--geometry"]
    process = subprocess.Popen([*command, str(stack.with_suffix(".poni"))], stderr=subprocess.PIPE, text=True)
    try:
        wait_until(has_frames, "some frames written")
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 1
    assert error.splitlines() == ["stopped"]
    with SparseFile(out) as file:
        assert 0 < len(file) < 20_000


# ---- the demo ------------------------------------------------------------------------------------------------


def test_demo(tmp_path):
    process = framesieve("demo", "--frames", 30, "--rate", 0, "--output", tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr
    for words in (
        r"frames +30: 9 kept, \d+ vetoed",  # and now and then a control sample
        r"frames per second +\d",
        r"compression ratio +\d",
        r"parameter sets +[123] in force",
        r"hits +9 found of 9 planted, 0 false",
        r"peaks +recall (1.000|0.9[89]\d).*precision (1.000|0.9[89]\d)",
        r"framesieve info .*demo_0000.h5",
    ):
        assert re.search(words, process.stdout), (words, process.stdout)
    assert "snr_pick 3 → 2.5" in process.stderr and "min_peaks 20 → 30" in process.stderr
    with SparseFile(tmp_path / "demo_0000.h5") as file:
        assert len(file.ledger) == 30 and (file.ledger["verdict"] == Verdict.KEPT).sum() == 9


def test_demo_with_real_frames(tmp_path):
    path, poni = data_file("thaumatin_grid.h5"), tmp_path / "thaumatin.poni"
    with h5py.File(path) as file:
        poni.write_text(file["entry/data/poni"].asstr()[()])
    process = framesieve(
        "demo", "--input", path, "--geometry", poni, "--mask", f"{path}::/entry/data/mask", "--rate", 5,
        "--output", tmp_path,
    )  # fmt: skip
    with SparseFile(tmp_path / "demo_0000.h5") as file:
        reduced = file.ledger[file.ledger["verdict"] != Verdict.LOST]
        assert reduced["frame"].tolist() == [1, 3, 6, 9, 12, 14, 15, 17, 19]
        assert set(range(6)) <= set(reduced["row"].tolist())
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.parametrize("when", ["simulating", "running"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_demo_that_is_interrupted_leaves_nothing_behind(tmp_path, when, number):
    marker = str(uuid.uuid4())
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    log = tmp_path / "stderr"
    options = ["--frames", "300", "--rate", "5"] if when == "simulating" else ["--frames", "20", "--rate", "1"]
    command = [sys.executable, "-m", "framesieve.cli.main", "demo", *options, "--output", str(tmp_path / "out")]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=os.environ | {MARKER: marker, "TMPDIR": str(temporary)},
            start_new_session=True,  # a signal of the terminal would reach all of the group: only the parent gets it
        )
    try:
        if when == "simulating":
            wait_until(lambda: list(temporary.glob("framesieve-demo-*/.*.part")), "the simulation")
            time.sleep(0.5)
        else:
            wait_until(lambda: list(tmp_path.glob("out/*.h5")), "the run")
            assert len(marked_processes(marker)) >= 4  # parent, database, server, detector
        process.send_signal(number)
        assert process.wait(timeout=60) == 1
        wait_until(lambda: not marked_processes(marker), f"the end of all children: {marked_processes(marker)}", 15)
    finally:
        process.kill()
        end_processes(marker)
    assert list(temporary.glob("framesieve-demo-*")) == []
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("which", "name"),
    [("devices.server demo", "the device server FrameSieve demo"), ("simulate stream2", "the simulated detector")],
)
def test_demo_says_which_of_its_programs_has_ended(tmp_path, which, name):
    marker = str(uuid.uuid4())
    log = tmp_path / "stderr"
    command = [sys.executable, "-m", "framesieve.cli.main", "demo", "--frames", "10", "--rate", "0.5"]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, "--output", str(tmp_path)],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=os.environ | {MARKER: marker},
        )
    try:
        wait_until(lambda: "detector  " in log.read_text(), "the start of all programs")
        [pid] = [pid for pid, line in marked_processes(marker).items() if which in line]
        os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=120) == 1
    finally:
        process.kill()
        end_processes(marker)
    assert f"framesieve demo: {name} ended by signal 9; its last output:" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_bench_core_tells_the_time_of_the_chain(capfd):
    assert main(["bench", "core", "--json", "--no-sweep", "--batches", "1", "--batch-size", "1"]) == 0
    results = json.loads(capfd.readouterr().out)
    assert results["chain_ms"] == results["frames"]["uint32"]["chain_ms"] > 0
    assert results["frames"]["uint16"]["peaks"] == 300
