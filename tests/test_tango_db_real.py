"""Registering, starting and restarting under the database and the Starter that beamlines run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tango
import typer
from control_system_helpers import ControlSystem, Unavailable, programs
from framesieve.cli.register import register
from framesieve.tango_db.attributes import ROLES
from tango_helpers import wait_for
from typer.testing import CliRunner

INSTANCE = f"real{os.getpid()}"  # Starter tells processes apart by server name and instance, whoever started them
SERVER = f"FrameSieve/{INSTANCE}"
SPARSIFIER, ACQUISITION = "real/framesieve/sparsifier", "real/framesieve/acquisition"
YAML = """
domain: real
instances:
  {instance}:
    starter: {{host: {host}, level: 2}}
    acquisition:
      alias: real
      properties: {{SavingRoot: /tmp, RingSize: 64}}
      settings: {{saving_prefix: first, solid_angle: false}}
      attributes:
        buffer_occupancy: {{label: Buffer, max_warning: 50, max_alarm: 80}}
    sparsifier:
      settings: {{snr_pick: 3, error_model: hybrid}}
"""


@pytest.fixture(scope="module")
def system(request):
    try:
        root = programs(request.config.cache.mkdir("tango_packages"))
    except Unavailable as error:
        pytest.skip(f"no MariaDB with the Tango database and Starter: {error}")
    with tempfile.TemporaryDirectory() as folder, ControlSystem(root, Path(folder)) as running:
        yield running


@pytest.fixture
def yaml(system, tmp_path):
    path = tmp_path / "real.yaml"
    path.write_text(YAML.format(instance=INSTANCE, host=system.host_name))
    return path


@pytest.fixture
def run(system):
    app = typer.Typer()
    app.command()(register)

    def run(*arguments: object) -> list[str]:
        """What `framesieve register` says."""
        result = CliRunner().invoke(app, [*map(str, arguments), "--tango-host", system.host])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    return run


def start(system: ControlSystem) -> tango.DeviceProxy:
    """The sparsifier, once Starter has started its server."""
    system.starter.DevStart(SERVER)
    wait_for(lambda: is_standby(system), "the server started by Starter is in STANDBY")
    return system.proxy(SPARSIFIER)


def is_standby(system: ControlSystem) -> bool:
    try:
        states = [system.proxy(f"real/framesieve/{role}").state() for role in ROLES]
        return states == [tango.DevState.STANDBY] * len(ROLES)
    except tango.DevFailed:
        return False


def pid(system: ControlSystem) -> int:
    return system.db.get_device_info(f"dserver/{SERVER}").pid


def wait_until_stopped(system: ControlSystem, process: int) -> None:
    wait_for(lambda: not Path(f"/proc/{process}").exists(), f"process {process} ends")
    wait_for(lambda: system.state_of(SERVER) == "FAULT", "Starter shows the server as stopped")


def memorised(system: ControlSystem, name: str) -> list[str]:
    return list(system.db.get_device_attribute_property(SPARSIFIER, [name])[name]["__value"])


def test_registered_started_tuned_stopped_and_started_again(system, yaml, run):
    count = len(run(yaml, "--dry-run")) - 1
    assert SERVER not in list(system.db.get_server_list("*"))
    assert run(yaml)[-1] == f"{count} changes made"
    assert run(yaml) == ["nothing to change"]
    limits = system.db.get_device_attribute_property(ACQUISITION, ["buffer_occupancy"])["buffer_occupancy"]
    assert {name: list(value) for name, value in limits.items()} == {
        "label": ["Buffer"],
        "max_warning": ["50"],
        "max_alarm": ["80"],
    }
    assert system.db.get_device_from_alias("real") == ACQUISITION

    # Starter takes over a server that nobody has started by hand
    wait_for(lambda: system.state_of(SERVER) == "FAULT", "Starter lists the server as stopped")
    sparsifier = start(system)
    assert (sparsifier.snr_pick, sparsifier.error_model.name) == (3.0, "hybrid")
    acquisition = system.proxy("real")
    assert (acquisition.saving_prefix, acquisition.solid_angle) == ("first", False)
    assert acquisition.get_attribute_config("buffer_occupancy").label == "Buffer"

    sparsifier.snr_pick, sparsifier.error_model = 4.5, "poisson"
    acquisition.saving_prefix = "tuned"
    wait_for(lambda: system.state_of(SERVER) == "ON", "Starter shows the server as running")
    first = pid(system)
    system.starter.DevStop(SERVER)
    wait_until_stopped(system, first)
    assert not system.db.get_device_info(SPARSIFIER).exported  # it has said goodbye

    kept = [line.partition(", as the database")[0] for line in run(yaml)]
    assert kept == [
        f"= {ACQUISITION} setting saving_prefix stays 'tuned'",
        f"= {SPARSIFIER} setting error_model stays poisson",
        f"= {SPARSIFIER} setting snr_pick stays '4.5'",
        "nothing to change",
    ]
    sparsifier = start(system)
    assert (sparsifier.snr_pick, sparsifier.error_model.name) == (4.5, "poisson")
    assert system.proxy("real").saving_prefix == "tuned"

    sparsifier.snr_pick = 5.5
    wait_for(lambda: system.state_of(SERVER) == "ON", "Starter shows the server as running")
    second = pid(system)
    assert second != first
    system.starter.HardKillServer(SERVER)
    wait_until_stopped(system, second)
    assert memorised(system, "snr_pick") == ["5.5"]

    assert run(yaml, "--reset-settings", "--dry-run")[-1] == "3 changes to make, nothing written (dry run)"
    assert memorised(system, "snr_pick") == ["5.5"]
    assert run(yaml, "--reset-settings")[-1] == "3 changes made"  # and not that it runs: it was killed
    assert memorised(system, "snr_pick") == ["3"]


def dsconfig(system: ControlSystem, program: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"dsconfig.{program}", *arguments]
    return subprocess.run(command, env=os.environ | {"TANGO_HOST": system.host}, capture_output=True, text=True)


NOTHING_TO_CHANGE, CHANGED = 0, 2  # how json2tango ends


def test_backed_up_and_restored_with_and_without_dsconfig(system, run, tmp_path):
    yaml, ours, theirs = (tmp_path / name for name in ("a.yaml", "ours.json", "theirs.json"))
    yaml.write_text("domain: saved\ninstances: {a: {sparsifier: {alias: fs, settings: {snr_pick: 3, noise: 0.5}}}}")
    run(yaml)
    device = "saved/framesieve/sparsifier"

    def tune(value: str) -> None:
        system.db.put_device_attribute_property(device, {"snr_pick": {"__value": [value]}})

    def tuned() -> list[str]:
        return list(system.db.get_device_attribute_property(device, ["snr_pick"])["snr_pick"]["__value"])

    info = tango.DbDevInfo()  # json2tango wants to delete the alias "" of the last device in the table
    info.name, info.server, info._class = "saved/other/device", "Other/a", "Other"
    system.db.add_device(info)
    tune("4.5")
    assert run(yaml, "--export", ours) == [f"{ours}: FrameSieve/a as the Tango database at {system.host} has it"]
    theirs.write_text(dsconfig(system, "dump", "server:FrameSieve/a").stdout)
    assert json.loads(theirs.read_text()) == json.loads(ours.read_text())
    assert dsconfig(system, "json2tango", str(ours)).returncode == NOTHING_TO_CHANGE
    assert run(theirs) == ["nothing to change"]

    tune("9")
    assert dsconfig(system, "json2tango", "-w", str(ours)).returncode == CHANGED
    assert tuned() == ["4.5"]
    tune("9")
    assert run(theirs, "--reset-settings") == [f"~ {device} setting snr_pick: '9' → '4.5'", "1 change made"]
    assert tuned() == ["4.5"]


def test_text_in_any_alphabet_is_kept(system, run, tmp_path):
    yaml, saved = tmp_path / "b.yaml", tmp_path / "b.json"
    limits = "{label: Füllung σ, description: Пиксели}"
    yaml.write_text(
        f"domain: text\ninstances: {{b: {{veto: {{attributes: {{hit_rate: {limits}}}}}}}}}", encoding="utf-8"
    )
    run(yaml)
    assert run(yaml) == ["nothing to change"]
    run(yaml, "--export", saved)
    veto = json.loads(saved.read_text(encoding="utf-8"))["servers"]["FrameSieve"]["b"]["VetoDevice"]
    properties = veto["text/framesieve/veto"]["attribute_properties"]
    assert properties == {"hit_rate": {"label": ["Füllung σ"], "description": ["Пиксели"]}}
