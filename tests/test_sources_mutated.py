"""Valid messages, changed at random: a short run of `framesieve bench fuzz`, and that it would find what is wrong."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
import time

import pytest
from framesieve.benchmarks import fuzz
from framesieve.benchmarks.fuzz import PROTOCOLS, Protocol
from framesieve.processing.errors import OutOfRangeError
from framesieve.processing.frames import BrokenFrame
from framesieve.sources.stream1 import Stream1Source
from framesieve.sources.stream2 import Stream2Source


@pytest.mark.parametrize("name", PROTOCOLS)
def test_changed_messages_cost_one_error_each_at_most(name):
    found = fuzz.fuzz(PROTOCOLS[name], 8000, seed=3)
    assert found["failures"] == [] and found["good"], found
    # the changes reach far into the messages: most kinds of events come, and errors of many kinds
    expected = {kind.__name__ for kind in PROTOCOLS[name].told} | {"BrokenFrame", "decoded"}
    if name.startswith("stream"):  # what is not compressed cannot fail to be decoded
        expected |= {"nothing", "not decoded"}
    assert expected <= set(found["events"])
    assert min(found["events"][kind] for kind in expected - {"nothing", "not decoded"}) > 100
    assert found["different_errors"] > 200


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_messages_that_are_changed_are_good(name):
    feed = PROTOCOLS[name].feeder()
    assert not [event for parts in PROTOCOLS[name].series(5) for event in feed(parts) if isinstance(event, BrokenFrame)]
    for parts in PROTOCOLS[name].valid():
        feed = PROTOCOLS[name].feeder()
        assert not any(isinstance(event, BrokenFrame) for event in feed(parts))


# ---- a source with a fault -------------------------------------------------------------------------------------------


def crashes(handle, parts, count):
    if count == 200:
        raise IndexError("a bug")
    return handle(parts)


def says_it_twice(handle, parts, count):
    return handle(parts) + [BrokenFrame(-1, "", "and again")] * (count == 200) * 2


def hangs(handle, parts, count):
    begin = time.thread_time()
    while count == 200 and time.thread_time() - begin < 0.3:
        pass
    return handle(parts)


def leaks(handle, parts, count, kept=[]):  # noqa: B006
    kept.append(mmap.mmap(-1, 1 << 18))  # not of the heap, where memory that is free already may be used again
    kept[-1][:] = bytes(1 << 18)
    return handle(parts)


def stays_silent(handle, parts, count):
    return handle(parts) if count < 200 else []


FAULTS = {
    crashes: "IndexError: a bug",
    says_it_twice: "frames and errors of one message",
    hangs: "took 0.",
    leaks: "",
    stays_silent: "a good series gave []",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(monkeypatch, fault):
    calls = [0]

    def feeder():
        source = Stream2Source("localhost", 1)

        def feed(parts):
            calls[0] += 1
            return fault(source.handle, [memoryview(part) for part in parts], calls[0])

        return feed

    if fault is hangs:
        monkeypatch.setattr(fuzz, "TIME_LIMIT", 0.25)
    good = PROTOCOLS["stream2"]
    found = fuzz.fuzz(Protocol(good.valid, good.series, feeder), 600, seed=1)
    leaks.__defaults__[0].clear()
    assert not found["good"]
    assert any(FAULTS[fault] in failure["what"] for failure in found["failures"]) or fault is leaks
    assert (found["n_failures"] > 0) == (fault is not leaks)
    assert "NOT GOOD" in fuzz.table({"protocols": {"stream2": found}})


def test_a_source_keeps_nothing_of_what_it_was_told():
    """Series that begin and end again and again, one after the other."""
    for source, valid in ((Stream1Source("localhost", 1), "stream1"), (Stream2Source("localhost", 1), "stream2")):
        for number in range(3000):
            for parts in PROTOCOLS[valid].series(number):
                source.handle([memoryview(part) for part in parts])
        assert len(source._named) <= 1000 and len(source._over) <= 64


def test_the_command():
    command = [sys.executable, "-m", "framesieve.cli.main", "bench", "fuzz", "--messages", "300", "--seed", "5"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results["good"] and set(results["protocols"]) == set(PROTOCOLS)
    assert all(one["messages"] == 300 for one in results["protocols"].values())
    refused = subprocess.run([*command, "--protocol", "stream3"], capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2 and "'stream3': accepted are stream1, stream2, sls, data_array" in refused.stderr


def test_arguments_that_make_no_sense():
    with pytest.raises(OutOfRangeError):
        fuzz.run(messages=0)
