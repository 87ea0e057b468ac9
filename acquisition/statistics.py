"""Numbers of a run as clients see them: one immutable snapshot, replaced as a whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

HISTORY = 1000  # frames over which hit_rate and peak_count_history look back
COUNTERS = 10_000  # frames that ReadCounters remembers
HISTOGRAM = 1001  # peak_count_histogram: 0 … 1000, the last one holds everything above too


def _empty(*shape: int, dtype: str = "float64") -> np.ndarray:
    return np.zeros(shape, dtype=dtype)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of a run at one moment. Names and units are those of the Tango attributes."""

    # counts of the run
    frame_count: int = 0  # reduced
    frames_lost: int = 0
    frames_dropped: int = 0
    frames_failed: int = 0
    kept_count: int = 0
    vetoed_count: int = 0
    control_count: int = 0
    peaks_found: int = 0  # in all frames of the run
    # rates, over the last second
    frame_rate: float = 0.0  # Hz
    input_rate: float = 0.0  # MB/s, as received
    output_rate: float = 0.0  # MB/s, as stored
    compression_ratio: float = 0.0
    compression_ratio_raw: float = 0.0
    buffer_occupancy: float = 0.0  # %
    processing_time: float = 0.0  # ms per frame
    upload_time: float = 0.0  # ms per frame, as the next two by the clock of the device
    kernel_time: float = 0.0
    download_time: float = 0.0
    device_utilisation: float = 0.0  # %
    # veto, over the last 1000 frames or the whole run
    hit_rate: float = 0.0  # %
    saved_fraction: float = 0.0  # %
    what_if_kept_fraction: float = 0.0  # %
    # newest frame
    last_frame_number: int = -1
    series_id: str = ""
    parameter_set: int = 0
    last_error: str = ""
    pixels_picked: int = 0
    fraction_picked: float = 0.0  # %
    peak_count: int = 0
    monitor_value: float = math.nan  # incoming intensity, NaN where unknown
    last_peaks: np.ndarray = field(default_factory=lambda: _empty(0, 6, dtype="float32"))
    radius: np.ndarray = field(default_factory=lambda: _empty(0))  # mm
    background_mean: np.ndarray = field(default_factory=lambda: _empty(0))
    background_std: np.ndarray = field(default_factory=lambda: _empty(0))
    peak_count_history: np.ndarray = field(default_factory=lambda: _empty(0, dtype="uint32"))
    peak_count_histogram: np.ndarray = field(default_factory=lambda: _empty(HISTOGRAM, dtype="uint32"))
    # the frame of the preview, which may be a little older
    preview: np.ndarray = field(default_factory=lambda: _empty(0, 0, dtype="uint16"))
    preview_step: int = 1
    preview_frame: int = -1
    preview_peaks: np.ndarray = field(default_factory=lambda: _empty(0, 6, dtype="float32"))
    # what the run uses
    opencl_device_name: str = ""
    decoding: str = ""
    output_file: str = ""
    mask_info: str = ""  # JSON, see `Images.mask_info`
    # the disk of the files
    free_space: float = math.nan  # GB; NaN: not known
    time_until_full: float = math.nan  # s, at the present rate; NaN: nothing is written
    disk_alarm: str = ""  # a sentence on a disk that does not answer
