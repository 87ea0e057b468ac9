"""Several devices in one run: parts of the one that is there serve as devices."""

import contextlib
import functools
import itertools
import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from framesieve.processing.errors import ConfigurationError, HardwareError
from framesieve.processing.frames import Frame, Verdict
from framesieve.processing.opencl import choose_devices
from framesieve.processing.parameters import ParameterStore
from framesieve.processing.pipeline import Pipeline
from framesieve.processing.reducer import Reducer
from pipeline_helpers import (
    DTYPE,
    END,
    PATIENCE,
    START,
    Broken,
    Sink,
    Source,
    assert_no_threads,
    assert_result,
    bins,
    frame,
    image,
    reduced,
    run,
    script,
    wait_for,
)

REDUCED = (Verdict.KEPT, Verdict.VETOED, Verdict.CONTROL)


@functools.cache
def two_reducers() -> list[Reducer]:
    try:
        parts = choose_devices("0:0/2")
    except (ConfigurationError, HardwareError) as error:
        pytest.skip(f"the device cannot be divided: {error}")
    return [Reducer(bins(), DTYPE, part, batch_size=4) for part in parts]


class Device:
    """A reducer whose device is slow, or fails. `numbers` are the first pixels of the frames that it was given."""

    def __init__(self, real: Reducer, name: str = "", *, delay=lambda: 0.0, fails=lambda device: False) -> None:
        self._real, self._delay, self._fails = real, delay, fails
        self.bins, self.dtype, self.inputs, self.batch_size = real.bins, real.dtype, real.inputs, real.batch_size
        self.put, self.upload, self.pixels = real.put, real.upload, real.pixels
        self.device = type(real.device)(real.device.device, name or real.device.name)
        self.calls = 0
        self.batches = 0  # that it managed
        self.thread_names: set[str] = set()

    @property
    def times(self):
        return self._real.times

    def reduce(self, slot, n, parameters):
        self.calls += 1
        self.thread_names.add(threading.current_thread().name)
        time.sleep(self._delay())
        if self._fails(self):
            raise HardwareError("it fell off the bus")
        results = self._real.reduce(slot, n, parameters)
        self.batches += 1
        return results


def devices(*options) -> list[Device]:
    """Two devices called first and second; `options` as for `Device`."""
    return [Device(real, name, **o) for real, name, o in zip(two_reducers(), ("first", "second"), options, strict=True)]


def assert_all_reduced(sink, count: int) -> None:
    """Every frame once, in order, with the result that it has to have."""
    assert [row.number for row in sink.rows] == list(range(count))
    for row in sink.rows:
        assert row.verdict in REDUCED
        assert_result(row, reduced(row.number))


# ---- order and results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_order_and_bits_do_not_depend_on_the_number_of_devices(seed):
    """Parameters change at random moments, devices take a random time: every frame has the result that one device gives
    for the parameters that it names, and their numbers never go back."""
    store = ParameterStore()
    sets = {1: store.current.values}
    chance = random.Random(seed)

    def change():
        time.sleep(chance.uniform(0, 0.004))
        new = store.update(
            snr_pick=chance.uniform(1, 6), snr_peak=chance.uniform(2, 5), min_pixels=chance.randint(1, 6),
            clip_cycles=chance.randint(0, 5), error_model=chance.randint(0, 2), noise=chance.uniform(0, 2),
        )  # fmt: skip
        sets[new.number] = new.values

    events = [START]
    for number in range(240):
        events += [change, frame(number)] if chance.random() < 0.3 else [frame(number)]
    both = devices(*[{"delay": lambda: random.uniform(0, 0.01)}] * 2)
    sink = run([*events, END], store=store, make=lambda *_: both, live=False)
    assert [row.number for row in sink.rows] == list(range(240))
    numbers = [row.parameter_set for row in sink.rows]
    assert numbers == sorted(numbers) and len(set(numbers)) > 20
    assert min(device.batches for device in both) > 10, "both have worked"
    assert [device.thread_names for device in both] == [{"framesieve-reduce-0"}, {"framesieve-reduce-1"}]
    for row in sink.rows:
        assert_result(row, reduced(row.number, sets[row.parameter_set]))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads have no such names here")
def test_the_operating_system_knows_the_threads_by_name():
    seen = set()

    def look(row):
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it has just ended
                seen.add((task / "comm").read_text().rstrip())

    run(script(range(100)), make=lambda *_: devices({}, {}), sink=Sink(on_row=look), decode_threads=3, ring_size=4,
        live=False)  # fmt: skip
    steps = {"fs-receive", "fs-fill", "fs-deliver", "fs-reduce-0", "fs-reduce-1", "fs-decode-1", "fs-decode-2"}
    assert steps <= seen and "fs-decode-3" not in seen


