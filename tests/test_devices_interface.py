"""The attributes and commands of the devices, row by row as the public interface has them."""

from importlib import metadata

import numpy as np
import pytest
import tango
from devices_helpers import serve
from framesieve.processing.opencl import list_devices
from framesieve.processing.revision import revision
from tango import AttrDataFormat, AttrWriteType, CmdArgType

SCALAR, SPECTRUM, IMAGE = AttrDataFormat.SCALAR, AttrDataFormat.SPECTRUM, AttrDataFormat.IMAGE
STR, BOOL, DOUBLE, FLOAT = CmdArgType.DevString, CmdArgType.DevBoolean, CmdArgType.DevDouble, CmdArgType.DevFloat
ULONG, ULONG64, LONG, LONG64 = CmdArgType.DevULong, CmdArgType.DevULong64, CmdArgType.DevLong, CmdArgType.DevLong64
USHORT, ENUM = CmdArgType.DevUShort, CmdArgType.DevEnum

# device, attribute, type, format, access, unit
TABLE = [
    ("acquisition", "source", STR, SCALAR, "rw mem", ""),
    ("acquisition", "geometry", STR, SCALAR, "rw mem", ""),
    ("acquisition", "mask", STR, SCALAR, "rw mem", ""),
    ("acquisition", "dark", STR, SCALAR, "rw mem", ""),
    ("acquisition", "flat", STR, SCALAR, "rw mem", ""),
    ("acquisition", "polarization", DOUBLE, SCALAR, "rw mem", ""),
    ("acquisition", "solid_angle", BOOL, SCALAR, "rw mem", ""),
    ("acquisition", "source_corrections", BOOL, SCALAR, "rw mem", ""),
    ("acquisition", "monitor", STR, SCALAR, "rw mem", ""),
    ("acquisition", "monitor_value", DOUBLE, SCALAR, "r", ""),
    ("acquisition", "number_of_frames", ULONG, SCALAR, "rw", ""),
    ("acquisition", "saving_directory", STR, SCALAR, "rw mem", ""),
    ("acquisition", "saving_prefix", STR, SCALAR, "rw mem", ""),
    ("acquisition", "saving_next_number", LONG, SCALAR, "rw mem", ""),
    ("acquisition", "saving_overwrite_policy", STR, SCALAR, "rw mem", ""),
    ("acquisition", "saving_sparse", BOOL, SCALAR, "rw mem", ""),
    ("acquisition", "saving_dense", BOOL, SCALAR, "rw mem", ""),
    ("acquisition", "saving_frames_per_file", ULONG, SCALAR, "rw mem", ""),
    ("acquisition", "free_space", DOUBLE, SCALAR, "r", "GB"),
    ("acquisition", "time_until_full", DOUBLE, SCALAR, "r", "s"),
    ("acquisition", "opencl_device", STR, SCALAR, "rw mem", ""),
    ("acquisition", "opencl_device_name", STR, SCALAR, "r", ""),
    ("acquisition", "frame_count", ULONG64, SCALAR, "r", ""),
    ("acquisition", "frames_lost", ULONG64, SCALAR, "r", ""),
    ("acquisition", "frames_dropped", ULONG64, SCALAR, "r", ""),
    ("acquisition", "frames_failed", ULONG64, SCALAR, "r", ""),
    ("acquisition", "frame_rate", DOUBLE, SCALAR, "r", "Hz"),
    ("acquisition", "input_rate", DOUBLE, SCALAR, "r", "MB/s"),
    ("acquisition", "output_rate", DOUBLE, SCALAR, "r", "MB/s"),
    ("acquisition", "buffer_occupancy", DOUBLE, SCALAR, "r", "%"),
    ("acquisition", "processing_time", DOUBLE, SCALAR, "r", "ms"),
    ("acquisition", "upload_time", DOUBLE, SCALAR, "r", "ms"),
    ("acquisition", "kernel_time", DOUBLE, SCALAR, "r", "ms"),
    ("acquisition", "download_time", DOUBLE, SCALAR, "r", "ms"),
    ("acquisition", "device_utilisation", DOUBLE, SCALAR, "r", "%"),
    ("acquisition", "mask_info", STR, SCALAR, "r", ""),
    ("acquisition", "last_frame_number", LONG64, SCALAR, "r", ""),
    ("acquisition", "series_id", STR, SCALAR, "r", ""),
    ("acquisition", "parameter_set", ULONG, SCALAR, "r", ""),
    ("acquisition", "last_error", STR, SCALAR, "r", ""),
    ("acquisition", "preview", USHORT, IMAGE, "r", ""),
    ("acquisition", "settings_available", STR, SPECTRUM, "r", ""),
    ("acquisition", "settings", STR, SCALAR, "rw", ""),
    ("acquisition", "log", STR, SPECTRUM, "r", ""),
    ("acquisition", "version", STR, SCALAR, "r", ""),
    ("sparsifier", "snr_clip", DOUBLE, SCALAR, "rw mem", ""),
    ("sparsifier", "clip_cycles", ULONG, SCALAR, "rw mem", ""),
    ("sparsifier", "error_model", ENUM, SCALAR, "rw mem", ""),
    ("sparsifier", "radial_bins", ULONG, SCALAR, "rw mem", ""),
    ("sparsifier", "noise", DOUBLE, SCALAR, "rw mem", ""),
    ("sparsifier", "snr_pick", DOUBLE, SCALAR, "rw mem", ""),
    ("sparsifier", "surroundings", ULONG, SCALAR, "rw mem", ""),
    ("sparsifier", "compression_ratio", DOUBLE, SCALAR, "r", ""),
    ("sparsifier", "compression_ratio_raw", DOUBLE, SCALAR, "r", ""),
    ("sparsifier", "pixels_picked", ULONG, SCALAR, "r", ""),
    ("sparsifier", "fraction_picked", DOUBLE, SCALAR, "r", "%"),
    ("sparsifier", "radius", DOUBLE, SPECTRUM, "r", "mm"),
    ("sparsifier", "background_mean", DOUBLE, SPECTRUM, "r", ""),
    ("sparsifier", "background_std", DOUBLE, SPECTRUM, "r", ""),
    ("sparsifier", "last_sparse_frame", CmdArgType.DevEncoded, SCALAR, "r", ""),
    ("peakfinder", "snr_peak", DOUBLE, SCALAR, "rw mem", ""),
    ("peakfinder", "patch_size", ULONG, SCALAR, "rw mem", ""),
    ("peakfinder", "min_pixels", ULONG, SCALAR, "rw mem", ""),
    ("peakfinder", "max_peaks", ULONG, SCALAR, "rw mem", ""),
    ("peakfinder", "radius_min", DOUBLE, SCALAR, "rw mem", "mm"),
    ("peakfinder", "radius_max", DOUBLE, SCALAR, "rw mem", "mm"),
    ("peakfinder", "peak_count", ULONG, SCALAR, "r", ""),
    ("peakfinder", "last_peaks", FLOAT, IMAGE, "r", ""),
    ("peakfinder", "peak_count_history", ULONG, SPECTRUM, "r", ""),
    ("peakfinder", "virtual_powder_frames", ULONG64, SCALAR, "r", ""),
    ("peakfinder", "virtual_powder_step", ULONG, SCALAR, "r", ""),
    ("peakfinder", "virtual_powder_max", FLOAT, IMAGE, "r", ""),
    ("peakfinder", "virtual_powder_sum", FLOAT, IMAGE, "r", ""),
    ("peakfinder", "hit_map", DOUBLE, IMAGE, "r", ""),
    ("peakfinder", "last_hit_number", LONG64, SCALAR, "r", ""),
    ("peakfinder", "last_hit_peaks", FLOAT, IMAGE, "r", ""),
    ("peakfinder", "last_hit_preview", USHORT, IMAGE, "r", ""),
    ("veto", "enabled", BOOL, SCALAR, "rw mem", ""),
    ("veto", "min_peaks", ULONG, SCALAR, "rw mem", ""),
    ("veto", "max_peaks", ULONG, SCALAR, "rw mem", ""),
    ("veto", "control_fraction", DOUBLE, SCALAR, "rw mem", "%"),
    ("veto", "hit_rate", DOUBLE, SCALAR, "r", "%"),
    ("veto", "kept_count", ULONG64, SCALAR, "r", ""),
    ("veto", "vetoed_count", ULONG64, SCALAR, "r", ""),
    ("veto", "control_count", ULONG64, SCALAR, "r", ""),
    ("veto", "saved_fraction", DOUBLE, SCALAR, "r", "%"),
    ("veto", "peak_count_histogram", ULONG, SPECTRUM, "r", ""),
    ("veto", "what_if_min_peaks", ULONG, SCALAR, "rw", ""),
    ("veto", "what_if_kept_fraction", DOUBLE, SCALAR, "r", "%"),
]

