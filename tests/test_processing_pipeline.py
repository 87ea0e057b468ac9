"""The pipeline: a scripted source, the real reducer on small frames, and a sink that remembers."""

import itertools
import threading
import time

import numpy as np
import oracles
import pytest
from framesieve.processing.frames import ArrayPayload, BrokenFrame, Frame, SeriesEnd, SeriesStart, Verdict
from framesieve.processing.parameters import Parameters, ParameterStore
from pipeline_helpers import (
    DTYPE,
    END,
    PATIENCE,
    SHAPE,
    START,
    Broken,
    Sink,
    assert_no_threads,
    assert_result,
    bins,
    frame,
    image,
    make_reducers,
    reduced,
    run,
    script,
    shared_reducer,
    started,
    wait_for,
)

# ---- order and results ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [False, True])
def test_every_frame_in_order_with_its_result(live):
    numbers = range(50)
    sink = run(script(numbers), live=live)
    assert [row.number for row in sink.rows] == list(numbers)
    assert sink.told[0] == START and sink.told[1] == "begin"
    assert sink.told.count("begin") == 1 and sink.reducers == [shared_reducer()]
    for row in sink.rows:
        expected = oracles.reduce_once(image(row.number), bins()) if row.number < 4 else reduced(row.number)
        assert_result(row, expected)
        assert (row.series_id, row.timestamp, row.parameter_set) == ("a", 100.0 + row.number, 1)
        assert row.raw_bytes == row.stored_bytes == 2 * SHAPE[0] * SHAPE[1]
        assert row.dense is None
    hits = [row.number for row in sink.rows if row.verdict == Verdict.KEPT]
    assert hits == [n for n in numbers if n % 2]
    assert all("fewer than 20" in row.reason for row in sink.rows if row.number % 2 == 0)


def test_live_changes_explain_exactly_the_pixels():
    """The parameters change all the time; the set that a frame records is the one that it was reduced with."""
    store = ParameterStore()
    sets = {1: store.current.values}

    def change(k):
        def now():
            time.sleep(0.002)
            new = store.update(snr_pick=1 + k % 7, min_pixels=1 + k % 4, error_model=k % 3)
            sets[new.number] = new.values

        return now

    events = [START]
    for number in range(200):
        events += [change(number), frame(number)] if number % 3 == 0 else [frame(number)]
    sink = run([*events, END], store=store)
    assert [row.number for row in sink.rows] == list(range(200))
    used = {row.parameter_set for row in sink.rows}
    assert len(used) > 10
    numbers = [row.parameter_set for row in sink.rows]
    assert numbers == sorted(numbers)
    for row in sink.rows:
        assert_result(row, reduced(row.number, sets[row.parameter_set]))


def test_a_change_is_in_force_from_the_next_batch():
    store = ParameterStore()
    seen = threading.Event()
    sink = Sink(on_row=lambda row: seen.set() if row.number == 9 else None)

    def change():
        assert seen.wait(PATIENCE)
        store.update(snr_pick=7.0)

    run(
        [START, *(frame(n) for n in range(10)), change, *(frame(n) for n in range(10, 20)), END], sink=sink, store=store
    )
    assert [row.parameter_set for row in sink.rows] == [1] * 10 + [2] * 10


def test_dense_frames_of_what_is_saved():
    store = ParameterStore(Parameters(control_fraction=30))
    sink = run(script(range(40)), store=store, keep_dense=True)
    verdicts = {row.verdict for row in sink.rows}
    assert verdicts == {Verdict.KEPT, Verdict.CONTROL, Verdict.VETOED}
    for row in sink.rows:
        if row.verdict == Verdict.VETOED:
            assert row.dense is None
        else:
            np.testing.assert_array_equal(row.dense.array, image(row.number))


def test_preview_sees_frames_as_they_are():
    seen = []
    run(script(range(30)), preview=lambda pixels, n: seen.append((n, pixels.copy())), preview_period=0.0)
    assert seen
    for number, pixels in seen:
        np.testing.assert_array_equal(pixels, image(number))


