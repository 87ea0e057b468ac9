"""`framesieve register` and what is behind it, against a real (embedded) database."""

from __future__ import annotations

import socket

import pytest
import tango
import typer
from framesieve.cli.register import register
from framesieve.processing.errors import CommunicationError, ConfigurationError
from framesieve.tango_db import SAMPLES, sample_path
from framesieve.tango_db.beamline import load
from framesieve.tango_db.embedded import EmbeddedDatabase, ServerProcess
from framesieve.tango_db.register import Kind, apply, connect, plan, report
from typer.testing import CliRunner

TEXT = """
domain: bl
instances:
  one:
    starter: {host: gpu1, level: 3}
    acquisition:
      alias: acq
      properties: {SavingRoot: /data, RingSize: 64, Presets: [a, b], OpenCLDevice: auto}
      settings: {geometry: /data/a.poni, mask: '', solid_angle: true}
      attributes:
        buffer_occupancy: {label: Buffer, max_warning: 50, max_alarm: 80}
    sparsifier:
      settings: {snr_pick: 3, error_model: hybrid, noise: 0.3333333333333333}
"""
SPARSIFIER = "bl/framesieve/sparsifier"
ACQUISITION = "bl/framesieve/acquisition"

SERVER = """
import sys
from enum import IntEnum
from tango.server import Device, attribute, run

class Model(IntEnum):
    azimuthal = 0
    poisson = 1
    hybrid = 2

class SparsifierDevice(Device):
    cut, model = 5.0, Model.azimuthal

    @attribute(dtype=float, memorized=True, hw_memorized=True)
    def snr_pick(self):
        return self.cut

    @snr_pick.setter
    def snr_pick(self, value):
        self.cut = value

    @attribute(dtype=Model, memorized=True, hw_memorized=True)
    def error_model(self):
        return self.model

    @error_model.setter
    def error_model(self, value):
        self.model = Model(value)

class AcquisitionDevice(Device):
    pass

class PeakFinderDevice(Device):
    pass

class VetoDevice(Device):
    pass

run((SparsifierDevice, AcquisitionDevice, PeakFinderDevice, VetoDevice), args=["FrameSieve", *sys.argv[1:]])
"""


@pytest.fixture
def embedded():
    with EmbeddedDatabase() as database:
        yield database


@pytest.fixture
def db(embedded):
    return embedded.database()


@pytest.fixture
def describe(tmp_path):
    def describe(text: str = TEXT, *replacements: tuple[str, str]):
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "bl.yaml"
        path.write_text(text)
        return load(path)

    return describe


def apply_all(beamline, db, **options) -> list[str]:
    """What was changed, in words."""
    result = plan(beamline, db, **options)
    apply(result.changes, db)
    return [str(change) for change in result.changes]


def setting(db, device: str, name: str) -> list[str] | None:
    value = db.get_device_attribute_property(device, [name])[name].get("__value")
    return None if value is None else list(value)


def test_everything_described_is_in_the_database(describe, db):
    apply_all(describe(), db)
    for role, tango_class in [("acquisition", "AcquisitionDevice"), ("veto", "VetoDevice")]:
        info = db.get_device_info(f"bl/framesieve/{role}")
        assert (info.class_name, info.ds_full_name) == (tango_class, "FrameSieve/one")
    assert db.get_device_info("dserver/FrameSieve/one").class_name == "DServer"
    assert db.get_device_from_alias("acq") == ACQUISITION
    names = ["SavingRoot", "RingSize", "Presets", "OpenCLDevice"]
    stored = db.get_device_property(ACQUISITION, names)
    assert [list(stored[name]) for name in names] == [["/data"], ["64"], ["a", "b"], ["auto"]]
    limits = db.get_device_attribute_property(ACQUISITION, ["buffer_occupancy"])["buffer_occupancy"]
    assert {name: list(value) for name, value in limits.items()} == {
        "label": ["Buffer"],
        "max_warning": ["50"],
        "max_alarm": ["80"],
    }
    assert setting(db, ACQUISITION, "geometry") == ["/data/a.poni"]
    assert setting(db, ACQUISITION, "mask") == [""]
    assert setting(db, ACQUISITION, "solid_angle") == ["true"]
    assert setting(db, SPARSIFIER, "snr_pick") == ["3"]
    assert setting(db, SPARSIFIER, "error_model") == ["2"]
    starter = db.get_server_info("FrameSieve/one")
    assert (starter.host, starter.mode, starter.level) == ("gpu1", 1, 3)
    assert list(db.get_host_server_list("gpu1")) == ["FrameSieve/one"]  # where Starter looks for its servers
    assert not db.get_device_info("dserver/FrameSieve/one").exported


