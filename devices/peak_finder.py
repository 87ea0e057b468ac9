"""The handle for the peak search: count and positions of the newest frame, history."""

from __future__ import annotations

import tango
from tango.server import command

from ..acquisition.overview import MAP_FRAMES
from ..acquisition.statistics import HISTORY
from ..processing.parameters import MAX_PEAKS
from .attributes import LiveSetting, OnDemand, Reading
from .errors import reported
from .on_demand import PushesOnDemand

EXPERT = tango.DispLevel.EXPERT
COLUMNS = 6  # of last_peaks
MAX_PICTURE = 16_384  # pixels along a side; a picture as a whole has at most a million


class PeakFinderDevice(PushesOnDemand):
    """Finds Bragg peaks among the picked pixels."""

    ROLE = "peakfinder"

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

    # --- what all frames of the run look like. What belongs to a picture is pushed before it

    virtual_powder_frames = OnDemand(
        "virtual_powder_frames",
        tango.DevULong64,
        "Frames in the virtual powder",
        "Frames whose peaks are in the virtual powder: all that were reduced since Start or ResetVirtualPowder.",
    )
    virtual_powder_step = OnDemand(
        "virtual_powder_step",
        tango.DevULong,
        "Step of the virtual powder (pixels)",
        "The virtual powder and last_hit_preview have every so many-th pixel of every so many-th row, as the preview.",
    )
    virtual_powder_max = OnDemand(
        "virtual_powder_max",
        ((tango.DevFloat,),),
        "Virtual powder, highest (counts)",
        "The intensity of the strongest peak that there has been in each pixel; 0 = none.",
        max_dim_x=MAX_PICTURE,
        max_dim_y=MAX_PICTURE,
    )
    virtual_powder_sum = OnDemand(
        "virtual_powder_sum",
        ((tango.DevFloat,),),
        "Virtual powder, sum (counts)",
        "The sum of the intensities of all peaks in each pixel; 0 = none.",
        max_dim_x=MAX_PICTURE,
        max_dim_y=MAX_PICTURE,
    )
    hit_map = OnDemand(
        "hit_map",
        ((float,),),
        "Peaks over the scan",
        f"One row per frame whose scan position is known, of the last {MAP_FRAMES} of them: x, y (as the source tells "
        "them), number of peaks; the newest last.",
        max_dim_x=3,
        max_dim_y=MAP_FRAMES,
    )
    last_hit_number = OnDemand(
        "last_hit_number", tango.DevLong64, "Frame number of the last hit", "Number of the last hit, -1 = none yet."
    )
    last_hit_peaks = OnDemand(
        "last_hit_peaks",
        ((tango.DevFloat,),),
        "Peaks of the last hit",
        "As last_peaks, of the last frame that was a hit.",
        max_dim_x=COLUMNS,
        max_dim_y=MAX_PEAKS,
    )
    last_hit_preview = OnDemand(
        "last_hit_preview",
        ((tango.DevUShort,),),
        "Picture of the last hit",
        "The last hit as its sparse data give it back, decimated as the preview: the background without noise and the "
        "pixels that were picked; 65535 where a pixel is masked.",
        max_dim_x=MAX_PICTURE,
        max_dim_y=MAX_PICTURE,
    )

    @command
    def ResetVirtualPowder(self) -> None:
        """Begin the virtual powder and hit_map anew; Start does so, too."""
        with reported(self, "ResetVirtualPowder"):
            self.pipeline.overview.clear()
