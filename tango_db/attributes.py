"""The attributes of the device classes, as far as the Tango database is concerned with them.

Types, defaults and limits are those of `Parameters` (live) and `RunSettings` (fixed during a run); only the names
under which the devices show them are written down here.
"""

from __future__ import annotations

import sys
from typing import Any

from ..acquisition.settings import RunSettings
from ..processing.errors import OutOfRangeError
from ..processing.parameters import EDGES, LIMITS, ErrorModel, Parameters, is_edge

SERVER = "FrameSieve"
MEMORISED = "__value"  # the attribute property in which Tango keeps a memorised value

#: key in the beamline description, and last part of the default device name → device class
ROLES = {
    "acquisition": "AcquisitionDevice",
    "sparsifier": "SparsifierDevice",
    "peakfinder": "PeakFinderDevice",
    "veto": "VetoDevice",
}

#: role → memorised attribute → field of `Parameters` or `RunSettings` behind it
SETTINGS: dict[str, dict[str, str]] = {
    "acquisition": {
        name: name
        for name in (
            *("source", "geometry", "mask", "dark", "flat", "source_corrections", "polarization", "solid_angle"),
            *("monitor", "opencl_device"),
            *("saving_directory", "saving_prefix", "saving_next_number", "saving_overwrite_policy"),
            *("saving_sparse", "saving_dense", "saving_frames_per_file"),
        )
    },
    "sparsifier": {
        name: name
        for name in ("snr_clip", "clip_cycles", "error_model", "radial_bins", "noise", "snr_pick", "surroundings")
    },
    "peakfinder": {
        name: name for name in ("snr_peak", "patch_size", "min_pixels", "max_peaks", "radius_min", "radius_max")
    },
    "veto": {
        "enabled": "veto_enabled",
        "min_peaks": "veto_min_peaks",
        "max_peaks": "veto_max_peaks",
        "control_fraction": "control_fraction",
    },
}

#: writable but not memorised: cannot have an initial value in the database
TRANSIENT: dict[str, tuple[str, ...]] = {
    "acquisition": ("number_of_frames", "settings"),
    "sparsifier": (),
    "peakfinder": (),
    "veto": ("what_if_min_peaks",),
}

#: read-only numbers: may have warning and alarm limits
READINGS: dict[str, tuple[str, ...]] = {
    "acquisition": (
        *("frame_count", "frames_lost", "frames_dropped", "frames_failed", "frame_rate", "input_rate", "output_rate"),
        *("buffer_occupancy", "processing_time", "last_frame_number", "parameter_set", "preview"),
        *("parameter_set_in_force", "monitor_value", "preview_step", "preview_frame", "preview_peaks"),
        *("free_space", "time_until_full", "ring_size", "batch_size"),
        *("upload_time", "kernel_time", "download_time", "device_utilisation"),
    ),
    "sparsifier": (
        *("compression_ratio", "compression_ratio_raw", "pixels_picked", "fraction_picked"),
        *("radius", "background_mean", "background_std"),
    ),
    "peakfinder": (
        *("peak_count", "last_peaks", "peak_count_history", "virtual_powder_frames", "virtual_powder_step"),
        *("virtual_powder_max", "virtual_powder_sum", "hit_map"),
        *("last_hit_number", "last_hit_peaks", "last_hit_preview"),
    ),
    "veto": (
        *("hit_rate", "kept_count", "vetoed_count", "control_count", "saved_fraction"),
        *("peak_count_histogram", "what_if_kept_fraction"),
    ),
}

#: read-only texts, and other things that are no numbers
TEXTS: dict[str, tuple[str, ...]] = {
    "acquisition": (
        *("opencl_device_name", "decoding", "series_id", "last_error", "settings_available", "output_file"),
        *("log", "version", "mask_info"),
    ),
    "sparsifier": ("last_sparse_frame",),
    "peakfinder": (),
    "veto": (),
}

#: properties that Tango reads itself, for every class
TANGO_PROPERTIES = {"polled_attr", "polled_cmd", "non_auto_polled_attr", "non_auto_polled_cmd", "poll_ring_depth"}
TANGO_PROPERTIES |= {"attr_min_poll_period", "cmd_min_poll_period", "min_poll_period", "poll_old_factor"}
TANGO_PROPERTIES |= {"logging_level", "logging_target", "logging_rft", "logging_path"}

FILES = ("geometry", "mask", "dark", "flat")


def all_attributes(role: str) -> tuple[str, ...]:
    """Every attribute of the device, State and Status apart."""
    return (*SETTINGS[role], *TRANSIENT[role], *READINGS[role], *TEXTS[role])


def default(role: str, name: str) -> Any:
    """Value of a memorised attribute that nothing has been written to."""
    field = SETTINGS[role][name]
    return getattr(Parameters() if field in Parameters.__dataclass_fields__ else RunSettings(), field)


def is_number(role: str, name: str) -> bool:
    """Whether limits make sense for an attribute."""
    if name in SETTINGS[role]:
        kind = type(default(role, name))
        return kind in (int, float)
    return name not in TEXTS[role] and name != "settings"


def is_writable(role: str, name: str) -> bool:
    return name in SETTINGS[role] or name in TRANSIENT[role]


def checked(role: str, name: str, value: Any) -> Any:
    """`value` in the type of the memorised attribute.

    Raises
    ------
    OutOfRangeError
        Says what is accepted; without the name, for the caller knows the place.
    """
    field, expected = SETTINGS[role][name], default(role, name)
    if isinstance(expected, ErrorModel):
        if not isinstance(value, str) or value not in ErrorModel.__members__:
            raise OutOfRangeError("accepted is one of " + ", ".join(ErrorModel.__members__))
        return ErrorModel[value]
    if isinstance(expected, bool):
        if not isinstance(value, bool):
            raise OutOfRangeError("accepted is true or false")
        return value
    if isinstance(expected, str):
        return _checked_text(name, value)
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not number or (isinstance(expected, int) and value != int(value)):
        kind = "a whole number" if isinstance(expected, int) else "a number"
        raise OutOfRangeError(f"accepted is {kind}{_range(field)}")
    if field in LIMITS:
        low, high = LIMITS[field]
        if not low <= value <= high:  # also refuses NaN
            raise OutOfRangeError(f"accepted is {low:g} to {high:g}")
        if field in EDGES and not is_edge(value):
            raise OutOfRangeError(f"accepted are {EDGES[field]}")
    else:
        _checked_by_run_settings(field, value)
    return type(expected)(value)


def _range(field: str) -> str:
    return f" from {LIMITS[field][0]:g} to {LIMITS[field][1]:g}" if field in LIMITS else ""


def _checked_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise OutOfRangeError("accepted is text ('' for none; put a number in quotes)")
    if "\n" in value or "\0" in value:
        raise OutOfRangeError("accepted is text on one line")
    # whether the file exists cannot be said here: the server may run on another computer
    if name in FILES and value and not value.startswith("/"):
        raise OutOfRangeError("accepted is a full path, starting with '/', or '' for none")
    if name not in FILES:
        _checked_by_run_settings(name, value)
    return value


def _checked_by_run_settings(field: str, value: Any) -> None:
    try:
        RunSettings().replace(**{field: value}).check()
    except Exception as error:  # "name = value: what is accepted"
        raise OutOfRangeError(str(error).partition(f"{field} = {value!r}: ")[2] or str(error)) from None
