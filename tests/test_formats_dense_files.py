"""Sparse files as whole images: what DIALS, XDS and CrystFEL demand of them, and how the program behaves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest
from downstream_rules import Durin, Neggia, NXmx, cxi_peaks
from formats_helpers import BINS, MASKED, PIXEL, PONI, SHAPE, reduced_frame, run_info
from framesieve.cli.main import main
from framesieve.formats.dense_files import densify_file
from framesieve.formats.info import describe
from framesieve.formats.sparse_reader import SparseFile
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.frames import Verdict
from framesieve.processing.parameters import Parameters, ParameterSet

VERDICTS = (Verdict.KEPT, Verdict.VETOED, Verdict.KEPT)
COUNT = 7


def write_sparse(path, *, dtype: str = "uint16", poni: str = PONI, count: int = 10):
    frames = [reduced_frame(number, VERDICTS[number % 3], dtype) for number in range(count)]
    for frame in frames:
        if frame.index is not None:
            frame.background_mean = np.linspace(40, 1, BINS).astype(np.float32)
            frame.background_std = np.sqrt(frame.background_mean)
    info = run_info(dtype)
    info.poni_text = poni
    with SparseWriter(path) as writer:
        writer.begin(info)
        writer.add_parameter_set(ParameterSet(1, Parameters(snr_pick=2.5)), 0, 0.0)
        writer.append(frames)
    return path


@pytest.fixture
def sparse(tmp_path):
    return write_sparse(tmp_path / "s.h5")


def expected(path, *, noise: bool = True) -> np.ndarray:
    with SparseFile(path) as file:
        images = np.array([file.densify(row, noise=noise) for row in range(len(file))]).astype(np.int32)
    images.reshape(len(images), -1)[:, MASKED] = -1
    return images


@pytest.mark.parametrize("noise", [True, False])
def test_nxmx(tmp_path, sparse, noise):
    out = tmp_path / "dense.h5"
    assert main(["densify", str(sparse), "-o", str(out), "--noise" if noise else "--no-noise"]) == 0
    images = expected(sparse, noise=noise)
    reader, neggia, durin = NXmx(out), Neggia(out), Durin(out)
    assert neggia.count == len(reader.data) == COUNT
    for row in range(COUNT):
        for image in (reader.image(row), neggia.image(row + 1), durin.image(row + 1)):
            assert np.array_equal(image, images[row])
    assert np.flatnonzero(~reader.good).tolist() == sorted(MASKED)
    assert reader.trusted == (0, 65534) and reader.wavelength == pytest.approx(1)
    # poni1 40 px, poni2 60 px, 0.1 m; the first pixel is below and to the left of the beam
    origin, fast, slow = reader.panels[0]
    np.testing.assert_allclose(origin, [-60 * PIXEL * 1e3, -40 * PIXEL * 1e3, -100], atol=1e-9)
    np.testing.assert_allclose([fast, slow], [[PIXEL * 1e3, 0, 0], [0, PIXEL * 1e3, 0]], atol=1e-12)
    reader.close()
    durin.close()
    assert images.min() == -1 and images.max() < 2**31 - 2
    with h5py.File(out) as file:
        assert file["entry/data/frame_number"][()].tolist() == [0, 2, 3, 5, 6, 8, 9]
        assert file["entry/instrument/detector/frame_time"][()] == pytest.approx(1e-3, rel=1e-3)
        assert file["entry/geometry/poni"].asstr()[()] == PONI
    for row, number in enumerate([0, 2, 3, 5, 6, 8, 9]):
        planted = reduced_frame(number).peaks
        np.testing.assert_allclose(cxi_peaks(out, row), planted[:, :3] + [0.5, 0.5, 0], rtol=1e-6)
    with fabio.open(str(out)) as file:
        assert np.array_equal(file.getframe(3).data, images[3])
    assert "7 whole frames of 90 × 110 pixels, int32" in describe(out)


def test_eiger(tmp_path, sparse):
    out = tmp_path / "run_master.h5"
    assert main(["densify", str(sparse), "-o", str(out), "--format", "eiger", "--frames-per-file", "3"]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["run_000001.h5", "run_000002.h5", "run_000003.h5", "run_master.h5", "s.h5"]
    images = expected(sparse)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in names[:-1]:
        (tmp_path / name).rename(moved / name)
    out = moved / out.name  # the links are relative
    neggia, durin = Neggia(out), Durin(out)
    assert neggia.count == COUNT and neggia.per_file == 3 and len(neggia.sources) == 3
    for row in range(COUNT):
        assert np.array_equal(neggia.image(row + 1), images[row])
        assert np.array_equal(durin.image(row + 1), images[row])
    durin.close()
    with fabio.open(str(out)) as file:
        assert file.nframes == COUNT
        assert np.array_equal(file.getframe(5).data, images[5])
    with h5py.File(out) as file:
        blocks = [file[f"entry/data/data_00000{i}"] for i in (1, 2, 3)]
        assert [(block.attrs["image_nr_low"], block.attrs["image_nr_high"]) for block in blocks] == [
            (1, 3),
            (4, 6),
            (7, 7),
        ]
        assert "definition" not in file["entry"]  # a reader of NXmx would take the first file for all of it
    assert len(cxi_peaks(out, 4)) == 5


def test_pyfai_reads_the_geometry(tmp_path, sparse):
    """Nothing of it is framesieve's: silx opens the array, pyFAI integrates it with the PONI text of the file."""
    pytest.importorskip("pyFAI")
    from pyFAI.io.ponifile import PoniFile

    out = tmp_path / "dense.h5"
    assert main(["densify", str(sparse), "-o", str(out)]) == 0
    with h5py.File(out) as file:
        (tmp_path / "g.poni").write_text(file["entry/geometry/poni"].asstr()[()])
        default = file[file.attrs["default"]]
        default = default[default.attrs["default"]]
        assert default[default.attrs["signal"]].shape == (COUNT, *SHAPE)
    poni = PoniFile(data=str(tmp_path / "g.poni"))
    assert poni.dist == 0.1 and poni.detector.pixel1 == PIXEL


