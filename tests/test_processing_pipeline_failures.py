"""The pipeline where something goes wrong: a frame, the numbers of frames, a device, the source, the sink."""

import numpy as np
import pytest
from framesieve.processing.errors import ConfigurationError, HardwareError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart, Verdict
from pipeline_helpers import (
    DTYPE,
    END,
    SHAPE,
    START,
    Broken,
    Moody,
    Sink,
    assert_result,
    frame,
    image,
    reduced,
    run,
    script,
)


class Odd(Broken):
    error = ZeroDivisionError("a bug")


# ---- what goes wrong with a frame -----------------------------------------------------------------------------------


def other(pixels) -> Frame:
    return frame(3, pixels=pixels)


WRONG = {
    "broken message": (BrokenFrame(3, "a", "no pixels in it"), "no pixels in it"),
    "cannot be decoded": (Frame(3, "a", Broken(image(3))), "cut short"),
    "a bug in a decoder": (Frame(3, "a", Odd(image(3))), "a bug"),
    "wrong shape": (other(np.zeros((40, 51), DTYPE)), "40 × 51"),
    "wrong type": (other(np.zeros(SHAPE, np.uint32)), "uint32"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("place", [1, 3, 5])
def test_a_wrong_frame_costs_itself_only(case, place):
    wrong, words = WRONG[case]
    events = script([n for n in range(8) if n != 3])
    events.insert(place + 1, wrong)
    sink = run(events)
    assert sink.verdicts()[3] == Verdict.FAILED
    (row,) = (row for row in sink.rows if row.number == 3)
    assert words in row.reason and row.n_pixels == 0 and row.parameter_set == 0
    others = [row for row in sink.rows if row.number != 3]
    assert [row.number for row in others] == [0, 1, 2, 4, 5, 6, 7]
    for row in others:
        assert_result(row, reduced(row.number))


def test_broken_message_without_a_number():
    sink = run([START, frame(0), BrokenFrame(-1, "a", "not CBOR"), frame(1), END])
    assert [(row.number, row.verdict == Verdict.FAILED) for row in sink.rows] == [(0, False), (-1, True), (1, False)]


def test_a_number_that_comes_broken_again_is_in_the_ledger_once():
    broken = BrokenFrame(1, "a", "cut short")
    sink = run([START, frame(0), broken, broken, frame(1), BrokenFrame(0, "a", "cut short"), frame(2), END])
    assert [(row.number, row.verdict == Verdict.FAILED) for row in sink.rows] == [(0, False), (1, True), (2, False)]


NUMBERS = {
    # name: (announced, numbers as they come, verdict LOST, numbers with a result)
    "lost": (8, [0, 1, 4, 7], [2, 3, 5, 6], [0, 1, 4, 7]),
    "lost at the end": (6, [0, 1, 2], [3, 4, 5], [0, 1, 2]),
    "late": (5, [0, 2, 3, 1, 4], [], [0, 1, 2, 3, 4]),
    "twice": (4, [0, 1, 1, 2, 2, 0, 3], [], [0, 1, 2, 3]),
    "negative": (3, [0, -5, 1, 2], [], [0, 1, 2]),
    "from one": (4, [1, 2, 3, 4], [], [1, 2, 3, 4]),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_frame_numbers(case):
    announced, numbers, lost, there = NUMBERS[case]
    pixels = image(1)
    events = [SeriesStart("a", SHAPE, DTYPE, announced), *(frame(n, pixels=pixels) for n in numbers), END]
    verdicts = run(events).verdicts()
    assert sorted(n for n, verdict in verdicts.items() if verdict == Verdict.LOST) == lost
    assert sorted(n for n, verdict in verdicts.items() if verdict == Verdict.KEPT) == there
    # a file of chosen frames loses none
    assert Verdict.LOST not in run(events, live=False).verdicts().values()


def test_two_series_count_by_themselves():
    sink = run([START, *(frame(n) for n in (0, 2)), SeriesStart("b", SHAPE, DTYPE), *(frame(n, "b") for n in (0, 1)),
                SeriesEnd("b")])  # fmt: skip
    assert [(row.series_id, row.number, row.verdict == Verdict.LOST) for row in sink.rows] == [
        ("a", 0, False), ("a", 2, False), ("a", 1, True), ("b", 0, False), ("b", 1, False)
    ]  # fmt: skip


@pytest.mark.parametrize("error", [HardwareError("no answer"), ValueError("a bug")], ids=str)
def test_the_device_fails_on_one_frame_of_a_batch(error):
    poisoned = image(5)
    poisoned[0, 0] = 9999
    moody = Moody(9999, error)
    events = [START, *(frame(n, pixels=poisoned if n == 5 else None) for n in range(12)), END]
    sink = run(events, make=lambda *_: [moody])
    assert sorted(n for n, v in sink.verdicts().items() if v == Verdict.FAILED) == [5]
    assert [row.number for row in sink.rows] == list(range(12))
    for row in sink.rows:
        if row.number == 5:
            assert str(error) in row.reason and row.index is None
        else:
            assert_result(row, reduced(row.number))


def test_a_device_that_fails_always_ends_the_run():
    sink = run(script(range(200)), make=lambda *_: [Moody(None, HardwareError("gone"))], expect_error=HardwareError)
    assert "gone" in str(sink.error)
    assert all(row.verdict in (Verdict.FAILED, Verdict.DROPPED) for row in sink.rows)


def test_a_geometry_that_does_not_fit_ends_the_run():
    def refuse(start):
        raise ConfigurationError(f"the mask does not have the shape {start.shape}")

    sink = run(script(range(100)), make=refuse, expect_error=ConfigurationError)
    assert "(40, 50)" in str(sink.error)


@pytest.mark.parametrize("ring_size", [1, 4, 32])
def test_a_sink_that_fails_ends_the_run(ring_size):
    def fail(row):
        if row.number >= 5:
            raise OSError("no space left on device")

    sink = run(
        script(range(300)), sink=Sink(on_row=fail), expect_error=OSError, ring_size=ring_size, live=False
    )  # fmt: skip
    assert [row.number for row in sink.rows] == [0, 1, 2, 3, 4]


def test_a_source_that_fails_ends_the_run():
    def fail():
        raise OSError("the cable is out")

    run([START, frame(0), fail], expect_error=OSError)