DEFAULTS = {
    ("sparsifier", "snr_clip"): 0,
    ("sparsifier", "clip_cycles"): 5,
    ("sparsifier", "error_model"): 0,
    ("sparsifier", "radial_bins"): 800,
    ("sparsifier", "noise"): 1,
    ("sparsifier", "snr_pick"): 3,
    ("sparsifier", "surroundings"): 0,
    ("peakfinder", "snr_peak"): 3,
    ("peakfinder", "patch_size"): 5,
    ("peakfinder", "min_pixels"): 4,
    ("peakfinder", "max_peaks"): 2048,
    ("peakfinder", "radius_min"): 0,
    ("peakfinder", "radius_max"): 0,
    ("veto", "enabled"): True,
    ("veto", "min_peaks"): 20,
    ("veto", "max_peaks"): 0,
    ("veto", "control_fraction"): 1,
    ("acquisition", "number_of_frames"): 0,
    ("acquisition", "saving_overwrite_policy"): "abort",
    ("acquisition", "opencl_device"): "auto",
}


@pytest.fixture(scope="module")
def devices():
    with serve() as devices:
        yield devices


@pytest.mark.parametrize(("member", "name", "dtype", "dformat", "access", "unit"), TABLE, ids=lambda x: str(x))
def test_attribute(devices, member, name, dtype, dformat, access, unit):
    config = devices[member].get_attribute_config(name)
    assert config.name == name
    assert config.data_type == dtype
    assert config.data_format == dformat
    assert config.unit == unit
    assert config.writable == (AttrWriteType.READ_WRITE if "rw" in access else AttrWriteType.READ)
    memorised = tango.AttrMemorizedType.MEMORIZED_WRITE_INIT if "mem" in access else tango.AttrMemorizedType.NOT_KNOWN
    if config.memorized != tango.AttrMemorizedType.NONE:
        assert config.memorized == memorised
    else:
        assert "mem" not in access
    assert config.label != name
    assert config.description.endswith(".")