def test_number_of_frames_ends_the_run():
    sink = run([START, *(frame(n) for n in range(100))], number_of_frames=17)
    assert [row.number for row in sink.rows] == list(range(17))


def test_a_run_without_frames():
    assert run([START, None, None, END]).told == [START]
    assert run([END]).rows == []


# ---- decoding by several threads -------------------------------------------------------------------------------------


class Meeting(ArrayPayload):
    """Decoding waits until as many frames as `together` are being decoded."""

    together: threading.Barrier

    def read_into(self, out) -> None:
        self.together.wait(PATIENCE)
        super().read_into(out)


def test_frames_of_a_batch_are_decoded_at_once():
    class Of4(Meeting):
        together = threading.Barrier(4)

    frames = [Frame(n, "a", Of4(image(n))) for n in range(20)]
    loaded = threading.Event()

    def make(start):
        assert loaded.wait(PATIENCE)  # so that every batch is full
        return make_reducers(start)

    sink = run([START, *frames, loaded.set, END], decode_threads=4, live=False, make=make)
    assert [row.number for row in sink.rows] == list(range(20))
    for row in sink.rows:
        assert_result(row, reduced(row.number))


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("broken", [{0}, {3}, {1, 2}, {0, 1, 2, 3}, {0, 2, 5, 7, 8, 13}, set(range(0, 20, 2))], ids=str)
def test_broken_frames_leave_no_gap_in_a_batch(broken, threads):
    frames = [Frame(n, "a", (Broken if n in broken else ArrayPayload)(image(n)), 100.0 + n) for n in range(20)]
    sink = run([START, *frames, END], decode_threads=threads, live=False)
    assert {n for n, verdict in sink.verdicts().items() if verdict == Verdict.FAILED} == broken
    good = [row for row in sink.rows if row.number not in broken]
    assert [row.number for row in good] == [n for n in range(20) if n not in broken]
    for row in good:
        assert_result(row, reduced(row.number))


def test_devices_are_made_when_a_series_begins_and_used_when_it_has_frames():
    made = threading.Event()

    def make(start):
        made.set()
        return make_reducers(start)

    sink = Sink()
    run([START, lambda: made.wait(PATIENCE), END], sink=sink, make=make)
    assert made.is_set() and sink.told == [START]


# ---- stop, abort, a full ring ---------------------------------------------------------------------------------------


def test_stop_reduces_what_has_arrived():
    pipeline, sink = started([START, *(frame(n) for n in range(20))])  # and then nothing, without an end
    wait_for(lambda: sink.told)
    wait_for(lambda: len(sink.rows) == 20)
    assert not pipeline.join(0.1)
    assert sink.idles > 0
    pipeline.stop()
    assert pipeline.join(PATIENCE)
    assert_no_threads()
    assert [row.number for row in sink.rows] == list(range(20))
    assert pipeline.error is None and not pipeline.aborting


def test_stop_of_a_file_loses_nothing_that_was_read():
    pipeline, sink = started((frame(n, pixels=image(n % 2)) for n in range(100_000)), live=False, ring_size=8)
    wait_for(lambda: len(sink.rows) > 20)
    pipeline.stop()
    assert pipeline.join(PATIENCE)
    assert_no_threads()
    numbers = [row.number for row in sink.rows]
    assert numbers == list(range(len(numbers))) and len(numbers) < 100_000
    assert {row.verdict for row in sink.rows} <= {Verdict.KEPT, Verdict.VETOED, Verdict.CONTROL}


def test_stop_before_anything_came():
    pipeline, sink = started([])
    pipeline.stop()
    assert pipeline.join(PATIENCE)
    assert sink.rows == [] and pipeline.error is None
    assert_no_threads()


