"""The reducer as a whole: the same bits on every run and in every batch, and what it refuses."""

import functools

import numpy as np
import oracles
import pyopencl as cl
import pytest
from framesieve.processing.bins import make_bins
from framesieve.processing.errors import ConfigurationError, HardwareError
from framesieve.processing.opencl import DeviceChoice, choose_device, list_devices
from framesieve.processing.parameters import ErrorModel, Parameters
from framesieve.processing.pocl import name_processor
from framesieve.processing.reducer import Reducer

SHAPE = (120, 136)  # bins of up to 4 000 pixels: several blocks of sums
N_FRAMES = 7


def frames(dtype) -> np.ndarray:
    rng = np.random.default_rng(12)
    stack = rng.poisson(8, (N_FRAMES, *SHAPE)).astype(float)
    for frame in stack:
        for _ in range(40):
            y, x = rng.integers(3, SHAPE[0] - 3), rng.integers(3, SHAPE[1] - 3)
            frame[y - 1 : y + 2, x - 1 : x + 2] += rng.integers(5, 300) * np.array([[0.3, 0.6, 0.3]] * 3)
    stack[3] = 0
    stack[5, 60:100, 50:90] = 60_000
    return stack.astype(dtype)


def bins(with_norm: bool):
    rng = np.random.default_rng(13)
    norm = rng.uniform(0.8, 1.2, SHAPE) if with_norm else None
    return make_bins(oracles.radius_image(SHAPE), 6, rng.random(SHAPE) < 0.02, norm)


@functools.cache
def reducer_for(dtype: str, with_norm: bool, lane_per_item: bool, batch_size: int) -> Reducer:
    """With a norm comes a dark image."""
    dark = np.random.default_rng(1).uniform(0, 3, SHAPE).astype(np.float32) if with_norm else None
    return Reducer(
        bins(with_norm), dtype, oracles.device(), dark=dark, batch_size=batch_size, lane_per_item=lane_per_item
    )


def same(a, b) -> bool:
    names = ("index", "intensity", "mean", "std", "peaks")
    return a.n_peaks == b.n_peaks and all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in names)


def reduce_in_batches(reducer: Reducer, stack: np.ndarray, parameters: Parameters, n: int, slot: int = 0) -> list:
    results = []
    for start in range(0, len(stack), n):
        part = stack[start : start + n]
        reducer.inputs[slot][: len(part)] = part
        results += reducer.reduce(slot, len(part), parameters)
    return results


@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("model", list(ErrorModel))
def test_same_bits(dtype, with_norm, model):
    """Whatever the batch size, the place in the batch, the slot, the run and the layout of the work."""
    stack = frames(dtype)
    parameters = Parameters(error_model=model, snr_pick=2, min_pixels=2)
    first = None
    for lane_per_item in (False, True):
        for batch_size in (1, 5, 2) if lane_per_item or dtype == "uint16" else (5,):
            reducer = reducer_for(dtype, with_norm, lane_per_item, batch_size)
            for slot, order in [(0, 1), (1, 1), (0, -1), (0, 1)]:
                results = reduce_in_batches(reducer, stack[::order], parameters, batch_size, slot)[::order]
                first = first or results
                assert all(map(same, first, results)), (batch_size, lane_per_item, slot, order)
    assert first[0].n_peaks > 20 and first[0].index.size > 500
    assert not same(first[0], first[1])


def test_a_batch_that_is_not_full_leaves_no_trace():
    """Frames of the batch before, in places that are not used, have no influence."""
    stack, geometry = frames("uint16"), bins(False)
    reducer = Reducer(geometry, np.uint16, oracles.device(), batch_size=4)
    alone = reduce_in_batches(reducer, stack[:1], Parameters(), 1)[0]
    reduce_in_batches(reducer, stack[1:5], Parameters(), 4)
    again = reduce_in_batches(reducer, stack[:1], Parameters(), 1)
    assert len(again) == 1 and same(again[0], alone)


def test_same_bits_on_a_part_of_the_device():
    whole = oracles.device()
    try:
        parts = whole.device.create_sub_devices([cl.device_partition_property.EQUALLY, 1])
    except cl.Error as error:
        pytest.skip(f"the device cannot be divided: {error}")
    stack, geometry = frames("uint16"), bins(True)
    results = []
    for device in (whole, DeviceChoice(parts[0], "a part of it")):
        name_processor(device.device)
        try:
            reducer = Reducer(geometry, np.uint16, device, batch_size=2)
        except (HardwareError, cl.Error) as error:
            pytest.skip(f"nothing can be built for a part of the device: {error}")
        results.append(reduce_in_batches(reducer, stack, Parameters(), 2))
    assert all(map(same, *results))


@pytest.mark.parametrize("dtype", ["int64", "float64", "uint64", "complex64", "bool", "int8"])
def test_refused_pixel_types(dtype):
    with pytest.raises(ConfigurationError, match="uint16"):
        Reducer(bins(False), np.dtype(dtype), oracles.device())


def test_refused_dark():
    with pytest.raises(ConfigurationError, match="dark"):
        Reducer(bins(False), np.uint16, oracles.device(), dark=np.zeros((3, 4), np.float32))


def test_too_large_a_batch_is_an_error_of_the_device():
    huge = make_bins(oracles.radius_image((2000, 2000)), 10)
    with pytest.raises(HardwareError, match="batch size"):
        Reducer(huge, np.uint32, oracles.device(), batch_size=2_000_000)


def test_close_may_be_called_twice():
    reducer = Reducer(bins(False), np.uint16, oracles.device())
    reducer.close()
    reducer.close()


# ---- devices --------------------------------------------------------------------------------------------------------


def test_devices_are_found_by_number_and_by_name():
    assert choose_device("auto").device in [device for _, device in list_devices()]
    for name, device in list_devices():
        numbers, _, words = name.partition(" ")
        platform, _, device_name = words.partition(": ")
        assert choose_device(numbers).device == device
        assert choose_device(f"{platform.lower()}:{device_name.upper()}").name.split(" ")[1:] == name.split(" ")[1:]


@pytest.mark.parametrize("choice", ["9:0", "nonsense", "no such maker:0", "0:99", ":nothing"])
def test_unknown_devices(choice):
    with pytest.raises(ConfigurationError, match="opencl_device"):
        choose_device(choice)


def test_no_device_at_all(monkeypatch):
    monkeypatch.setattr("framesieve.processing.opencl.list_devices", list)
    with pytest.raises(ConfigurationError, match="no OpenCL device"):
        choose_device.__wrapped__("auto")


def test_devices_that_do_not_work_are_told(monkeypatch):
    def fail(device):
        raise HardwareError("it smokes")

    monkeypatch.setattr("framesieve.processing.opencl._try_out", fail)
    with pytest.raises(HardwareError, match="it smokes"):
        choose_device.__wrapped__("auto")
    with pytest.raises(HardwareError, match="it smokes"):
        choose_device.__wrapped__("0:0")
