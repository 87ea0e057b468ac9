"""Files of so many frames from the setting to the disk: `framesieve reduce --frames-per-file`."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from framesieve.acquisition.settings import RunSettings
from framesieve.cli.main import main
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.errors import OutOfRangeError

SHAPE, FRAMES = (96, 80), 20


@pytest.fixture
def inputs(tmp_path):
    with h5py.File(tmp_path / "in_000001.h5", "w") as file:
        file["data"] = np.random.default_rng(0).poisson(9, (FRAMES, *SHAPE)).astype(np.uint16)
    (tmp_path / "a.poni").write_text(
        'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
        "Distance: 0.1\nPoni1: 0.005\nPoni2: 0.004\n"
    )
    return tmp_path


def reduce(folder, name: str, *options: str) -> int:
    files = [f"{folder}/in_000001.h5::/data", "-o", f"{folder}/{name}.h5", "--geometry", f"{folder}/a.poni"]
    return main(["reduce", *files, "--min-peaks", "0", "--snr-pick", "2", "--radial-bins", "20", *options])


def test_reduce_into_several_files(inputs, capfd):
    assert reduce(inputs, "out", "--frames-per-file", "8") == 0
    assert reduce(inputs, "whole") == 0
    assert sorted(path.name for path in inputs.glob("out*")) == [
        "out.h5", "out_000001.h5", "out_000002.h5", "out_000003.h5"
    ]  # fmt: skip
    with SparseFile(inputs / "out.h5") as joined, SparseFile(inputs / "whole.h5") as whole:
        assert joined.ledger["frame"].tolist() == list(range(FRAMES))
        for row in range(FRAMES):
            assert np.array_equal(joined.densify(row), whole.densify(row))
        assert joined.n_pixels == whole.n_pixels > 100
    sizes = []
    for number in (1, 2, 3):
        with SparseFile(inputs / f"out_00000{number}.h5") as part:
            sizes.append(len(part))
    assert sizes == [8, 8, 4]

    capfd.readouterr()
    (inputs / "out.h5").unlink()
    assert reduce(inputs, "out", "--frames-per-file", "8") == 2
    assert "out_000001.h5 exists" in capfd.readouterr().err.replace("\n", "")
    assert reduce(inputs, "out", "--frames-per-file", "8", "--overwrite") == 0
    with h5py.File(inputs / "in_000001.h5") as file:
        before = file["data"][()]
    assert reduce(inputs, "in", "--frames-per-file", "8", "--overwrite") == 2
    assert "is read by this run" in capfd.readouterr().err.replace("\n", "")
    with h5py.File(inputs / "in_000001.h5") as file:
        assert np.array_equal(file["data"][()], before)


def test_what_is_accepted():
    RunSettings(saving_frames_per_file=1000).check()
    with pytest.raises(OutOfRangeError, match=r"saving_frames_per_file = -1: accepted is 0 to"):
        RunSettings(saving_frames_per_file=-1).check()
