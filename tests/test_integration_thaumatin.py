"""Measured frames of a thaumatin crystal, sent as a detector would and reduced by the devices."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.frame_inputs import open_input
from integration_helpers import Detector, check_ledger
from measured_data import data_file

pytest_plugins = ["integration_fixtures"]

NUMBERS = [1, 3, 6, 9, 12, 14, 15, 17, 19]


@pytest.fixture
def thaumatin(tmp_path):
    path = data_file("thaumatin_grid.h5")
    poni = tmp_path / "thaumatin.poni"
    with h5py.File(path) as file:
        poni.write_text(file["entry/data/poni"].asstr()[()])
    return path, poni


def test_hits_and_blanks_of_the_grid(beamline, thaumatin, tmp_path):
    path, poni = thaumatin
    beamline.set(
        geometry=str(poni), mask=f"{path}::/entry/data/mask", saving_directory=str(tmp_path), saving_prefix="grid"
    )
    beamline.set("sparsifier", radial_bins=800)
    beamline.set("veto", min_peaks=20)
    with Detector(open_input(str(path))) as detector:
        output = beamline.run(detector.url)

    # of a live detector, a number that does not come is a frame that was lost: 0, 2, 4, 5, 7, …
    missing = sorted(set(range(20)) - set(NUMBERS))
    assert beamline.counters == {
        "frame_count": 9,
        "frames_lost": len(missing),
        "frames_dropped": 0,
        "frames_failed": 0,
    }
    with SparseFile(output) as file:
        ledger = file.ledger
        check_ledger(ledger, beamline.counters)
        assert sorted(ledger["frame"][ledger["verdict"] == Verdict.LOST].tolist()) == missing
        verdicts = {int(row["frame"]): Verdict(row["verdict"]) for row in ledger}
        peaks = {int(row["frame"]): int(row["n_peaks"]) for row in ledger}
        assert [verdicts[n] for n in NUMBERS] == [Verdict.KEPT] * 7 + [Verdict.VETOED] * 2
        assert all(peaks[n] > 100 for n in NUMBERS[:6])
        assert 20 <= peaks[15] < min(peaks[n] for n in NUMBERS[:6])  # the weak one
        assert peaks[17] < 20 and peaks[19] < 20
        assert [file.frame(row).number for row in range(len(file))] == NUMBERS[:7]
        assert beamline.peakfinder.peak_count_history.tolist() == [peaks[n] for n in NUMBERS]
    assert beamline.veto.hit_rate == pytest.approx(100 * 7 / 9)


def test_the_same_frames_from_the_file_give_the_same_result(beamline, thaumatin, tmp_path):
    path, poni = thaumatin
    beamline.set(geometry=str(poni), mask=f"{path}::/entry/data/mask", saving_directory=str(tmp_path))
    outputs = [beamline.run(f"file:{path}")]
    assert beamline.counters["frames_lost"] == 0  # chosen frames of a file
    with Detector(open_input(str(path))) as detector:
        outputs.append(beamline.run(detector.url))
    with SparseFile(outputs[0]) as ours, SparseFile(outputs[1]) as theirs:
        assert len(ours) == len(theirs) == 9
        for row in range(9):
            one, other = ours.frame(row), theirs.frame(row)
            assert one.number == other.number == NUMBERS[row]
            assert np.array_equal(one.index, other.index) and np.array_equal(one.intensity, other.intensity)
            assert np.array_equal(one.peaks, other.peaks)
