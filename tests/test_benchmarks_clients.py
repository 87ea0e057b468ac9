"""`bench clients`: the arithmetic with made-up numbers, and some seconds of the real thing with small frames."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from framesieve.benchmarks import client_results, clients
from framesieve.benchmarks.client_program import BASE, is_written, number_of
from framesieve.benchmarks.clients import Clients
from framesieve.processing.errors import OutOfRangeError
from framesieve.processing.frames import Verdict
from framesieve.processing.parameters import Parameters, ParameterSet
from test_benchmarks import check_png


def test_the_spread_of_values():
    assert client_results.spread(list(range(1, 102))) == {"count": 101, "p50": 51, "p99": 100, "max": 101}
    assert client_results.spread([]) == {"count": 0, "p50": 0, "p99": 0, "max": 0}


def test_writes_are_known_by_their_value():
    assert [number_of(BASE + k / 1000) for k in (1, 57, 999)] == [1, 57, 999]
    assert is_written(3.001) and not is_written(3.0) and not is_written(4.0)


def test_the_loss_is_that_of_neighbours():
    rounds = [{"without": {"frames_per_s": a}, "with": {"frames_per_s": b}} for a, b in ((100, 98), (50, 40), (80, 84))]
    assert client_results.loss(rounds) == {"median": 2.0, "least": -5.0, "most": 20.0}


def test_the_time_until_an_event_is_back():
    written = [{"number": n, "began": 10.0 * n} for n in (1, 2, 3)]
    told = [
        {"writes": written, "arrived": {"1": 10.01, "2": 20.02, "3": 30.03}},
        {"writes": [], "arrived": {"1": 10.05, "3": 30.02}},  # the second was told together with the third
    ]
    back = client_results.write_to_event(told)
    assert back["own"] == pytest.approx([10, 30]) and back["all_clients"] == pytest.approx([50, 30])


class File:
    """A run of nine frames, of which one was lost; the first write holds from frame 3 on, the third from 6."""

    parameter_sets = [  # noqa: RUF012
        type("Row", (), {"parameter_set": ParameterSet(number, Parameters(snr_pick=pick))})
        for number, pick in ((1, 3.0), (2, 3.001), (4, 3.003))
    ]
    ledger = np.array(
        [(n, Verdict.KEPT, 1 if n < 3 else 2 if n < 6 else 4) for n in range(9)],
        dtype=[("frame", "i8"), ("verdict", "u1"), ("parameter_set", "u4")],
    )
    ledger["verdict"][1] = Verdict.LOST
    ledger["parameter_set"][1] = 0


def test_frames_until_a_value_is_in_force():
    counts = ((1, 0), (2, 2), (3, 6))  # frames that were counted when it was written
    writes = [{"number": number, "frame_count": count} for number, count in counts]
    assert client_results.frames_until_in_force(File, writes) == [2, 0]  # no frame was reduced with the second


@pytest.mark.parametrize("change", [{"number": 0}, {"reads": 0}, {"writes": -1}, {"writes": 11}, {"rounds": 0}])
def test_clients_that_make_no_sense_are_refused(change):
    with pytest.raises(OutOfRangeError):
        Clients(**change).check()


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """Of the command itself, which prints one JSON object and nothing else."""
    folder, plot = tmp_path_factory.mktemp("clients"), tmp_path_factory.mktemp("plot") / "clients.png"
    command = [sys.executable, "-m", "framesieve.cli.main", "bench", "clients", "--json", "--device", "portable:"]
    command += ["--clients", "2", "--rounds", "1", "--seconds", "2", "--rate", "60", "--reads", "100", "--writes", "5"]
    command += ["--shape", "256", "256", "--output", str(folder), "--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []  # nothing is left behind
    check_png(plot)
    return json.loads(done.stdout)


def test_no_frame_and_no_last_event_is_lost(results):
    assert results["none_lost"] is True
    [row] = results["rounds"]
    assert row["with"]["frames"] == row["without"]["frames"] == results["load"]["frames"] == 120
    assert results["events"]["last_differs"] == [] and results["events"]["errors"] == []
    assert results["clients"]["attributes"] > 60 and results["events"]["per_s"] > 20


def test_waiting_times_are_told(results):
    reads = results["read_ms"]
    assert reads["all"]["count"] == reads["preview"]["count"] + reads["others"]["count"] > 40
    for values in (reads["all"], results["write_ms"], *results["write_to_event_ms"].values()):
        assert 0 < values["p50"] <= values["p99"] <= values["max"]
    assert results["write_to_event_ms"]["own"]["p50"] <= results["write_to_event_ms"]["all_clients"]["p50"]
    assert 0 < results["frames_until_in_force"]["count"] <= results["write_ms"]["count"]
    assert results["rounds"][0]["without"]["cpu_ms_per_s"]["clients"] == 0
    assert results["rounds"][0]["with"]["cpu_ms_per_s"]["clients"] > 0


def test_the_table_has_the_numbers(results):
    text = clients.table(results)
    assert "2 clients with" in text and "none lost: the last one of every attribute" in text
    assert f"{results['frames_per_s']['with']:.1f} with them" in text
    assert f"of {results['read_ms']['all']['count']}; aim of p99 below 20" in text
    results["events"]["last_differs"] = ["veto/hit_rate"]
    assert "THE LAST EVENT DIFFERS FROM THE VALUE: veto/hit_rate" in clients.table(results)
