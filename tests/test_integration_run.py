"""The life of a run, through Tango: states, commands, counters, and files that say the same."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.misbehaviour import Misbehaviour
from integration_helpers import (
    FAULT,
    INIT,
    ON,
    RUNNING,
    SHAPE,
    STANDBY,
    Detector,
    Images,
    Sender,
    check_ledger,
    refused,
    small_detector,
    small_images,
)
from smx_reader import read_smx
from sources_helpers import end, image, start

pytest_plugins = ["integration_fixtures"]


@pytest.fixture
def ready(beamline, poni, tmp_path):
    """All is set but the source."""
    beamline.set(geometry=str(poni), saving_directory=str(tmp_path), saving_prefix="run")
    return beamline


def test_prepare_start_and_the_end_of_the_series(ready):
    with Sender() as sender:
        ready.set(source=sender.url)
        ready.acquisition.Prepare()
        assert ready.state in (INIT, ON)
        ready.wait_for(ON)
        assert ready.output.is_file()
        ready.acquisition.Start()
        assert ready.state == RUNNING
        with refused("OPERATION_NOT_ALLOWED", "Start", "RUNNING"):
            ready.acquisition.Start()
        with refused("OPERATION_NOT_ALLOWED", "Prepare", "RUNNING"):
            ready.acquisition.Prepare()
        with refused("OPERATION_NOT_ALLOWED", "Reset", "RUNNING"):
            ready.acquisition.Reset()
        images = small_images(6)
        sender.send(start(SHAPE, number_of_images=6))
        sender.send(*(image(i, pixels) for i, pixels in enumerate(images[:4])))
        ready.wait_for_frames(4)
        assert ready.state == RUNNING
        sender.send(*(image(i, images[i]) for i in (4, 5)), end())
        ready.wait_for_end()
    assert ready.acquisition.saving_next_number == 1
    assert ready.acquisition.last_frame_number == 5
    assert ready.acquisition.series_id == "unique-1"
    assert "6 frames reduced" in ready.acquisition.status()
    with SparseFile(ready.output) as file:
        assert len(file) == 6
        check_ledger(file.ledger, ready.counters)


def test_what_is_prepared_can_be_given_up(ready, tmp_path):
    with Sender() as sender:
        ready.set(source=sender.url)
        ready.acquisition.Prepare()
        ready.wait_for(ON)
        ready.acquisition.Stop()
        ready.wait_for_end()
        assert list(tmp_path.glob("run_*")) == []
        # a changed setting takes the preparation back too
        ready.acquisition.Prepare()
        ready.wait_for(ON)
        ready.set(saving_prefix="other")
        assert ready.state == STANDBY
        assert list(tmp_path.glob("*.h5")) == []
    assert ready.acquisition.saving_next_number == 0
    ready.acquisition.Stop()  # a redundant one
    assert ready.state == STANDBY


def test_stop_in_mid_run_saves_what_has_arrived(ready):
    with Sender() as sender:
        ready.set(source=sender.url)
        ready.acquisition.Start()
        images = small_images(4)
        sender.send(start(SHAPE, number_of_images=1000))
        sender.send(*(image(i, images[i % 4]) for i in range(40)))
        ready.wait_for_frames(40)
        ready.acquisition.Stop()
        ready.acquisition.Stop()
        ready.wait_for_end()
    # the other 960 were never sent while the run was on: they are not lost
    assert ready.counters == {"frame_count": 40, "frames_lost": 0, "frames_dropped": 0, "frames_failed": 0}
    with SparseFile(ready.output) as file:
        assert file.ledger["frame"].tolist() == list(range(40))
        assert len(file) == 40


def test_stop_while_frames_flow(ready, poni, tmp_path):
    with small_detector(100_000, rate=200) as detector:
        ready.set(source=detector.url)
        ready.acquisition.Start()
        ready.wait_for_frames(20)
        before = ready.acquisition.frame_count
        ready.acquisition.Stop()
        ready.wait_for_end()
    counters = ready.counters
    assert counters["frame_count"] >= before
    assert (counters["frames_lost"], counters["frames_dropped"], counters["frames_failed"]) == (0, 0, 0)
    with SparseFile(ready.output) as file:
        check_ledger(file.ledger, counters)
        assert file.ledger["frame"].tolist() == list(range(counters["frame_count"]))
    ready.good_run(tmp_path, poni)


def test_abort_in_mid_run_leaves_a_valid_file(ready, poni, tmp_path):
    with small_detector(100_000, rate=200) as detector:
        ready.set(source=detector.url)
        ready.acquisition.Start()
        ready.wait_for_frames(20)
        ready.acquisition.Abort()
        ready.wait_for_end()
    with h5py.File(ready.output) as file:
        assert file["/entry_0000/sparse_frames/frame_ptr"].size > 20
    with SparseFile(ready.output) as file:
        check_ledger(file.ledger, ready.counters)
        assert len(file) >= 20
    assert ready.acquisition.saving_next_number == 1
    ready.good_run(tmp_path, poni)


def test_abort_while_preparing_and_without_a_run(ready):
    ready.acquisition.Abort()
    assert ready.state == STANDBY
    with Sender() as sender:
        ready.set(source=sender.url)
        ready.acquisition.Prepare()
        ready.acquisition.Abort()
        ready.wait_for_end()


def test_number_of_frames(ready):
    with small_detector(50) as detector:
        ready.set(number_of_frames=7)
        ready.run(detector.url)
    assert ready.counters == {"frame_count": 7, "frames_lost": 0, "frames_dropped": 0, "frames_failed": 0}
    with SparseFile(ready.output) as file:
        assert file.ledger["frame"].tolist() == list(range(7))


def test_numbers_of_files_count_up(ready, tmp_path):
    ready.set(saving_next_number=41)
    names = []
    for _ in range(3):
        with small_detector(3) as detector:
            names.append(ready.run(detector.url).name)
    assert names == ["run_0041.h5", "run_0042.h5", "run_0043.h5"]
    assert ready.acquisition.saving_next_number == 44
    assert sorted(path.name for path in tmp_path.glob("*")) == names


def test_lost_and_broken_frames_are_in_the_ledger(ready):
    with small_detector(40, misbehaviour=Misbehaviour.parse("lost=5,6,20,38,39 corrupt=9,10")) as detector:
        path = ready.run(detector.url)
    assert ready.counters == {"frame_count": 33, "frames_lost": 5, "frames_dropped": 0, "frames_failed": 2}
    assert "frame 10" in ready.acquisition.last_error
    with SparseFile(path) as file:
        ledger = np.sort(file.ledger, order="frame")
        check_ledger(file.ledger, ready.counters)
    assert ledger["frame"].tolist() == list(range(40))
    assert np.flatnonzero(ledger["verdict"] == Verdict.LOST).tolist() == [5, 6, 20, 38, 39]
    assert np.flatnonzero(ledger["verdict"] == Verdict.FAILED).tolist() == [9, 10]
    assert all(ledger["reason"][[9, 10, 5]])


def test_hits_and_statistics(ready):
    """Two frames of three have peaks; what the devices say must be what was planted and what is in the file."""
    planted = (40, 0, 25)
    images = small_images(60, planted)
    ready.set("veto", min_peaks=20)
    ready.set("veto", what_if_min_peaks=33)
    with Detector(Images(images)) as detector:
        path = ready.run(detector.url)
    truth = [planted[i % 3] for i in range(60)]
    veto, peakfinder, acquisition = ready.veto, ready.peakfinder, ready.acquisition
    assert veto.hit_rate == pytest.approx(100 * 2 / 3)
    assert (veto.kept_count, veto.vetoed_count, veto.control_count) == (40, 20, 0)
    assert veto.kept_count + veto.vetoed_count == ready.acquisition.frame_count
    assert veto.what_if_kept_fraction == pytest.approx(100 / 3)
    assert 0 < veto.saved_fraction < 100

    history = peakfinder.peak_count_history.tolist()
    assert history == truth
    histogram = veto.peak_count_histogram
    assert len(histogram) == 1001 and (histogram[0], histogram[25], histogram[40], histogram.sum()) == (20, 20, 20, 60)
    counters = ready.read_counters()
    assert counters["frame"] == list(range(60))
    assert counters["n_peaks"] == history
    assert counters["verdict"] == ["kept" if n else "vetoed" for n in truth]
    assert ready.read_counters(57)["frame"] == [57, 58, 59]
    assert ready.read_counters(1000)["frame"] == []

    with SparseFile(path) as file:
        check_ledger(file.ledger, ready.counters)
        assert file.ledger["n_peaks"].tolist() == history
        assert file.ledger["n_pixels"].tolist() == counters["n_pixels"]
        assert file.ledger["parameter_set"].tolist() == counters["parameter_set"]
        last = file.frame(len(file) - 1)
        assert last.number == 59
        assert np.array_equal(peakfinder.last_peaks, last.peaks[:, :6])
        assert peakfinder.peak_count == 25
        assert ready.sparsifier.pixels_picked == last.n_pixels
        assert np.array_equal(ready.sparsifier.background_mean, last.background_mean)
        assert np.allclose(ready.sparsifier.radius, file.radius * 1e3)
        assert acquisition.parameter_set == last.parameter_set
        newest = read_smx(ready.sparsifier.last_sparse_frame)
        assert (newest["height"], newest["width"], newest["frame"]) == (*SHAPE, 59)
        assert (newest["index"], newest["intensity"]) == (last.index.tolist(), last.intensity.tolist())
        assert np.array_equal(newest["mean"], last.background_mean, equal_nan=True)
        assert np.array_equal(newest["std"], last.background_std, equal_nan=True)
        masked = json.loads(acquisition.mask_info)["masked_pixels"]
        assert masked == file.h5["entry_0000/geometry/mask"][()].sum()
    assert acquisition.kernel_time > 0 and acquisition.download_time > 0 and acquisition.upload_time >= 0
    assert 0 <= acquisition.device_utilisation <= 100
    assert ready.acquisition.preview.shape == SHAPE
    assert ready.sparsifier.compression_ratio_raw > ready.sparsifier.compression_ratio > 0


def test_control_sample_and_veto_off(ready):
    ready.set("veto", min_peaks=20, control_fraction=30)
    with small_detector(200, n_peaks=(0,), distinct=2) as detector:
        path = ready.run(detector.url)
    control = ready.veto.control_count
    assert 0 < control < 200
    assert (ready.veto.kept_count, ready.veto.vetoed_count) == (control, 200 - control)
    with SparseFile(path) as file:
        check_ledger(file.ledger, ready.counters)
        assert len(file) == control == int((file.ledger["verdict"] == Verdict.CONTROL).sum())
    ready.set("veto", enabled=False)
    with small_detector(20, n_peaks=(0,), distinct=2) as detector:
        ready.run(detector.url)
    assert (ready.veto.kept_count, ready.veto.vetoed_count, ready.veto.hit_rate) == (20, 0, 0)


def test_dense_frames_and_no_files_at_all(ready, tmp_path):
    images = small_images(6, (30, 0))
    ready.set(saving_dense=True)
    ready.set("veto", min_peaks=20)
    with Detector(Images(images)) as detector:
        ready.run(detector.url)
    with h5py.File(tmp_path / "run_0000_nxmx.h5") as file:
        assert np.array_equal(file["/entry/data/data"], images[::2])
    ready.set(saving_dense=False, saving_sparse=False, saving_directory="")
    with Detector(Images(images)) as detector:
        ready.run(detector.url)
    assert ready.acquisition.frame_count == 6
    assert ready.acquisition.saving_next_number == 1


def test_a_file_as_source(ready, tmp_path):
    images = np.array(small_images(9))
    with h5py.File(tmp_path / "input.h5", "w") as file:
        file["/entry/data/data"] = images
        file["/entry/data/frame_number"] = np.arange(9) * 3
    path = ready.run(f"file:{tmp_path / 'input.h5'}::/entry/data/data")
    # chosen frames of a file: what lies between them is not lost
    assert ready.counters == {"frame_count": 9, "frames_lost": 0, "frames_dropped": 0, "frames_failed": 0}
    with SparseFile(path) as file:
        assert file.ledger["frame"].tolist() == list(range(0, 27, 3))


def test_fault_is_left_by_reset(ready, poni, tmp_path):
    ready.set(source="stream2://127.0.0.1:9")
    ready.acquisition.Prepare()
    ready.wait_for(FAULT)
    with refused("OPERATION_NOT_ALLOWED", "Reset"):
        ready.acquisition.Start()
    ready.acquisition.Reset()
    assert ready.state == STANDBY
    ready.acquisition.Reset()  # a redundant one
    ready.good_run(tmp_path, poni)
