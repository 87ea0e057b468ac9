"""`framesieve info`: numbers that can be counted by hand."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from formats_helpers import SHAPE, reduced_frame, run_info
from framesieve.formats.info import describe, ranges
from framesieve.formats.parted_writer import PartedDenseWriter, PartedSparseWriter
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import ArrayPayload, Verdict
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


def size_told(text: str) -> float:
    number, unit = re.search(r"size:? (\S+) (bytes|kB|MB)", text).groups()
    return float(number) * {"bytes": 1, "kB": 1e3, "MB": 1e6}[unit]


def size_on_disk(paths) -> int:
    return sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize("writer_class", [PartedSparseWriter, PartedDenseWriter])
def test_a_master_and_its_parts(tmp_path, writer_class):
    path = tmp_path / "a.h5"
    frames = [reduced_frame(number) for number in range(25)]
    for frame in frames:
        frame.dense = ArrayPayload(np.random.default_rng(frame.number).integers(0, 999, SHAPE, np.uint16))
    writer = writer_class(path, 10)
    writer.begin(run_info())
    writer.append(frames)
    writer.flush()
    assert "parts        3: a_000001.h5 … a_000003.h5" in describe(path)  # while it is written
    writer.close()

    files = sorted(tmp_path.glob("a*.h5"))
    assert len(files) == 4
    assert size_told(describe(path)) == pytest.approx(size_on_disk(files), rel=1e-3)
    assert "MISSING" not in describe(path)
    (tmp_path / "a_000002.h5").unlink()
    text = describe(path)
    assert "MISSING      1 of them: a_000002.h5" in text and "zeros" in text
    files.remove(tmp_path / "a_000002.h5")
    assert size_told(text) == pytest.approx(size_on_disk(files), rel=1e-3)
    if writer_class is PartedSparseWriter:  # the ledger is in the master
        assert "frames: 25" in text.splitlines() and "25 sparse frames" in text


def test_files_of_other_kinds(tmp_path):
    (tmp_path / "text.h5").write_text("not HDF5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["entry/data/data"] = np.zeros((2, 3, 4))
    expected = {
        "text.h5": "cannot be read as HDF5",
        "foreign.h5": "holds no sparse frames; expected is a file of framesieve or of pyFAI",
        "missing.h5": "does not exist; name an HDF5 file",
        ".": "is not a file; name an HDF5 file",
    }
    for name, message in expected.items():
        with pytest.raises(ConfigurationError, match=message) as raised:
            describe(tmp_path / name)
        assert str(Path(tmp_path, name)) in str(raised.value) and "\n" not in str(raised.value)
