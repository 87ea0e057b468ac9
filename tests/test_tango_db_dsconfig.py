"""Export and import in the format of dsconfig: against known answers, and against dsconfig itself."""

from __future__ import annotations

import copy
import json

import pytest
import tango
import typer
from dsconfig.dump import get_db_data
from dsconfig.formatting import validate_json
from dsconfig.json2tango import apply_config, prepare_config
from framesieve.cli.register import register
from framesieve.processing.errors import CommunicationError, ConfigurationError
from framesieve.tango_db import SAMPLES, sample_path
from framesieve.tango_db.attributes import SETTINGS, default
from framesieve.tango_db.beamline import load
from framesieve.tango_db.embedded import EmbeddedDatabase
from framesieve.tango_db.export import export, servers_in
from framesieve.tango_db.register import apply, plan
from typer.testing import CliRunner

TEXT = """
domain: bl
instances:
  one:
    acquisition:
      alias: acq
      properties: {SavingRoot: /data, RingSize: 64, Presets: ['{"name": "a"}', b]}
      settings: {saving_directory: /data/out, mask: '', solid_angle: true}
      attributes:
        buffer_occupancy: {label: Buffer, max_alarm: 80}
    sparsifier:
      settings: {snr_pick: 3, error_model: hybrid}
"""
ACQUISITION, SPARSIFIER, VETO = (f"bl/framesieve/{name}" for name in ("acquisition", "sparsifier", "veto"))
#: what the database has after TEXT was registered and snr_pick tuned, in dsconfig's words
EXPORTED = {
    "AcquisitionDevice": {
        ACQUISITION: {
            "alias": "acq",
            "properties": {"SavingRoot": ["/data"], "RingSize": ["64"], "Presets": ['{"name": "a"}', "b"]},
            "attribute_properties": {
                "saving_directory": {"__value": ["/data/out"]},
                "mask": {"__value": [""]},
                "solid_angle": {"__value": ["true"]},
                "buffer_occupancy": {"label": ["Buffer"], "max_alarm": ["80"]},
            },
        }
    },
    "SparsifierDevice": {
        SPARSIFIER: {"attribute_properties": {"snr_pick": {"__value": ["4.5"]}, "error_model": {"__value": ["2"]}}}
    },
    "PeakFinderDevice": {"bl/framesieve/peakfinder": {}},
    "VetoDevice": {VETO: {"properties": {"ByHand": ["x"]}}},
}


@pytest.fixture(scope="module")
def databases():
    with EmbeddedDatabase() as first, EmbeddedDatabase() as second:
        yield first, second


def emptied(embedded: EmbeddedDatabase) -> tango.Database:
    db = embedded.database()
    for server in servers_in(db):
        for name in list(db.get_device_class_list(server).value_string)[::2]:
            db.delete_device(name)
    assert servers_in(db) == []
    return db


@pytest.fixture
def embedded(databases):
    return databases[0]


@pytest.fixture
def db(embedded):
    return emptied(embedded)


@pytest.fixture
def other(databases):
    """A second database, with nothing in it."""
    return emptied(databases[1])


@pytest.fixture
def write(tmp_path):
    def write(contents: object, name: str = "bl.json"):
        path = tmp_path / name
        text = contents if isinstance(contents, str) else json.dumps(contents, ensure_ascii=False, indent=1)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def tuned(db, write):
    """The database after TEXT was registered and something changed since."""
    register_in(db, write(TEXT, "bl.yaml"))
    db.put_device_attribute_property(SPARSIFIER, {"snr_pick": {"__value": ["4.5"]}})
    db.put_device_property(VETO, {"ByHand": ["x"]})
    return db


def register_in(db, path, **options) -> list[str]:
    result = plan(load(path), db, **options)
    apply(result.changes, db)
    return [str(change) for change in result.changes]


def dsconfig_calls(contents: dict, db, *, write: bool = False) -> list[tuple]:
    """What json2tango would change in the database (or changes), without -u: also what it would delete."""
    config = prepare_config(copy.deepcopy(contents), validate=True)
    return apply_config(config, db, write=write)[2]


# ---- export


def test_the_export_holds_all_there_is_in_the_format_of_dsconfig(tuned, embedded):
    contents = export(tuned, ["framesieve/ONE"])
    assert contents == {"tango_host": embedded.host, "servers": {"FrameSieve": {"one": EXPORTED}}}
    del contents["tango_host"]  # dsconfig writes it, too, and takes it out before it checks
    validate_json(contents)


