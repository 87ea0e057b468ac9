"""Frame i of a sparse file, without reading the rest."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from formats_helpers import SHAPE, reduced_frame, run_info
from framesieve.formats.sparse_reader import SparseFile
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.frames import Verdict
from framesieve.processing.parameters import ErrorModel, Parameters, ParameterSet


@pytest.fixture
def written(tmp_path):
    frames = [reduced_frame(i, Verdict.VETOED if i % 3 else Verdict.KEPT) for i in range(30)]
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.add_parameter_set(ParameterSet(1, Parameters(snr_pick=2.5)), 0, 0.0)
        writer.append(frames)
    with SparseFile(tmp_path / "a.h5") as file:
        yield file


def test_a_file_is_a_sequence_of_its_frames(written):
    numbers = list(range(0, 30, 3))
    assert len(written) == 10
    assert [frame.number for frame in written] == numbers
    assert [frame.number for frame in reversed(written)] == numbers[::-1]
    assert written[-1].number == 27 and written[0].number == 0
    assert np.array_equal(written[4].index, reduced_frame(12).index)
    for part in (slice(2, 5), slice(None, None, -2), slice(-3, None), slice(20, 30), slice(5, 2)):
        assert [frame.number for frame in written[part]] == numbers[part]
        assert len(written[part]) == len(numbers[part])
    assert written[2:8][1:3][-1].number == numbers[2:8][1:3][-1]
    for wrong in (10, -11):
        with pytest.raises(IndexError, match="10 saved frames"):
            written[wrong]
    with pytest.raises(IndexError):
        written[2:4][2]
    assert written.parameters_of(written[3]) == Parameters(snr_pick=2.5)


def bytes_read() -> int:
    """By this process so far, from files of any kind."""
    if not Path("/proc/self/io").exists():
        pytest.skip("this system does not count bytes that are read")
    return int(Path("/proc/self/io").read_text().split()[1])


def test_only_the_frame_that_is_asked_for_is_read(tmp_path):
    rng = np.random.default_rng(4)
    frames = [reduced_frame(number, peaks=0) for number in range(200)]
    for frame in frames:
        frame.index = np.sort(rng.choice(SHAPE[0] * SHAPE[1], 5000, replace=False)).astype(np.uint32)
        frame.intensity = rng.integers(0, 65536, 5000, np.uint16)  # cannot be compressed
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append(frames)
    whole = (tmp_path / "a.h5").stat().st_size
    assert whole > 2_000_000
    with SparseFile(tmp_path / "a.h5") as file:
        before = bytes_read()
        frame = file.frame(123)
        assert bytes_read() - before < whole / 5
        assert np.array_equal(frame.index, frames[123].index)
        assert np.array_equal(frame.intensity, frames[123].intensity)
        assert bytes_read() - before >= 5000 * 2, "it came from the file"


FIRST = 5_000_000_000  # pixels before the last frames: their pointers need more than 32 bits


def far_file(path) -> tuple[np.ndarray, np.ndarray]:
    """A sparse file whose first frame has so many pixels, of which no chunk was ever written, and two frames more."""
    with SparseWriter(path) as writer:
        writer.begin(run_info())
        writer.append([reduced_frame(i) for i in range(3)])
    rng = np.random.default_rng(0)
    index = np.sort(rng.choice(SHAPE[0] * SHAPE[1], 700, replace=False)).astype(np.uint32)
    intensity = rng.integers(1, 1000, 700).astype(np.uint16)
    with h5py.File(path, "r+") as file:
        frames = file["entry_0000/sparse_frames"]
        for name, values in (("index", index), ("intensity", intensity)):
            del frames[name]
            dataset = frames.create_dataset(
                name, (FIRST + 700,), values.dtype, chunks=(32_768,), maxshape=(None,), **hdf5plugin.Bitshuffle()
            )
            dataset[FIRST:] = values
        frames["frame_ptr"][...] = [0, FIRST, FIRST + 300, FIRST + 700]
    return index, intensity


def test_pointers_beyond_32_bits(tmp_path):
    index, intensity = far_file(tmp_path / "far.h5")
    tracemalloc.start()
    with SparseFile(tmp_path / "far.h5") as file:
        assert file.n_pixels == FIRST + 700
        assert np.array_equal(file[1].index, index[:300])
        assert np.array_equal(file[-1].index, index[300:])
        assert np.array_equal(file[-1].intensity, intensity[300:])
        assert np.array_equal(file.densify(2).ravel()[index[300:]], intensity[300:])
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest < 50e6
    assert (tmp_path / "far.h5").stat().st_size < 20e6


def test_parameters_of_pyfais_files(tmp_path):
    """They have one set for all frames, in a configuration of their own."""
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.add_parameter_set(ParameterSet(1, Parameters()), 0, 0.0)
        writer.append([reduced_frame(0)])
    theirs = {"cutoff_clip": 5, "cycle": 3, "error_model": "poisson", "noise": 0.6, "cutoff_pick": 4, "unit": "r_m"}
    theirs |= {"cutoff_peak": 6, "patch_size": 7, "connected": 30}
    expected = Parameters(snr_clip=5, clip_cycles=3, error_model=ErrorModel.poisson, noise=0.6, snr_pick=4)
    expected = expected.replace(snr_peak=6, patch_size=7, min_pixels=30)
    for sparsify, parameters in (
        (theirs, expected),
        (theirs | {"error_model": "something else"}, expected.replace(error_model="azimuthal")),
        (theirs | {"patch_size": 4}, expected.replace(patch_size=5, min_pixels=4)),
        (None, Parameters()),
    ):
        with h5py.File(tmp_path / "a.h5", "r+") as file:
            for name in ("ledger", "parameter_sets"):
                if name in file["entry_0000"]:
                    del file["entry_0000"][name]
            configuration = file["entry_0000/sparsify/configuration"]
            del configuration["data"]
            configuration["data"] = json.dumps({"geometry": {}, "sparsify": sparsify})
        with SparseFile(tmp_path / "a.h5") as file:
            assert file.parameters_of(file[0]) == parameters
            assert file.densify(0, noise=True).shape == SHAPE


def test_files_that_pyfai_sparsified(tmp_path):
    """A real one, from its own program code: another unit of the radius, pixels in no order."""
    sparse_frame = pytest.importorskip("pyFAI.io.sparse_frame")
    from pyFAI import units
    from pyFAI.containers import SparseFrame

    rng = np.random.default_rng(3)
    frames = []
    for number in range(3):
        source = reduced_frame(number)
        order = rng.permutation(source.n_pixels)
        frame = SparseFrame(source.index[order], source.intensity[order])
        frame._radius, frame._mask = run_info().radius * 1e3, run_info().radius_image * 1e3
        frame._background_avg, frame._background_std = source.background_mean, source.background_std
        frame._unit, frame._dummy, frame._dtype, frame._shape = units.to_unit("r_mm"), None, np.dtype("u2"), SHAPE
        frames.append(frame)
    sparse_frame.save_sparse(str(tmp_path / "theirs.h5"), frames)
    with SparseWriter(tmp_path / "ours.h5") as writer:
        writer.begin(run_info())
        writer.append([reduced_frame(number) for number in range(3)])
    with SparseFile(tmp_path / "theirs.h5") as theirs, SparseFile(tmp_path / "ours.h5") as ours:
        assert len(theirs) == 3 and not len(theirs.ledger) and theirs.parameter_sets == []
        for row in range(3):
            # the radius of a pixel is rounded in another unit
            difference = theirs.densify(row).astype(int) - ours.densify(row)
            assert np.abs(difference).max() <= 1 and np.count_nonzero(difference) < 50
        assert theirs.densify(1, noise=True, seed=3).std() > 0
        assert [len(theirs.peaks(row)) for row in range(3)] == [0, 0, 0]
