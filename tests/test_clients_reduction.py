"""The Python client, on the devices of a real server with an embedded database."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import tango
from framesieve.clients import (
    NotReachedError,
    Reduction,
    ReductionError,
    RunFailedError,
    UnknownNameError,
    WaitTimeoutError,
)
from framesieve.clients.counters import COUNTERS
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.errors import CommunicationError
from framesieve.processing.frames import Verdict
from integration_helpers import SHAPE, Sender, small_detector, small_images, wait_until
from sources_helpers import end, image, start

pytest_plugins = ["integration_fixtures"]


@pytest.fixture
def reduction(beamline) -> Reduction:
    return Reduction(f"tango://{beamline.database.host}/demo", timeout=20.0, patience=30.0)


@pytest.fixture
def ready(reduction, poni, tmp_path) -> Reduction:
    """With everything set that a run needs but the source."""
    reduction.set(geometry=str(poni), saving_directory=str(tmp_path), saving_overwrite_policy="overwrite")
    return reduction


def send_and_wait(sender: Sender, reduction: Reduction, images, frames: range) -> None:
    sender.send(*(image(n, images[n % len(images)]) for n in frames))
    wait_until(lambda: reduction.frame_count >= frames.stop, f"{frames.stop} frames reduced")


def rows_of_ledger(ledger: np.ndarray) -> np.ndarray:
    """The ledger as the counters should be."""
    rows = np.zeros(len(ledger), COUNTERS)
    for name in ("frame", "n_peaks", "n_pixels", "parameter_set", "monitor", "position_x", "position_y"):
        rows[name] = ledger[name]
    rows["verdict"] = [Verdict(verdict).name.lower() for verdict in ledger["verdict"]]
    return rows


def check_same(rows: np.ndarray, expected: np.ndarray) -> None:
    """Column by column, since NaN is the same as NaN there."""
    for name in COUNTERS.names:
        np.testing.assert_array_equal(rows[name], expected[name])


def test_changes_in_mid_run_hold_from_the_frame_that_the_ledger_names(ready):
    images = small_images(10, (40, 12))
    with Sender() as sender:
        ready.source = sender.url
        ready.start()
        sender.send(start(SHAPE, number_of_images=60))
        send_and_wait(sender, ready, images, range(0, 10))

        answers = []
        first_frames = (10, 30, 50)
        changes = ({"snr_pick": 2.5}, {"min_peaks": 30, "snr_peak": 6.0, "min_pixels": 9}, {"error_model": "poisson"})
        for first, values in zip(first_frames, changes, strict=True):
            # nobody sends while it is written, so that it must hold from the next frame on; then frames come
            later = threading.Timer(0.3, sender.send, [image(n, images[n % 10]) for n in range(first, first + 10)])
            change = ready.change(**values)
            assert change.poll() is None
            later.start()
            answers.append(change.wait(60.0))
            later.join()
            wait_until(lambda first=first: ready.frame_count >= first + 10, "frames")
            rest = range(first + 10, min(first + 20, 60))
            if rest:
                send_and_wait(sender, ready, images, rest)
        counters = ready.counters()
        sender.send(end())
        status = ready.wait(60.0)

    assert status.state == "STANDBY" and status.frame_count == 60
    assert [answer.first_frame for answer in answers] == list(first_frames)
    assert answers[1].values == {"min_peaks": 30, "snr_peak": 6.0, "min_pixels": 9}
    assert answers[2].values == {"error_model": "poisson"}
    with SparseFile(status.output_file) as file:
        check_same(counters, rows_of_ledger(file.ledger))
        sets = {row.parameter_set.number: row for row in file.parameter_sets}
        for answer in answers:
            assert sets[answer.parameter_set].first_frame == answer.first_frame
        values = [sets[answer.parameter_set].parameter_set.values for answer in answers]
        assert [v.snr_pick for v in values] == [2.5] * 3
        assert [(v.veto_min_peaks, v.snr_peak, v.min_pixels) for v in values] == [(0, 3.0, 4)] + [(30, 6.0, 9)] * 2
        assert [v.error_model.name for v in values] == ["azimuthal", "azimuthal", "poisson"]


def test_set_while_frames_flow(ready, beamline):
    """Somebody else turns another threshold all the time."""
    answers = []
    with small_detector(400, rate=100) as detector, ready.run(source=detector.url):
        wait_until(lambda: ready.frame_count > 5, "frames")
        for i in range(8):
            beamline.sparsifier.noise = 1.0 + i / 10
            answers.append(ready.set(snr_pick=2.0 + i / 4, timeout=60.0))
        ready.wait(60.0)
    with SparseFile(ready.output_file) as file:
        used = file.ledger["parameter_set"]
        picks = {row.parameter_set.number: row.parameter_set.values.snr_pick for row in file.parameter_sets}
        assert len(file.ledger) == 400
        for i, answer in enumerate(answers):
            assert answer.first_frame is not None, answer
            at = int(np.flatnonzero(file.ledger["frame"] == answer.first_frame)[0])
            assert picks[int(used[at])] == 2.0 + i / 4
            assert np.all(used[:at] < answer.parameter_set)


def test_changes_between_two_batches_come_into_force_together(ready, beamline):
    images = small_images(4)
    with Sender() as sender:
        ready.source = sender.url
        ready.start()
        sender.send(start(SHAPE, number_of_images=30))
        send_and_wait(sender, ready, images, range(0, 5))
        before = ready.parameter_set
        changes = [ready.change(snr_pick=2.5), ready.change(veto_max_peaks=500, min_peaks=30)]
        beamline.sparsifier.noise = 2.0  # by somebody else
        send_and_wait(sender, ready, images, range(5, 10))
        together = [change.wait(60.0) for change in changes]
        assert [(a.first_frame, a.parameter_set) for a in together] == [(5, before + 4)] * 2

        lost = ready.change(snr_pick=3.5, snr_peak=4.5)
        beamline.sparsifier.snr_pick = 4.0
        late = ready.change(min_peaks=31)
        send_and_wait(sender, ready, images, range(10, 15))
        beamline.veto.min_peaks = 32
        send_and_wait(sender, ready, images, range(15, 20))
        assert (late.wait(60.0).first_frame, late.parameter_set) == (10, before + 8)
        for _ in range(2):  # it is said as often as it is asked
            with pytest.raises(ReductionError, match=r"snr_pick = 3.5.* changed again before any frame") as caught:
                lost.poll()
            assert caught.value.reason == "CHANGED_BY_ANOTHER"

        again = ready.set(snr_peak=4.5, timeout=60.0)  # as it is already
        assert (again.first_frame, again.parameter_set) == (15, before + 9)
        without_frames = ready.set(what_if_min_peaks=7, timeout=1e6)
        assert without_frames.first_frame is None and "at once" in without_frames.note
        sender.send(end())
        ready.wait(60.0)
    with SparseFile(ready.output_file) as file:
        used = dict(zip(file.ledger["frame"].tolist(), file.ledger["parameter_set"].tolist(), strict=True))
        assert [used[frame] for frame in range(20)] == [before + k for k in (0, 4, 8, 9) for _ in range(5)]
        for row in file.parameter_sets:
            assert ready.parameters_of(row.parameter_set.number) == row.parameter_set.values.to_dict()
        values = {row.parameter_set.number: row.parameter_set.values for row in file.parameter_sets}[before + 4]
    assert (values.snr_pick, values.veto_min_peaks, values.veto_max_peaks, values.noise) == (2.5, 30, 500, 2.0)
    assert values.max_peaks == 2048  # of the peak finder
    with pytest.raises(ReductionError, match="parameter set 0: known are"):
        ready.parameters_of(0)


def test_a_change_that_holds_from_a_series_that_counts_from_zero_again(ready):
    images = small_images(4)
    with Sender() as sender:
        ready.source = sender.url
        ready.start()
        sender.send(start(SHAPE, number_of_images=2000, series=1))
        sender.send(*(image(n, images[n % 4], series=1) for n in range(1000, 1004)))
        wait_until(lambda: ready.frame_count == 4, "frames")
        change = ready.change(snr_pick=2.5)
        sender.send(start(SHAPE, number_of_images=20, series=2))
        sender.send(*(image(n, images[n % 4], series=2) for n in range(4)), end(2))
        assert change.wait(60.0).first_frame == 0
        ready.wait(60.0)


def test_while_nothing_runs_set_returns_at_once(reduction):
    before = reduction.parameter_set_in_force
    applied = reduction.set(snr_pick=2.25, timeout=1e6)
    assert (applied.parameter_set, applied.first_frame) == (before + 1, None)
    assert "nothing runs" in applied.note and "nothing runs" in str(applied)
    assert reduction.snr_pick == 2.25
    assert reduction.set(snr_pick=2.25).parameter_set == before + 1  # nothing has changed


def test_a_run_in_which_no_frame_comes_any_more(ready):
    images = small_images(2)
    with Sender() as sender:
        ready.source = sender.url
        ready.start()
        sender.send(start(SHAPE, number_of_images=2))
        send_and_wait(sender, ready, images, range(2))
        applied = ready.set(snr_pick=4.0, timeout=0.3)
        assert applied.first_frame is None and "no frame has come" in applied.note
        change = ready.change(snr_pick=5.0)
        sender.send(end())
        applied = change.wait(60.0)
        assert applied.first_frame is None and "the run is over" in applied.note


def test_names_are_checked(reduction):
    hints = {"snr_pik": "snr_pick", "max_peaks": "peakfinder_max_peaks or veto_max_peaks", "hit_rate": "read only"}
    for name, hint in hints.items():
        with pytest.raises(UnknownNameError, match=hint):
            reduction.set(snr_pick=7.0, **{name: 1})
        with pytest.raises(AttributeError, match=hint):
            setattr(reduction, name, 1)
    with pytest.raises(UnknownNameError, match="snr_pick"):
        _ = reduction.snr_pik
    assert reduction.snr_pick == 3.0  # nothing was written
    assert not hasattr(reduction, "nothing_like_it") and hasattr(reduction, "snr_pick")
    reduction.set(veto_max_peaks=99, peakfinder_max_peaks=1000)
    assert (reduction.veto_max_peaks, reduction.peakfinder_max_peaks) == (99, 1000)
    assert {"snr_pick", "veto_max_peaks", "hit_rate"} <= set(dir(reduction))
    assert reduction.describe("radius_max").unit == "mm"


def test_refused_values_change_nothing(reduction):
    with pytest.raises(ReductionError, match="snr_pick") as caught:
        reduction.set(noise=2.0, snr_pick=-1.0, min_peaks=30)
    assert caught.value.reason == "DATA_OUT_OF_RANGE"
    assert "-1" in caught.value.description and "0.0 to 1000.0" in caught.value.description
    assert (reduction.noise, reduction.snr_pick, reduction.min_peaks) == (1.0, 3.0, 0)
    for wrong in (2.5, "many", None, float("nan"), float("inf")):
        with pytest.raises(ReductionError, match="whole number"):
            reduction.min_peaks = wrong
    with pytest.raises(ReductionError, match="azimuthal, poisson, hybrid"):
        reduction.set(error_model="gaussian")
    with pytest.raises(ReductionError, match="snr_pick"):
        reduction.snr_pick = "two"
    with pytest.raises(ReductionError):
        reduction.min_peaks = -1
    with pytest.raises(ReductionError, match=r"/nowhere/at\.poni"):
        reduction.set(geometry="/nowhere/at.poni")
    reduction.min_peaks = 4.0  # whole, as motors have it
    assert reduction.min_peaks == 4


def test_a_value_that_somebody_else_changes_in_the_same_moment(reduction, beamline, monkeypatch):
    write = reduction._connection.write

    def write_and_lose(attribute, value):
        write(attribute, value)
        beamline.sparsifier.snr_pick = 9.0

    monkeypatch.setattr(reduction._connection, "write", write_and_lose)
    with pytest.raises(ReductionError, match=r"snr_pick = 2.5 was written, but it is 9.0 already") as caught:
        reduction.set(snr_pick=2.5)
    assert caught.value.reason == "CHANGED_BY_ANOTHER"


def test_values_that_are_right_together_only(reduction):
    reduction.set(min_pixels=30, patch_size=7)  # 30 do not fit into 5 × 5
    assert (reduction.min_pixels, reduction.patch_size) == (30, 7)
    reduction.set(patch_size=5, min_pixels=4)
    with pytest.raises(ReductionError, match="min_pixels"):
        reduction.set(patch_size=7, snr_peak=8.0, min_pixels=50)
    assert (reduction.min_pixels, reduction.patch_size, reduction.snr_peak) == (4, 5, 3.0)


def test_rows_are_handed_out_once(ready):
    images = small_images(10, (40, 12))
    for first in (0, 100):  # two runs
        numbers = [n for n in range(first, first + 60) if n % 20]
        numbers = [*numbers[:30], numbers[35], *numbers[30:35], *numbers[36:]]  # some are late
        handed_out = []
        with Sender() as sender:
            ready.source = sender.url
            ready.start()
            assert len(ready.counters(new=True)) == 0
            sender.send(start(SHAPE, number_of_images=first + 60))
            for i in range(0, len(numbers), 7):
                sender.send(*(image(n, images[n % 10]) for n in numbers[i : i + 7]))
                sent = min(i + 7, len(numbers))
                wait_until(lambda sent=sent: ready.frame_count >= sent, "frames")
                handed_out.append(ready.counters(new=True))
                assert len(ready.counters(new=True)) == 0
            sender.send(end())
            ready.wait(60.0)
        rows = np.concatenate(handed_out)
        assert rows["frame"].tolist() == numbers
        check_same(rows, ready.counters())
        assert ready.counters(first + 50)["frame"].tolist() == [n for n in numbers if n >= first + 50]


def test_rows_of_a_run_in_which_a_second_series_begins(ready):
    """Its numbers begin at 0 again, and both series are counted."""
    images = small_images(4)
    handed_out = []
    with Sender() as sender:
        ready.source = sender.url
        ready.start()
        for series in (1, 2):
            sender.send(start(SHAPE, number_of_images=20, series=series))
            for first in (0, 4):
                sender.send(*(image(n, images[n % 4], series=series) for n in range(first, first + 4)))
                total = 8 * (series - 1) + first + 4
                wait_until(lambda total=total: ready.frame_count >= total, "frames")
                handed_out.append(ready.counters(new=True)["frame"].tolist())
        sender.send(end(2))
        ready.wait(60.0)
    assert handed_out == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


def test_follow_hands_out_every_frame_of_a_run_that_somebody_else_started(ready, beamline):
    with small_detector(150, n_peaks=(40, 12), rate=200) as detector:
        ready.set(source=detector.url, min_peaks=20)
        beamline.acquisition.Start()
        rows = np.concatenate(list(ready.follow(timeout=60.0)))
    assert rows["frame"].tolist() == list(range(150))
    with SparseFile(ready.output_file) as file:
        check_same(rows, rows_of_ledger(file.ledger))
    assert set(rows["verdict"]) == {"kept", "vetoed"}
    # 40 and 12 are planted in turn; a few more or less are found
    assert np.array_equal(rows["verdict"] == "kept", np.arange(150) % 2 == 0)
    status = ready.status()
    assert (status.kept_count, status.vetoed_count) == (75, 75) and "frame_count       150" in str(status)
    with small_detector(20) as detector, ready.run(source=detector.url) as run:
        assert [int(row["frame"]) for row in run] == list(range(20))  # one by one, the new run's only


def test_pictures_and_curves_of_the_newest_frame(ready):
    [planted] = small_images(1, (30,))
    with small_detector(1) as detector, ready.run(source=detector.url):
        ready.wait(60.0)
    np.testing.assert_array_equal(ready.preview(), planted)  # small enough to be shown as it is
    peaks, curves = ready.peaks(), ready.curves()
    assert len(peaks) == ready.peak_count > 20
    assert np.all(peaks["snr"] > 3) and np.all((peaks["x"] >= 0) & (peaks["x"] < SHAPE[1]))
    assert np.all((peaks["y"] >= 0) & (peaks["y"] < SHAPE[0])) and peaks["y"].max() > SHAPE[1]
    for peak in peaks:  # where it says, the frame is bright: the background is 20
        x, y = round(float(peak["x"])), round(float(peak["y"]))
        assert planted[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max() > 40
    assert len(curves) == 100 and abs(np.nanmean(curves["mean"]) - 20) < 1 and curves["radius"][0] > 0


def test_what_a_block_does_at_its_end(ready):
    with small_detector(10_000, rate=100) as detector:
        with ready.run(source=detector.url):
            wait_until(lambda: ready.frame_count > 3, "frames")
        assert ready.state == "STANDBY" and 3 < ready.status().frame_count < 10_000
    with small_detector(10_000, rate=100) as detector:
        with pytest.raises(KeyError), ready.run(source=detector.url):
            wait_until(lambda: ready.frame_count > 3, "frames")
            raise KeyError
        assert ready.state == "STANDBY"
    with small_detector(10_000, rate=100) as detector, ready.run(source=detector.url):
        with pytest.raises(WaitTimeoutError, match="not over after"):
            ready.wait(0.2)
        with pytest.raises(ReductionError, match="Start") as caught:
            ready.start()
        assert caught.value.reason == "OPERATION_NOT_ALLOWED"
        with pytest.raises(ReductionError, match="Stop or Abort") as caught:
            ready.set(radial_bins=50)
        assert caught.value.reason == "OPERATION_NOT_ALLOWED"


def test_a_run_that_fails(ready):
    ready.source = "stream2://127.0.0.1:1"
    ready.start()
    with pytest.raises(RunFailedError, match=r"127\.0\.0\.1:1"):
        ready.wait(60.0)
    with pytest.raises(RunFailedError, match=r"127\.0\.0\.1:1"):
        list(ready.follow())
    ready.reset()
    assert ready.wait(60.0).state == "STANDBY"


def test_addresses(reduction, beamline):
    host = beamline.database.host
    for name in ("demo/framesieve/acquisition", "demo/framesieve/veto"):
        assert Reduction(f"tango://{host}/{name}").snr_pick == reduction.snr_pick
    with pytest.raises(ReductionError, match="nowhere/framesieve/acquisition"):
        Reduction(f"tango://{host}/nowhere", patience=0.5)
    for text in ("", "a/b", "a/b/c/d", "http://x/y"):
        with pytest.raises(ReductionError, match="accepted is a domain"):
            Reduction(text)
    with pytest.raises(ReductionError, match=r"has no acquisition.*is it FrameSieve"):
        Reduction(f"tango://{host}/sys/database/2")
    with pytest.raises(ConnectionError, match=r"not reached within 0.5 s"):
        Reduction("tango://127.0.0.1:1/demo/framesieve/veto#dbase=no", patience=0.5)


def test_who_knows_that_the_server_is_gone_need_not_wait():
    def check() -> None:
        raise CommunicationError("the server has ended; its last words")

    with pytest.raises(CommunicationError, match=r"^the server has ended; its last words$"):
        Reduction("tango://127.0.0.1:1/demo/framesieve/veto#dbase=no", patience=3600.0, check=check)


def test_a_restart_of_the_server_goes_unnoticed(house, poni, tmp_path):
    house.make_idle()
    house.reset_settings()
    reduction = Reduction(f"tango://{house.database.host}/demo", timeout=20.0, patience=60.0)
    reduction.set(snr_pick=2.75)
    house.server.kill()
    restarted = threading.Timer(1.5, house.server.start)
    restarted.start()
    assert reduction.snr_pick == 2.75  # waits, and the value is memorised
    restarted.join()
    house.connect()
    reduction.set(geometry=str(poni), saving_directory=str(tmp_path), min_peaks=0)
    with small_detector(5) as detector, reduction.run(source=detector.url):
        assert sum(len(rows) for rows in reduction.follow(timeout=60.0)) == 5
    house.server.close()
    impatient = 0.5
    reduction._connection.patience = impatient
    began = time.monotonic()
    with pytest.raises(NotReachedError, match=r"not reached within 0.5 s"):
        _ = reduction.snr_pick
    with pytest.raises(NotReachedError):
        reduction.start()
    assert time.monotonic() - began < 60
    house.server.start()
    house.connect()


def test_errors_of_tango_are_not_let_through(reduction, monkeypatch):
    for call in (lambda: reduction.set(snr_pick=-1), lambda: reduction._connection.command("NoSuchCommand")):
        with pytest.raises(ReductionError) as caught:
            call()
        assert not isinstance(caught.value, tango.DevFailed) and caught.value.description in str(caught.value)
