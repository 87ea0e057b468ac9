"""Many settings at once (the attribute `settings`), and two clients at once."""

from __future__ import annotations

import json
import threading

import pytest
import tango
from devices_helpers import Devices, refused, serve, wait_until
from tango import DevState

NUMBER = "controller.parameters.current.number"
WRITES = 100  # of each client


@pytest.fixture(scope="module")
def server():
    with serve() as devices:
        yield devices


@pytest.fixture
def devices(server):
    server.acquisition.Abort()
    server.clear()
    return server


# --- many settings


def test_all_settings_in_one_text(devices):
    devices.sparsifier.noise = 2.5
    devices.sparsifier.error_model = "hybrid"
    devices.veto.enabled = False
    found = json.loads(devices.acquisition.settings)
    assert sorted(found) == ["acquisition", "peakfinder", "sparsifier", "veto"]
    expected = {"snr_clip": 0.0, "clip_cycles": 5, "error_model": "hybrid", "radial_bins": 800, "noise": 2.5}
    assert {name: found["sparsifier"][name] for name in expected} == expected
    assert found["veto"] == {"enabled": False, "min_peaks": 20, "max_peaks": 0, "control_fraction": 1.0}
    assert (found["acquisition"]["saving_prefix"], found["acquisition"]["number_of_frames"]) == ("frames", 0)
    for role, values in found.items():
        writable = {
            config.name
            for config in devices[role].attribute_list_query()
            if config.writable == tango.AttrWriteType.READ_WRITE
        }
        assert writable - set(values) == {"acquisition": {"settings"}, "veto": {"what_if_min_peaks"}}.get(role, set())
        assert set(values) <= writable


def test_some_settings_at_once_are_one_parameter_set(devices):
    number = devices.evaluate(NUMBER)
    devices.acquisition.Start()
    # what is right only together, and could not be written one by one in this order
    new = {"peakfinder": {"min_pixels": 60, "patch_size": 9}, "sparsifier": {"error_model": "poisson", "noise": 2}}
    devices.acquisition.settings = json.dumps(new)
    assert devices.evaluate(NUMBER) == number + 1
    assert (devices.peakfinder.min_pixels, devices.peakfinder.patch_size) == (60, 9)
    assert devices.peakfinder.read_attribute("min_pixels").w_value == 60
    assert (devices.sparsifier.error_model.name, devices.sparsifier.noise) == ("poisson", 2)
    assert devices.acquisition.state() == DevState.RUNNING
    with refused("OPERATION_NOT_ALLOWED", "radial_bins"):
        devices.acquisition.settings = '{"sparsifier": {"radial_bins": 100, "noise": 9}}'
    assert devices.sparsifier.noise == 2
    devices.acquisition.Stop()
    devices.acquisition.settings = '{"sparsifier": {"radial_bins": 100, "noise": 9}, "acquisition": {"dark": ""}}'
    assert (devices.sparsifier.radial_bins, devices.sparsifier.noise) == (100, 9)