def test_abort_gives_up_what_is_not_reduced_and_says_so():
    entered, gate = threading.Event(), threading.Event()
    sink = Sink(on_row=lambda row: (entered.set(), gate.wait(PATIENCE)))
    pipeline, sink = started([START, *(frame(n) for n in range(300))], sink=sink, ring_size=400)
    assert entered.wait(PATIENCE)
    wait_for(lambda: pipeline.occupancy > 50)  # the sink holds everything up
    pipeline.abort()
    gate.set()
    assert pipeline.join(PATIENCE)
    assert_no_threads()
    assert pipeline.aborting and pipeline.error is None
    verdicts = sink.verdicts()
    dropped = [row for row in sink.rows if row.verdict == Verdict.DROPPED]
    assert len(dropped) > 50 and all("aborted" in row.reason for row in dropped)
    assert sorted(verdicts) == list(range(len(verdicts)))
    assert verdicts[0] != Verdict.DROPPED


def test_a_live_source_drops_when_the_ring_stays_full():
    gate = threading.Event()
    sink = Sink(on_row=lambda row: gate.wait(PATIENCE))
    events = [START, *(frame(n) for n in range(60)), gate.set, *(frame(n) for n in range(60, 64)), END]
    sink = run(events, sink=sink, ring_size=2, drop_after=0.01)
    verdicts = sink.verdicts()
    assert sorted(verdicts) == list(range(64)), "each frame has a row"
    dropped = [row for row in sink.rows if row.verdict == Verdict.DROPPED]
    assert dropped and all("ring of 2 frames" in row.reason for row in dropped)
    assert Verdict.LOST not in verdicts.values()
    for row in sink.rows:
        if row.verdict != Verdict.DROPPED:
            assert_result(row, reduced(row.number))


def test_nothing_is_dropped_while_devices_are_made_ready():
    """Kernels for a series that nobody expected: the detector keeps what it has until they are there."""
    gate, read = threading.Event(), []

    def make(start):
        assert gate.wait(PATIENCE)
        return make_reducers(start)

    def counted():
        for number in range(60):
            read.append(number)
            yield frame(number)

    sink = Sink()
    events = itertools.chain([START], counted(), [END])
    pipeline, sink = started(events, sink=sink, make=make, ring_size=3, drop_after=0.0)
    wait_for(lambda: len(read) > 3)
    time.sleep(0.3)
    assert len(read) == 4, "those that have room, and one that waits"
    gate.set()
    assert pipeline.join(PATIENCE)
    assert_no_threads()
    assert sorted(sink.verdicts())[:4] == [0, 1, 2, 3]
    assert all(sink.verdicts()[n] is not Verdict.DROPPED for n in range(4))


def test_abort_while_devices_are_made_ready():
    gate = threading.Event()

    def make(start):
        assert gate.wait(PATIENCE)
        return make_reducers(start)

    pipeline, sink = started(script(range(60)), make=make, ring_size=3, live=True, drop_after=0.0)
    wait_for(lambda: pipeline.occupancy == 100)
    pipeline.abort()
    gate.set()
    assert pipeline.join(PATIENCE)
    assert_no_threads()
    assert {row.verdict for row in sink.rows} == {Verdict.DROPPED}


def test_a_file_waits_instead():
    sink = run(script(range(100)), sink=Sink(on_row=lambda row: time.sleep(0.002)), ring_size=1, live=False,
               drop_after=0.0)  # fmt: skip
    assert [row.number for row in sink.rows] == list(range(100))
    assert Verdict.DROPPED not in sink.verdicts().values()


def test_occupancy():
    gate = threading.Event()
    pipeline, _ = started(
        script(range(100)), sink=Sink(on_row=lambda row: gate.wait(PATIENCE)), ring_size=4, live=False
    )
    wait_for(lambda: pipeline.occupancy == 100)
    gate.set()
    assert pipeline.join(PATIENCE)
    assert pipeline.occupancy == 0
    assert_no_threads()


# ---- series that do not go as they should ---------------------------------------------------------------------------


