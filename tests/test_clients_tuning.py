"""What the macros compute, without any server: thresholds, maps, the frames of an acquisition."""

from __future__ import annotations

import json

import numpy as np
import pytest
from framesieve.clients import NotReachedError, ReductionError
from framesieve.clients.counters import COUNTERS, RING, Follower
from framesieve.clients.raster_map import map_of_positions, raster_map, write_png
from framesieve.clients.sardana import ELEMENTS
from framesieve.clients.sardana.window import Window
from framesieve.clients.tuning import propose_threshold
from PIL import Image


def rows(frames, n_peaks=10, verdict="kept", parameter_set=3, n_pixels=100) -> np.ndarray:
    made = np.zeros(len(frames), COUNTERS)
    made["frame"] = frames
    made["n_peaks"], made["verdict"], made["parameter_set"], made["n_pixels"] = (
        n_peaks,
        verdict,
        parameter_set,
        n_pixels,
    )
    return made


# ---- a threshold for the veto --------------------------------------------------------------------------------


def histogram(counts: np.ndarray) -> np.ndarray:
    return np.bincount(counts, minlength=1001)


def separation_by_trying(counts: np.ndarray) -> tuple[int, float]:
    """Each threshold in turn, with the variances of the groups themselves."""
    x = np.log1p(counts)
    best = max(
        (
            1
            - (np.var(x[counts < t]) * np.mean(counts < t) + np.var(x[counts >= t]) * np.mean(counts >= t)) / np.var(x),
            -t,
        )
        for t in np.unique(counts)[1:]
    )
    return -best[1], best[0]


@pytest.mark.parametrize("seed", range(5))
def test_two_groups_are_parted_in_the_middle(seed):
    rng = np.random.default_rng(seed)
    counts = np.concatenate([rng.poisson(2, 700), rng.poisson(60, 300)])
    found = propose_threshold(histogram(counts))
    first, separation = separation_by_trying(counts)  # lowest count of the upper group
    last = counts[counts < first].max()
    assert last < found.min_peaks <= first
    assert found.separation == pytest.approx(separation)
    assert found.hits == pytest.approx(100 * np.mean(counts >= first))
    middle = np.sqrt((1 + last) * (1 + first)) - 1
    assert abs(found.min_peaks - middle) <= 1


def test_neighbouring_groups():
    found = propose_threshold(histogram(np.repeat([3, 4], 50)))
    assert (found.min_peaks, found.hits, found.separation) == (4, 50.0, pytest.approx(1.0))


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros(0, int),
        np.zeros(1000, int),  # no crystal at all
        np.full(1000, 40),
        np.repeat([0, 50], 9),  # too few frames
        np.random.default_rng(1).poisson(50, 5000),  # crystals everywhere
        np.rint(np.expm1(np.random.default_rng(2).normal(4, 0.5, 5000))).astype(int),
    ],
    ids=["nothing", "blank", "equal", "few", "one group", "one wide group"],
)
def test_no_proposal_without_two_groups(counts):
    assert propose_threshold(histogram(counts)) is None


# ---- a map ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("snake", [False, True])
def test_every_frame_is_at_its_position(snake):
    counters = rows([4, 3, 9, 14, 2, 15, 5], [40, 30, 90, 140, 20, 150, 50])  # late ones, and some of another scan
    found = raster_map(counters, 3, 4, first_frame=3, snake=snake)
    expected = np.full((3, 4), np.nan)
    for number, peaks in ((3, 30), (4, 40), (5, 50), (9, 90), (14, 140)):
        row, column = divmod(number - 3, 4)
        expected[row, 3 - column if snake and row == 1 else column] = peaks
    np.testing.assert_array_equal(found, expected)


SCAN = [(0.5 * column, -2.0 + 0.1 * row) for row in range(3) for column in range(5)]  # x, y; three rows of five


def positioned(places, n_peaks) -> np.ndarray:
    counters = rows(range(len(places)), n_peaks)
    counters["position_x"], counters["position_y"] = np.array(places, float).T
    return counters


@pytest.mark.parametrize("scatter", [0.0, 0.004])  # of an encoder; steps are 0.5 and 0.1
@pytest.mark.parametrize("size", [(0, 0), (3, 5)])
def test_frames_are_where_the_source_says(scatter, size):
    rng = np.random.default_rng(1)
    peaks = np.arange(10, 25)
    places = np.array(SCAN) + rng.uniform(-scatter, scatter, (15, 2))
    order = rng.permutation(15)
    found = map_of_positions(positioned(places[order], peaks[order]), *size)
    np.testing.assert_array_equal(found, peaks.reshape(3, 5))