def test_the_export_is_what_dsconfig_itself_dumps(tuned):
    ours, theirs = export(tuned, ["FrameSieve/one"]), get_db_data(tuned, ["server:FrameSieve/one"])
    assert json.loads(json.dumps(theirs["servers"], default=dict)) == ours["servers"]


def test_dsconfig_finds_nothing_to_change_in_an_export_and_restores_it(tuned, other):
    contents = export(tuned, ["FrameSieve/one"])
    assert dsconfig_calls(contents, tuned) == []
    assert dsconfig_calls(contents, other, write=True)
    assert export(other, ["FrameSieve/one"])["servers"] == contents["servers"]


def test_a_server_that_is_not_there_is_named(tuned):
    with pytest.raises(
        ConfigurationError, match=r"^FrameSieve/two is not in the Tango database; it has FrameSieve/one$"
    ):
        export(tuned, ["FrameSieve/two"])


def test_a_database_that_has_gone_is_told():
    with EmbeddedDatabase() as embedded:
        db = embedded.database()
        embedded.kill()
        with pytest.raises(CommunicationError, match=r"the Tango database at .* failed"):
            export(db, ["FrameSieve/one"])


# ---- import


def test_an_export_registers_as_what_it_was(tuned, other, write):
    contents = export(tuned, ["FrameSieve/one"])
    path = write(contents)
    assert f"+ {SPARSIFIER} setting error_model: hybrid" in register_in(other, path)
    assert export(other, ["FrameSieve/one"])["servers"] == contents["servers"]
    assert register_in(other, path) == []
    assert register_in(tuned, path) == []


def test_text_in_any_alphabet_goes_round(db, other, write):
    """dsconfig's own dump takes it for Latin-1."""
    register_in(db, write(TEXT.replace("label: Buffer", "label: Füllung σ"), "bl.yaml"))
    path = write(export(db, ["FrameSieve/one"]))
    register_in(other, path)
    stored = other.get_device_attribute_property(ACQUISITION, ["buffer_occupancy"])["buffer_occupancy"]["label"]
    assert list(stored) == ["Füllung σ"]


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_go_round(name, db, other, write):
    register_in(db, sample_path(name))
    servers = [f"FrameSieve/{instance}" for instance in load(sample_path(name)).instances]
    path = write(export(db, servers))
    register_in(other, path)
    assert export(other, servers)["servers"] == json.loads(path.read_text())["servers"]
    without_starter = [change for change in plan(load(sample_path(name)), other).changes if change.kind != "Starter"]
    assert without_starter == []


def one(**sections: object) -> dict:
    """A file of dsconfig's with the devices of one instance, and what the sections say of them."""
    devices = {
        "AcquisitionDevice": "acquisition",
        "SparsifierDevice": "sparsifier",
        "PeakFinderDevice": "peakfinder",
        "VetoDevice": "veto",
    }
    classes = {kind: {f"bl/framesieve/{role}": sections.get(role, {})} for kind, role in devices.items()}
    return {"servers": {"FrameSieve": {"one": classes}}}


def values(role: str, **settings: str) -> dict:
    return {role: {"attribute_properties": {name: {"__value": [text]} for name, text in settings.items()}}}


def settings_of(path) -> dict:
    found = {}
    for device in load(path).devices():
        found |= {(device.role, name): v for name, v in device.section.settings.model_dump(exclude_unset=True).items()}
    return found


def test_texts_become_values_of_the_type_of_their_attribute(write):
    contents = one(
        **values("acquisition", solid_angle="false", saving_prefix="007", polarization="0.99", saving_next_number="12"),
        **values("sparsifier", ERROR_MODEL="1", snr_pick="1e1", clip_cycles="3"),
        **values("veto", enabled="1"),
    )
    found = settings_of(write(contents))
    assert found == {
        ("acquisition", "solid_angle"): False,
        ("acquisition", "saving_prefix"): "007",
        ("acquisition", "polarization"): 0.99,
        ("acquisition", "saving_next_number"): 12,
        ("sparsifier", "error_model"): 1,
        ("sparsifier", "snr_pick"): 10.0,
        ("sparsifier", "clip_cycles"): 3,
        ("veto", "enabled"): True,
    }
    assert settings_of(write(one(**values("sparsifier", error_model="exact")))) == {("sparsifier", "error_model"): 3}


