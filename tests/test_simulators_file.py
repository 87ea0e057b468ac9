"""Files of simulated frames: what is written is what was drawn, and the truth survives."""

import h5py
import numpy as np
import pytest
from framesieve.cli.simulate import app
from framesieve.processing.errors import ConfigurationError
from framesieve.simulators.diffraction import StillSimulator
from framesieve.simulators.experiment import Experiment
from framesieve.simulators.frame_inputs import open_input
from framesieve.simulators.simulation_file import DATA, SimulationTruth, write_simulation
from typer.testing import CliRunner

SHAPE = (300, 320)


@pytest.fixture(scope="module")
def simulator():
    return StillSimulator(experiment=Experiment(SHAPE, distance=0.03), hit_share=0.4, n_frames=10, seed=3, pool=2)


def test_round_trip_of_frames_and_truth(simulator, tmp_path):
    path = tmp_path / "run.h5"
    seen = []
    write_simulation(path, simulator, 10, progress=lambda done, of: seen.append((done, of)), threads=3)
    assert seen == [(i, 10) for i in range(1, 11)]
    truth = SimulationTruth.load(path)
    assert truth.hit.sum() == 4 and truth.poni_text == simulator.poni_text()
    np.testing.assert_array_equal(truth.background, simulator.background)
    np.testing.assert_array_equal(truth.mask, simulator.mask)
    np.testing.assert_array_equal(truth.hot_pixels, simulator.hot_pixels)
    with h5py.File(path) as file:
        assert file[DATA].chunks == (1, *SHAPE) and file[DATA].dtype == simulator.dtype
        for i in range(10):
            image, expected = simulator.frame_and_truth(i)
            np.testing.assert_array_equal(file[DATA][i], image)
            assert truth.hit[i] == expected.hit == bool(len(truth.spots_of(i)))
            np.testing.assert_array_equal(truth.spots_of(i), expected.spots)
            if expected.hit:
                np.testing.assert_array_equal(truth.orientation[i], expected.orientation)
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5"]


def test_chunks_are_sent_as_they_are_stored(simulator, tmp_path):
    path = tmp_path / "run.h5"
    write_simulation(path, simulator, 3)
    frames = open_input(str(path))
    with h5py.File(path) as file:
        stored = file[DATA].id.read_direct_chunk((2, 0, 0))[1]
    assert frames.encoded(2, "bslz4") == stored
    assert frames.info.beam_center == pytest.approx(np.add(simulator.experiment.beam_center, 0.5))
    np.testing.assert_array_equal(frames.info.pixel_mask, simulator.pixel_mask)
    frames.close()


def test_an_interrupted_file_is_removed(simulator, tmp_path):
    def interrupt(done, _):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_simulation(tmp_path / "run.h5", simulator, 10, progress=interrupt)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_unless_told(simulator, tmp_path):
    path = tmp_path / "run.h5"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match="exists already"):
        write_simulation(path, simulator, 2)
    assert path.read_text() == "precious"
    write_simulation(path, simulator, 2, overwrite=True)
    assert len(SimulationTruth.load(path).hit) == 2


def test_a_file_without_truth_is_refused(tmp_path):
    (tmp_path / "text.h5").write_text("nothing")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = 1
    for name in ("text.h5", "other.h5", "missing.h5"):
        with pytest.raises(ConfigurationError, match=name):
            SimulationTruth.load(tmp_path / name)


def test_command_writes_a_file(tmp_path):
    path = tmp_path / "run.h5"
    arguments = ["file", str(path), "--frames", "10", "--hits", "50", "--shape", "200", "210", "--dtype", "int32"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert SimulationTruth.load(path).hit.sum() == 5
    assert open_input(str(path)).image(0).dtype == np.int32


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["file", "{dir}/x.h5", "--frames", "0"], "0 frames"),
        (["file", "{dir}/x.h5", "--hits", "120"], "hits 120"),
        (["file", "{dir}/x.h5", "--dtype", "float64"], "float64"),
        (["file", "{dir}/x.h5", "--dtype", "nonsense"], "nonsense"),
        (["file", "{dir}/x.h5", "--shape", "2", "2"], "2 × 2"),
        (["file", "{dir}/missing/x.h5", "--frames", "2", "--shape", "100", "100"], "cannot be written"),
        (["stream2", "--input", "{dir}/missing.h5"], "no such file"),
        (["stream2", "--shape", "100", "100", "--encoding", "zip"], "bslz4, lz4, none"),
        (["stream2", "--shape", "100", "100", "--port", "70000"], "65535"),
        (["stream2", "--shape", "100", "100", "--rate", "-1"], "negative"),
        (["stream2", "--shape", "100", "100", "--distinct", "0"], "0 frames"),
        (["stream2", "--shape", "100", "100", "--port", "0", "--host", "192.0.2.1"], "cannot listen"),
    ],
)
def test_unusable_arguments_are_told_in_one_line(arguments, told, tmp_path):
    result = CliRunner().invoke(app, [a.format(dir=tmp_path) for a in arguments])
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("framesieve simulate: ")]
    assert len(lines) == 1 and told in lines[0]
    assert "Traceback" not in result.stderr