def test_the_same_bytes_with_any_number_of_threads(tmp_path, sparse):
    chunks = []
    for number, options in enumerate((["--threads", "1"], ["--threads", "4"], ["--threads", "3"], ["--seed", "7"])):
        out = tmp_path / f"{number}.h5"
        assert main(["densify", str(sparse), "-o", str(out), *options]) == 0
        with h5py.File(out) as file:
            data = file["entry/data/data"].id
            chunks.append([data.read_direct_chunk((row, 0, 0))[1] for row in range(COUNT)])
    assert chunks[0] == chunks[1] == chunks[2]
    assert all(a != b for a, b in zip(chunks[0], chunks[3], strict=True))


def test_types_of_pixels(tmp_path):
    sparse = write_sparse(tmp_path / "f.h5", dtype="float32")
    nxmx, master = tmp_path / "f_nxmx.h5", tmp_path / "f_master.h5"
    assert main(["densify", str(sparse), "-o", str(nxmx)]) == 0
    assert main(["densify", str(sparse), "-o", str(master), "--format", "eiger"]) == 0
    with h5py.File(nxmx) as file:
        image = file["entry/data/data"][0]
        assert image.dtype == np.float32 and np.isnan(image.ravel()[MASKED]).all()
    rounded = Neggia(master).image(1)
    valid = np.isfinite(image)
    assert image[valid].min() < -0.5  # noise around a small mean; XDS would take it for a flag
    assert (np.abs(rounded - np.maximum(image, 0))[valid] <= 0.5).all() and rounded[valid].min() == 0
    sparse = write_sparse(tmp_path / "i.h5", dtype="int16")
    assert main(["densify", str(sparse), "-o", str(tmp_path / "i_nxmx.h5")]) == 0
    with h5py.File(tmp_path / "i_nxmx.h5") as file:
        images = file["entry/data/data"][()]
        assert np.flatnonzero(images[0] < 0).tolist() == sorted(MASKED)  # no other pixel is flagged


def test_files_of_pyfai(tmp_path, sparse):
    """Without ledger, parameter sets and geometry group: the geometry is in a JSON text."""
    with h5py.File(sparse, "r+") as file:
        for name in ("ledger", "parameter_sets", "geometry"):
            del file["entry_0000"][name]
        del file["entry_1"]
    out = tmp_path / "dense.h5"
    assert main(["densify", str(sparse), "-o", str(out)]) == 0
    reader = NXmx(out)
    np.testing.assert_allclose(reader.panels[0][0], [-4.5, -3, -100], atol=1e-9)
    reader.close()
    assert len(cxi_peaks(out, 0)) == 5  # they also lie in /entry_0000/peaks