def test_a_second_run_has_nothing_to_do(describe, db):
    assert apply_all(describe(), db)
    result = plan(describe(), db)
    assert (result.changes, result.kept, result.strangers) == ([], [], [])
    assert report(result) == ["nothing to change"]


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_register_once(name, db):
    assert apply_all(load(sample_path(name)), db)
    assert apply_all(load(sample_path(name)), db) == []


def test_a_plan_alone_writes_nothing(describe, db):
    before = plan(describe(), db)
    assert len(before.changes) > 10
    assert plan(describe(), db).changes == before.changes
    assert list(db.get_device_name("FrameSieve/one", "*")) == []


def test_changes_are_told_with_old_and_new(describe, db):
    apply_all(describe(), db)
    changed = describe(
        TEXT,
        ("SavingRoot: /data", "SavingRoot: /data/visitor"),
        ("Presets: [a, b]", "Presets: null"),
        ("max_alarm: 80", "max_alarm: 90"),
        ("label: Buffer", "label: null"),
        ("alias: acq", "alias: eiger"),
        ("level: 3", "level: 4"),
    )
    assert sorted(apply_all(changed, db)) == [
        f"- {ACQUISITION} attribute buffer_occupancy.label: 'Buffer'",
        f"- {ACQUISITION} property Presets: ['a', 'b']",
        "~ FrameSieve/one Starter: host gpu1, level 3 → host gpu1, level 4",
        f"~ {ACQUISITION} alias: 'acq' → 'eiger'",
        f"~ {ACQUISITION} attribute buffer_occupancy.max_alarm: '80' → '90'",
        f"~ {ACQUISITION} property SavingRoot: '/data' → '/data/visitor'",
    ]
    assert apply_all(changed, db) == []
    assert list(db.get_device_property(ACQUISITION, ["Presets"])["Presets"]) == []
    assert db.get_device_from_alias("eiger") == ACQUISITION


def test_null_takes_alias_and_starter_out_again(describe, db):
    apply_all(describe(), db)
    without = describe(TEXT, ("alias: acq", "alias: null"), ("starter: {host: gpu1, level: 3}", "starter: null"))
    assert sorted(apply_all(without, db)) == [
        "- FrameSieve/one Starter: host gpu1, level 3",
        f"- {ACQUISITION} alias: 'acq'",
    ]
    assert apply_all(without, db) == []


def test_tuned_settings_survive(describe, db):
    apply_all(describe(), db)
    db.put_device_attribute_property(SPARSIFIER, {"snr_pick": {"__value": ["4.5"]}, "error_model": {"__value": ["1"]}})
    result = plan(describe(), db)
    assert result.changes == []
    kept = {change.name: (change.shown(change.old), change.shown(change.new)) for change in result.kept}
    assert kept == {"snr_pick": ("'4.5'", "'3'"), "error_model": ("poisson", "hybrid")}
    assert report(result, source="bl.yaml")[0] == (
        f"= {SPARSIFIER} setting error_model stays poisson, as the database has it "
        "(bl.yaml says hybrid; --reset-settings writes that)"
    )
    assert apply_all(describe(), db, reset_settings=True) == [
        f"~ {SPARSIFIER} setting error_model: poisson → hybrid",
        f"~ {SPARSIFIER} setting snr_pick: '4.5' → '3'",
    ]
    assert setting(db, SPARSIFIER, "snr_pick") == ["3"]


def test_values_as_tango_writes_them_are_not_tuned(describe, db):
    """A server that memorises the very values writes them differently: 3.0 or 3, 15 digits for a third."""
    apply_all(describe(), db)
    db.put_device_attribute_property(
        SPARSIFIER, {"snr_pick": {"__value": ["3.0"]}, "noise": {"__value": ["0.333333333333333"]}}
    )
    assert plan(describe(), db).kept == []


