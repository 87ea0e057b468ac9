"""After a failure half-way the next frame is right, and what the chain of kernels tells about its times."""

from types import SimpleNamespace

import oracles
import pyopencl as cl
import pytest
from framesieve.processing.errors import HardwareError
from framesieve.processing.parameters import Parameters

BATCH = 3
LANES = [False, True]  # as on a CPU, as on a GPU

NAMES_OF_PEAKS = ["count_bits of peaks", "sum_counts of peaks", "emit_peaks", "measure_peaks"]
NAMES = {
    False: ["sort_pixels", "sweep_bins", "find_peaks", "count_bits", "sum_counts", "emit_pixels", *NAMES_OF_PEAKS],
    True: ["sort_pixels", "clip_bins", "pick_pixels", "find_peaks", "count_bits", "sum_counts", "emit_pixels",
           *NAMES_OF_PEAKS],
}  # fmt: skip


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, call: int, error: Exception) -> None:
    """Let the given call (counted from 0) of a function of pyopencl fail, once."""
    true, calls = getattr(cl, name), iter(range(1000))

    def launch(*arguments, **options):
        if next(calls) == call:
            raise error
        return true(*arguments, **options)

    monkeypatch.setattr(cl, name, launch)


@pytest.mark.parametrize("lane_per_item", LANES)
@pytest.mark.parametrize("error", [cl.LogicError("a"), cl.RuntimeError("b"), cl.MemoryError("c")], ids=repr)
def test_after_a_failed_launch_all_is_as_before(lane_per_item, error, monkeypatch):
    """Whichever launch of whichever frame it is that fails: neither picked nor strong pixels are left."""
    reducer = oracles.hill_reducer(lane_per_item)
    full = oracles.hill(reducer.bins)
    for call in range(2 * len(NAMES[lane_per_item])):
        reducer.inputs[0][:2] = full
        with monkeypatch.context() as patch:
            fail_at(patch, "enqueue_nd_range_kernel", call, error)
            if oracles.device().is_cpu or call < len(NAMES[lane_per_item]):  # a GPU has one launch for all frames
                with pytest.raises(HardwareError, match=str(error)):
                    reducer.reduce(0, 2, oracles.EVERYTHING)
        reducer.inputs[1][0] = 0
        reducer.inputs[1][0, 30, 40] = 100  # bright, but alone
        lonely = reducer.reduce(1, 1, Parameters(min_pixels=2))[0]
        assert lonely.index.tolist() == [30 * 131 + 40] and lonely.n_peaks == 0, call
        reducer.inputs[1][0] = full
        oracles.assert_everything(reducer.reduce(1, 1, oracles.EVERYTHING)[0], reducer.bins, full)


@pytest.mark.parametrize("broken", ["_timed_queue", "_chain"])
def test_what_cannot_be_cleared_after_a_failure_is_cleared_before_the_next_frame(broken, monkeypatch):
    """Neither a queue that has failed for good nor a device that does not answer for a while leaves foreign pixels."""
    reducer = oracles.hill_reducer(False)
    reducer._sampler._next = float("inf")  # not through the queue that is broken
    reducer.inputs[0][:2] = oracles.hill(reducer.bins)

    def fail():
        raise cl.RuntimeError("no end")

    with monkeypatch.context() as patch:
        fail_at(patch, "enqueue_nd_range_kernel", len(NAMES[False]) - 2, cl.RuntimeError("no launch"))
        if broken == "_chain":
            patch.setattr(reducer._chain, "reset", fail)
        else:
            patch.setattr(reducer, broken, SimpleNamespace(finish=fail))
        with pytest.raises(HardwareError, match="no launch"):
            reducer.reduce(0, 2, oracles.EVERYTHING)
    reducer.inputs[1][0] = 0
    reducer.inputs[1][0, 30, 40] = 100  # bright, but alone
    lonely = reducer.reduce(1, 1, Parameters(min_pixels=2))[0]
    assert lonely.index.tolist() == [30 * 131 + 40] and lonely.n_peaks == 0


def test_after_a_failed_transfer_all_is_as_before(monkeypatch):
    reducer = oracles.hill_reducer(False)
    full = oracles.hill(reducer.bins)
    for call in range(7):
        reducer.inputs[0][:2] = full
        with monkeypatch.context() as patch:
            fail_at(patch, "enqueue_copy", call, cl.RuntimeError("no transfer"))
            with pytest.raises(HardwareError, match="no transfer"):
                reducer.reduce(0, 2, oracles.EVERYTHING)
        oracles.assert_everything(reducer.reduce(0, 1, oracles.EVERYTHING)[0], reducer.bins, full)


# ---- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lane_per_item", LANES)
def test_profile_tells_every_kernel(lane_per_item):
    """In the order of the chain, and without leaving a trace."""
    reducer = oracles.hill_reducer(lane_per_item)
    full = oracles.hill(reducer.bins)
    reducer.inputs[0][:] = full
    for n in (1, BATCH):
        times = reducer.profile(0, n, oracles.EVERYTHING)
        assert [name for name in times if name != "upload"] == NAMES[lane_per_item]
        assert ("upload" in times) == (not oracles.device().is_cpu)
        assert all(time >= 0 for time in times.values())
    reducer.inputs[0][0] = 0
    assert reducer.reduce(0, 1, oracles.EVERYTHING)[0].index.size == 0


def test_times_are_ms_per_frame(monkeypatch):
    """Events of three frames, in nanoseconds: added up by name, divided by the number of frames."""
    reducer = oracles.hill_reducer(False)

    def event(start: int, end: int) -> SimpleNamespace:
        times = {cl.profiling_info.START: start, cl.profiling_info.END: end}
        return SimpleNamespace(get_profiling_info=times.__getitem__)

    launched = [
        ("sort_pixels", event(1_000_000, 4_000_000)),
        ("count_bits", event(5_000_000, 5_600_000)),
        ("count_bits of peaks", event(7_000_000, 7_000_300)),
        ("sort_pixels", event(10_000_000, 11_500_000)),
        ("sort_pixels", event(20_000_000, 21_500_000)),
    ]
    monkeypatch.setattr(reducer._chain, "run", lambda *arguments: launched)
    assert reducer.profile(0, 3, oracles.EVERYTHING) == pytest.approx(
        {"sort_pixels": 2.0, "count_bits": 0.2, "count_bits of peaks": 1e-4}
    )


def test_a_failed_profile_leaves_no_trace(monkeypatch):
    reducer = oracles.hill_reducer(False)
    reducer.inputs[0][:] = oracles.hill(reducer.bins)
    for call in range(len(NAMES[False])):
        with monkeypatch.context() as patch:
            fail_at(patch, "enqueue_nd_range_kernel", call, cl.RuntimeError("no launch"))
            with pytest.raises(HardwareError, match="no launch"):
                reducer.profile(0, 1, oracles.EVERYTHING)
        reducer.inputs[1][0] = 0
        assert reducer.reduce(1, 1, oracles.EVERYTHING)[0].index.size == 0
