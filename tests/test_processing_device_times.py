"""Times by the clock of the device: what the commands of a batch say, in which frames and for how many it counts."""

from types import SimpleNamespace

import numpy as np
import oracles
import pipeline_helpers
import pyopencl as cl
import pytest
from framesieve.processing import device_times
from framesieve.processing.device_times import DeviceTimes, Sampler, duration
from framesieve.processing.parameters import Parameters

START, END = cl.profiling_info.START, cl.profiling_info.END


def command(start: int, end: int) -> SimpleNamespace:
    """An event that began and ended at these nanoseconds."""
    return SimpleNamespace(get_profiling_info={START: start, END: end}.__getitem__)


@pytest.fixture
def clock(monkeypatch):
    """The time of the sampler; starts long after the start of the computer."""
    now = SimpleNamespace(time=1000.0)
    monkeypatch.setattr(device_times, "time", SimpleNamespace(monotonic=lambda: now.time))
    return now


def test_what_a_command_takes():
    assert duration(command(7_000_000_000, 7_250_000_000)) == pytest.approx(0.25)

    def unknown(what):
        raise cl.RuntimeError("PROFILING_INFO_NOT_AVAILABLE")

    assert np.isnan(duration(SimpleNamespace(get_profiling_info=unknown)))


def test_the_first_batch_is_timed_and_then_one_in_a_while(clock):
    sampler = Sampler()
    seen = []
    for _ in range(30):
        seen.append(sampler.is_due())
        clock.time += 0.03
    assert [i for i, is_due in enumerate(seen) if is_due] == [0, 4, 8, 12, 16, 20, 24, 28]  # 0.12 s apart
    sampler.restart()
    assert sampler.is_due() and not sampler.is_due()


def test_a_batch_that_is_timed_stands_for_those_that_were_not():
    sampler = Sampler()
    batch = [command(0, 2_000_000)], [command(0, 5_000_000), command(6_000_000, 9_000_000)], [command(0, 1_000_000)]
    assert sampler.taken(4, *batch) == pytest.approx(DeviceTimes(0, 4, 0.002, 0.008, 0.001))
    sampler.skip(4)
    sampler.skip(8)
    assert sampler.taken(4, *batch) == pytest.approx(DeviceTimes(0, 16, 0.008, 0.032, 0.004)), "four times as many"
    assert sampler.taken(2, *batch) == pytest.approx(DeviceTimes(0, 2, 0.002, 0.008, 0.001))
    sampler.skip(9)
    sampler.restart()
    assert sampler.taken(4, *batch).timed == 4


def test_times_that_the_driver_does_not_tell_spoil_no_others():
    sampler = Sampler()
    sampler.skip(4)

    def unknown(what):
        raise cl.RuntimeError("PROFILING_INFO_NOT_AVAILABLE")

    batch = [], [command(0, 1), SimpleNamespace(get_profiling_info=unknown)], [command(0, 1)]
    assert sampler.taken(4, *batch) == DeviceTimes(untold=8)


def test_a_batch_that_comes_again_is_timed_then(clock):
    sampler = Sampler()
    assert sampler.is_due() and not sampler.is_due()
    sampler.postpone()
    assert sampler.is_due()


def test_times_add_up():
    one, other = DeviceTimes(1, 2, 3, 4, 5, 6), DeviceTimes(10, 20, 30, 40, 50, 60)
    assert one.plus(other) == (11, 22, 33, 44, 55, 66)


