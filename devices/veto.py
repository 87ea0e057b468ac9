"""The handle for the verdict on frames: the rules, hit rate, what another threshold would have done."""

from __future__ import annotations

from typing import Any

import tango

from ..acquisition.statistics import HISTOGRAM, Snapshot
from ..processing.errors import OutOfRangeError
from ..processing.parameters import MAX_PEAKS
from .attributes import LiveSetting, Reading, Setting
from .base import FrameSieveDevice


class WhatIfSetting(Setting):
    """A threshold that is tried without being applied: it belongs to the statistics, not to the parameters."""

    def value(self, device: FrameSieveDevice, snapshot: Snapshot) -> int:
        return device.pipeline.what_if_min_peaks

    def change(self, device: FrameSieveDevice, value: Any) -> None:
        if not 0 <= value <= MAX_PEAKS:
            raise OutOfRangeError(f"what_if_min_peaks = {value}: accepted is 0 to {MAX_PEAKS}")
        device.pipeline.controller.what_if_min_peaks = int(value)


class VetoDevice(FrameSieveDevice):
    """Decides which frames are worth keeping, and keeps account of it."""

    ROLE = "veto"

    enabled = LiveSetting(
        "veto_enabled", bool, "Veto enabled", "Off: every frame is kept, verdicts are counted all the same."
    )
    min_peaks = LiveSetting(
        "veto_min_peaks", tango.DevULong, "Least peaks of a hit", "A hit has at least this many peaks."
    )
    max_peaks = LiveSetting(
        "veto_max_peaks", tango.DevULong, "Most peaks of a hit", "A hit has at most this many peaks; 0 = no limit."
    )
    control_fraction = LiveSetting(
        "control_fraction",
        float,
        "Control sample",
        "Share of the vetoed frames that is kept all the same, at random, and marked as control sample.",
        unit="%",
    )

    hit_rate = Reading("hit_rate", float, "Hit rate", "Share of hits among the last 1000 frames.", unit="%")
    kept_count = Reading(
        "kept_count", tango.DevULong64, "Frames kept", "Kept frames, control samples included; kept + vetoed = all."
    )
    vetoed_count = Reading("vetoed_count", tango.DevULong64, "Frames vetoed", "Frames that were not kept.")
    control_count = Reading(
        "control_count", tango.DevULong64, "Control frames", "Vetoed frames that were kept at random."
    )
    saved_fraction = Reading(
        "saved_fraction", float, "Bytes saved by the veto", "Share of bytes that the veto has saved so far.", unit="%"
    )
    peak_count_histogram = Reading(
        "peak_count_histogram",
        (tango.DevULong,),
        "Frames by peak count",
        f"Frames with 0, 1, … peaks; the last bin, {HISTOGRAM - 1}, holds those with more, too.",
        max_dim_x=HISTOGRAM,
    )
    what_if_min_peaks = WhatIfSetting(
        tango.DevULong,
        "Least peaks to try",
        f"A threshold to try without applying it; see what_if_kept_fraction. Accepted: 0 to {MAX_PEAKS}.",
        memorized=False,
    )
    what_if_kept_fraction = Reading(
        "what_if_kept_fraction",
        float,
        "Frames that what_if_min_peaks would keep",
        "Share of the frames of this run that what_if_min_peaks would have kept.",
        unit="%",
    )
