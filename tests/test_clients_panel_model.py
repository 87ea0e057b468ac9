"""What the panel knows of the devices, without Qt and without a display."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest
from devices_helpers import serve, wait_until
from framesieve.clients.panel import places
from framesieve.clients.panel.model import PanelModel
from framesieve.clients.panel.names import GROUPS, READINGS
from framesieve.clients.panel.places import find_devices
from framesieve.processing.errors import CommunicationError, ConfigurationError
from framesieve.tango_db import register, sample_path
from framesieve.tango_db.beamline import load
from framesieve.tango_db.embedded import EmbeddedDatabase

pytest_plugins = ["panel_server"]

PATIENCE = 30.0


def place(devices) -> str:
    return f"tango://127.0.0.1:{devices.acquisition.get_dev_port()}/test#dbase=no"


@pytest.fixture
def make_model(devices):
    models = []

    def make() -> PanelModel:
        model = PanelModel(find_devices(place(devices)))
        models.append(model)
        model.start()
        wait_until(lambda: not model.missing, PATIENCE)
        return model

    yield make
    for model in models:
        assert model.close(PATIENCE)


def test_every_value_is_that_of_the_devices(devices, make_model):
    model = make_model()
    devices.feed(frames_lost=3, preview=np.arange(12, dtype=np.uint16).reshape(3, 4), last_error="frame 3: broken")
    wait_until(lambda: model.get("acquisition/last_error") == "frame 3: broken", PATIENCE)
    wait_until(lambda: np.size(model.get("acquisition/preview")) == 12, PATIENCE)
    for member, names in READINGS.items():
        written = [key.partition("/")[2] for groups in GROUPS.values() for keys in groups.values() for key in keys
                   if key.startswith(f"{member}/")]  # fmt: skip
        for name in (*names, *written):
            shown, true = model.get(f"{member}/{name}"), devices[member].read_attribute(name).value
            np.testing.assert_array_equal(np.ravel(shown), np.ravel(true), err_msg=name)
    assert model.state == "STANDBY"


def test_settings_are_described_in_the_words_of_the_devices(devices, make_model):
    model = make_model()
    description = model.descriptions["sparsifier/error_model"]
    assert description.is_writable
    assert description.choices[:2] == ("azimuthal", "poisson")
    assert "measured" in description.meaning
    assert not model.descriptions["acquisition/frame_count"].is_writable


def test_a_write_reaches_the_device_and_every_panel(devices, make_model):
    one, two = make_model(), make_model()
    one.write("veto/min_peaks", 33)
    wait_until(lambda: two.get("veto/min_peaks") == one.get("veto/min_peaks") == 33, PATIENCE)
    assert devices.veto.min_peaks == 33
    assert one.refusal("veto/min_peaks") is None


def test_of_many_values_that_wait_the_newest_is_written(devices, make_model):
    model = make_model()
    for value in range(1, 201):
        model.write("veto/min_peaks", value)
    wait_until(lambda: not model.is_pending("veto/min_peaks"), PATIENCE)
    assert devices.veto.min_peaks == 200


def test_a_refused_write_says_why_until_one_is_taken(devices, make_model):
    model = make_model()
    model.take_changed()
    model.write("veto/min_peaks", 99_999)
    wait_until(lambda: model.refusal("veto/min_peaks"), PATIENCE)
    assert "99999" in model.refusal("veto/min_peaks").reason
    assert model.newest_refusal.key == "veto/min_peaks"
    assert "veto/min_peaks" in model.take_changed()
    assert model.get("veto/min_peaks") == devices.veto.min_peaks == 20
    model.write("veto/min_peaks", 21)
    wait_until(lambda: model.get("veto/min_peaks") == 21, PATIENCE)
    wait_until(lambda: model.newest_refusal is None, PATIENCE)


def test_commands_and_their_refusals(devices, make_model):
    model = make_model()
    model.command("Start")
    wait_until(lambda: model.state == "RUNNING", PATIENCE)
    model.command("Start")
    wait_until(lambda: model.refusal("acquisition/Start"), PATIENCE)
    assert "RUNNING" in model.refusal("acquisition/Start").reason
    model.command("Stop")
    wait_until(lambda: model.state == "STANDBY", PATIENCE)
    wait_until(lambda: model.newest_refusal is None, PATIENCE)


def test_a_refused_command_is_forgotten_when_the_state_changes(devices, make_model, monkeypatch):
    monkeypatch.setattr("framesieve.clients.panel.model.OUTDATED", 0.0)
    model = make_model()
    model.command("Start")
    wait_until(lambda: model.state == "RUNNING", PATIENCE)
    model.command("Start")
    wait_until(lambda: model.refusal("acquisition/Start"), PATIENCE)
    devices.acquisition.Stop()  # somebody else
    wait_until(lambda: model.state == "STANDBY" and model.newest_refusal is None, PATIENCE)


def test_trends_hold_what_came_and_are_bounded(devices, make_model):
    model = make_model()
    devices.feed(frame_rate=12.5)
    wait_until(lambda: model.get("acquisition/frame_rate") == 12.5, PATIENCE)
    times, values = model.trend("acquisition/frame_rate")
    assert values[-1] == 12.5
    assert np.all(np.diff(times) >= 0)
    for k in range(10_000):  # as if a point came every second
        model._trends["veto/hit_rate"].append((float(k), 1.0))
    assert len(model.trend("veto/hit_rate")[0]) == 3000


def test_nothing_is_polled(devices, make_model):
    """While nothing changes, no request reaches the devices."""
    model = make_model()
    time.sleep(1.0)
    before = devices.acquisition.black_box(50)
    time.sleep(2.0)
    requests = [line for line in devices.acquisition.black_box(50) if line not in before]
    # a client that looks at the black box leaves one line itself
    assert len([line for line in requests if "attribute" in line.lower()]) == 0, requests
    assert model.state == "STANDBY"


def test_closing_does_not_wait_for_a_server_that_hangs():
    with serve() as devices:
        pid = int(devices.evaluate("os.getpid()"))
        model = PanelModel(find_devices(place(devices)))
        model.start()
        wait_until(lambda: not model.missing, PATIENCE)
        os.kill(pid, signal.SIGSTOP)
        try:
            model.write("veto/min_peaks", 5)
            closing = threading.Thread(target=model.close, args=(0.5,))
            closing.start()
            closing.join(PATIENCE)
            assert not closing.is_alive()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert model.close(PATIENCE)


def test_what_is_watched_comes_and_what_is_not_does_not(devices, make_model):
    model, powder, step = make_model(), "peakfinder/virtual_powder_max", "peakfinder/virtual_powder_step"
    model.watch((step, powder))
    wait_until(lambda: model.get(step) == 1 and model.get(powder) is not None, PATIENCE)
    devices.evaluate("controller.plant(1, [(4, 2, 10)])")
    wait_until(lambda: np.size(model.get(powder)) == 600, PATIENCE)
    assert model.get(powder)[2, 4] == 10
    model.watch(("peakfinder/last_hit_number", "peakfinder/no_such_attribute"))
    wait_until(lambda: set(model._watched) == {"peakfinder/last_hit_number"}, PATIENCE)
    model.watch(())
    wait_until(lambda: not model._watched, PATIENCE)


# ---- which devices ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database():
    with EmbeddedDatabase() as embedded:
        connection = embedded.database()
        for sample in ("demo", "two_instances"):
            register.apply(register.plan(load(sample_path(sample)), connection).changes, connection)
        yield f"tango://{embedded.host}"


@pytest.mark.parametrize("where", ["demo", "demo/framesieve", "DEMO/framesieve/veto"])
def test_devices_are_found_by_domain_and_by_name(database, where):
    assert find_devices(f"{database}/{where}") == {
        member: f"{database}/demo/framesieve/{member}" for member in places.MEMBERS.values()
    }


def test_one_of_several_pipelines_is_found_by_the_name_of_a_device(database):
    found = find_devices(f"{database}/id13/framesieve/acquisition_eiger500k")
    assert found["veto"] == f"{database}/id13/framesieve/veto_eiger500k"


def test_of_several_pipelines_none_is_guessed(database):
    with pytest.raises(ConfigurationError, match="acquisition_eiger4m; id13/framesieve/acquisition_eiger500k"):
        find_devices(f"{database}/id13")
    with pytest.raises(ConfigurationError, match="demo/framesieve/acquisition"):
        find_devices(f"{database}/nowhere")
    with pytest.raises(ConfigurationError, match="accepted are"):
        find_devices("a/b/c/d")


def test_no_database_is_one_clear_error():
    with pytest.raises(CommunicationError, match="does not answer"):
        find_devices("tango://127.0.0.1:1/demo")