@pytest.mark.parametrize("lane_per_item", [False, True])
def test_planted_times_of_the_commands_of_a_batch(lane_per_item, clock, monkeypatch):
    """Every kernel takes 3 ms, every copy back 0.5 ms, the upload of the frames 8 ms."""
    reducer = oracles.hill_reducer(lane_per_item)
    reducer.inputs[0][:] = oracles.hill(reducer.bins)
    launch, copy = reducer._chain.run, cl.enqueue_copy
    names, copies = [], []

    def run(raw, n, parameters, queue, wait_for):
        assert wait_for[0].get_profiling_info(END) == 8_000_000
        names[:] = [name for name, _ in launch(raw, n, parameters, queue)]
        return [(name, command(50, 3_000_050)) for name in names]

    def copy_back(*arguments, **options):
        copy(*arguments, **options)
        copies.append(command(10, 500_010))
        return copies[-1]

    monkeypatch.setattr(reducer, "_send", lambda slot, *_: reducer._events[slot].append(command(0, 8_000_000)))
    monkeypatch.setattr(reducer._chain, "run", run)
    monkeypatch.setattr(cl, "enqueue_copy", copy_back)
    reducer._sampler.restart()
    found = reducer.reduce(0, 2, oracles.EVERYTHING)
    assert all(one.n_peaks for one in found) and len(copies) == 3 + 2 * 4, "numbers, curves; pixels, peaks of each"
    launches = 2 if oracles.device().is_cpu else 1
    assert len(names) == launches * (11 if lane_per_item else 10)
    assert reducer.times == pytest.approx(DeviceTimes(0, 2, 0.008, 0.003 * len(names), 0.0005 * len(copies)))
    reducer.reduce(0, 2, oracles.EVERYTHING)
    assert reducer.times == DeviceTimes(), "so soon nothing is timed"
    clock.time += 0.2
    reducer.reduce(0, 1, oracles.EVERYTHING)
    assert reducer.times.timed == 3, "this frame, and the two before it"


def test_a_batch_that_is_decoded_on_the_device(clock, monkeypatch):
    """The compressed bytes are uploaded, decoding is done by kernels."""
    reducer = pipeline_helpers.Reducer(pipeline_helpers.bins(), "uint16", oracles.device(), batch_size=1)
    reducer.decode_on_device()
    sent, decoding = [command(0, 1_000_000)], [command(0, 2_000_000), command(0, 5_000_000)]
    monkeypatch.setattr(reducer._decoder, "decode", lambda *_: (sent, decoding))
    monkeypatch.setattr(reducer._decoder, "failures", lambda *_: {})
    launch = reducer._chain.run
    monkeypatch.setattr(reducer._chain, "run", lambda *a, wait_for: launch(*a)[:0])
    reducer._chunks[0].add(0)
    reducer.reduce(0, 1, Parameters())
    assert (reducer.times.upload, reducer.times.kernels) == pytest.approx((0.001, 0.007))
    reducer.close()


def test_times_of_real_batches_are_a_part_of_what_passes_meanwhile(monkeypatch):
    times = []

    class Sink(pipeline_helpers.Sink):
        def deliver(self, rows, parameter_set, times_of_rows):
            times.append(times_of_rows)

    monkeypatch.setattr(device_times, "SAMPLE_PERIOD", 0.0)
    pipeline_helpers.shared_reducer()._sampler.restart()
    pipeline_helpers.run(pipeline_helpers.script(range(10)), sink=Sink(), live=False)
    batches = [one for one in times if one.seconds]
    assert sum(one.timed for one in batches) == 10
    for one in batches:
        assert one.kernels > 0 and one.download > 0 and one.upload >= 0
        assert one.kernels + one.download < one.seconds
        if oracles.device().is_cpu:
            assert one.upload == 0, "it reads where the frames lie"


def test_results_are_the_same_timed_or_not(clock):
    reducer = oracles.hill_reducer(False)
    full = oracles.hill(reducer.bins)
    reducer._sampler.restart()
    timed = []
    for number in range(6):
        slot = number % 2
        reducer.inputs[slot][0], reducer.inputs[slot][1] = full, 0
        one, empty = reducer.reduce(slot, 2, oracles.EVERYTHING)
        oracles.assert_everything(one, reducer.bins, full)
        assert empty.n_peaks == 0
        timed.append(reducer.times.timed > 0)
        clock.time += 0.06
    assert timed == [True, False, True, False, True, False]
