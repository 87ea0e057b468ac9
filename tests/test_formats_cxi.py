"""Peaks by the rules of a CXI reader such as CrystFEL's: a strict, small one, written from the format's description."""

from __future__ import annotations

import h5py
import numpy as np
from formats_helpers import reduced_frame, run_info
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.frames import Verdict


def read_cxi_peaks(file: h5py.File, event: int, peak_list: str = "/entry_1/result_1") -> np.ndarray:
    """(peaks, 3) fs, ss in pixels from the corner of the first one, intensity."""
    group = file[peak_list]
    n_peaks = group["nPeaks"]
    assert n_peaks.ndim == 1
    assert n_peaks.dtype.kind == "i"
    count = int(n_peaks[event])
    columns = []
    for name, shift in (("peakXPosRaw", 0.5), ("peakYPosRaw", 0.5), ("peakTotalIntensity", 0)):
        values = group[name]
        assert values.ndim == 2
        assert values.dtype.kind == "f"
        assert values.shape[0] == n_peaks.shape[0]
        assert values.shape[1] >= count, "narrower than nPeaks is an error"
        columns.append(values[event, :count] + shift)
    return np.stack(columns, axis=1)


def test_peaks(tmp_path):
    verdicts = [Verdict.KEPT, Verdict.VETOED, Verdict.CONTROL, Verdict.LOST, Verdict.KEPT]
    frames = [reduced_frame(i, verdict, peaks=i * 3) for i, verdict in enumerate(verdicts)]
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append(frames)
    saved = [frames[0], frames[2], frames[4]]
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["cxi_version"][()] == 160
        group = file["entry_1/result_1"]
        assert group["nPeaks"].shape == (3,)
        for row, frame in enumerate(saved):
            x, y, intensity, _, snr, n_pixels, maximum = frame.peaks.T
            peaks = read_cxi_peaks(file, row)
            assert np.array_equal(peaks[:, 0], x + np.float32(0.5))
            assert np.array_equal(peaks[:, 1], y + np.float32(0.5))
            assert np.array_equal(peaks[:, 2], intensity)
            for name, column in (("peakSNR", snr), ("peakNPixels", n_pixels), ("peakMaximumValue", maximum)):
                assert np.array_equal(group[name][row, : len(column)], column)
                assert not group[name][row, len(column) :].any()
        # the same rows as sparse_frames, and found where pyFAI has them
        assert len(file["entry_0000/sparse_frames/frame_ptr"]) == 4
        assert file["entry_0000/peaks"] == group
        detector = file["entry_1/instrument_1/detector_1"]
        assert detector["distance"][()] == 0.1
        assert file["entry_1/instrument_1/beam_1/incident_wavelength"][()] == 1e-10


def test_a_run_without_any_peak(tmp_path):
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append([reduced_frame(i, peaks=0) for i in range(3)])
    with h5py.File(tmp_path / "a.h5") as file:
        for row in range(3):
            assert read_cxi_peaks(file, row).shape == (0, 3)