def test_every_setting_can_be_restored(db, write):
    sections = {
        role: {
            "settings": {name: value.name if hasattr(value := default(role, name), "name") else value for name in names}
        }
        for role, names in SETTINGS.items()
    }
    register_in(db, write({"domain": "bl", "instances": {"one": sections}}, "all.json"))
    found = settings_of(write(export(db, ["FrameSieve/one"])))
    assert found == {(role, name): default(role, name) for role, names in SETTINGS.items() for name in names}


def test_what_is_not_ours_is_not_read(write):
    contents = one(
        veto={
            "properties": {"__SubDevices": ["a/b/c"], "logging_level": ["DEBUG"]},
            "attribute_properties": {"min_peaks": {"__value": ["7"], "__value_ts": ["1"]}},
        }
    )
    contents["servers"]["FrameSieve"]["one"]["DServer"] = {"dserver/FrameSieve/one": {}}
    contents |= {"classes": {"VetoDevice": {"properties": {"A": ["b"]}}}, "tango_host": "a:1", "_title": "x"}
    contents["servers"]["Starter"] = {"host": {"Starter": {"tango/admin/host": {}}}}
    beamline = load(write(contents))
    assert list(beamline.instances) == ["one"]
    assert settings_of(write(contents)) == {("veto", "min_peaks"): 7}
    assert beamline.instances["one"].veto.properties == {"logging_level": "DEBUG"}


def test_the_instance_may_stand_in_the_name_of_the_server_and_the_file_may_be_yaml(write):
    contents = one(**values("veto", min_peaks="7"))
    contents["servers"]["FrameSieve/one"] = contents["servers"].pop("FrameSieve")["one"]
    assert settings_of(write(contents)) == settings_of(write(contents, "bl.yaml")) == {("veto", "min_peaks"): 7}


def test_the_domain_and_names_are_those_of_the_file(write):
    text = json.dumps(one()).replace("bl/framesieve/veto", "other/family/veto")
    names = [device.name for device in load(write(text)).devices()]
    assert names == [
        *(f"bl/framesieve/{role}" for role in ("acquisition", "sparsifier", "peakfinder")),
        "other/family/veto",
    ]


def without(key: str) -> dict:
    contents = one()
    del contents["servers"]["FrameSieve"]["one"][key]
    return contents


