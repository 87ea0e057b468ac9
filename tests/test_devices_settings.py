"""Writing, refusing, restoring, saving and loading settings; commands and states of a run."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import tango
from devices_helpers import refused, serve, wait_until
from tango import DevState

PONI = "Distance: 0.1\nPixelSize1: 1e-4\nPixelSize2: 1e-4\n"


@pytest.fixture(scope="module")
def server():
    with serve() as devices:
        yield devices


@pytest.fixture
def devices(server):
    server.acquisition.Abort()
    server.clear()
    return server


NUMBER = "controller.parameters.current.number"
LIVE = [
    ("sparsifier", "snr_clip", 2.5),
    ("sparsifier", "clip_cycles", 7),
    ("sparsifier", "error_model", 2),
    ("sparsifier", "noise", 0.5),
    ("sparsifier", "snr_pick", 4.5),
    ("sparsifier", "surroundings", 9),
    ("peakfinder", "snr_peak", 5.0),
    ("peakfinder", "patch_size", 7),
    ("peakfinder", "min_pixels", 3),
    ("peakfinder", "max_peaks", 100),
    ("peakfinder", "radius_min", 10.0),
    ("peakfinder", "radius_max", 100.0),
    ("veto", "enabled", False),
    ("veto", "min_peaks", 5),
    ("veto", "max_peaks", 50),
    ("veto", "control_fraction", 10.0),
    ("veto", "what_if_min_peaks", 8),
]


def test_live_settings_can_be_written_while_running(devices):
    number = devices.evaluate(NUMBER)
    devices.acquisition.Start()
    for member, name, value in LIVE:
        devices[member].write_attribute(name, value)
        assert devices[member].read_attribute(name).value == value
    values = devices.evaluate("controller.parameters.current.values")
    assert (values.veto_min_peaks, values.veto_max_peaks, values.max_peaks) == (5, 50, 100)
    assert devices.evaluate(NUMBER) == number + len(LIVE) - 1  # one each; what_if_min_peaks is no parameter
    assert devices.evaluate("controller.what_if_min_peaks") == 8


def test_the_error_model_is_written_by_label(devices):
    devices.sparsifier.error_model = "poisson"
    assert devices.sparsifier.error_model.name == "poisson"
    assert devices.evaluate("controller.parameters.current.values.error_model.name") == "poisson"


@pytest.mark.parametrize(
    ("member", "name", "value", "words"),
    [
        ("sparsifier", "snr_clip", -1.0, ["-1", "0.0 to 100"]),
        ("sparsifier", "clip_cycles", 101, ["101", "0 to 100"]),
        ("sparsifier", "radial_bins", 5, ["5", "10 to 10000"]),
        ("sparsifier", "surroundings", 8, ["8", "odd"]),
        ("sparsifier", "surroundings", 33, ["33", "0 to 31"]),
        ("peakfinder", "patch_size", 4, ["4", "odd"]),
        ("peakfinder", "patch_size", 99, ["99", "3 to 15"]),
        ("peakfinder", "min_pixels", 26, ["26", "25"]),
        ("peakfinder", "max_peaks", 0, ["0", "1 to 10000"]),
        ("veto", "max_peaks", 10, ["10", "20"]),
        ("veto", "control_fraction", 100.5, ["100.5", "0.0 to 100"]),
        ("veto", "what_if_min_peaks", 10_001, ["10001", "0 to 10000"]),
        ("acquisition", "polarization", 1.5, ["1.5", "-1.0 to 1.0"]),
        ("acquisition", "saving_next_number", -1, ["-1", "0 to"]),
        ("acquisition", "saving_overwrite_policy", "append", ["append", "abort, overwrite"]),
    ],
)
def test_a_value_out_of_range_is_refused_and_changes_nothing(devices, member, name, value, words):
    device = devices[member]
    before, number = device.read_attribute(name), devices.evaluate(NUMBER)
    with refused("DATA_OUT_OF_RANGE", *words):
        device.write_attribute(name, value)
    after = device.read_attribute(name)
    assert (after.value, after.w_value) == (before.value, before.w_value)
    assert devices.evaluate(NUMBER) == number


@pytest.mark.parametrize("name", ["snr_clip", "noise", "snr_pick"])
def test_nan_is_refused(devices, name):
    before = devices.sparsifier.read_attribute(name).value
    with pytest.raises(tango.DevFailed):  # Tango itself refuses it, before the device sees it
        devices.sparsifier.write_attribute(name, math.nan)
    assert devices.sparsifier.read_attribute(name).value == before


def test_files_are_checked_when_written(devices, tmp_path):
    file = tmp_path / "detector.poni"
    file.write_text("x")
    with refused("CONFIGURATION_ERROR", "detector.poni", "Distance"):
        devices.acquisition.geometry = str(file)
    file.write_text(PONI)
    devices.acquisition.geometry = str(file)
    for name in ("geometry", "mask", "dark", "flat"):
        with refused("CONFIGURATION_ERROR", "/nowhere", "no such file"):
            devices.acquisition.write_attribute(name, "/nowhere")
    assert devices.acquisition.geometry == str(file)
    assert devices.acquisition.mask == ""


@pytest.mark.parametrize("policy", ["OVERWRITE", "Overwrite", " overwrite "])
def test_the_overwrite_policy_is_taken_in_any_case(devices, policy):
    devices.acquisition.saving_overwrite_policy = policy
    assert devices.acquisition.saving_overwrite_policy == "overwrite"


def test_properties_reach_the_controller(tmp_path):
    properties = {"SavingRoot": str(tmp_path), "RingSize": 10, "BatchSize": 3, "DecodeThreads": 2}
    properties["OpenCLDevice"] = "Portable:0"
    for order in (1, -1):
        with serve(properties=properties, memorised={"sparsifier": {"radial_bins": "123"}}, order=order) as devices:
            assert devices.acquisition.status() == "Idle."
            assert devices.evaluate("controller.ring_size, controller.batch_size, controller.decode_threads") == (
                10,
                3,
                2,
            )
            assert (
                devices.evaluate("controller.settings.opencl_device")
                == devices.acquisition.opencl_device
                == "Portable:0"
            )
            assert devices.evaluate("controller.settings.radial_bins") == 123
            with refused("CONFIGURATION_ERROR", "SavingRoot"):
                devices.acquisition.saving_directory = "/etc"
            devices.acquisition.saving_directory = str(tmp_path / "data")


# --- a run


def test_a_run(devices):
    acquisition = devices.acquisition
    assert acquisition.state() == DevState.STANDBY
    acquisition.Prepare()
    assert all(device.state() == DevState.ON for device in devices.all)
    acquisition.Start()
    assert all(device.state() == DevState.RUNNING for device in devices.all)
    assert acquisition.status() == "Reducing frames."
    with refused("OPERATION_NOT_ALLOWED"):
        acquisition.Start()
    for member, name, value in [
        ("acquisition", "geometry", ""),
        ("acquisition", "source", "file:x"),
        ("acquisition", "number_of_frames", 0),
        ("sparsifier", "radial_bins", 800),
    ]:
        with refused("OPERATION_NOT_ALLOWED", name):
            devices[member].write_attribute(name, value)
    with refused("OPERATION_NOT_ALLOWED"):
        acquisition.Reset()
    wait_until(lambda: acquisition.frame_count > 2)
    acquisition.Stop()
    assert acquisition.state() == DevState.STANDBY
    acquisition.Stop()
    acquisition.Abort()
    acquisition.Reset()


def test_counters(devices):
    for _ in range(5):
        devices.feed()
    name, text = devices.acquisition.ReadCounters(3)
    assert name == "json"
    assert json.loads(text) == {
        "frame": [3, 4],
        "n_peaks": [2, 2],
        "n_pixels": [10, 10],
        "verdict": ["kept", "kept"],
        "parameter_set": [1, 1],
    }
    assert json.loads(devices.acquisition.ReadCounters(99)[1])["frame"] == []


def test_fault_is_left_by_reset(devices):
    devices.evaluate("controller.fail('The detector does not answer: check its address, then Reset.')")
    assert all(device.state() == DevState.FAULT for device in devices.all)
    assert "check its address" in devices.veto.status()
    devices.acquisition.Reset()
    assert devices.acquisition.state() == DevState.STANDBY


def test_a_plain_exception_is_a_software_failure(devices):
    devices.evaluate("setattr(controller, 'prepare', explode)")
    with pytest.raises(tango.DevFailed) as caught:
        devices.acquisition.Prepare()
    error = caught.value.args[0]
    assert (error.reason, error.origin) == ("SOFTWARE_FAILURE", "AcquisitionDevice.Prepare")
    assert error.desc == "KeyError: 'oops'"
    devices.evaluate("delattr(controller, 'prepare')")


def test_init_is_refused_while_running_and_harmless_otherwise(devices):
    devices.peakfinder.patch_size = 9
    devices.peakfinder.min_pixels = 50
    devices.acquisition.number_of_frames = 12
    devices.sparsifier.radial_bins = 222
    devices.acquisition.Start()
    for device in devices.all:
        with refused("OPERATION_NOT_ALLOWED", "RUNNING"):
            device.Init()
    assert all(device.state() == DevState.RUNNING for device in devices.all)
    wait_until(lambda: devices.acquisition.frame_count > 2)
    devices.acquisition.Stop()
    for device in devices.all:
        device.Init()
        for name in device.get_attribute_list():
            device.read_attribute(name)
    assert (devices.peakfinder.patch_size, devices.peakfinder.min_pixels) == (9, 50)
    assert (devices.acquisition.number_of_frames, devices.sparsifier.radial_bins) == (12, 222)
    with refused("DATA_OUT_OF_RANGE"):  # a client's write is no restoring one
        devices.sparsifier.radial_bins = 1
    devices.acquisition.Start()
    assert devices.acquisition.state() == DevState.RUNNING


def test_a_device_can_be_restarted_while_running(devices):
    devices.acquisition.Start()
    admin = tango.DeviceProxy(devices.veto.adm_name())
    admin.DevRestart("test/framesieve/veto")
    assert devices.veto.state() == DevState.RUNNING
    with refused("DATA_OUT_OF_RANGE"):
        devices.veto.control_fraction = -1
    admin.DevRestart("test/framesieve/acquisition")
    assert devices.acquisition.state() == DevState.RUNNING
    wait_until(lambda: devices.acquisition.frame_count > 2)


# --- memorised values


@pytest.mark.parametrize("order", [1, -1])
def test_values_that_are_only_right_together_are_restored_in_any_order(order):
    memorised = {
        "veto": {"max_peaks": "10", "min_peaks": "5"},
        "peakfinder": {"min_pixels": "60", "patch_size": "9", "radius_max": "5", "radius_min": "4"},
    }
    with serve(memorised=memorised, order=order) as devices:
        assert (devices.veto.min_peaks, devices.veto.max_peaks) == (5, 10)
        assert (devices.peakfinder.min_pixels, devices.peakfinder.patch_size) == (60, 9)
        assert (devices.peakfinder.radius_min, devices.peakfinder.radius_max) == (4, 5)
        assert devices.acquisition.status() == "Idle."


def test_unusable_memorised_values_are_named_and_end_nothing(tmp_path):
    missing = tmp_path / "gone.poni"
    memorised = {"acquisition": {"geometry": str(missing)}, "sparsifier": {"snr_clip": "1e9", "noise": "2"}}
    with serve(memorised=memorised) as devices:
        assert devices.acquisition.state() == DevState.STANDBY
        assert devices.acquisition.geometry == str(missing)
        assert "gone.poni" in devices.acquisition.status()
        assert devices.sparsifier.snr_clip == devices.sparsifier.read_attribute("snr_clip").w_value == 0
        assert "snr_clip = 1000000000.0" in devices.sparsifier.status()
        assert devices.sparsifier.noise == 2
        for command in (devices.acquisition.Prepare, devices.acquisition.Start):
            with refused("CONFIGURATION_ERROR", "gone.poni"):
                command()
        for device in devices.all:
            device.Init()
        assert devices.acquisition.geometry == str(missing)
        assert devices.sparsifier.snr_clip == 0
        with refused("CONFIGURATION_ERROR", "gone.poni"):
            devices.acquisition.geometry = str(missing)
        missing.write_text(PONI)  # it is back
        devices.sparsifier.snr_clip = 3
        devices.acquisition.Prepare()
        assert devices.acquisition.state() == DevState.ON
        assert devices.acquisition.status() == "Idle."


@pytest.mark.parametrize(
    "properties",
    [
        {"RingSize": "many"},
        {"RingSize": "1"},
        {"BatchSize": "33"},
        {"DecodeThreads": "-1"},
        {"SavingRoot": "/nowhere/at/all"},
        {"SavingRoot": "relative"},
        {"Presets": "{"},
    ],
    ids=str,
)
def test_a_wrong_property_means_fault_and_not_a_dead_server(properties):
    with serve(properties=properties, memorised={"sparsifier": {"radial_bins": "100"}}) as devices:
        assert all(device.state() == DevState.FAULT for device in devices.all)
        assert next(iter(properties)) in devices.acquisition.status()
        assert ("create it" in devices.acquisition.status()) == ("/nowhere/at/all" in properties.values())
        for device in devices.all:
            for name in device.get_attribute_list():
                device.read_attribute(name)
        with refused("CONFIGURATION_ERROR", next(iter(properties))):
            devices.acquisition.Start()
        with pytest.raises(tango.DevFailed) as caught:
            devices.acquisition.Reset()
        assert caught.value.args[0].reason in ("CONFIGURATION_ERROR", "DATA_OUT_OF_RANGE")
        assert devices.acquisition.state() == DevState.FAULT
        devices.acquisition.Stop()
        devices.sparsifier.noise = 2
        assert devices.sparsifier.radial_bins == 100


# --- presets


def test_presets(devices, tmp_path):
    acquisition = devices.acquisition
    for name in acquisition.settings_available:
        assert name not in ("lysozyme, fine", "other")
    for member, name, value in LIVE[:-1]:
        devices[member].write_attribute(name, value)
    acquisition.saving_prefix = "lysozyme"
    acquisition.saving_next_number = 7
    devices.sparsifier.radial_bins = 300
    acquisition.SaveSettings("lysozyme, fine")
    for member, name, _ in LIVE[:-1]:
        if name not in ("patch_size", "max_peaks", "radius_max", "surroundings"):
            devices[member].write_attribute(name, 1)
    acquisition.saving_prefix = "other"
    acquisition.saving_next_number = 9
    acquisition.SaveSettings("other")
    assert {"lysozyme, fine", "other"} <= set(acquisition.settings_available)

    acquisition.LoadSettings("lysozyme, fine")
    for member, name, value in LIVE[:-1]:
        assert devices[member].read_attribute(name).value == value
        assert devices[member].read_attribute(name).w_value == value
    assert acquisition.saving_prefix == "lysozyme"
    assert acquisition.saving_next_number == 9  # files are counted on
    assert devices.sparsifier.radial_bins == 300
    for device in devices.all:
        device.Init()
    assert devices.sparsifier.snr_pick == 4.5

    with refused("CONFIGURATION_ERROR", "unknown", "lysozyme, fine"):
        acquisition.LoadSettings("unknown")
    with refused("CONFIGURATION_ERROR"):
        acquisition.SaveSettings("  ")


def test_a_preset_is_loaded_as_a_whole_or_not_at_all(devices, tmp_path):
    mask = tmp_path / "mask.npy"
    mask.write_text("x")
    devices.acquisition.mask = str(mask)
    devices.sparsifier.noise = 9
    devices.acquisition.SaveSettings("with mask")
    devices.acquisition.mask = ""
    devices.sparsifier.noise = 1
    mask.unlink()
    with refused("CONFIGURATION_ERROR", "mask.npy"):
        devices.acquisition.LoadSettings("with mask")
    assert devices.sparsifier.noise == 1
    mask.write_text("x")
    devices.acquisition.Start()
    with refused("OPERATION_NOT_ALLOWED"):
        devices.acquisition.LoadSettings("with mask")
    assert devices.sparsifier.noise == 1


def test_live_settings_alone_can_be_loaded_while_running(devices):
    devices.sparsifier.noise = 9
    devices.acquisition.SaveSettings("noisy")
    devices.sparsifier.noise = 1
    devices.acquisition.Start()
    devices.acquisition.LoadSettings("noisy")
    assert devices.sparsifier.noise == 9
    assert devices.acquisition.state() == DevState.RUNNING


CONTEXTS = """
import tango
from tango.test_context import MultiDeviceTestContext
import devices_fake_server as fake

fake.pipeline.make_controller = fake.FakeController
for order in (1, -1, 1):
    classes = fake.CLASSES[::order]
    info = [{"class": cls, "devices": [{"name": f"a/b/{cls.__name__}"}]} for cls in classes]
    with MultiDeviceTestContext(info, process=False):
        acquisition = tango.DeviceProxy("a/b/AcquisitionDevice")
        sparsifier = tango.DeviceProxy("a/b/SparsifierDevice")
        assert sparsifier.noise == 1
        sparsifier.noise = 5
        acquisition.Start()
    assert fake.FakeController.instances[-1].is_shut_down
assert len(fake.FakeController.instances) == 3
"""


def test_servers_follow_each_other_in_one_process_with_fresh_state():
    run = subprocess.run([sys.executable, "-c", CONTEXTS], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