def test_properties_and_devices_of_others_are_left_alone(describe, db):
    apply_all(describe(), db)
    db.put_device_property(ACQUISITION, {"ByHand": ["1"]})
    info = tango.DbDevInfo()
    info.name, info.server, info._class = "bl/other/device", "FrameSieve/one", "VetoDevice"
    db.add_device(info)
    result = plan(describe(), db)
    assert result.changes == []
    assert result.strangers == ["FrameSieve/one also holds bl/other/device (VetoDevice), which is not described"]
    assert list(db.get_device_property(ACQUISITION, ["ByHand"])["ByHand"]) == ["1"]


def test_a_renamed_instance_takes_its_devices_and_settings_along(describe, db):
    apply_all(describe(), db)
    db.put_device_attribute_property(SPARSIFIER, {"snr_pick": {"__value": ["4.5"]}})
    renamed = describe(TEXT, ("  one:", "  two:"))
    changes = apply_all(renamed, db)
    assert f"~ {SPARSIFIER} device: FrameSieve/one, SparsifierDevice → FrameSieve/two, SparsifierDevice" in changes
    assert db.get_device_info(SPARSIFIER).ds_full_name == "FrameSieve/two"
    assert db.get_device_from_alias("acq") == ACQUISITION
    assert setting(db, SPARSIFIER, "snr_pick") == ["4.5"]
    assert apply_all(renamed, db) == []


def test_devices_and_aliases_of_others_are_refused(describe, db):
    info = tango.DbDevInfo()
    info.name, info.server, info._class = "bl/lima/eiger", "LimaCCDs/eiger", "LimaCCDs"
    db.add_device(info)
    taken = describe("domain: bl\ninstances: {one: {veto: {name: BL/lima/eiger}}}")
    with pytest.raises(ConfigurationError, match=r"belongs to LimaCCDs/eiger \(LimaCCDs\) .*give another name"):
        plan(taken, db)
    db.put_device_alias("bl/lima/eiger", "eiger")
    taken = describe("domain: bl\ninstances: {one: {veto: {alias: eiger}}}")
    with pytest.raises(ConfigurationError, match=r"the alias eiger of bl/framesieve/veto belongs to bl/lima/eiger"):
        plan(taken, db)


def test_a_server_starts_with_the_settings_and_its_own_values_survive(describe, db, embedded, tmp_path):
    """The point of it all: what is written is what Tango applies on start, enumerations included."""
    server = tmp_path / "server.py"
    server.write_text(SERVER)
    beamline = describe("domain: bl\ninstances: {one: {sparsifier: {settings: {snr_pick: 4, error_model: hybrid}}}}")
    apply_all(beamline, db)
    with ServerProcess("one", embedded.host, server=str(server)) as process:
        proxy = tango.DeviceProxy(f"tango://{embedded.host}/{SPARSIFIER}")
        assert (proxy.snr_pick, proxy.error_model.name) == (4.0, "hybrid")
        proxy.snr_pick, proxy.error_model = 6.5, "poisson"
        result = plan(beamline, db)
        assert result.running == ["FrameSieve/one"]
        assert {change.name for change in result.kept} == {"snr_pick", "error_model"}
        apply(result.changes, db)
        process.restart()
        proxy = tango.DeviceProxy(f"tango://{embedded.host}/{SPARSIFIER}")
        assert (proxy.snr_pick, proxy.error_model.name) == (6.5, "poisson")
        process.kill()
        assert db.get_device_info(SPARSIFIER).exported  # as the database has it
        assert plan(beamline, db).running == []


def test_a_server_that_runs_elsewhere_stays_where_it_is(describe, db):
    apply_all(describe("domain: bl\ninstances: {one: {}}"), db)
    info = tango.DbDevExportInfo()
    info.name, info.ior, info.host, info.version, info.pid = "dserver/FrameSieve/one", "IOR:0", "gpu2", "6", 1
    db.export_device(info)
    apply_all(describe("domain: bl\ninstances: {one: {starter: {host: gpu1}}}"), db)
    assert db.get_device_info("dserver/FrameSieve/one").exported
    assert list(db.get_host_server_list("gpu1")) == []