PLACE = "servers.FrameSieve.one.{}.bl/framesieve/{}.".format
MISTAKES = {
    # contents → what its only line of error must contain, after the file name
    "no JSON": ('{\n "servers": {\n', ":3:1: not valid JSON: "),
    "key twice": ('{"servers": {"a": 1,\n "a": 2}}', ": not valid JSON: the key 'a' stands twice in one object"),
    "nothing": ("{}", ":1: domain is missing"),
    "devices only": ({"devices": {"a/b/c": {}}}, ":2: devices: accepted is 'servers', an object with"),
    "no object": ({"servers": []}, ":2: servers: accepted is an object with"),
    "other servers": (
        {"servers": {"Starter": {}, "Pool": {}}},
        ":2: servers: there is no server FrameSieve here, but Starter, Pool",
    ),
    "class missing": (without("VetoDevice"), ":4: servers.FrameSieve.one: VetoDevice is missing: an instance has"),
    "unknown class": (
        {"servers": {"FrameSieve": {"one": {"TangoTest": {}}}}},
        ":5: servers.FrameSieve.one.TangoTest: accepted are AcquisitionDevice, SparsifierDevice, PeakFinderDevice,",
    ),
    "two devices": (
        {"servers": {"FrameSieve": {"one": {"VetoDevice": {"a/b/c": {}, "a/b/d": {}}}}}},
        "VetoDevice: accepted is one device, not 2",
    ),
    "unknown section": (
        one(veto={"attributes": {}}),
        PLACE("VetoDevice", "veto") + "attributes: unknown key; accepted are alias,",
    ),
    "number": (
        one(veto={"properties": {"Root": [3]}}),
        PLACE("VetoDevice", "veto") + 'properties.Root: accepted is a list of texts, such as ["3"], not [3]',
    ),
    "text": (one(veto={"properties": {"Root": "3"}}), "properties.Root: accepted is a list of texts"),
    "two values": (
        one(veto={"attribute_properties": {"min_peaks": {"__value": ["1", "2"]}}}),
        "min_peaks.__value: accepted is a list of one text",
    ),
    "out of range": (
        one(**values("sparsifier", snr_pick="2000")),
        PLACE("SparsifierDevice", "sparsifier")
        + "attribute_properties.snr_pick.__value = ['2000']: accepted is 0 to 1000",
    ),
    "case": (
        one(**values("sparsifier", SNR_Pick="x")),
        "attribute_properties.SNR_Pick.__value = ['x']: accepted is a number",
    ),
    "enum": (
        one(**values("sparsifier", error_model="9")),
        "error_model.__value = ['9']: accepted is one of azimuthal, poisson",
    ),
    "unknown attribute": (
        one(**values("sparsifier", snr_pik="9")),
        "snr_pik.__value = ['9']: unknown key; did you mean snr_pick?",
    ),
    "read-only": (one(**values("veto", hit_rate="9")), "hit_rate.__value = ['9']: this attribute cannot be written"),
    "limit": (
        one(veto={"attribute_properties": {"hit_rate": {"max_alarm": ["high"]}}}),
        PLACE("VetoDevice", "veto") + "attribute_properties.hit_rate.max_alarm = ['high']: accepted is a valid number",
    ),
    "radii": (
        one(**values("peakfinder", radius_min="9", radius_max="3")),
        ":4: servers.FrameSieve.one: radius_max = 3",
    ),
    "name": (
        json.dumps(one()).replace("bl/framesieve/veto", "veto"),
        "VetoDevice.veto: accepted is a Tango device name",
    ),
    "names": (
        json.dumps(one()).replace("framesieve/veto", "framesieve/sparsifier"),
        "belongs to one.sparsifier already",
    ),
    "alias": (one(veto={"alias": "a/b"}), PLACE("VetoDevice", "veto") + "alias = 'a/b': accepted is a name"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_clear_line_for_a_mistake(write, mistake):
    contents, expected = MISTAKES[mistake]
    path = write(contents)
    with pytest.raises(ConfigurationError) as error:
        load(path)
    line, *others = str(error.value).splitlines()
    assert line.startswith(f"{path}:")
    assert expected in line
    if mistake != "nothing":  # domain and instances are both missing
        assert not others


def test_the_line_of_a_mistake_is_told_even_with_tabs(write):
    text = json.dumps(one(**values("veto", min_peaks="-1")), indent="\t")
    with pytest.raises(ConfigurationError) as error:
        load(write(text))
    number = next(i for i, line in enumerate(text.splitlines(), 1) if "__value" in line)
    assert f"bl.json:{number}: servers." in str(error.value)


# ---- command line


@pytest.fixture
def run(embedded):
    app = typer.Typer()
    app.command()(register)

    def run(*arguments: object, status: int = 0) -> str:
        result = CliRunner().invoke(app, [*map(str, arguments), "--tango-host", embedded.host])
        assert result.exit_code == status, result.output
        return result.stderr if status else result.stdout

    return run


def test_command_exports_and_restores(run, tuned, embedded, tmp_path):
    file = tmp_path / "backup.json"
    for what in ([], ["FrameSieve/one"], [tmp_path / "bl.yaml"]):
        file.unlink(missing_ok=True)
        said = run(*what, "--export", file)
        assert said == f"{file}: FrameSieve/one as the Tango database at {tuned.get_db_host()}:{embedded.port} has it\n"
        assert json.loads(file.read_text(encoding="utf-8"))["servers"] == {"FrameSieve": {"one": EXPORTED}}
    tuned.put_device_attribute_property(SPARSIFIER, {"snr_pick": {"__value": ["9"]}})
    assert "snr_pick stays '9', as the database has it (backup.json says '4.5'" in run(file)
    assert run("--reset-settings", file) == f"~ {SPARSIFIER} setting snr_pick: '9' → '4.5'\n1 change made\n"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_command_says_what_cannot_be_exported(run, tuned, tmp_path, embedded):
    assert run("--export", tmp_path / "no" / "x.json", status=2) == (
        f"{tmp_path}/no/x.json: cannot be written: No such file or directory\n"
    )
    assert "FrameSieve/two is not in the Tango database" in run("FrameSieve/two", "--export", tmp_path / "x", status=2)
    assert run("--export", tmp_path / "x", "--dry-run", status=2) == (
        "--dry-run does not go with --export, which writes nothing into the database\n"
    )
    assert run(status=2) == "give BEAMLINE.yaml, the description to register, or --export FILE.json\n"
    assert not (tmp_path / "x").exists()