def test_nothing_promised_is_missing_and_every_attribute_can_be_read_before_the_first_frame(devices):
    for member in ("acquisition", "sparsifier", "peakfinder", "veto"):
        names = devices[member].get_attribute_list()
        assert {row[1] for row in TABLE if row[0] == member} <= set(names)
        for name in names:
            assert devices[member].read_attribute(name).quality == tango.AttrQuality.ATTR_VALID


@pytest.mark.parametrize(("member", "name"), DEFAULTS)
def test_default(devices, member, name):
    assert devices[member].read_attribute(name).value == DEFAULTS[member, name]


@pytest.mark.parametrize("name", ["frame_rate", "input_rate", "output_rate", "buffer_occupancy", "processing_time"])
def test_warning_and_alarm_limits(devices, name):
    alarms = devices.acquisition.get_attribute_config(name).alarms
    assert 0 < float(alarms.max_warning) < float(alarms.max_alarm)


def test_a_device_that_is_busy_raises_no_alarm_unless_somebody_wants_it(devices):
    """A limit is a matter of the beamline: a CPU is at 100 % whenever it is the slowest step."""
    alarms = devices.acquisition.get_attribute_config("device_utilisation").alarms
    assert {alarms.max_warning, alarms.max_alarm, alarms.min_warning, alarms.min_alarm} == {"Not specified"}