def test_a_scan_that_is_not_over_yet_is_not_stretched():
    peaks = np.arange(10, 25)
    expected = np.full((3, 5), np.nan)
    expected.reshape(-1)[:7] = peaks[:7]
    np.testing.assert_array_equal(map_of_positions(positioned(SCAN[:7], peaks[:7]), 3, 5), expected)
    np.testing.assert_array_equal(map_of_positions(positioned(SCAN[:7], peaks[:7])), expected[:2])
    np.testing.assert_array_equal(map_of_positions(positioned(SCAN[:1], peaks[:1]), 3, 5)[0, 0], 10)


@pytest.mark.parametrize("scatter", [0.0, 0.005, 0.02, 0.08])
@pytest.mark.parametrize("size", [(0, 0), (30, 20)])
def test_an_encoder_scatters(scatter, size):
    rng = np.random.default_rng(7)
    y, x = np.divmod(np.arange(600), 20)
    places = np.stack([x, y], axis=1) + rng.uniform(-scatter, scatter, (600, 2))
    peaks = np.arange(600.0)
    np.testing.assert_array_equal(map_of_positions(positioned(0.02 * places, peaks), *size), peaks.reshape(30, 20))
    if size[0]:
        expected = np.append(peaks[:280], np.full(320, np.nan)).reshape(30, 20)
        half = positioned(0.02 * places[:280], peaks[:280])
        np.testing.assert_array_equal(map_of_positions(half, *size), expected)


@pytest.mark.parametrize("size", [(0, 0), (20, 20)])
def test_lines_that_are_missing_stay_empty(size):
    y, x = np.divmod(np.arange(400), 20)
    there = (y < 5) | (y > 7)
    expected = np.where(there, np.arange(400.0), np.nan).reshape(20, 20)
    found = map_of_positions(positioned(np.stack([x, y], axis=1)[there], np.arange(400.0)[there]), *size)
    np.testing.assert_array_equal(found, expected)


def test_several_frames_at_a_position_and_frames_without_one():
    counters = positioned([(0, 0), (1, 0), (0, 0), (np.nan, np.nan)], [3, 5, 4, 99])
    np.testing.assert_array_equal(map_of_positions(counters), [[4, 5]])
    assert map_of_positions(positioned([(np.nan, np.nan)], [1]), 3, 5) is None
    assert map_of_positions(counters[:0], 3, 5) is None


def test_a_motor_that_does_not_stop_needs_the_number_of_positions():
    x = np.random.default_rng(1).uniform(0, 10, 5000)
    counters = positioned(np.stack([x, 0 * x], axis=1), np.full(5000, 7))
    assert np.array_equal(map_of_positions(counters, 1, 11), np.full((1, 11), 7))
    with pytest.raises(ReductionError, match="10000 positions"):
        map_of_positions(positioned([(0, 0), (1, 0), (1e5, 0)], 1), 0, 20_000)


def test_maps_that_cannot_be_made(tmp_path):
    for shape in ((0, 5), (5, -1), (101, 100)):
        with pytest.raises(ReductionError, match="10000 positions"):
            raster_map(rows([0]), *shape)
    with pytest.raises(ReductionError, match=r"nowhere/a\.png: cannot be written \(No such file or directory\)"):
        write_png(tmp_path / "nowhere" / "a.png", np.zeros((2, 2)))


def test_pictures(tmp_path):
    image = np.array([[0.0, 50.0, np.nan], [100.0, 25.0, 75.0]])
    write_png(tmp_path / "map.png", image)
    with Image.open(tmp_path / "map.png") as png:
        pixels = np.asarray(png.convert("RGB"))
    assert pixels.shape == (2 * 133, 3 * 133, 3)
    for row, column in np.ndindex(image.shape):
        block = pixels[row * 133 : (row + 1) * 133, column * 133 : (column + 1) * 133]
        value = image[row, column]
        colour = [90, 30, 30] if np.isnan(value) else [int(255 * value / 100)] * 3
        assert np.all(block == colour), (row, column)
    write_png(tmp_path / "empty.png", np.full((1, 500), np.nan))
    write_png(tmp_path / "black.png", np.zeros((1, 500)))
    with Image.open(tmp_path / "black.png") as png:
        assert png.size == (500, 1) and np.all(np.asarray(png) == 0)


# ---- the frames of an acquisition ----------------------------------------------------------------------------


class Detector:
    """Hands out what a test puts in; the time is what the test says."""

    def __init__(self) -> None:
        self.waiting: list[np.ndarray] = []
        self.now = 100.0
        self.running, self.is_lost, self.fault = True, False, ""
        self.window = Window(self._take, lambda: self.running, lambda: self.now, lambda: self.fault)

    def _take(self) -> np.ndarray:
        if self.is_lost:
            raise NotReachedError("CORBA", "nobody answers")
        taken, self.waiting = self.waiting, []
        return np.concatenate([np.zeros(0, COUNTERS), *taken])

    def counts(self) -> dict[str, float]:
        return {name.removeprefix("fs_"): self.window.count(name) for name in ELEMENTS["FrameSieveCounters"]}


