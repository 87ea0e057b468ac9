"""DIALS opens a sparse file as it opens the dense one that is made of it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from formats_helpers import reduced_frame, run_info
from framesieve.formats.dense_files import densify_file
from framesieve.formats.dxtbx_plugin import make_plugin
from framesieve.formats.sparse_reader import SparseFile
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.parameters import Parameters, ParameterSet

# in the Python of DIALS: the folder, the sparse file, the dense file
_SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy
from dxtbx.model.experiment_list import ExperimentListFactory

def told(path):
    experiments = ExperimentListFactory.from_filenames([path])
    images = [s.get_raw_data(k)[0].as_numpy_array() for s in experiments.imagesets() for k in range(len(s))]
    panel, beam = experiments[0].detector[0], experiments[0].beam
    return {
        "format": experiments.imagesets()[0].get_format_class().__name__,
        "images": [image.tolist() for image in images],
        "mask": experiments.imagesets()[0].get_mask(0)[0].as_numpy_array().tolist(),
        "vectors": [list(v) for v in (panel.get_origin(), panel.get_fast_axis(), panel.get_slow_axis())],
        "rest": [list(panel.get_pixel_size()), list(panel.get_image_size()), list(panel.get_trusted_range())],
        "sensor": [panel.get_material(), panel.get_thickness(), panel.get_mu()],
        "wavelength": beam.get_wavelength(),
        "still": experiments[0].scan is None and experiments[0].goniometer is None,
    }

print("told:", json.dumps([told(path) for path in sys.argv[2:]]))
"""


def python_of_dials() -> str:
    if importlib.util.find_spec("dxtbx") is not None:
        return sys.executable
    program = shutil.which("dials.python")
    if program is None:
        pytest.skip("dxtbx is absent: no module of that name, and no dials.python in PATH")
    return program


def write(path) -> None:
    with SparseWriter(path) as writer:
        writer.begin(run_info())
        writer.add_parameter_set(ParameterSet(1, Parameters(error_model="exact")), 0, 0.0)
        frames = [reduced_frame(number) for number in (3, 4, 7)]
        for frame in frames:
            frame.parameter_set = 1
        writer.append(frames)


def test_dxtbx_opens_a_sparse_file_as_the_dense_one(tmp_path):
    python = python_of_dials()
    write(tmp_path / "a.h5")
    with SparseFile(tmp_path / "a.h5") as file:
        densify_file(file, tmp_path / "dense.h5")
        plain = [file.densify(row) for row in range(3)]
    make_plugin(tmp_path / "plugin")
    (tmp_path / "look.py").write_text(_SCRIPT)
    command = [python, *(str(tmp_path / name) for name in ("look.py", "plugin", "a.h5", "dense.h5"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    sparse, dense = json.loads(done.stdout.rpartition("told:")[2])
    assert sparse.pop("format") == "FormatFramesieve"
    assert dense.pop("format") != "FormatFramesieve"
    for name in ("vectors", "rest"):
        for one, other in zip(sparse.pop(name), dense.pop(name), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    assert sparse["still"] and len(sparse["images"]) == 3
    assert sparse == dense
    assert not np.array_equal(sparse["images"][0], plain[0])  # there is noise


def test_the_folder_has_the_entry_point_and_requires_nothing(tmp_path):
    make_plugin(tmp_path / "plugin")
    (found,) = importlib.metadata.distributions(path=[str(tmp_path / "plugin")])
    (point,) = found.entry_points.select(group="dxtbx.format")
    declared = importlib.metadata.entry_points(group="dxtbx.format")
    assert (point.name, point.value) in {(one.name, one.value) for one in declared}, "as in pyproject.toml"
    assert found.requires is None
    script = "import framesieve.formats.sparse_reader as m, hdf5plugin; print(m.__file__, hdf5plugin.__file__)"
    paths = {**os.environ, "PYTHONPATH": str(tmp_path / "plugin")}
    # without this installation; but its h5py and numpy
    other = [os.path.dirname(os.path.dirname(importlib.util.find_spec(name).origin)) for name in ("h5py", "numpy")]
    script = f"import sys; sys.path += {other}; {script}"
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, env=paths)
    assert done.returncode == 0, done.stderr
    assert all(place.startswith(str(tmp_path / "plugin")) for place in done.stdout.split())


def test_a_folder_that_is_in_use_is_left_alone(tmp_path):
    (tmp_path / "something").write_text("")
    with pytest.raises(ConfigurationError, match="not empty"):
        make_plugin(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        make_plugin(tmp_path / "something" / "plugin")
    assert [place.name for place in tmp_path.iterdir()] == ["something"]
