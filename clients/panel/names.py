"""What the panel shows of which device, and how its settings are grouped. Keys are `member/attribute`."""

from __future__ import annotations

READINGS = {
    "acquisition": (
        *("frame_count", "frames_lost", "frames_dropped", "frames_failed", "frame_rate", "input_rate", "output_rate"),
        *("buffer_occupancy", "processing_time", "last_frame_number", "series_id", "last_error", "output_file"),
        *("opencl_device_name", "preview", "preview_step", "preview_frame", "preview_peaks"),
    ),
    "sparsifier": (
        *("compression_ratio", "compression_ratio_raw", "fraction_picked", "radius"),
        *("background_mean", "background_std"),
    ),
    "peakfinder": ("peak_count", "last_peaks", "peak_count_history"),
    "veto": ("hit_rate", "kept_count", "vetoed_count", "control_count", "saved_fraction", "peak_count_histogram"),
}

#: numbers whose past is kept
TRENDS = (
    *("acquisition/frame_rate", "acquisition/input_rate", "acquisition/output_rate", "acquisition/buffer_occupancy"),
    *("sparsifier/compression_ratio", "veto/hit_rate"),
)

NEWEST, LAST_HIT, HIGHEST, TOTAL, MAP = "Newest", "Last hit", "Powder", "Powder Σ", "Map"
_POWDER = ("peakfinder/virtual_powder_frames", "peakfinder/virtual_powder_step")

#: view of the picture → what is subscribed only while it is shown, the picture itself last
ON_DEMAND: dict[str, tuple[str, ...]] = {
    NEWEST: (),
    LAST_HIT: (_POWDER[1], "peakfinder/last_hit_number", "peakfinder/last_hit_peaks", "peakfinder/last_hit_preview"),
    HIGHEST: (*_POWDER, "peakfinder/virtual_powder_max"),
    TOTAL: (*_POWDER, "peakfinder/virtual_powder_sum"),
    MAP: ("peakfinder/hit_map",),
}

#: page → group → settings. Writable attributes that are not here come last on the second page
GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "Thresholds": {
        "Veto": ("veto/min_peaks", "veto/max_peaks", "veto/control_fraction", "veto/enabled"),
        "Picking": (
            *("sparsifier/snr_pick", "sparsifier/noise", "sparsifier/error_model", "sparsifier/snr_clip"),
            *("sparsifier/surroundings", "sparsifier/clip_cycles", "sparsifier/radial_bins"),
        ),
        "Peaks": (
            *("peakfinder/snr_peak", "peakfinder/min_pixels", "peakfinder/patch_size", "peakfinder/max_peaks"),
            *("peakfinder/radius_min", "peakfinder/radius_max"),
        ),
    },
    "Source and file": {
        "Frames": ("acquisition/source", "acquisition/number_of_frames", "acquisition/monitor"),
        "File": (
            *("acquisition/saving_directory", "acquisition/saving_prefix", "acquisition/saving_next_number"),
            *("acquisition/saving_overwrite_policy", "acquisition/saving_frames_per_file"),
            *("acquisition/saving_sparse", "acquisition/saving_dense"),
        ),
        "Corrections": (
            *("acquisition/geometry", "acquisition/mask", "acquisition/dark", "acquisition/flat"),
            *("acquisition/source_corrections", "acquisition/polarization", "acquisition/solid_angle"),
        ),
    },
}
OTHERS = ("Source and file", "Other")
HIDDEN = frozenset({"veto/what_if_min_peaks"})  # the histogram shows all of them at once


def page_of(keys: set[str]) -> dict[str, dict[str, list[str]]]:
    """`GROUPS` with the settings that are there, and those that `GROUPS` does not know."""
    known = {key for groups in GROUPS.values() for keys in groups.values() for key in keys} | HIDDEN
    pages = {
        page: {title: [key for key in group if key in keys] for title, group in groups.items()}
        for page, groups in GROUPS.items()
    }
    pages[OTHERS[0]][OTHERS[1]] = sorted(keys - known)
    return {page: {title: group for title, group in groups.items() if group} for page, groups in pages.items()}
