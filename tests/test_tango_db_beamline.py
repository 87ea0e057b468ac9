"""Beamline descriptions: what is accepted, and one clear line for what is not."""

from __future__ import annotations

import pytest
from framesieve.processing.errors import ConfigurationError
from framesieve.tango_db import SAMPLES, sample_path
from framesieve.tango_db.attributes import ROLES, SETTINGS, all_attributes, default
from framesieve.tango_db.beamline import load
from framesieve.tango_db.property_types import check_properties


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "beamline.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_valid(name):
    assert {device.role for device in load(sample_path(name)).devices()} == set(ROLES)


def test_the_commented_sample_shows_every_setting():
    settings = {device.role: device.section.settings for device in load(sample_path("id29")).devices()}
    assert {role: set(model.model_fields_set) for role, model in settings.items()} == {
        role: set(names) for role, names in SETTINGS.items()
    }


def test_default_names_suffix_and_names_of_ones_own(write):
    text = """
domain: bl
instances:
  a: {}
  b: {suffix: two, veto: {name: other/family/veto}}
"""
    names = [device.name for device in load(write(text)).devices()]
    roles = ("acquisition", "sparsifier", "peakfinder")
    assert names == [
        *(f"bl/framesieve/{role}" for role in (*roles, "veto")),
        *(f"bl/framesieve/{role}_two" for role in roles),
        "other/family/veto",
    ]


def test_values_mean_what_they_look_like(write):
    """PyYAML alone reads 1:0 as sixty, 1e-3 as text and an instance called 29 as a number."""
    text = """
domain: bl
instances:
  29:
    acquisition: {settings: {opencl_device: 1:0, source: "file:/data/x.h5", saving_prefix: no}}
    sparsifier: {settings: {noise: 1e-3, clip_cycles: 5.0, error_model: hybrid}}
"""
    acquisition, sparsifier, *_ = load(write(text)).devices()
    assert acquisition.server == "FrameSieve/29"
    assert acquisition.section.settings.opencl_device == "1:0"
    assert acquisition.section.settings.saving_prefix == "no"
    settings = sparsifier.section.settings.model_dump(exclude_unset=True)
    assert settings == {"noise": 0.001, "clip_cycles": 5, "error_model": 2}
    assert type(settings["clip_cycles"]) is int


@pytest.mark.parametrize(
    "source",
    [
        "",
        "stream2://10.0.0.1:31001",
        "stream2://dcu:31001?channel=threshold_2",
        "file:/data/x_master.h5::/entry/data",
    ],
)
def test_sources_of_every_kind_are_accepted(write, source):
    text = f"domain: bl\ninstances: {{a: {{acquisition: {{settings: {{source: '{source}'}}}}}}}}"
    assert next(load(write(text)).devices()).section.settings.source == source


def one(role: str, part: str) -> str:
    """A description with one line, number 5, in one section."""
    return f"domain: bl\ninstances:\n  a:\n    {role}:\n      {part}\n"


