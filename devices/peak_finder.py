"""The handle for the peak search: count and positions of the newest frame, history."""

from __future__ import annotations

import tango

from ..acquisition.statistics import HISTORY
from ..processing.parameters import MAX_PEAKS
from .attributes import LiveSetting, Reading
from .base import FrameSieveDevice

EXPERT = tango.DispLevel.EXPERT
COLUMNS = 6  # of last_peaks


class PeakFinderDevice(FrameSieveDevice):
    """Finds Bragg peaks among the picked pixels."""

    snr_peak = LiveSetting("snr_peak", float, "Peak threshold (σ)", "Pixels above this many σ count for a peak.")
    patch_size = LiveSetting(
        "patch_size",
        tango.DevULong,
        "Neighbourhood (pixels)",
        "Side of the square in which a peak is the maximum; an odd number.",
        display_level=EXPERT,
    )
    min_pixels = LiveSetting(
        "min_pixels",
        tango.DevULong,
        "Least pixels of a peak",
        "Pixels of the neighbourhood above snr_peak that a peak needs; at most patch_size².",
        display_level=EXPERT,
    )
    max_peaks = LiveSetting(
        "max_peaks", tango.DevULong, "Most peaks", "Most peaks kept per frame, the strongest first."
    )
    radius_min = LiveSetting(
        "radius_min", float, "Smallest radius", "Peaks are looked for from this radius on; 0 = no limit.", unit="mm"
    )
    radius_max = LiveSetting(
        "radius_max", float, "Largest radius", "Peaks are looked for up to this radius; 0 = no limit.", unit="mm"
    )

    peak_count = Reading("peak_count", tango.DevULong, "Peaks (newest frame)", "Peaks found in the newest frame.")
    last_peaks = Reading(
        "last_peaks",
        ((tango.DevFloat,),),
        "Peaks of the newest frame",
        "One row per peak: x, y (pixel index, centre of the first pixel = 0), intensity, its σ, SNR, number of pixels.",
        max_dim_x=COLUMNS,
        max_dim_y=MAX_PEAKS,
    )
    peak_count_history = Reading(
        "peak_count_history",
        (tango.DevULong,),
        "Peaks of the last frames",
        f"Peak counts of the last {HISTORY} frames, the newest last.",
        max_dim_x=HISTORY,
    )
