"""Whole runs on frames that are read through Tango: what is in the file, what the counters say, the monitor."""

from __future__ import annotations

import math

import numpy as np
import pytest
from framesieve.acquisition.collector import Collector
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.acquisition.settings import RunSettings
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.device_times import DeviceTimes
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.frames import ReducedFrame, Verdict
from framesieve.processing.parameters import Parameters, ParameterSet
from framesieve.simulators.diffraction import StillSimulator
from framesieve.simulators.experiment import Experiment
from framesieve.simulators.simulation_file import write_simulation
from integration_helpers import check_ledger
from tango_helpers import CAMERA, DETECTOR, serving, set_up, wait_for

SHAPE = (96, 100)
N = 12


@pytest.fixture(scope="module")
def detector():
    with serving(*DETECTOR) as server:
        yield server


@pytest.fixture(scope="module")
def poni(tmp_path_factory):
    path = tmp_path_factory.mktemp("geometry") / "small.poni"
    path.write_text(Experiment(SHAPE).poni_text())
    return str(path)


@pytest.fixture
def controller(poni, tmp_path):
    """One that is ready but for its source."""
    controller = RunController()
    controller.parameters.update(veto_min_peaks=0)
    controller.configure(geometry=poni, radial_bins=20, saving_directory=str(tmp_path))
    yield controller
    controller.shutdown()


def finish(controller: RunController) -> SparseFile:
    assert controller.wait(200)
    assert controller.state is RunState.STANDBY, controller.status
    file = SparseFile(controller.snapshot().output_file)
    numbers = controller.snapshot()
    names = ("frame_count", "frames_lost", "frames_dropped", "frames_failed")
    check_ledger(file.ledger, {name: getattr(numbers, name) for name in names})
    return file


def start(controller: RunController) -> None:
    controller.prepare()
    assert controller.wait(200) and controller.state is RunState.ON, controller.status
    controller.start()


def test_every_way_gives_the_frames_of_the_file(controller, detector, tmp_path):
    simulator = StillSimulator(SHAPE, hit_share=0.3, n_frames=N, dtype="uint16")
    path = tmp_path / "frames.h5"
    write_simulation(path, simulator, N)
    controller.configure(source=f"file:{path}")
    controller.start()
    expected = finish(controller)
    assert len(expected) == N
    for name in ("readImage", "getFrame", "image"):
        set_up(detector, shape=SHAPE, number_of_frames=N, frame_rate=20.0, misbehaviour="stall=0:2")
        controller.configure(source=detector.url(name, "?queue=100"), number_of_frames=N if name == "image" else 0)
        start(controller)
        detector.proxy.Start()
        with finish(controller) as found:
            assert found.ledger["frame"].tolist() == list(range(N))
            assert found.dtype == expected.dtype
            for row in range(N):
                one, other = found.frame(row), expected.frame(row)
                np.testing.assert_array_equal(one.index, other.index)
                np.testing.assert_array_equal(one.intensity, other.intensity)
                np.testing.assert_array_equal(one.background_mean, other.background_mean)
                np.testing.assert_array_equal(one.peaks, other.peaks)
        wait_for(lambda: str(detector.proxy.state()) == "STANDBY", "the end")
    expected.close()


@pytest.mark.parametrize("name", ["readImage", "image"])
def test_the_counters_are_what_the_detector_did(controller, detector, name):
    """And the next run works without anything being restarted."""
    set_up(
        detector,
        shape=SHAPE,
        number_of_frames=N,
        frame_rate=20.0,
        misbehaviour="lost=3,7 corrupt=5 duplicated=8 late=2:2 stall=0:2",  # until events of images arrive
    )
    for _ in range(2):
        controller.configure(source=detector.url(name, "?queue=100"), number_of_frames=N - 2 if name == "image" else 0)
        start(controller)
        detector.proxy.Start()
        with finish(controller) as file:
            verdicts = dict(zip(file.ledger["frame"].tolist(), file.ledger["verdict"].tolist(), strict=True))
        numbers = controller.snapshot()
        assert (numbers.frame_count, numbers.frames_lost, numbers.frames_failed) == (N - 3, 2, 1)
        bad = {3: Verdict.LOST, 7: Verdict.LOST, 5: Verdict.FAILED}
        assert verdicts == {number: bad.get(number, Verdict.KEPT) for number in range(N)}
        wait_for(lambda: str(detector.proxy.state()) == "STANDBY", "the end")


def test_the_monitor_goes_into_the_ledger(controller, detector):
    with serving(*CAMERA) as camera:
        camera.proxy.SetCurrent(250.0)
        set_up(detector, shape=SHAPE, number_of_frames=N, frame_rate=20.0)
        controller.configure(monitor=camera.url("pushed"))
        controller.configure(source=detector.url("readImage"))
        start(controller)
        detector.proxy.Start()
        with finish(controller) as file:
            assert file.ledger["monitor"].tolist() == [250.0] * N
    assert controller.snapshot().monitor_value == 250
    counters = controller.read_counters(10)
    assert counters["frame"] == [10, 11]
    assert counters["monitor"] == [250.0, 250.0]
    assert all(math.isnan(value) for value in counters["position_x"] + counters["position_y"])


def test_monitor_and_position_of_what_was_reduced():
    collector = Collector()
    snapshot = {"what_if_min_peaks": 0, "veto_max_peaks": 0, "occupancy": 0.0}
    assert math.isnan(collector.snapshot(**snapshot).monitor_value)
    curves = {"background_mean": np.zeros(3, "f4"), "background_std": np.zeros(3, "f4")}
    empty = {"index": np.zeros(0, "u4"), "intensity": np.zeros(0, "u2")} | curves
    row = ReducedFrame(4, "a", 0.0, Verdict.KEPT, monitor=1.5, position=(2.0, -3.0), **empty)
    lost = ReducedFrame.lost(5, "a")
    collector.add([row, lost], ParameterSet(1, Parameters()), DeviceTimes(0.1), None)
    assert collector.snapshot(**snapshot).monitor_value == 1.5
    counters = collector.counters(0)
    assert (counters["monitor"], counters["position_x"], counters["position_y"]) == ([1.5], [2.0], [-3.0])
    assert (counters["frame"], counters["verdict"], counters["parameter_set"]) == ([4], ["kept"], [0])


@pytest.mark.parametrize("monitor", ["a/b/c", "tango://a/b/c/d#dbase=no"])
def test_a_monitor_that_is_written_wrong(monitor):
    with pytest.raises(ConfigurationError, match=r"monitor .* must be written|monitor .* needs its HOST:PORT"):
        RunSettings(monitor=monitor).check()
    RunSettings(monitor="a/b/c/d").check()
