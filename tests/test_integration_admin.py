"""What the administrator of a control system does while frames flow: Init, restarts of a device and of the server, its
end in every way, and a database that is away for a while."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tango
from devices_recovery_helpers import Gate
from framesieve.formats.sparse_reader import SparseFile
from integration_helpers import (
    ALARM,
    DEVICES,
    FAULT,
    ON,
    RUNNING,
    STANDBY,
    Beamline,
    refused,
    small_detector,
    wait_until,
)

pytest_plugins = ["integration_fixtures"]


class GatedBeamline(Beamline):
    """Its server reaches the database through a gate."""

    gate: Gate

    def host_for_server(self) -> str:
        self.gate = Gate(self.database.port)
        self.gate.open()
        return self.gate.host


@pytest.fixture(scope="module")
def house():
    with GatedBeamline() as house:
        yield house
    house.gate.close()


@pytest.fixture
def own(house, poni, tmp_path):
    """Ready for a run."""
    if not house.server.running:
        house.server.start()
    house.make_idle()
    house.reset_settings()
    house.set(geometry=str(poni), saving_directory=str(tmp_path), saving_prefix="run")
    yield house
    if house.server.running:
        house.make_idle()


@pytest.fixture
def detector():
    with small_detector(1_000_000, rate=60) as detector:
        yield detector


def run(own: Beamline, detector, frames: int = 8) -> Path:
    """Begin a run; its file, in which there are frames already."""
    own.set(source=detector.url)
    own.acquisition.Start()
    own.wait_for_frames(frames)
    wait_until(lambda: own.acquisition.saving_next_number, "the number of the next file")
    return own.output


def admin(own: Beamline) -> tango.DeviceProxy:
    proxy = tango.DeviceProxy(f"tango://{own.database.host}/dserver/FrameSieve/demo")
    proxy.set_timeout_millis(20_000)
    return proxy


def threads(own: Beamline) -> Counter[str]:
    """Threads of the package in the server, by name."""
    folder = Path(f"/proc/{own.server.pid}/task")
    names = [Path(folder, number, "comm").read_text().strip() for number in os.listdir(folder)]
    return Counter(name for name in names if name.startswith("fs-") and name != "fs-compress")


def memorised(own: Beamline, device: str, name: str) -> str:
    found = own.database.database().get_device_attribute_property(f"demo/framesieve/{device}", name)
    return found[name].get("__value", [""])[0]


def check_closed(path: Path, at_least: int) -> None:
    """Every frame that was counted is in the file, each number once, and nobody writes it any more."""
    with SparseFile(path) as file:
        assert len(file) >= at_least
        assert file.ledger["frame"].tolist() == list(range(file.ledger["frame"][0], file.ledger["frame"][-1] + 1))
        saved = file.ledger["row"][file.ledger["row"] >= 0]
        assert np.array_equal(saved, np.arange(len(file)))
        file.frame(len(file) - 1)
    size = path.stat().st_size
    time.sleep(0.2)
    assert path.stat().st_size == size


def test_init_in_every_state(own, detector):
    devices = [getattr(own, name) for name in DEVICES]
    values = {name: own.sparsifier.read_attribute(name).value for name in ("noise", "snr_pick", "radial_bins")}

    def init_all(state) -> None:
        own.wait_for(state)
        for device in devices:
            device.Init()
        assert own.state == state

    def init_is_refused(state) -> None:
        own.wait_for(state)
        for device in devices:
            with refused("OPERATION_NOT_ALLOWED", "RUNNING"):
                device.Init()

    init_all(STANDBY)
    own.set(source=detector.url)
    own.acquisition.Prepare()
    init_all(ON)
    own.acquisition.Start()
    init_is_refused(RUNNING)
    config = own.acquisition.get_attribute_config("frame_count")
    config.alarms.max_alarm = "1"
    own.acquisition.set_attribute_config(config)
    init_is_refused(ALARM)
    config.alarms.max_alarm = "Not specified"
    own.acquisition.set_attribute_config(config)
    own.acquisition.Stop()
    own.wait_for_end()
    own.set(source="stream2://127.0.0.1:9")
    own.acquisition.Prepare()
    init_all(FAULT)
    own.acquisition.Reset()
    assert own.state == STANDBY
    assert values == {name: own.sparsifier.read_attribute(name).value for name in values}
    wait_until(lambda: threads(own) == {"fs-publisher": 1}, "no thread is left but the publisher")


def test_every_device_is_restarted_in_mid_run(own, detector):
    path = run(own, detector)
    own.set("sparsifier", noise=2.5)
    for device in DEVICES:
        before = own.acquisition.frame_count
        admin(own).DevRestart(f"demo/framesieve/{device}")
        assert own.state in (RUNNING, ALARM)
        assert "not usable" not in own.acquisition.status()
        own.wait_for_frames(before + 2)
    assert own.sparsifier.noise == own.sparsifier.read_attribute("noise").w_value == 2.5
    own.acquisition.Stop()
    own.wait_for_end()
    assert (own.output, own.acquisition.saving_next_number) == (path, 1)
    check_closed(path, own.acquisition.frame_count)
    own.set(source="")  # gives up the connection that is kept for the next run
    wait_until(lambda: threads(own) == {"fs-publisher": 1}, "no thread is left but the publisher")


def test_a_device_is_restarted_before_the_database_knows_the_number_of_the_next_file(own, detector):
    """Otherwise the next run would meet the file of this one."""
    run(own, detector)
    own.acquisition.Stop()
    own.wait_for_end()
    database = own.database.database()
    database.put_device_attribute_property(
        "demo/framesieve/acquisition", {"saving_next_number": {"__value": ["0"]}, "polarization": {"__value": ["0.5"]}}
    )
    admin(own).DevRestart("demo/framesieve/acquisition")
    assert own.acquisition.polarization == 0.5  # what was put into the database meanwhile is taken
    assert own.acquisition.saving_next_number == 1
    assert own.acquisition.read_attribute("saving_next_number").w_value == 1


def test_the_server_is_restarted_by_its_admin_device_in_mid_run(own, detector):
    for number in range(2):
        path = run(own, detector)
        assert path.name == f"run_{number:04d}.h5"
        own.set("sparsifier", noise=3.5 + number)
        count, pid = own.acquisition.frame_count, own.server.pid
        admin(own).RestartServer()

        def is_back() -> bool:
            try:
                return own.state == STANDBY and all(getattr(own, device).state() == STANDBY for device in DEVICES)
            except tango.DevFailed:
                return False

        wait_until(is_back, "the devices are back")
        assert own.server.running and own.server.pid == pid
        check_closed(path, count)
        assert (own.sparsifier.noise, own.acquisition.saving_next_number) == (3.5 + number, number + 1)
        assert own.acquisition.source == detector.url
        wait_until(lambda: threads(own) == {"fs-publisher": 1}, "no thread of the old pipeline is left")


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "Kill"])
def test_the_server_is_ended_in_mid_run(own, detector, how):
    path = run(own, detector)
    count = own.acquisition.frame_count
    if how == "Kill":
        admin(own).Kill()
    else:
        os.kill(own.server.pid, getattr(signal, how))
    wait_until(lambda: not own.server.running, "the end of the server")
    assert own.server.returncode == 0
    check_closed(path, count)
    assert memorised(own, "acquisition", "saving_next_number") == "1"


def test_the_database_is_away_for_a_while(own, detector):
    own.set("sparsifier", noise=1.0)
    path = run(own, detector)
    own.gate.close()
    own.set("sparsifier", noise=4.0, snr_pick=2.0)
    own.set("sparsifier", noise=5.0)
    own.set("veto", min_peaks=3)
    assert (own.sparsifier.noise, own.sparsifier.snr_pick, own.veto.min_peaks) == (5, 2, 3)
    assert "database does not answer" in own.sparsifier.status() and "noise, snr_pick" in own.sparsifier.status()
    with refused("COMMUNICATION_BROKEN", "away", "database"):
        own.acquisition.SaveSettings("away")
    assert "away" not in (own.acquisition.settings_available or ())
    own.wait_for_frames(own.acquisition.frame_count + 5)
    own.acquisition.Stop()
    own.wait_for_end()
    second = run(own, detector)
    assert second != path
    wait_until(lambda: "saving_next_number" in own.acquisition.status(), "the number cannot be memorised")
    own.gate.open()
    own.set("sparsifier", clip_cycles=9)  # Tango itself does not yet find the database again
    wait_until(lambda: "database" not in own.sparsifier.status() + own.veto.status(), "all is memorised")
    wait_until(lambda: "database" not in own.acquisition.status(), "all is memorised")
    names = (("sparsifier", "noise"), ("sparsifier", "snr_pick"), ("sparsifier", "clip_cycles"), ("veto", "min_peaks"))
    assert [float(memorised(own, *name)) for name in names] == [5, 2, 9, 3]
    assert memorised(own, "acquisition", "saving_next_number") == "2"
    own.set("sparsifier", noise=6.0)
    assert float(memorised(own, "sparsifier", "noise")) == 6
    own.acquisition.SaveSettings("back")
    assert "back" in own.acquisition.settings_available
    own.acquisition.Stop()
    own.wait_for_end()
    check_closed(path, 8)
    check_closed(second, own.acquisition.frame_count)


def test_the_server_is_ended_while_the_database_is_away(own, detector):
    path = run(own, detector)
    count = own.acquisition.frame_count
    own.gate.close()
    try:
        own.server.close(grace=30)
    finally:
        own.gate.open()
    assert own.server.returncode == 0
    check_closed(path, count)