@pytest.mark.parametrize(
    ("name", "dtype_in", "dtype_out"),
    [(name, CmdArgType.DevVoid, CmdArgType.DevVoid) for name in ("Prepare", "Start", "Stop", "Abort", "Reset")]
    + [
        ("ReadCounters", LONG64, CmdArgType.DevEncoded),
        ("ReadParameterSet", CmdArgType.DevULong, CmdArgType.DevEncoded),
        ("SaveSettings", STR, CmdArgType.DevVoid),
        ("LoadSettings", STR, CmdArgType.DevVoid),
    ],
)
def test_command(devices, name, dtype_in, dtype_out):
    info = devices.acquisition.get_command_config(name)
    assert (info.cmd_name, info.in_type, info.out_type) == (name, dtype_in, dtype_out)


def test_labels_of_the_error_model(devices):
    labels = devices.sparsifier.get_attribute_config("error_model").enum_labels
    assert list(labels) == ["azimuthal", "poisson", "hybrid", "exact"]


def test_arrays_have_the_shape_and_type_of_the_interface(devices):
    devices.feed(
        last_peaks=np.arange(18, dtype=np.float32).reshape(3, 6),
        preview=np.zeros((1000, 999), np.uint16),
        radius=np.zeros(10_000),
        peak_count_history=np.arange(1000, dtype=np.uint32),
    )
    peaks = devices.peakfinder.last_peaks
    assert peaks.dtype == np.float32
    assert peaks.shape == (3, 6)
    assert peaks[1, 0] == 6
    assert devices.acquisition.preview.shape == (1000, 999)
    assert devices.sparsifier.radius.shape == (10_000,)
    assert devices.peakfinder.peak_count_history.shape == (1000,)
    assert devices.veto.peak_count_histogram.shape == (1001,)
    devices.feed(last_peaks=np.zeros((0, 6), np.float32))
    assert devices.peakfinder.last_peaks.size == 0


def test_every_attribute_says_what_it_is_and_how_it_is_shown(devices):
    experts = {"opencl_device", "opencl_device_name", "decoding", "ring_size", "batch_size", "version", "settings"}
    experts |= {"clip_cycles", "patch_size", "min_pixels"}
    for device in devices.all:
        for config in device.attribute_list_query():
            if config.name in ("State", "Status"):
                continue
            assert config.label not in ("", config.name), config.name
            assert len(config.description) > 15 and config.description.endswith("."), config.name
            is_array = config.data_format != SCALAR
            assert (config.max_dim_x > 1) == is_array, config.name
            formats = {DOUBLE: "%.3f", FLOAT: "%.3f", STR: "%s", ENUM: "%s", BOOL: "Not specified"}
            formats[CmdArgType.DevEncoded] = "Not specified"
            assert config.format == formats.get(config.data_type, "%d"), config.name
            assert (config.disp_level == tango.DispLevel.EXPERT) == (config.name in experts), config.name
            # the devices check limits themselves, since Tango's own error has another reason
            assert config.min_value == config.max_value == "Not specified"
            number = config.data_type not in (STR, BOOL, ENUM)
            if config.writable == AttrWriteType.READ_WRITE and number and config.name != "number_of_frames":
                assert "Accepted: " in config.description, config.name


def test_events_of_every_kind_are_declared(devices):
    kinds = (tango.EventType.CHANGE_EVENT, tango.EventType.ARCHIVE_EVENT, tango.EventType.ALARM_EVENT)
    for device in devices.all:
        for name in device.get_attribute_list():
            assert device.get_attribute_poll_period(name) == 0, "what is pushed is not polled as well"
            for kind in kinds:
                device.unsubscribe_event(device.subscribe_event(name, kind, lambda event: None))


def test_versions(devices):
    for device in devices.all:
        found = device.info().version_info
        assert found["framesieve"] == metadata.version("framesieve")
        assert found["pyopencl"] == metadata.version("pyopencl")
        assert found["PyTango"] == tango.__version__
        for name, opencl in list_devices():
            assert opencl.driver_version in found[f"OpenCL {name.partition(' ')[0]}"]
    assert f"framesieve {metadata.version('framesieve')}; " in devices.acquisition.version
    assert "driver " in devices.acquisition.version
    if commit := revision():
        assert found["git"] == commit and f"; git {commit}; " in devices.acquisition.version
    else:
        assert "git" not in found