def test_an_acquisition_of_some_seconds():
    detector = Detector()
    detector.waiting.append(rows([0, 1, 2]))  # before it
    detector.window.open(1.0)
    assert detector.counts() == {
        "time": 0.0, "frames": 0, "kept": 0, "vetoed": 0, "control": 0, "peaks": 0, "pixels": 0,
        "first_frame": -1, "last_frame": -1, "parameter_set": 0,
    }  # fmt: skip
    detector.waiting.append(rows([4, 3, 5], [40, 3, 41], ["kept", "vetoed", "kept"]))
    detector.now += 0.5
    assert detector.window.update()
    assert detector.counts()["frames"] == 3
    detector.waiting.append(rows([6, 7], [1, 2], ["control", "vetoed"], 4, 50))
    detector.now += 0.625
    assert not detector.window.update()
    final = {
        "time": 1.125, "frames": 5, "kept": 3, "vetoed": 2, "control": 1, "peaks": 87, "pixels": 400,
        "first_frame": 3, "last_frame": 7, "parameter_set": 4,
    }  # fmt: skip
    assert detector.counts() == final
    detector.waiting.append(rows([8]))  # too late
    detector.now += 1
    assert not detector.window.update()
    assert detector.counts() == final


def test_an_acquisition_of_some_frames():
    detector = Detector()
    detector.window.open(-4)
    detector.now += 1000
    assert detector.window.update()
    detector.waiting.append(rows([0, 1, 2]))
    detector.now += 0.1
    assert detector.window.update()
    detector.waiting.append(rows([3, 4, 5]))
    detector.now += 0.1
    assert not detector.window.update()
    assert (detector.counts()["frames"], detector.counts()["last_frame"]) == (4, 3)


def test_an_acquisition_of_more_frames_than_come():
    detector = Detector()
    detector.window.open(-100)
    detector.waiting.append(rows([0, 1, 2]))
    detector.running = False
    detector.now += 0.1
    assert not detector.window.update()
    assert detector.counts()["frames"] == 3


def test_an_acquisition_that_is_aborted():
    detector = Detector()
    detector.window.open(10.0)
    detector.waiting.append(rows([0, 1]))
    detector.now += 0.25
    detector.window.close()
    assert (detector.counts()["frames"], detector.counts()["time"]) == (2, 0.25)
    assert not detector.window.update()


@pytest.mark.parametrize("value", [0.3, -100])
def test_an_acquisition_whose_devices_are_lost_is_none(value):
    detector = Detector()
    detector.window.open(value)
    detector.is_lost = True
    detector.now += 1.0
    assert not detector.window.update()
    assert detector.window.failure.startswith("nobody answers")
    detector.is_lost = False
    detector.window.open(0.3)
    assert detector.window.failure == "" and detector.window.update()
    detector.is_lost = True
    detector.window.close()  # Ctrl-C is not held up
    assert not detector.window.is_open


def test_an_acquisition_in_fault_is_none():
    detector = Detector()
    detector.window.open(-100)
    detector.running, detector.fault = False, "the disk is full"
    detector.now += 1.0
    assert not detector.window.update()
    assert detector.window.failure == "the run has ended in FAULT: the disk is full"
    with pytest.raises(RuntimeError, match="FAULT: the disk is full"):
        detector.window.open(1.0)
    assert not detector.window.is_open


# ---- following the counters ----------------------------------------------------------------------------------


class Ring:
    """The last 10 000 rows, as the device has them; stands in for a connection to it."""

    def __init__(self) -> None:
        self.series, self.rows = "1", np.zeros(0, COUNTERS)

    def add(self, series, frames) -> None:
        self.series, self.rows = series, np.concatenate([self.rows, rows(frames)])

    def read_several(self, device, names):
        return [
            {"series_id": self.series, "output_file": "a.h5", "frame_count": len(self.rows)}[name] for name in names
        ]

    def command(self, name, from_frame):
        shown = self.rows[-RING:]
        shown = shown[shown["frame"] >= from_frame]
        return "json", json.dumps({name: shown[name].tolist() for name in COUNTERS.names})


@pytest.mark.parametrize("series", [("1",), ("1", "2", "3")])
def test_rows_are_handed_out_once_however_many_there_are(series):
    ring, rng = Ring(), np.random.default_rng(1)
    follower, handed_out = Follower(ring), []
    for name in series:
        numbers = np.arange(12_000)
        numbers = numbers[np.argsort(numbers + rng.integers(0, 250, len(numbers)), kind="stable")]  # some are late
        for part in np.array_split(numbers, 9):
            ring.add(name, part)
            handed_out.append(follower.new_rows())
            assert len(follower.new_rows()) == 0
    np.testing.assert_array_equal(np.concatenate(handed_out), ring.rows)
