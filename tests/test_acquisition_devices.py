"""Runs on several OpenCL devices, from the setting to the file."""

import itertools
import logging
import time

import h5py
import numpy as np
import pytest
from framesieve.acquisition import controller as controllers
from framesieve.acquisition import reducers
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.processing.errors import ConfigurationError, HardwareError
from framesieve.processing.frames import ArrayPayload, Frame, SeriesEnd, SeriesStart
from framesieve.processing.opencl import choose_devices
from framesieve.processing.parameters import Parameters
from framesieve.processing.reducer import Reducer

SHAPE, FRAMES = (96, 80), 60
PATIENCE = 60.0


@pytest.fixture(scope="module", autouse=True)
def _needs_parts():
    try:
        choose_devices("0:0/2")
    except (ConfigurationError, HardwareError) as error:
        pytest.skip(f"the device cannot be divided: {error}")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    with h5py.File(folder / "in.h5", "w") as file:
        file["data"] = np.random.default_rng(0).poisson(9, (FRAMES, *SHAPE)).astype(np.uint16)
    (folder / "a.poni").write_text(
        'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
        "Distance: 0.1\nPoni1: 0.005\nPoni2: 0.004\n"
    )
    return folder


@pytest.fixture
def make_controller(inputs, tmp_path):
    made = []

    def make(device: str, name: str = "out.h5") -> RunController:
        controller = RunController(batch_size=3)
        made.append(controller)
        controller.configure(
            source=f"file:{inputs}/in.h5::/data", geometry=f"{inputs}/a.poni", radial_bins=20,
            saving_file=str(tmp_path / name), opencl_device=device,
        )  # fmt: skip
        controller.parameters.update(snr_pick=2.0, min_pixels=1, veto_min_peaks=0)
        return controller

    yield make
    for controller in made:
        controller.shutdown()


def finish(controller: RunController) -> None:
    controller.start()
    assert controller.wait(PATIENCE)


def test_one_device_and_two_write_the_same(make_controller, tmp_path):
    files = {}
    for device in ("0:0", "0:0/2"):
        controller = make_controller(device, f"{device.replace('/', '-')}.h5")
        finish(controller)
        assert (controller.state, controller.error) == (RunState.STANDBY, None)
        snapshot = controller.snapshot()
        assert snapshot.frame_count == snapshot.kept_count == FRAMES
        assert snapshot.opencl_device_name == "; ".join(one.name for one in choose_devices(device))
        with h5py.File(snapshot.output_file) as file:
            sparse = file["entry_0000/sparse_frames"]
            files[device] = {name: sparse[name][()] for name in sparse if isinstance(sparse[name], h5py.Dataset)}
    one, two = files.values()
    assert one.keys() == two.keys() and one["frame_ptr"][-1] > 100
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)


def test_everything_is_made_at_prepare_where_the_source_knows_its_frames(make_controller, monkeypatch):
    launches = []

    class Watched(Reducer):
        def reduce(self, slot, n, parameters):
            launches.append((self.device.name, n))
            return super().reduce(slot, n, parameters)

    monkeypatch.setattr(reducers, "Reducer", Watched)
    controller = make_controller("0:0/2")
    controller.prepare()
    assert controller.wait(PATIENCE) and controller.state is RunState.ON
    names = [one.name for one in choose_devices("0:0/2")]
    assert launches == [(name, n) for name in names for n in (1, 2, 3)], "every batch size, on each device"
    launches.clear()
    made = [id(reducer) for reducer in controller._prepared.reducers.make(SeriesStart("a", SHAPE, np.dtype("uint16")))]
    assert len(set(made)) == 2 and launches == [], "made once"
    finish(controller)
    assert controller.error is None and sum(n for _, n in launches) == FRAMES


class Detector:
    """A live source that tells what its frames are like when the series begins."""

    live = True
    sends_bslz4 = False
    frames = 20  # less than the ring holds

    def __init__(self, dtype) -> None:
        self._dtype = np.dtype(dtype)

    def open(self):
        start = SeriesStart("a", SHAPE, self._dtype, self.frames)
        frames = (Frame(n, "a", ArrayPayload(np.full(SHAPE, n, self._dtype))) for n in range(self.frames))
        self._events = itertools.chain([start], frames, [SeriesEnd("a")])

    def read(self, timeout):
        return next(self._events, None)

    def close(self):
        pass


def test_for_a_detector_the_pixel_type_of_the_last_run_is_prepared(make_controller, inputs, tmp_path, monkeypatch):
    made = []

    class Watched(Reducer):
        def __init__(self, bins, dtype, *arguments, **options):
            made.append(np.dtype(dtype).name)
            super().__init__(bins, dtype, *arguments, **options)

    monkeypatch.setattr(reducers, "Reducer", Watched)
    np.save(tmp_path / "mask.npy", np.zeros(SHAPE, np.uint8))  # tells the shape
    controller = make_controller("auto")
    controller.configure(mask=str(tmp_path / "mask.npy"), saving_overwrite_policy="overwrite")
    for dtype, now, later in (
        ("uint16", ["uint32"], ["uint16"]),  # a wrong guess
        ("uint16", ["uint16"], []),
        ("int32", ["uint16"], ["int32"]),
        ("int32", ["int32"], []),
    ):
        monkeypatch.setattr(controller, "_open_source", lambda _, dtype=dtype: Detector(dtype))
        made.clear()
        controller.prepare()
        assert controller.wait(PATIENCE) and controller.state is RunState.ON
        assert made == now
        finish(controller)
        assert (controller.error, controller.snapshot().frame_count) == (None, Detector.frames)
        assert made == now + later


