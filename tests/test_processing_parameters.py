"""Live parameters: checked, numbered, never changed in place."""

import dataclasses
import json
import threading

import pytest
from framesieve.processing.errors import OutOfRangeError
from framesieve.processing.parameters import LIMITS, ErrorModel, Parameters, ParameterStore

REFUSED = [
    *[{name: low - 1} for name, (low, _) in LIMITS.items()],
    *[{name: high + 1} for name, (_, high) in LIMITS.items()],
    *[{name: float("nan")} for name in LIMITS],
    *[{name: "much"} for name in LIMITS],
    {"patch_size": 4},
    {"patch_size": 5.5},
    {"surroundings": 1},
    {"surroundings": 8},
    {"clip_cycles": float("inf")},
    {"min_pixels": 26},
    {"patch_size": 3},  # with min_pixels 10, below
    {"radius_min": 50.0, "radius_max": 50.0},
    {"veto_min_peaks": 30, "veto_max_peaks": 29},
    {"error_model": "gaussian"},
    {"error_model": 4},
    {"error_model": None},
    {"snr_pick": None},
    {"nonsense": 1},
]


@pytest.mark.parametrize("changes", REFUSED, ids=str)
def test_refused(changes):
    before = Parameters(min_pixels=10)
    with pytest.raises(OutOfRangeError) as caught:
        before.replace(**changes)
    assert any(name in str(caught.value) or "max_peaks" in str(caught.value) for name in changes)
    assert before == Parameters(min_pixels=10)


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_accepted(name):
    low, high = LIMITS[name]
    others = {"patch_size": 15} if name == "min_pixels" else {}
    if name == "patch_size":
        others = {"min_pixels": 1}
    if name == "veto_max_peaks":
        others = {"veto_min_peaks": 0}
    for value in (low, high):
        assert getattr(Parameters(**{**others, name: value}), name) == value


@pytest.mark.parametrize("model", ErrorModel)
def test_there_and_back(model):
    parameters = Parameters(error_model=model, snr_pick=2.5, veto_enabled=False)
    assert Parameters.from_dict(json.loads(parameters.to_json())) == parameters
    assert parameters.to_dict()["error_model"] == model.name
    assert Parameters(error_model=int(model)).error_model is model


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Parameters().snr_pick = 2


def test_numbers_grow_only_with_changes():
    store = ParameterStore()
    assert store.current.number == 1
    assert store.update(snr_pick=3.0).number == 1  # as it was
    assert store.update(snr_pick=4.0).number == 2
    with pytest.raises(OutOfRangeError):
        store.update(snr_pick=5.0, noise=-1)
    assert store.current.number == 2 and store.current.values.snr_pick == 4
    assert store.update(snr_pick=3.0).number == 3  # an old state is a new set


def test_changes_by_many_threads_each_get_a_number():
    store = ParameterStore()

    def change(k):
        for i in range(50):
            store.update(snr_pick=1 + k + i / 100)

    threads = [threading.Thread(target=change, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.current.number == 1 + 300


def test_sets_are_known_by_their_number():
    store = ParameterStore()
    for pick in range(1, 6):
        store.update(snr_pick=pick + 10)
    assert [store.find(number).values.snr_pick for number in range(1, 7)] == [3, 11, 12, 13, 14, 15]
    assert store.find(4).number == 4
    for number in (0, 7):
        with pytest.raises(OutOfRangeError, match=f"parameter set {number}: known are 1 to 6"):
            store.find(number)
    for pick in range(1000):
        store.update(snr_pick=pick)
    assert store.find(1006).values.snr_pick == 999 and store.find(7).values.snr_pick == 0
    with pytest.raises(OutOfRangeError, match="known are 7 to 1006"):
        store.find(6)
