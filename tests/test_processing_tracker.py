"""Frame numbers: what is lost, late, twice; and the verdict on a frame."""

import random

import pytest
from framesieve.processing.frames import Verdict
from framesieve.processing.parameters import Parameters
from framesieve.processing.tracker import MAX_FAR, MAX_LISTED, MAX_MISSING_AT_END, PATIENCE, FrameTracker
from framesieve.processing.veto import is_hit, judge

CASES = {
    # name: (announced, joined late, numbers, refused numbers, lost at the end)
    "all there": (4, False, [0, 1, 2, 3], [], []),
    "counts from one": (4, False, [1, 2, 3, 4], [], []),
    "a gap": (5, False, [0, 3, 4], [], [1, 2]),
    "the first is missing": (3, False, [2], [], [0, 1]),
    "the end is missing": (6, False, [0, 1, 2], [], [3, 4, 5]),
    "the end is missing, counted from one": (4, False, [1, 2], [], [3, 4]),
    "late is not lost": (4, False, [0, 2, 1, 3], [], []),
    "twice": (3, False, [0, 1, 1, 2, 0], [1, 0], []),
    "negative": (2, False, [0, -1, 1], [-1], []),
    "a corrupt number": (None, False, [0, 60_000, 1, 2, 3], [], []),
    "a corrupt number comes again": (None, False, [0, 60_000, 60_000, 1], [60_000], []),
    "two corrupt numbers": (None, False, [0, 60_000, 2**62, 1, 3], [], [2]),
    "a large gap is believed when confirmed": (None, False, [0, 1000, 1002], [], [*range(1, 1000), 1001]),
    "a gap too large to be told": (None, False, [0, 2**40, 2**40 + 1], [], list(range(2**40 + 1 - MAX_LISTED, 2**40))),
    "stopped early": (MAX_MISSING_AT_END + 3, False, [0, 1], [], []),
    "announced 2**62": (2**62, False, [0, 1], [], []),
    "largest jump": (None, True, [5, 7], [], [6]),
    "joined late": (None, True, [70, 71, 73], [], [72]),
    "joined late, an older one comes later": (None, True, [70, 69, 71], [], []),
    "nothing announced": (None, False, [0, 1], [], []),
    "nothing came": (3, False, [], [], [0, 1, 2]),
    "the first arrives late, and twice": (4, False, [2, 0, 1, 0, 1, 3], [0, 1], []),
    "the second before the first": (4, False, [1, 0, 2, 3], [], []),
    "the second before the first, which comes twice": (4, False, [1, 0, 2, 0, 3], [0], []),
    "joined late, older ones come later, and twice": (None, True, [70, 66, 69, 66, 71, 70], [66, 70], [67, 68]),
    "joined late, the first number is corrupt": (None, True, [60_000, 3, 4, 6, 60_000, 3], [60_000, 3], [5]),
    "joined late, a later one is far too old": (None, True, [900, 901, 3, 902, 3], [3], []),
    "joined late, shuffled": (None, True, [5, 3, 0, 7, 1, 2, 6], [], [4]),
}


@pytest.mark.parametrize("case", CASES)
def test_numbers(case):
    announced, joined_late, numbers, refused, lost = CASES[case]
    tracker = FrameTracker(counts_lost=True)
    tracker.start_series(announced, joined_late=joined_late)
    assert [number for number in numbers if tracker.see(number)] == refused
    assert list(tracker.lost(at_end=True)) == lost
    assert list(tracker.lost(at_end=True)) == [], "each is told once"


FROM_ZERO = {
    "the first is missing": (4, False, [1, 2, 3], [], [0]),
    "the first is missing, nothing announced": (None, False, [1, 2, 3], [], [0]),
    "shuffled": (4, False, [1, 0, 3, 2], [], []),
    "joined late": (None, True, [1, 2], [], []),
    "joined late, announced": (6, True, [3, 4, 5], [], []),
    "joined late, announced, the end is missing": (6, True, [3, 4], [], [5]),
}


@pytest.mark.parametrize("case", FROM_ZERO)
def test_numbers_of_a_detector_that_is_known_to_count_from_zero(case):
    announced, joined_late, numbers, refused, lost = FROM_ZERO[case]
    tracker = FrameTracker(counts_lost=True, first_number=0)
    tracker.start_series(announced, joined_late=joined_late)
    assert [number for number in numbers if tracker.see(number)] == refused
    assert list(tracker.lost(at_end=True)) == lost


def test_a_detector_that_is_known_to_count_from_one():
    for numbers, lost in (([1, 2, 3], []), ([2, 3], [1]), ([1, 2], [3])):
        tracker = FrameTracker(counts_lost=True, first_number=1)
        tracker.start_series(3)
        assert [tracker.see(number) for number in numbers] == [""] * len(numbers)
        assert list(tracker.lost(at_end=True)) == lost


