"""The same 200 frames through every source give the same sparse file, to the last pixel."""

import contextlib
from collections.abc import Callable

import h5py
import hdf5plugin
import numpy as np
import pytest
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.simulators.frame_inputs import SimulatedInput
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.sls_detector import SlsDetector
from framesieve.simulators.stream1_detector import Stream1Detector
from framesieve.simulators.stream2_detector import Stream2Detector
from tango_helpers import DETECTOR, serving, set_up, wait_for

SHAPE, FRAMES = (96, 80), 200
PATIENCE = 250.0


@pytest.fixture(scope="module")
def frames():
    # a third is without peaks, so that there is something to veto
    simulator = PlantedSimulator(SHAPE, n_peaks=8, snr=(15, 60), background=20.0, pool=3)
    return SimulatedInput(simulator, FRAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, frames):
    folder = tmp_path_factory.mktemp("same")
    (folder / "a.poni").write_text(
        'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
        "Distance: 0.1\nPoni1: 0.0048\nPoni2: 0.004\n"
    )
    np.save(folder / "mask.npy", frames.info.pixel_mask)
    with h5py.File(folder / "frames.h5", "w") as file:
        data = np.stack([frames.image(i) for i in range(FRAMES)])
        file.create_dataset("entry/data/data", data=data, chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle(cname="lz4"))
    return folder


@contextlib.contextmanager
def sending(detector):
    with detector:
        yield detector.url


def sources(folder, frames) -> dict:
    """Name → context in which the source can be read, and which gives its URL."""
    return {
        "file": lambda: contextlib.nullcontext(f"file:{folder}/frames.h5"),
        "stream1": lambda: sending(Stream1Detector(frames, port=0)),
        "stream2": lambda: sending(Stream2Detector(frames, port=0)),
        "stream2, plain": lambda: sending(Stream2Detector(frames, port=0, encoding="none")),
        "sls": lambda: sending(SlsDetector(frames, port=0, grid=(4, 2))),
    }


def run(source: str, folder, name: str, begin: Callable[[], None] = lambda: None) -> dict[str, np.ndarray]:
    """The arrays of the file, and the ledger without what must differ; `begin` is called once frames can come."""
    controller = RunController(ring_size=FRAMES, batch_size=4)
    path = folder / f"{name}.h5"
    try:
        controller.configure(
            source=source, geometry=f"{folder}/a.poni", mask=f"{folder}/mask.npy", radial_bins=20,
            saving_file=str(path), saving_overwrite_policy="overwrite",
        )  # fmt: skip
        controller.parameters.update(snr_pick=2.5, min_pixels=2, veto_min_peaks=9, control_fraction=0)
        controller.prepare()
        assert controller.wait(PATIENCE) and controller.state is RunState.ON, controller.status
        controller.start()
        begin()
        assert controller.wait(PATIENCE)
        assert (controller.state, controller.error) == (RunState.STANDBY, None), controller.status
        told = controller.snapshot()
        assert (told.frame_count, told.frames_lost, told.frames_dropped, told.frames_failed) == (FRAMES, 0, 0, 0)
        assert 20 < told.kept_count < FRAMES - 20
    finally:
        controller.shutdown()
    with h5py.File(path) as file:
        entry = file["entry_0000"]
        found = {f"sparse/{k}": item[()] for k, item in entry["sparse_frames"].items() if item.shape}
        found |= {f"peaks/{k}": item[()] for k, item in file["entry_1/result_1"].items()}
        ledger = entry["ledger"][()]
    same = ("frame", "verdict", "reason", "n_pixels", "n_peaks", "row", "raw_bytes")
    return found | {f"ledger/{name}": ledger[name] for name in same}


@pytest.fixture(scope="module")
def expected(folder, frames):
    with sources(folder, frames)["file"]() as url:
        return run(url, folder, "expected")


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() and expected["sparse/index"].size > 1000
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("name", ["stream1", "stream2", "stream2, plain", "sls"])
def test_streams(folder, frames, expected, name):
    with sources(folder, frames)[name]() as url:
        assert_same(run(url, folder, "found"), expected)


@pytest.fixture(scope="module")
def tango_detector(folder):
    with serving(*DETECTOR) as server:
        # the buffer and the queue have room for all frames: nothing may be overwritten before it is read
        set_up(
            server, input_file=f"{folder}/frames.h5", number_of_frames=FRAMES, frame_rate=50.0,
            buffer_max_number=FRAMES,
        )  # fmt: skip
        yield server


@pytest.mark.parametrize("name", ["readImage", "getFrame"])
def test_tango(folder, expected, tango_detector, name):
    url = tango_detector.url(name, f"?queue={FRAMES}")
    assert_same(run(url, folder, "found", tango_detector.proxy.Start), expected)
    wait_for(lambda: str(tango_detector.proxy.state()) == "STANDBY", "the end")


def test_the_file_is_what_the_frames_are(frames, expected):
    """Not only the same everywhere, but right: every stored value is that of the frame."""
    begin = expected["sparse/frame_ptr"].astype(int)
    for row, number in enumerate(np.flatnonzero(expected["ledger/row"] >= 0)):
        index = expected["sparse/index"][begin[row] : begin[row + 1]]
        np.testing.assert_array_equal(
            frames.image(number).ravel()[index], expected["sparse/intensity"][begin[row] : begin[row + 1]]
        )
