"""The handle for clipping and picking: background curves, compression ratio, the newest frame."""

from __future__ import annotations

import tango

from ..processing.parameters import ErrorModel
from .attributes import FrameOnDemand, LiveSetting, Reading, RunSetting
from .on_demand import PushesOnDemand

EXPERT = tango.DispLevel.EXPERT
MAX_BINS = 10_000


class SparsifierDevice(PushesOnDemand):
    """Finds the background of each frame by azimuthal sigma clipping and keeps the pixels that stand above it."""

    ROLE = "sparsifier"

    snr_clip = LiveSetting(
        "snr_clip", float, "Clipping cut-off (σ)", "Clipping cut-off in σ; 0 = Chauvenet's criterion."
    )
    clip_cycles = LiveSetting(
        "clip_cycles", tango.DevULong, "Clipping cycles", "At most this many clipping cycles.", display_level=EXPERT
    )
    error_model = LiveSetting(
        "error_model",
        ErrorModel,
        "Error model",
        "How the spread of a bin is known: azimuthal (measured), poisson (variance = signal), hybrid (azimuthal while "
        "clipping, poisson after), exact (the tails of the Poisson distribution, for detectors that count photons; "
        "noise plays no part).",
    )
    radial_bins = RunSetting(
        "radial_bins", tango.DevULong, "Radial bins", "Number of radial bins; not live. Accepted: 10 to 10000."
    )
    noise = LiveSetting("noise", float, "Noise (counts)", "Smallest meaningful signal, added in quadrature.")
    snr_pick = LiveSetting(
        "snr_pick", float, "Picking threshold (σ)", "Pixels above background + snr_pick · √(σ² + noise²) are kept."
    )
    surroundings = LiveSetting(
        "surroundings",
        tango.DevULong,
        "Surroundings (pixels)",
        "Where at least 3 of 3 × 3 pixels were picked, all pixels of a square with this edge around them are kept: 3, "
        "5, 7, …; 0 = none. 9 for programs that look at what lies around a spot (DIALS).",
    )

    compression_ratio = Reading(
        "compression_ratio",
        float,
        "Compression ratio",
        "Bytes in over bytes out, over the last second, both as stored: a compressed stream counts compressed.",
    )
    compression_ratio_raw = Reading(
        "compression_ratio_raw",
        float,
        "Compression ratio (uncompressed input)",
        "Bytes in over bytes out, over the last second, the input uncompressed.",
    )
    pixels_picked = Reading(
        "pixels_picked", tango.DevULong, "Pixels picked (newest frame)", "Pixels kept of the newest frame."
    )
    fraction_picked = Reading(
        "fraction_picked",
        float,
        "Fraction picked (newest frame)",
        "Share of the pixels of the newest frame that was kept.",
        unit="%",
    )
    radius = Reading("radius", (float,), "Radius", "Centres of the radial bins.", unit="mm", max_dim_x=MAX_BINS)
    background_mean = Reading(
        "background_mean",
        (float,),
        "Background (newest frame, counts)",
        "Mean of the background in each radial bin; NaN where a bin is empty.",
        max_dim_x=MAX_BINS,
    )
    background_std = Reading(
        "background_std",
        (float,),
        "Spread of the background (newest frame, counts)",
        "Standard deviation of the background in each radial bin; NaN where a bin is empty.",
        max_dim_x=MAX_BINS,
    )
    last_sparse_frame = FrameOnDemand(
        "last_sparse_frame",
        tango.DevEncoded,
        "Newest frame, sparse",
        "The newest frame, kept or not: the pixels that were picked and the background curves, in the format "
        "SMX_SPARSE_FRAME of LImA2.",
    )
