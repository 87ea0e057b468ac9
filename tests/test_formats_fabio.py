"""fabio and pyFAI read our files, with the values that were planted."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import fabio
import fabio.app.densify
import h5py
import numpy as np
import pytest
from fabio.sparseimage import SparseImage
from formats_helpers import SHAPE, reduced_frame, run_info
from framesieve.formats.info import describe
from framesieve.formats.sparse_reader import SparseFile
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.parameters import Parameters, ParameterSet


@pytest.fixture(autouse=True)
def no_noise(monkeypatch):
    monkeypatch.setattr(SparseImage, "NOISY", False)


def write(path, frames, info) -> None:
    with SparseWriter(path) as writer:
        writer.begin(info)
        writer.add_parameter_set(ParameterSet(1, Parameters(snr_pick=3.5)), 0, 0.0)
        writer.append(frames)


def expected_image(frame, info) -> np.ndarray:
    """Pixel by pixel, from what the frame and the run say."""
    image = np.zeros(SHAPE)
    bins = info.radius.astype(float)
    for y, x in np.ndindex(SHAPE):
        r = float(info.radius_image[y, x])
        if np.isnan(r):
            continue
        right = int(np.searchsorted(bins, r))
        if right == 0:
            mean = frame.background_mean[0]
        elif right == len(bins):
            mean = frame.background_mean[-1]
        else:
            share = (r - bins[right - 1]) / (bins[right] - bins[right - 1])
            mean = (1 - share) * frame.background_mean[right - 1] + share * frame.background_mean[right]
        image[y, x] = mean * (1.0 if info.normalization is None else info.normalization[y, x])
    return image


@pytest.mark.parametrize("normalization", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_fabio_gives_planted_pixels_and_background(tmp_path, dtype, normalization):
    info = run_info(dtype, normalization=normalization)
    frames = [reduced_frame(i, dtype=dtype) for i in range(3)]
    write(tmp_path / "a.h5", frames, info)
    masked = np.isnan(info.radius_image)
    with fabio.open(str(tmp_path / "a.h5")) as file, SparseFile(tmp_path / "a.h5") as ours:
        assert isinstance(file, SparseImage)
        assert file.nframes == 3
        assert file.cutoff == 3.5
        for row, frame in enumerate(frames):
            image = file.getframe(row).data
            background = expected_image(frame, info)
            picked = np.zeros(SHAPE, bool)
            picked.ravel()[frame.index] = True
            for name, dense in (("fabio", image), ("framesieve", ours.densify(row))):
                assert dense.dtype == np.dtype(dtype), name
                # fabio compares radius and bins in float32, hence the tolerance; rounding may fall either way
                tolerance = 1e-3 if dtype == "float32" else 0.501
                rest = ~picked & ~masked
                assert np.abs(dense[rest] - background[rest]).max() <= tolerance, name
                assert np.array_equal(dense[picked], frame.intensity), name
                assert np.isnan(dense[masked]).all() if dtype == "float32" else not dense[masked].any(), name


def test_a_single_frame(tmp_path):
    frame = reduced_frame(0)
    write(tmp_path / "a.h5", [frame], run_info())
    with fabio.open(str(tmp_path / "a.h5")) as file, SparseFile(tmp_path / "a.h5") as ours:
        assert file.nframes == 1
        assert np.abs(file.data.astype(int) - ours.densify(0)).max() <= 1


@pytest.mark.parametrize("kind, suffix", [("lima", "_dense"), ("eiger", "_000001")])
def test_densify_of_fabio_and_pyfai(tmp_path, monkeypatch, kind, suffix):
    frames = [reduced_frame(i) for i in range(3)]
    write(tmp_path / "a.h5", frames, run_info())
    monkeypatch.setattr(sys, "argv", ["densify-Bragg", "-O", kind, "-N", "0", str(tmp_path / "a.h5")])
    assert fabio.app.densify.main() == 0
    with fabio.open(str(tmp_path / f"a{suffix}.h5")) as dense, SparseFile(tmp_path / "a.h5") as ours:
        assert dense.nframes == 3
        for row in range(3):
            difference = dense.getframe(row).data.astype(int) - ours.densify(row)
            assert np.abs(difference).max() <= 1
    if kind == "eiger":  # made with the geometry of the file
        with h5py.File(tmp_path / "a_master.h5") as master:
            detector = master["entry/instrument/detector"]
            assert detector["distance"][()] == pytest.approx(0.1)
            assert detector["beam_center_x"][()] == pytest.approx(60)
            assert detector["beam_center_y"][()] == pytest.approx(40)
            assert master["entry/instrument/beam/incident_wavelength"][()] == pytest.approx(1)


def pyfai_file(path, frames, info) -> None:
    """The same frames as pyFAI writes them."""
    sparse_frame = pytest.importorskip("pyFAI.io.sparse_frame")
    from pyFAI import units

    dtype = [("intensity", "f4"), ("sigma", "f4"), ("pos0", "f4"), ("pos1", "f4")]
    theirs = []
    for frame in frames:
        peaks = np.zeros(len(frame.peaks), dtype=dtype)
        peaks["pos1"], peaks["pos0"], peaks["intensity"], peaks["sigma"] = frame.peaks.T[:4]
        theirs.append(
            SimpleNamespace(
                index=frame.index,
                intensity=frame.intensity,
                radius=info.radius,
                mask=info.radius_image,
                dummy=None,
                unit=units.to_unit("r_m"),
                background_avg=frame.background_mean,
                background_std=frame.background_std,
                peaks=peaks,
            )
        )
    sparse_frame.save_sparse(str(path), theirs)


def test_the_layout_is_that_of_pyfai(tmp_path):
    info, frames = run_info(), [reduced_frame(i) for i in range(4)]
    pyfai_file(tmp_path / "pyfai.h5", frames, info)
    write(tmp_path / "ours.h5", frames, info)
    with h5py.File(tmp_path / "pyfai.h5") as pyfai, h5py.File(tmp_path / "ours.h5") as ours:
        for name in ("sparse_frames", "peaks"):
            theirs, mine = pyfai["entry_0000"][name], ours["entry_0000"][name]
            assert set(theirs) <= set(mine)
            for key, value in theirs.attrs.items():
                assert np.array_equal(mine.attrs[key], value), key
            for key, dataset in theirs.items():
                if key in ("script", "mask", "dummy"):
                    continue
                assert mine[key].dtype == (np.uint64 if key == "frame_ptr" else dataset.dtype), key
                assert mine[key].ndim == dataset.ndim, key
                columns = np.s_[:, : dataset.shape[1]] if name == "peaks" and dataset.ndim == 2 else ...
                if key != "peakSNR":
                    assert np.array_equal(mine[key][columns], dataset[()]), key
            for key in ("unit", "interpretation"):
                assert mine.parent["sparse_frames/mask"].attrs[key] == theirs.parent["sparse_frames/mask"].attrs[key]


def test_files_of_pyfai_are_read(tmp_path):
    info, frames = run_info(), [reduced_frame(i) for i in range(4)]
    pyfai_file(tmp_path / "pyfai.h5", frames, info)
    with SparseFile(tmp_path / "pyfai.h5") as file:
        assert len(file) == 4
        assert len(file.ledger) == len(file.parameter_sets) == 0
        for row, frame in enumerate(frames):
            assert np.array_equal(file.frame(row).index, frame.index)
            assert np.array_equal(file.frame(row).intensity, frame.intensity)
            assert np.array_equal(file.peaks(row)[:, :3], frame.peaks[:, :3])
    assert "no ledger" in describe(tmp_path / "pyfai.h5")