def test_what_was_read_can_be_written_again(devices):
    before = devices.acquisition.settings
    number = devices.evaluate(NUMBER)
    devices.acquisition.settings = before
    assert (devices.acquisition.settings, devices.evaluate(NUMBER)) == (before, number)
    devices.sparsifier.snr_pick = 8
    devices.sparsifier.radial_bins = 10
    devices.acquisition.number_of_frames = 7
    devices.acquisition.settings = before
    assert devices.acquisition.settings == before
    assert devices.acquisition.read_attribute("number_of_frames").w_value == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["JSON"]),
        ("{", ["JSON"]),
        ("[" * 100_000, ["JSON"]),
        ("[1]", ["sparsifier"]),
        ('{"sparsifier": 1}', ["snr_pick"]),
        ('{"camera": {"noise": 1}}', ["camera", "sparsifier", "veto"]),
        ('{"sparsifier": {"noises": 1}}', ["noises", "noise", "snr_pick"]),
        ('{"sparsifier": {"compression_ratio": 1}}', ["compression_ratio"]),
        ('{"acquisition": {"settings": ""}}', ["settings"]),
        ('{"sparsifier": {"noise": "1"}}', ["noise", "number"]),
        ('{"sparsifier": {"noise": true}}', ["noise", "number"]),
        ('{"sparsifier": {"noise": NaN}}', ["noise", "0.0 to 1000000"]),
        ('{"sparsifier": {"clip_cycles": 1.5}}', ["clip_cycles", "whole number"]),
        ('{"sparsifier": {"radial_bins": 5}}', ["radial_bins", "10 to 10000"]),
        ('{"sparsifier": {"error_model": 2}}', ["error_model", "text"]),
        ('{"sparsifier": {"error_model": "guess"}}', ["error_model", "azimuthal, poisson"]),
        ('{"veto": {"enabled": 1}}', ["enabled", "true or false"]),
        ('{"acquisition": {"saving_overwrite_policy": "never"}}', ["saving_overwrite_policy", "abort, overwrite"]),
        ('{"acquisition": {"number_of_frames": -1}}', ["number_of_frames"]),
        ('{"sparsifier": {"radial_bins": 100, "noise": -1}}', ["noise", "0.0 to 1000000"]),
        ('{"veto": {"min_peaks": 30, "max_peaks": 10}}', ["max_peaks", "10", "30"]),
    ],
)
def test_nonsense_is_refused_as_a_whole(devices, text, words):
    good = '"peakfinder": {"snr_peak": 9}'
    if text.startswith('{"'):
        text = text[:-1] + ", " + good + "}"
    before, number = devices.acquisition.settings, devices.evaluate(NUMBER)
    with refused("DATA_OUT_OF_RANGE", *words):
        devices.acquisition.settings = text
    assert (devices.acquisition.settings, devices.evaluate(NUMBER)) == (before, number)


# --- two clients


def clients(devices: Devices, *tasks) -> None:
    """Each task in a thread, with the connection of its own."""
    failures = []

    def run(task) -> None:
        with tango.EnsureOmniThread():
            try:
                task(Devices(*address))
            except Exception as error:
                failures.append(error)

    address = devices.address
    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_two_clients_write_different_thresholds(devices):
    """No update is lost: each write is one parameter set, and both last values hold."""
    number = devices.evaluate(NUMBER)
    devices.acquisition.Start()

    def turn(member, name):
        def task(own):
            for i in range(1, WRITES + 1):
                own[member].write_attribute(name, 3.0 + i / 8)
                assert own[member].read_attribute(name).value == 3.0 + i / 8

        return task

    clients(devices, turn("sparsifier", "snr_pick"), turn("peakfinder", "snr_peak"))
    assert devices.evaluate(NUMBER) == number + 2 * WRITES
    assert devices.sparsifier.snr_pick == devices.peakfinder.snr_peak == 3.0 + WRITES / 8


def test_two_clients_write_the_same_threshold(devices):
    """Each write is one parameter set; the last one is in force, and both clients see that."""
    number = devices.evaluate(NUMBER)
    devices.acquisition.Start()
    seen = []
    event = devices.sparsifier.subscribe_event("noise", tango.EventType.CHANGE_EVENT, seen.append)

    def turn(first):
        def task(own):
            for i in range(WRITES):
                own.sparsifier.noise = first + i

        return task

    try:
        clients(devices, turn(100), turn(100 + 5 * WRITES))
        assert devices.evaluate(NUMBER) == number + 2 * WRITES
        attribute = devices.sparsifier.read_attribute("noise")
        assert attribute.value == attribute.w_value == devices.evaluate("controller.parameters.current.values.noise")
        assert attribute.value in (100 + WRITES - 1, 100 + 6 * WRITES - 1)
        wait_until(lambda: seen[-1].attr_value.value == attribute.value)
    finally:
        devices.sparsifier.unsubscribe_event(event)


def test_two_clients_start_at_once(devices):
    """One of them does, the other one is told."""
    refusals = []

    def begin(own):
        try:
            own.acquisition.Start()
        except tango.DevFailed as error:
            refusals.append(error.args[0].reason)

    for _ in range(5):
        refusals.clear()
        clients(devices, begin, begin)
        assert refusals == ["OPERATION_NOT_ALLOWED"]
        assert devices.acquisition.state() == DevState.RUNNING
        devices.acquisition.Stop()