def test_the_faster_device_gets_more():
    both = devices({"delay": lambda: 0.05}, {})
    sink = run(script(range(120)), make=lambda *_: both, live=False)
    assert_all_reduced(sink, 120)
    assert both[0].batches < both[1].batches / 3


def test_broken_frames_among_those_of_several_devices():
    events = script(range(60))
    for number in (0, 1, 7, 22, 23, 59):
        events[number + 1] = Frame(number, "a", Broken(image(number)), 100.0 + number)
    sink = run(events, make=lambda *_: devices({}, {}))
    assert sorted(row.number for row in sink.rows) == list(range(60))
    assert [n for n, v in sorted(sink.verdicts().items()) if v == Verdict.FAILED] == [0, 1, 7, 22, 23, 59]
    good = [row for row in sink.rows if row.verdict in REDUCED]
    assert [row.number for row in good] == [n for n in range(60) if n not in (0, 1, 7, 22, 23, 59)]
    for row in good:
        assert_result(row, reduced(row.number))


# ---- a device fails -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", [0, 1])
def test_a_device_that_dies_in_the_middle_costs_nothing(dead):
    options = [{}, {}]
    options[dead] = {"fails": lambda device: device.batches >= 5}
    both = devices(*options)
    sink = run(script(range(200)), make=lambda *_: both, live=False)
    assert_all_reduced(sink, 200)
    assert both[dead].batches == 5
    (told,) = (told for told in sink.told if isinstance(told, tuple))
    name, reason, others = told
    names = ["first", "second"]
    assert (name, others) == (names[dead], [names[1 - dead]])
    assert "3 batches in a row" in reason and names[dead] in reason and names[1 - dead] in reason
    # it is asked no more once it is left out, and what it fails on is not tried on it frame by frame
    assert both[dead].calls <= 5 + 4


def test_a_device_that_fails_now_and_then_stays():
    both = devices({"fails": lambda device: device.calls % 3 == 0}, {})
    sink = run(script(range(200)), make=lambda *_: both, live=False)
    assert_all_reduced(sink, 200)
    assert both[0].batches > 5
    assert not [told for told in sink.told if isinstance(told, tuple)]


def test_both_devices_die():
    both = devices(*[{"fails": lambda device: device.batches >= 5}] * 2)
    sink = run(script(range(200)), make=lambda *_: both, live=False, expect_error=HardwareError)
    assert "3 batches in a row failed" in str(sink.error) and "fell off the bus" in str(sink.error)
    numbers = [row.number for row in sink.rows]
    assert numbers == list(range(len(numbers))), "every frame that was read has one row"
    done = [row for row in sink.rows if row.verdict in REDUCED]
    assert len(done) == 4 * 10  # which ones depends on who was faster
    for row in done:
        assert_result(row, reduced(row.number))
    assert {row.verdict for row in sink.rows if row not in done} <= {Verdict.FAILED, Verdict.DROPPED}


def test_a_frame_that_no_device_can_do_costs_itself_and_no_device():
    poisoned = {5, 17, 18, 40}

    def poison(number):
        pixels = image(number)
        pixels[0, 0] = 9999
        return pixels

    class Choosy(Device):
        def reduce(self, slot, n, parameters):
            self._fails = lambda _: (self.inputs[slot][:n, 0, 0] == 9999).any()
            return super().reduce(slot, n, parameters)

    both = [Choosy(real, name) for real, name in zip(two_reducers(), ("first", "second"), strict=True)]
    events = [START, *(frame(n, pixels=poison(n) if n in poisoned else None) for n in range(60)), END]
    sink = run(events, make=lambda *_: both, live=False)
    assert [row.number for row in sink.rows] == list(range(60))
    assert {n for n, verdict in sink.verdicts().items() if verdict == Verdict.FAILED} == poisoned
    assert not [told for told in sink.told if isinstance(told, tuple)]
    for row in sink.rows:
        if row.number not in poisoned:
            assert_result(row, reduced(row.number))


# ---- stop and abort -------------------------------------------------------------------------------------------------


def started(events, both, sink, **options):
    pipeline = Pipeline(Source(events, options.pop("live", False)), lambda *_: both, ParameterStore(), sink, **options)
    pipeline.start()
    return pipeline


def test_stop_with_several_devices_loses_nothing():
    both = devices({"delay": lambda: 0.004}, {"delay": lambda: 0.001})
    sink = Sink()
    pipeline = started((frame(n, pixels=image(n % 2)) for n in range(100_000)), both, sink)
    wait_for(lambda: len(sink.rows) > 40)
    pipeline.stop()
    assert pipeline.join(PATIENCE)
    assert_no_threads()
    numbers = [row.number for row in sink.rows]
    assert numbers == list(range(len(numbers))) and 40 < len(numbers) < 100_000
    assert {row.verdict for row in sink.rows} <= set(REDUCED)
    assert pipeline.error is None