MISTAKES = {
    # description → what its only line of error must contain, after the file name
    "no mapping": ("- a\n- b\n", ":1: the file = ['a', 'b']: accepted are 'key: value' entries"),
    "empty": ("", ":1: domain is missing: the first part of the device names"),
    "not YAML": ("domain: [bl\ninstances: 3\n", ":2:10: not valid YAML"),
    "key twice": (
        "domain: bl\ninstances:\n  a: {}\n  a: {}\n",
        ":4:3: not valid YAML: the key 'a' stands here a second",
    ),
    "key no text": ("domain: bl\ninstances: {? [1] : 2}\n", ":2:15: not valid YAML: a key must be text"),
    "python object": ("domain: !!python/object/apply:os.getcwd []\n", ":1:9: not valid YAML: could not determine"),
    "brackets": ("[" * 5000, ": not valid YAML: "),
    "no domain": ("instances:\n  a: {}\n", ":1: domain is missing"),
    "bad domain": ("domain: a/b\ninstances: {a: }\n", ":1: domain = 'a/b': accepted is a name of letters"),
    "no instances": ("domain: bl\ninstances:\n", ":2: instances = None: accepted are 'INSTANCE: …' entries"),
    "bad instance": ("domain: bl\ninstances:\n  a b:\n", ":3: instances.a b"),
    "unknown key": (
        one("sparsifer", "{}"),
        ":4: instances.a.sparsifer: unknown key; did you mean sparsifier? Accepted",
    ),
    "unknown section": (
        one("veto", "setings: {}"),
        ":5: instances.a.veto.setings: unknown key; did you mean settings?",
    ),
    "same names": (
        "domain: bl\ninstances:\n  a:\n  b:\n",
        "bl/framesieve/acquisition belongs to a.acquisition already",
    ),
    "same alias": (
        "domain: bl\ninstances:\n  a:\n    veto: {alias: v}\n    sparsifier: {alias: V}\n",
        ":4: instances.a.veto.alias = 'v': the alias v belongs to bl/framesieve/sparsifier already",
    ),
    "bad name": (one("veto", "name: a/b"), ":5: instances.a.veto.name = 'a/b': accepted is a Tango device name"),
    "property case": (
        one("veto", "properties: {saving_root: /data}"),
        "properties.saving_root = '/data': accepted as names",
    ),
    "property value": (one("veto", "properties: {Root: {a: 1}}"), "properties.Root: accepted is text, a number, true"),
    "unknown setting": (
        one("sparsifier", "settings: {snr_pik: 3}"),
        ":5: instances.a.sparsifier.settings.snr_pik = 3: unknown key; did you mean snr_pick? Accepted are snr_clip",
    ),
    "wrong device": (one("sparsifier", "settings: {snr_peak: 3}"), "this is a setting of peakfinder: write it there"),
    "not memorised": (one("acquisition", "settings: {number_of_frames: 3}"), "this attribute is not memorised"),
    "read-only": (
        one("veto", "settings: {hit_rate: 3}"),
        "veto.settings.hit_rate = 3: this attribute cannot be written",
    ),
    "out of range": (one("sparsifier", "settings: {snr_pick: 2000}"), "snr_pick = 2000: accepted is 0 to 1000"),
    "not a number": (one("sparsifier", "settings: {snr_pick: .nan}"), "snr_pick = nan: accepted is a number from 0"),
    "text": (one("sparsifier", "settings: {snr_pick: high}"), "snr_pick = 'high': accepted is a number from 0 to 1000"),
    "nothing": (one("acquisition", "settings: {mask: }"), "mask = None: accepted is text ('' for none"),
    "fraction": (one("sparsifier", "settings: {clip_cycles: 2.5}"), "clip_cycles = 2.5: accepted is a whole number"),
    "infinite": (one("sparsifier", "settings: {clip_cycles: .inf}"), "clip_cycles = inf: accepted is a whole number"),
    "huge": (one("sparsifier", f"settings: {{clip_cycles: 1{'0' * 400}}}"), "accepted is a whole number"),
    "limit nan": (
        one("veto", "attributes: {hit_rate: {max_alarm: .nan}}"),
        "max_alarm = nan: accepted is a finite number",
    ),
    "enum": (
        one("sparsifier", "settings: {error_model: gauss}"),
        "accepted is one of azimuthal, poisson, hybrid, exact",
    ),
    "bool": (one("veto", "settings: {enabled: yes}"), "enabled = 'yes': accepted is true or false"),
    "bins": (one("sparsifier", "settings: {radial_bins: 3}"), "radial_bins = 3: accepted is 10 to 10000"),
    "even surroundings": (one("sparsifier", "settings: {surroundings: 8}"), "accepted are 0 (none) and odd numbers"),
    "even patch": (one("peakfinder", "settings: {patch_size: 4}"), "patch_size = 4: accepted are odd numbers 3, 5, 7"),
    "pixels": (one("peakfinder", "settings: {min_pixels: 26}"), ":3: instances.a: min_pixels = 26: a patch of 5 × 5"),
    "radii": (
        one("peakfinder", "settings: {radius_min: 9, radius_max: 3}"),
        "must be 0 (no limit) or above radius_min",
    ),
    "policy": (
        one("acquisition", "settings: {saving_overwrite_policy: ask}"),
        "'ask': accepted is one of abort, overwrite",
    ),
    "prefix": (one("acquisition", "settings: {saving_prefix: a/b}"), "accepted is a file name without '/' and ':'"),
    "relative": (one("acquisition", "settings: {geometry: a.poni}"), "accepted is a full path, starting with '/'"),
    "source": (one("acquisition", "settings: {source: 'stream3://a:1'}"), "(accepted: stream2://HOST:PORT"),
    "no port": (one("acquisition", "settings: {source: 'stream2://a'}"), "must be written stream2://HOST:PORT"),
    "outside": (
        one("acquisition", "{properties: {SavingRoot: /data}, settings: {saving_directory: /home/x}}"),
        ":5: instances.a.acquisition.settings.saving_directory = '/home/x': accepted is a directory below",
    ),
    "limit name": (
        one("veto", "attributes: {hit_rate: {min_alarms: 1}}"),
        "min_alarms = 1: unknown key; did you mean min_alarm",
    ),
    "limit order": (
        one("veto", "attributes: {hit_rate: {min_alarm: 2, min_warning: 1}}"),
        "must not lie above min_warning",
    ),
    "limit of text": (one("acquisition", "attributes: {source: {max_alarm: 2}}"), "source is not a number"),
    "range of reading": (
        one("veto", "attributes: {hit_rate: {max_value: 2}}"),
        "hit_rate cannot be written: accepted are",
    ),
    "no attribute": (one("veto", "attributes: {hitrate: {label: a}}"), "hitrate: unknown key; did you mean hit_rate?"),
    "beyond max": (
        one("sparsifier", "{settings: {snr_pick: 30}, attributes: {snr_pick: {max_value: 20}}}"),
        "sparsifier.settings.snr_pick = 30: lies outside of min_value … max_value in 'attributes'",
    ),
    "starter": (
        one("starter", "{host: gpu1, level: 0}"),
        ":5: instances.a.starter.level = 0: accepted is greater than or",
    ),
    "starter host": (one("starter", "level: 1"), ":4: instances.a.starter.host is missing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_clear_line_for_a_mistake(write, mistake):
    text, expected = MISTAKES[mistake]
    path = write(text)
    with pytest.raises(ConfigurationError) as error:
        load(path)
    line, *others = str(error.value).splitlines()
    assert line.startswith(f"{path}:")
    assert expected in line
    if mistake != "empty":  # domain and instances are both missing
        assert not others


def test_several_mistakes_are_all_told(write):
    text = "domain: bl\ninstances:\n  a:\n    sparsifier:\n      settings:\n        noise: -1\n        snr_pick: x\n"
    with pytest.raises(ConfigurationError) as error:
        load(write(text))
    assert [line.split(": ")[0].rpartition(":")[2] for line in str(error.value).splitlines()] == ["6", "7"]


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"nowhere.yaml: there is no such file"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigurationError, match=r"cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"binary.yaml: cannot be read: it is not UTF-8 text"):
        load(tmp_path / "binary.yaml")


def test_properties_are_checked_against_those_of_the_devices(write):
    known = {"AcquisitionDevice": {"SavingRoot": str, "RingSize": int, "Presets": (str,)}}
    beamline = load(
        write(one("acquisition", "properties: {SavingRot: /data, RINGSIZE: 3, Presets: [a], SavingRoot: 5}"))
    )
    assert check_properties(beamline, known) == [
        "bl/framesieve/acquisition: AcquisitionDevice has no property SavingRot; did you mean SavingRoot?"
    ]
    assert check_properties(beamline, {}) == []
    beamline = load(write(one("acquisition", "properties: {RingSize: many}")))
    with pytest.raises(
        ConfigurationError, match=r"a.acquisition.properties.RingSize = 'many': accepted is a whole number"
    ):
        check_properties(beamline, known)


@pytest.mark.parametrize("role", ROLES)
def test_the_tables_agree_with_the_device_classes(role):
    server = pytest.importorskip("framesieve.devices.server")
    attributes = getattr(server, ROLES[role]).TangoClassClass.attr_list
    assert set(attributes) == set(all_attributes(role))
    memorised = {name for name, attribute in attributes.items() if getattr(attribute, "is_memorized", False)}
    assert memorised == set(SETTINGS[role])
    fields = {name: attributes[name].field for name in memorised}
    assert fields == SETTINGS[role]


def test_every_setting_has_a_default():
    assert all(default(role, name) is not None for role, names in SETTINGS.items() for name in names)