def test_a_guess_that_does_not_fit_into_memory_is_no_error(make_controller, tmp_path, monkeypatch):
    class Small(Reducer):
        def __init__(self, bins, dtype, device, **options):
            if np.dtype(dtype).itemsize > 2:
                raise HardwareError("not enough memory")
            super().__init__(bins, dtype, device, **options)

    monkeypatch.setattr(reducers, "Reducer", Small)
    np.save(tmp_path / "mask.npy", np.zeros(SHAPE, np.uint8))
    controller = make_controller("auto")
    controller.configure(mask=str(tmp_path / "mask.npy"))
    monkeypatch.setattr(controller, "_open_source", lambda _: Detector("uint16"))
    finish(controller)
    snapshot = controller.snapshot()
    assert (controller.error, snapshot.frame_count, snapshot.last_error) == (None, Detector.frames, "")


def test_warming_up_leaves_no_trace(inputs):
    """The first result after it is that of a reducer that never was warmed up."""
    import oracles
    from framesieve.processing.bins import make_bins

    bins = make_bins(oracles.radius_image(SHAPE), 20)
    pixels = np.random.default_rng(1).poisson(9, SHAPE).astype(np.uint16)
    results = []
    for warm in (True, False):
        reducer = Reducer(bins, np.uint16, oracles.device(), batch_size=3)
        if warm:
            reducer.warm_up()
        reducer.inputs[0][0] = pixels
        results.append(reducer.reduce(0, 1, Parameters(snr_pick=1.0))[0])
        reducer.close()
    for name in ("index", "intensity", "mean", "std", "peaks"):
        np.testing.assert_array_equal(getattr(results[0], name), getattr(results[1], name), err_msg=name)
    assert results[0].index.size > 100


@pytest.mark.parametrize("bad", ["part 1", "part 2"])
def test_a_device_that_fails_at_prepare_is_left_out(make_controller, monkeypatch, caplog, bad):
    class Small(Reducer):
        def __init__(self, bins, dtype, device, **options):
            if device.name.endswith(bad):
                raise HardwareError(f"{device.name}: not enough memory")
            super().__init__(bins, dtype, device, **options)

    monkeypatch.setattr(reducers, "Reducer", Small)
    controller = make_controller("0:0/2")
    with caplog.at_level(logging.ERROR):
        finish(controller)
    snapshot = controller.snapshot()
    assert (controller.error, snapshot.frame_count) == (None, FRAMES)
    (left,) = (one.name for one in choose_devices("0:0/2") if not one.name.endswith(bad))
    assert snapshot.opencl_device_name == left
    assert "not enough memory" in snapshot.last_error and "not enough memory" in caplog.text


def test_no_device_can_be_used(make_controller, monkeypatch):
    class Small(Reducer):
        def warm_up(self):
            raise HardwareError(f"{self.device.name}: it smokes")

    monkeypatch.setattr(reducers, "Reducer", Small)
    controller = make_controller("0:0/2")
    controller.prepare()
    assert controller.wait(PATIENCE)
    assert controller.state is RunState.FAULT and "it smokes" in controller.status


def test_a_device_that_fails_in_the_run_is_told(make_controller, monkeypatch, tmp_path):
    class Dying(Reducer):
        batches = 0

        def reduce(self, slot, n, parameters):
            self.batches += 1
            if self.device.name.endswith("part 2") and self.batches > 4:  # three are empty ones, before the run
                raise HardwareError("it fell off the bus")
            time.sleep(0.01)  # so that the other one gets its share
            return super().reduce(slot, n, parameters)

    monkeypatch.setattr(reducers, "Reducer", Dying)
    with h5py.File(tmp_path / "long.h5", "w") as file:  # long enough for three failures, each told before the next
        file["data"] = np.zeros((400, *SHAPE), np.uint16)
    controller = make_controller("0:0/2")
    controller.configure(source=f"file:{tmp_path}/long.h5::/data")
    finish(controller)
    snapshot = controller.snapshot()
    assert (controller.state, controller.error) == (RunState.STANDBY, None)
    assert (snapshot.frame_count, snapshot.frames_failed, snapshot.frames_dropped) == (400, 0, 0)
    first, second = (one.name for one in choose_devices("0:0/2"))
    assert snapshot.opencl_device_name == first
    assert second in snapshot.last_error and "left out" in snapshot.last_error and first in snapshot.last_error


def test_decode_threads_reach_the_pipeline(make_controller, monkeypatch):
    given = []

    def watched(*arguments, **options):
        given.append(options["decode_threads"])
        return controllers_pipeline(*arguments, **options)

    controllers_pipeline = controllers.Pipeline
    monkeypatch.setattr(controllers, "Pipeline", watched)
    for threads in (0, 3):
        controller = make_controller("auto", f"{threads}.h5")
        controller.decode_threads = threads
        finish(controller)
        assert controller.error is None and controller.snapshot().frame_count == FRAMES
    assert given == [0, 3]