def test_numbers_that_make_no_sense_take_no_memory():
    tracker = FrameTracker(counts_lost=True)
    tracker.start_series(None)
    for number in range(20 * MAX_FAR):
        assert tracker.see((number * 7_919_317) % (1 << 40) + (1 << 40)) == ""
    assert len(tracker._far) <= MAX_FAR


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("joined_late", [False, True])
def test_any_order_within_patience_is_told_once(joined_late, seed):
    """A series with lost, late and duplicated frames: every number is taken or lost, once."""
    rng = random.Random(seed)
    count = 1500
    gone = set(rng.sample(range(count), 40))
    order = sorted((n for n in range(count) if n not in gone), key=lambda n: n + rng.uniform(0, 100))
    order = [n for n in order for _ in range(1 + (rng.random() < 0.1))]
    tracker = FrameTracker(counts_lost=True, first_number=0)
    tracker.start_series(None if joined_late else count, joined_late=joined_late)
    taken, lost = [], []
    for number in order:
        if not tracker.see(number):
            taken.append(number)
        lost += tracker.lost()
    lost += tracker.lost(at_end=True)
    assert sorted(taken) == [n for n in range(count) if n not in gone]
    # of a series that was joined late, nobody knows where it began and where it shall end
    edges = range(min(taken), max(taken)) if joined_late else range(count)
    assert sorted(lost) == sorted(gone.intersection(edges))


def test_patience():
    """A missing number is given up when so many later ones have come."""
    tracker = FrameTracker(counts_lost=True)
    tracker.start_series(None)
    tracker.see(0)
    for number in range(2, PATIENCE + 1):
        tracker.see(number)
        assert list(tracker.lost()) == [], number
    tracker.see(PATIENCE + 1)
    assert list(tracker.lost()) == [1]


def test_many_lost_frames_take_no_time_to_tell():
    tracker = FrameTracker(counts_lost=True)
    tracker.start_series(None)
    for number in (0, 90_000, 90_001):
        assert tracker.see(number) == ""
    assert sum(1 for _ in tracker.lost(at_end=True)) == 89_999


def test_too_late():
    tracker = FrameTracker(counts_lost=True)
    tracker.start_series(None)
    for number in [0, *range(2, PATIENCE + 2)]:
        tracker.see(number)
    assert list(tracker.lost()) == [1]
    assert "twice" in tracker.see(1)  # too late


def test_files_of_chosen_frames_lose_none():
    tracker = FrameTracker(counts_lost=False)
    tracker.start_series(100)
    assert [tracker.see(number) for number in (1, 3, 50)] == ["", "", ""]
    assert list(tracker.lost(at_end=True)) == []
    assert tracker.see(3) != ""


# ---- veto -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "n_peaks, low, high, hit",
    [
        (19, 20, 0, False),
        (20, 20, 0, True),
        (9999, 20, 0, True),
        (30, 20, 30, True),
        (31, 20, 30, False),
        (0, 0, 0, True),
    ],
)
def test_hits(n_peaks, low, high, hit):
    parameters = Parameters(veto_min_peaks=low, veto_max_peaks=high, control_fraction=0)
    assert is_hit(n_peaks, parameters) == hit
    verdict, reason = judge("s", 1, n_peaks, parameters)
    assert verdict == (Verdict.KEPT if hit else Verdict.VETOED)
    assert (reason == "") == hit
    verdict, reason = judge("s", 1, n_peaks, parameters.replace(veto_enabled=False))
    assert verdict == Verdict.KEPT and (reason == "") == hit


@pytest.mark.parametrize("percent", [0, 1, 10, 50, 100])
def test_control_samples_are_the_given_share_and_always_the_same(percent):
    parameters = Parameters(control_fraction=percent)
    verdicts = [judge("series", number, 0, parameters)[0] for number in range(5000)]
    assert set(verdicts) <= {Verdict.CONTROL, Verdict.VETOED}
    count = verdicts.count(Verdict.CONTROL)
    spread = 4 * (5000 * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(count - 50 * percent) <= spread
    assert verdicts == [judge("series", number, 0, parameters)[0] for number in range(5000)]
    if 0 < percent < 100:
        assert verdicts != [judge("another", number, 0, parameters)[0] for number in range(5000)]


def test_control_samples_of_a_smaller_share_are_among_those_of_a_larger():
    small, large = (
        {n for n in range(3000) if judge("s", n, 0, Parameters(control_fraction=f))[0] == Verdict.CONTROL}
        for f in (5, 20)
    )
    assert small < large