def rows_of(sink: Sink) -> list[tuple[str, int, str]]:
    """In the order of series and numbers; reduced frames as "reduced"."""
    bad = (Verdict.LOST, Verdict.DROPPED, Verdict.FAILED)
    return sorted(
        (row.series_id, row.number, row.verdict.name if row.verdict in bad else "reduced") for row in sink.rows
    )


def test_an_aborted_series_is_followed_by_the_next_one():
    """What the first one announced and did not send was never taken; a gap in it is one."""
    events = [
        SeriesStart("a", SHAPE, DTYPE, 100), frame(0), frame(2), SeriesEnd("a", superseded=True),
        SeriesStart("b", SHAPE, DTYPE, 4), frame(0, "b"), frame(1, "b"), SeriesEnd("b"),
    ]  # fmt: skip
    assert rows_of(run(events)) == [
        ("a", 0, "reduced"), ("a", 1, "LOST"), ("a", 2, "reduced"),
        ("b", 0, "reduced"), ("b", 1, "reduced"), ("b", 2, "LOST"), ("b", 3, "LOST"),
    ]  # fmt: skip


def test_a_broken_frame_before_its_series_has_one_row():
    broken = BrokenFrame(0, "a", "no pixels in it")
    late = SeriesStart("a", SHAPE, DTYPE, joined_late=True)
    assert rows_of(run([broken, broken, late, frame(1), broken, frame(2), END])) == [
        ("a", 0, "FAILED"), ("a", 1, "reduced"), ("a", 2, "reduced")
    ]  # fmt: skip
    nameless = BrokenFrame(-1, "a", "no number in it")
    assert rows_of(run([nameless, nameless, END])) == [("a", -1, "FAILED")] * 2


def test_a_frame_that_is_dropped_and_comes_again_has_one_row():
    gate = threading.Event()
    sink = Sink(on_row=lambda row: gate.wait(PATIENCE))
    numbers = [n for n in range(60) for _ in range(2)]
    sink = run([START, *(frame(n) for n in numbers), gate.set, END], sink=sink, ring_size=2, drop_after=0.01)
    assert {row.verdict for row in sink.rows} > {Verdict.DROPPED}
    assert sorted(sink.verdicts()) == list(range(60))


def test_memory_for_what_is_dropped_has_a_limit(monkeypatch):
    """When it is reached, the source is not read until somebody can be told."""
    monkeypatch.setattr("framesieve.processing.pipeline._MAX_DROPPED", 50)
    gate, read = threading.Event(), []
    sink = Sink(on_row=lambda row: gate.wait(PATIENCE))

    def counted():
        for number in range(500):
            read.append(number)
            yield frame(number)

    events = itertools.chain([START], counted(), [END])
    pipeline, sink = started(events, sink=sink, ring_size=2, drop_after=0.01)
    wait_for(lambda: len(pipeline._dropped) == 50)
    time.sleep(0.2)
    assert len(pipeline._dropped) <= 50 and len(read) < 300
    gate.set()
    assert pipeline.join(PATIENCE)
    assert_no_threads()
    assert sorted(sink.verdicts()) == list(range(500))


def test_a_series_that_was_stopped_long_before_its_end_is_told():
    """Too many to be lost; a few that are missing are."""
    sink = run([SeriesStart("a", SHAPE, DTYPE, 5000), *(frame(n) for n in range(3)), END])
    ((series_id, problem),) = [told for told in sink.told if isinstance(told, tuple)]
    assert series_id == "a" and "5000 frames were announced, the last one is 2" in problem
    assert sorted(sink.verdicts()) == [0, 1, 2]
    sink = run([SeriesStart("a", SHAPE, DTYPE, 6), *(frame(n) for n in range(3)), END])
    assert not any(isinstance(told, tuple) for told in sink.told) and len(sink.rows) == 6


def test_number_of_frames_counts_a_frame_once():
    numbers = [0, 1, 1, 2, 2, 2, 3, 4, 5, 6]
    sink = run([START, *(frame(n) for n in numbers), END], number_of_frames=5)
    assert [row.number for row in sink.rows] == [0, 1, 2, 3, 4]