@pytest.mark.parametrize("fails", [False, True], ids=["sound", "one fails"])
def test_abort_with_several_devices_accounts_for_every_frame(fails):
    taken = []

    def events():
        for n in range(100_000):
            taken.append(n)
            yield frame(n, pixels=image(n % 2))

    both = devices({"delay": lambda: 0.01, "fails": lambda device: fails}, {"delay": lambda: 0.002})
    sink = Sink()
    pipeline = started(events(), both, sink)
    wait_for(lambda: len(sink.rows) > 8)
    pipeline.abort()
    assert pipeline.join(PATIENCE)
    assert_no_threads()
    assert pipeline.aborting and pipeline.error is None
    assert [row.number for row in sink.rows] == taken
    done = [row.verdict in REDUCED for row in sink.rows]
    assert done[:8] == [True] * 8
    assert all("aborted" in row.reason for row in sink.rows if row.verdict == Verdict.DROPPED)
    assert {row.verdict for row in sink.rows} <= {*REDUCED, Verdict.DROPPED}


def test_a_sink_that_fails_ends_a_run_on_several_devices():
    def fail(row):
        if row.number >= 30:
            raise OSError("no space left on device")

    sink = run(
        script(range(300)), sink=Sink(on_row=fail), make=lambda *_: devices({}, {}), expect_error=OSError, live=False
    )
    assert [row.number for row in sink.rows] == list(range(30))


def test_a_slow_device_does_not_let_results_pile_up():
    """The oldest batch is waited for; the other device goes on, but only so far."""
    gate = threading.Event()

    def held() -> float:
        gate.wait(PATIENCE)
        return 0.0

    both = devices({"delay": held}, {})
    sink = Sink()
    pipeline = started(script(range(200)), both, sink)
    wait_for(lambda: both[1].batches >= 10)
    time.sleep(0.3)
    assert both[1].batches < 30 and sink.rows == []
    gate.set()
    assert pipeline.join(PATIENCE)
    assert_all_reduced(sink, 200)
    assert_no_threads()


# ---- preview --------------------------------------------------------------------------------------------------------


def test_preview_of_several_devices_shows_whole_frames():
    seen = []
    run(script(range(40)), make=lambda *_: devices({}, {}), live=False, preview_period=0.0,
        preview=lambda pixels, n: seen.append((n, pixels.copy())))  # fmt: skip
    assert seen
    for number, pixels in seen:
        np.testing.assert_array_equal(pixels, image(number))


def test_a_corrupt_chunk_that_the_first_device_never_looked_at():
    """Its upload fails; the second one decodes on the host and finds the chunk broken. That frame fails, alone."""
    both = devices({}, {})
    calls = itertools.count()
    real = both[0]._real

    def upload(slot, n):
        if next(calls) == 0:
            raise HardwareError("the upload failed")
        return real.upload(slot, n)

    def put(slot, i, payload):  # takes whatever comes
        if not isinstance(payload, Broken):
            real.put(slot, i, payload)

    both[0].upload, both[0].put = upload, put
    events = [START, frame(0), frame(1), Frame(2, "a", Broken(image(2))), *(frame(n) for n in range(3, 20)), END]
    sink = run(events, make=lambda *_: both, live=False)
    verdicts = sink.verdicts()
    assert sorted(verdicts) == list(range(20))
    assert all((verdicts[n] is Verdict.FAILED) == (n == 2) for n in verdicts if n < 4)
    for row in sink.rows:
        if row.verdict is not Verdict.FAILED and row.number > 4:
            assert_result(row, reduced(row.number))


@pytest.mark.parametrize("where", ["pixels", "callback"])
def test_a_failing_preview_costs_no_frame(where):
    both = devices({}, {})

    def fails(*_):
        raise HardwareError("no preview today")

    if where == "pixels":
        both[0].pixels = both[1].pixels = fails
    preview = fails if where == "callback" else lambda *_: None
    sink = run(script(range(40)), make=lambda *_: both, live=False, preview=preview, preview_period=0)
    assert_all_reduced(sink, 40)


def test_a_single_frame_is_tried_again_too():
    """A batch of one frame, and a device that fails once."""
    calls = itertools.count()
    device = Device(two_reducers()[0], fails=lambda _: next(calls) == 0)
    sink = run([START, frame(0), END], make=lambda *_: [device], live=False)
    assert_all_reduced(sink, 1)
