"""`bench peers`: the arithmetic with made-up peers, and the real ones on a small frame where they are installed."""

from __future__ import annotations

import dataclasses
import json
import sys
import time

import numpy as np
import pytest
from framesieve.benchmarks import peer_programs, peers, plots
from framesieve.benchmarks.measuring import Timed
from framesieve.benchmarks.peer_programs import Missing, Peer, Scene
from framesieve.benchmarks.standard import PARAMETERS, standard_bins, standard_frame
from framesieve.processing.opencl import choose_device
from framesieve.processing.reducer import Reducer
from test_benchmarks import check_png

SHAPE, BINS, PEAKS = (400, 380), 60, 40


def peer(**changes) -> Peer:
    made_up = Peer("sloth", "sleep", "3.1", lambda: 7, lambda result: {"things": result}, {"things": 8})
    return dataclasses.replace(made_up, **changes)


def test_a_row_is_made_of_the_pairs():
    theirs = [Timed(wall, wall / 2) for wall in (0.100, 0.200, 0.400)]
    ours = [Timed(wall, 2 * wall) for wall in (0.040, 0.040, 0.080)]  # of four frames: 10, 10, 20 ms each
    row = peers.compare(peer(), theirs, ours, 4)
    assert (row["peer"], row["task"], row["version"], row["measure"]) == ("sloth", "sleep", "3.1", "wall-clock time")
    assert (row["peer_ms"], row["ours_ms"], row["ratio"]) == (200, 10, 20)  # 10, 20 and 20 times
    assert row["quartiles"] == [15, 20] and row["pairs"] == 3
    assert row["peer_quartiles_ms"] == [150, 300] and row["ours_quartiles_ms"] == [10, 15]


def test_core_time_counts_all_cores():
    theirs, ours = [Timed(0.1, 0.1)] * 3, [Timed(0.040, 0.080)] * 3
    row = peers.compare(peer(by_core_time=True), theirs, ours, 4)
    assert (row["measure"], row["peer_ms"], row["ours_ms"], row["ratio"]) == ("core time", 100, 20, 5)
    assert row["wall_ms"] == [100, 10] and row["core_ms"] == [100, 20]


def missing(scene: Scene) -> Peer:
    raise Missing("unicorn is not installed", "pip install unicorn")


def broken(scene: Scene) -> Peer:
    raise TypeError("another version")


def stumbling(scene: Scene) -> Peer:
    return peer(work=lambda: 1 / 0)


@pytest.fixture(scope="module")
def made_up() -> dict:
    programs = (
        ("sloth", "sleep", lambda scene: peer(work=lambda: time.sleep(0.05))),
        ("unicorn", "fly", missing),
        ("wreck", "sail", broken),
        ("stone", "roll", stumbling),
    )
    return peers.run("portable:", 3, shape=SHAPE, bins=BINS, peaks=PEAKS, programs=programs)


def test_peers_fulfil_the_contract(made_up):
    assert json.loads(json.dumps(made_up, allow_nan=False)) == made_up
    (row,) = made_up["peers"]
    assert {name: type(row[name]) for name in ("peer", "task", "peer_ms", "ours_ms", "ratio")} == {
        "peer": str,
        "task": str,
        "peer_ms": float,
        "ours_ms": float,
        "ratio": float,
    }
    assert row["peer_ms"] >= 50
    low, high = row["quartiles"]
    assert low <= row["ratio"] <= high and row["pairs"] == 3
    assert row["ours_found"] == {"things": 8}


def test_peers_that_cannot_be_measured_are_told_of(made_up):
    skipped = {row["peer"]: row for row in made_up["skipped"]}
    assert skipped["unicorn"]["install"] == "pip install unicorn"
    assert skipped["unicorn"]["reason"] == "unicorn is not installed"
    assert "another version" in skipped["wreck"]["reason"]
    assert "division by zero" in skipped["stone"]["reason"]
    text = peers.table(made_up)
    assert "left out: unicorn fly: unicorn is not installed; pip install unicorn" in text
    assert "sloth 3.1" in text


def test_peers_are_plotted(made_up, tmp_path):
    plots.plot_peers(made_up, tmp_path / "peers.png")
    check_png(tmp_path / "peers.png")
    plots.plot_peers(made_up | {"peers": []}, tmp_path / "none.png")  # nothing installed: no error


def test_a_slow_peer_is_measured_twice_only(monkeypatch):
    monkeypatch.setattr(peers, "_SLOW", 0.0)
    calls = []
    slow = peer(work=lambda: (calls.append(1), sum(range(100_000))))
    row = peers._measure(slow, lambda: None, 9)
    assert row["pairs"] == 2 and len(calls) == 3


@pytest.fixture(scope="module")
def scene():
    bins = standard_bins(SHAPE, BINS)
    frame = standard_frame(bins, "uint32", PEAKS)
    device = choose_device("portable:")
    reducer = Reducer(bins, "uint32", device, batch_size=1)
    reducer.inputs[0][0] = frame
    yield Scene(frame, bins, device, reducer.reduce(0, 1, PARAMETERS)[0])
    reducer.close()


def found_by(make, scene: Scene) -> tuple[dict, dict]:
    made = make(scene)
    return made.found(made.work()), made.ours_found


@pytest.mark.parametrize("name", ["pyFAI.integrator.azimuthal", "fabio.ext.dense", "om.algorithms._crystallography"])
def test_what_is_not_installed_names_the_command(name, scene, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    make = {"pyFAI": peer_programs.pyfai_sigma_clip, "fabio": peer_programs.fabio_densify}.get(
        name.partition(".")[0], peer_programs.om_peakfinder8
    )
    with pytest.raises(Missing) as error:
        make(scene)
    assert error.value.command.startswith("pip install ")


def test_pyfai_does_the_same_work(scene):
    pytest.importorskip("pyFAI")
    theirs, ours = found_by(peer_programs.pyfai_sparsify, scene)
    assert ours["pixels"] > 1000
    assert theirs["pixels"] == pytest.approx(ours["pixels"], rel=1e-3)  # a few lie at the threshold within rounding
    theirs, ours = found_by(peer_programs.pyfai_sigma_clip, scene)
    assert theirs["mean_background"] == pytest.approx(ours["mean_background"], rel=1e-4)


def test_fabio_restores_the_frame(scene):
    theirs, ours = found_by(peer_programs.fabio_densify, scene)
    assert theirs["median"] == pytest.approx(ours["median"], abs=1)
    assert ours["median"] == pytest.approx(np.median(scene.frame), abs=2)  # the background has no noise


def test_peakfinder8_finds_the_same_peaks(scene):
    pytest.importorskip("om.algorithms._crystallography")
    theirs, ours = found_by(peer_programs.om_peakfinder8, scene)
    assert theirs["peaks"] == pytest.approx(ours["peaks"], abs=2)
    assert ours["peaks"] == pytest.approx(PEAKS, abs=2)  # some lie next to each other
