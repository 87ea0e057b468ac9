"""`framesieve info`: numbers that can be counted by hand."""

from __future__ import annotations

import pytest
from formats_helpers import reduced_frame, run_info
from framesieve.formats.info import describe, ranges
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import Verdict
from framesieve.processing.parameters import Parameters, ParameterSet


def test_ranges():
    assert ranges([]) == ""
    assert ranges([5]) == "5"
    assert ranges([3, 1, 2, 9, 7, 8, 20]) == "1-3, 7-9, 20"
    assert ranges(range(0, 100, 2)).endswith("16, 18, … (40 more ranges)")


def test_describe(tmp_path):
    verdicts = [Verdict.KEPT] * 10 + [Verdict.VETOED] * 25 + [Verdict.LOST] * 10 + [Verdict.FAILED] * 5
    frames = [reduced_frame(i, verdict) for i, verdict in enumerate(verdicts)]
    frames[-1].number = -1
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.add_parameter_set(ParameterSet(1, Parameters()), 0, 0.0)
        writer.add_parameter_set(ParameterSet(2, Parameters(snr_pick=4.5)), 20, 10.0)
        writer.append(frames)
        writer.flush()
        text = describe(tmp_path / "a.h5")  # while it is written
    lines = [line.strip() for line in text.splitlines()]
    assert "10 sparse frames of 90 × 110 pixels, uint16" in lines[0]
    assert "frames: 50" in lines
    assert "kept               10   20.0%" in lines
    assert "vetoed             25   50.0%" in lines
    assert "lost               10   20.0%  35-44" in lines
    assert "failed              5   10.0%  45-48 (1 without a number)" in lines
    assert "parameter sets: 2" in lines
    (second,) = [line for line in lines if line.startswith("2 from frame 20")]
    assert second.endswith("snr_pick 4.5")
    assert any("input uncompressed" in line for line in lines)


def test_a_file_without_frames(tmp_path):
    with SparseWriter(tmp_path / "a.h5") as writer:
        with pytest.raises(ConfigurationError, match="no sparse frames"):
            describe(tmp_path / "a.h5")
        writer.begin(run_info())
    assert "0 sparse frames" in describe(tmp_path / "a.h5")