def test_upside_down(tmp_path, sparse):
    out = tmp_path / "dense.h5"
    assert main(["densify", str(sparse), "-o", str(out), "--upside-down"]) == 0
    reader = NXmx(out)
    origin, fast, slow = reader.panels[0]
    np.testing.assert_allclose(origin, [-4.5, 3, -100], atol=1e-9)
    np.testing.assert_allclose([fast[0], slow[1]], [0.075, -0.075])
    reader.close()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["none.h5", "-o", "d.h5"], "none.h5 does not exist"),
        (["s.h5", "-o", "there/d.h5"], "directory there does not exist"),
        (["s.h5", "-o", "s.h5"], "exists; name another file, or replace it with --overwrite"),
        (["s.h5", "-o", "d.h5", "--format", "cbf"], "--format cbf: accepted is nxmx or eiger"),
        (["s.h5", "-o", "d.h5", "--format", "eiger"], "the name must end with _master.h5"),
        (["empty.h5", "-o", "d.h5"], "no frame was saved in it"),
        (["curved.h5", "-o", "d.h5"], "parallax"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(tmp_path, sparse, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_sparse(tmp_path / "empty.h5", count=0)
    write_sparse(tmp_path / "curved.h5", poni=PONI + "Parallax: True\n")
    before = sparse.read_bytes()
    assert main(["densify", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sparse.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curved.h5", "empty.h5", "s.h5"]


def test_a_damaged_file_is_told(tmp_path, sparse, capsys):
    """What cannot be read is not mistaken for what cannot be written."""
    with h5py.File(sparse, "r+") as file:
        frames = file["entry_0000/sparse_frames"]
        index = frames["index"][()]
        first = int(frames["frame_ptr"][3])
        assert first < len(index)
        index[first] = 2**31  # beyond the image
        frames["index"][...] = index
    assert main(["densify", str(sparse), "-o", str(tmp_path / "dense.h5")]) == 2
    error = capsys.readouterr().err
    assert "s.h5: frame 3 cannot be read, the file is damaged" in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s.h5"]


def test_overwrite_and_stop(tmp_path, sparse):
    """What was there stays until all is written; what is stopped leaves nothing."""
    out = tmp_path / "dense.h5"
    out.write_text("old")

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with SparseFile(sparse) as file:
        with pytest.raises(KeyboardInterrupt):
            densify_file(file, out, overwrite=True, progress=stop)
        assert out.read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["dense.h5", "s.h5"]
        assert densify_file(file, out, overwrite=True) == [out]
    NXmx(out).close()


def test_a_tilted_detector_where_dials_finds_it(tmp_path):
    """dxtbx, where it is installed, has the pixels where the PONI file says."""
    program = shutil.which("dials.import")
    if program is None:
        pytest.skip("DIALS is not installed (apt install dials)")
    poni = PONI.replace("Rot1: 0.0", "Rot1: 0.1").replace("Rot2: 0.0", "Rot2: -0.2").replace("Rot3: 0.0", "Rot3: 0.3")
    sparse, out = write_sparse(tmp_path / "s.h5", poni=poni), tmp_path / "dense.h5"
    assert main(["densify", str(sparse), "-o", str(out)]) == 0
    environment = os.environ | {"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH}
    done = subprocess.run(
        [program, str(out), "output.experiments=i.expt"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"num stills: {COUNT}" in done.stdout
    panel = json.loads((tmp_path / "i.expt").read_text())["detector"][0]["panels"][0]
    origin, fast, slow = (np.array(panel[name]) for name in ("origin", "fast_axis", "slow_axis"))
    from pyFAI.geometry import Geometry

    (tmp_path / "g.poni").write_text(poni)
    z, y, x = Geometry().load(str(tmp_path / "g.poni")).calc_pos_zyx(corners=False)
    columns, rows = np.meshgrid(np.arange(SHAPE[1]) + 0.5, np.arange(SHAPE[0]) + 0.5)
    theirs = origin + (columns[..., None] * fast + rows[..., None] * slow) * PIXEL * 1e3
    np.testing.assert_allclose(theirs, np.stack([x, y, -z], axis=-1) * 1e3, atol=1e-6)