def test_apply_says_how_far_it_came(describe, db, embedded):
    result = plan(describe(), db)
    embedded.kill()
    with pytest.raises(CommunicationError, match=r"failed \(after 0 of \d+ changes, at: \+ bl/framesieve/acq"):
        apply(result.changes, db)
    with pytest.raises(CommunicationError, match="failed: "):
        plan(describe(), db)


@pytest.mark.parametrize("text", ["localhost", "host:port", "host:0", ":1"])
def test_a_malformed_tango_host_is_refused(text):
    with pytest.raises(ConfigurationError, match="accepted is HOST:PORT"):
        connect(text)


def test_the_first_database_that_answers_is_used(embedded):
    assert connect(f"127.0.0.1:1,{embedded.host}").get_db_port() == str(embedded.port)


# ---- command line


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(register)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "bl.yaml"
    path.write_text(TEXT)
    return path


def test_command_plans_writes_and_rests(run, path, db, embedded):
    dry = run(path, "--dry-run", "--tango-host", embedded.host)
    assert dry.exit_code == 0, dry.output
    count = len([line for line in dry.stdout.splitlines() if line[0] == "+"])
    assert dry.stdout.splitlines()[-1] == f"{count} changes to make, nothing written (dry run)"
    assert plan(load(path), db).changes[0].kind is Kind.device

    first = run(path, "--tango-host", embedded.host)
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines()[:-1] == dry.stdout.splitlines()[:-1]
    assert first.stdout.splitlines()[-1] == f"{count} changes made"

    second = run(path, "--tango-host", embedded.host)
    assert (second.exit_code, second.stdout) == (0, "nothing to change\n")


def test_command_resets_settings_only_when_told(run, path, db, embedded):
    run(path, "--tango-host", embedded.host)
    db.put_device_attribute_property(SPARSIFIER, {"snr_pick": {"__value": ["4.5"]}})
    output = run(path, "--tango-host", embedded.host).stdout.splitlines()
    assert "snr_pick stays '4.5', as the database has it (bl.yaml says '3'" in output[0]
    assert output[1:] == ["nothing to change"]
    output = run(path, "--reset-settings", "--tango-host", embedded.host).stdout.splitlines()
    assert output == [f"~ {SPARSIFIER} setting snr_pick: '4.5' → '3'", "1 change made"]


def test_command_status_2_for_an_unusable_description(run, path, embedded):
    path.write_text(TEXT.replace("snr_pick: 3", "snr_pick: -3"))
    result = run(path, "--tango-host", embedded.host)
    assert (result.exit_code, result.stdout) == (2, "")
    where = "instances.one.sparsifier.settings.snr_pick"
    assert result.stderr == f"{path}:13: {where} = -3: accepted is 0 to 1000\n"
    result = run(path.with_name("nowhere.yaml"), "--tango-host", embedded.host)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    path.write_text(TEXT.replace("RingSize: 64", "RingSize: many"))
    result = run(path, "--tango-host", embedded.host)
    assert result.exit_code == 2
    assert (
        result.stderr == f"{path}: instances.one.acquisition.properties.RingSize = 'many': accepted is a whole number\n"
    )
    path.write_text(TEXT)
    result = run(path, "--tango-host", "nonsense")
    assert result.exit_code == 2
    assert result.stderr == "TANGO_HOST = 'nonsense': accepted is HOST:PORT, e.g. localhost:10000\n"


def test_command_warns_of_properties_that_no_device_has(run, path, embedded):
    path.write_text(TEXT.replace("RingSize: 64", "RingSiz: 64"))
    result = run(path, "--dry-run", "--tango-host", embedded.host)
    assert result.exit_code == 0
    warning = f"{ACQUISITION}: AcquisitionDevice has no property RingSiz; did you mean RingSize?"
    assert result.stderr == f"{path}: warning: {warning}\n"


def test_command_status_1_without_a_database(run, path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        result = run(path, "--tango-host", host)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"no Tango database at {host}: start it or set TANGO_HOST\n"
