"""Kept frames whole: lossless, one chunk per frame."""

from __future__ import annotations

import fabio
import h5py
import numpy as np
import pytest
from formats_helpers import SHAPE, reduced_frame, run_info
from framesieve.formats.dense_writer import DenseWriter
from framesieve.formats.info import describe


def dense_frames(count: int) -> list:
    rng = np.random.default_rng(3)
    frames = [reduced_frame(i) for i in range(count)]
    for frame in frames[::2]:
        frame.dense = rng.integers(0, 60_000, SHAPE).astype(np.uint16)
    return frames


def test_round_trip(tmp_path):
    frames = dense_frames(9)
    with DenseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append(frames[:4])
        writer.flush()
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["entry/data/frame_number"][()].tolist() == [0, 2]
        writer.append(frames[4:])
        assert writer.rows == 5
    with h5py.File(tmp_path / "a.h5") as file:
        data = file["entry/data/data"]
        assert data.shape == (5, *SHAPE)
        assert data.dtype == np.uint16
        assert data.chunks == (1, *SHAPE)
        assert list(data._filters) == ["32008"]
        assert file["entry/data/frame_number"][()].tolist() == [0, 2, 4, 6, 8]
        assert file["entry/data/timestamp"][1] == frames[2].timestamp
        for row, frame in enumerate(frames[::2]):
            assert np.array_equal(data[row], frame.dense)
        detector = file["entry/instrument/detector"]
        assert np.array_equal(detector["pixel_mask"], np.isnan(run_info().radius_image))
        assert detector["pixel_mask"].chunks is None
        assert file["entry/instrument/beam/incident_wavelength"][()] == pytest.approx(1.0)
    with fabio.open(str(tmp_path / "a.h5")) as image:
        assert np.array_equal(image.getframe(1).data, frames[2].dense)
    assert "5 whole frames of 90 × 110 pixels, uint16" in describe(tmp_path / "a.h5")


def test_other_shape_or_type_is_refused(tmp_path):
    frames = dense_frames(3)
    frames[2].dense = frames[2].dense[1:]
    with DenseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        with pytest.raises(ValueError, match="frame 2"):
            writer.append(frames)
        assert writer.rows == 0
