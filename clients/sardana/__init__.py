"""Controllers and macros for Sardana; docs/clients.md tells how to use them.

Sardana loads them from directories, so they are modules of their own and import framesieve by its full name:

* `CONTROLLERS`, for the property PoolPath of the pool,
* `MACROS`, for the property MacroPath of the MacroServer.

`python -m framesieve.clients.sardana` prints both.
"""

from pathlib import Path

CONTROLLERS = str(Path(__file__).with_name("controllers"))
MACROS = str(Path(__file__).with_name("macros"))

#: what a class of controllers has on its axes: class → names of the elements, the first on axis 1
ELEMENTS: dict[str, tuple[str, ...]] = {
    # live settings, as motors
    "FrameSieveSettings": (
        "snr_pick", "snr_peak", "min_peaks", "min_pixels", "noise", "snr_clip", "clip_cycles", "patch_size",
        "radius_min", "radius_max", "control_fraction", "veto_max_peaks", "peakfinder_max_peaks", "what_if_min_peaks",
        "surroundings",
    ),
    # of the frames of one acquisition
    "FrameSieveCounters": (
        "fs_time", "fs_frames", "fs_kept", "fs_vetoed", "fs_control", "fs_peaks", "fs_pixels", "fs_first_frame",
        "fs_last_frame", "fs_parameter_set",
    ),
    # read again and again during an acquisition
    "FrameSieveReadings": (
        "compression_ratio", "hit_rate", "compression_ratio_raw", "frame_rate", "fraction_picked", "saved_fraction",
        "buffer_occupancy", "what_if_kept_fraction",
    ),
    "FrameSievePreview": ("fs_preview",),
}  # fmt: skip
