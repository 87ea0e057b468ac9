"""The handle for the run: source, geometry, output, counters, newest frame; its commands are in run_commands.py."""

from __future__ import annotations

import math

import tango

from ..processing.parameters import MAX_PEAKS
from ..sources.registry import accepted
from . import properties
from .attributes import Computed, Reading, RunSetting
from .composite import AllSettings
from .messages import KEPT, messages
from .pipeline import HardwareSetup
from .presets import SavedSettings
from .run_commands import MAX_PRESETS, RunCommands
from .versions import versions

EXPERT = tango.DispLevel.EXPERT
MAX_PREVIEW = 16_384  # pixels along a side; the preview as a whole has at most a million
DISK_READINGS = ("free_space", "time_until_full")


def lower_case(text: str) -> str:
    return text.strip().lower()


class AcquisitionDevice(RunCommands):
    """A run that reduces detector frames while they are taken: where they come from, where the result goes."""

    ROLE = "acquisition"

    SavingRoot = properties.SAVING_ROOT.declare()
    RingSize = properties.RING_SIZE.declare()
    BatchSize = properties.BATCH_SIZE.declare()
    DecodeThreads = properties.DECODE_THREADS.declare()
    OpenCLDevice = properties.OPENCL_DEVICE.declare()
    Presets = properties.PRESETS.declare()

    _memorised_number: int | None = None  # what the Tango database has as saving_next_number

    # --- where frames come from and how they are corrected

    source = RunSetting(
        "source",
        str,
        "Source",
        f"Where frames come from: {accepted()}.",
    )
    monitor = RunSetting(
        "monitor",
        str,
        "Monitor",
        "A Tango attribute that tells the incoming intensity (I0) beside the frames of a live source, as "
        "DOMAIN/FAMILY/MEMBER/ATTRIBUTE; empty = what the source brings.",
        clean=str.strip,
    )
    geometry = RunSetting("geometry", str, "Geometry file", "PONI file of the detector geometry.")
    mask = RunSetting("mask", str, "Mask file", "Mask, non-zero = bad pixel; FILE or FILE.h5::/DATASET, empty = none.")
    dark = RunSetting("dark", str, "Dark file", "Dark current; FILE or FILE.h5::/DATASET, empty = none.")
    flat = RunSetting("flat", str, "Flat file", "Flat field; FILE or FILE.h5::/DATASET, empty = none.")
    source_corrections = RunSetting(
        "source_corrections",
        bool,
        "Corrections of the source",
        "Use the pixel mask that the source sends, together with the mask file, and its flat field where the detector "
        "has not applied it and no flat file is set.",
    )
    polarization = RunSetting(
        "polarization",
        float,
        "Polarization",
        "Degree of linear polarization in the horizontal plane, 0 = no correction. Accepted: -1 to 1.",
    )
    solid_angle = RunSetting("solid_angle", bool, "Solid angle correction", "Correct for the solid angle of pixels.")
    number_of_frames = RunSetting(
        "number_of_frames",
        tango.DevULong,
        "Number of frames",
        "Frames to reduce; 0 = until the series ends. Accepted: 0 to 4294967295.",
        memorized=False,
    )
    opencl_device = RunSetting(
        "opencl_device",
        str,
        "OpenCL device",
        "auto, all, PLATFORM:DEVICE[/PARTS] or several with commas; opencl_device_name shows what is in use.",
        display_level=EXPERT,
    )

    # --- where the result goes

    saving_directory = RunSetting(
        "saving_directory", str, "Saving directory", "Directory of the files; below the property SavingRoot."
    )
    saving_prefix = RunSetting("saving_prefix", str, "File prefix", "Files are called <prefix>_<number>.h5.")
    saving_next_number = RunSetting(
        "saving_next_number", tango.DevLong, "Next file number", "Number of the next file. Accepted: 0 to 999999999."
    )
    saving_overwrite_policy = RunSetting(
        "saving_overwrite_policy",
        str,
        "Overwrite policy",
        "What happens when the file exists: abort or overwrite.",
        clean=lower_case,
    )
    saving_sparse = RunSetting("saving_sparse", bool, "Save sparse frames", "Write sparse frames.")
    saving_dense = RunSetting("saving_dense", bool, "Save whole frames", "Write kept frames whole (lossless).")

    saving_frames_per_file = RunSetting(
        "saving_frames_per_file",
        tango.DevULong,
        "Frames per file",
        "Saved frames in one file, <prefix>_<number>_000001.h5 and so on, which <prefix>_<number>.h5 joins; 0 = all in "
        "that file. Accepted: 0 to 1000000000.",
    )

    # --- counters and rates. The limits are defaults: they can be changed in the Tango database.

    frame_count = Reading("frame_count", tango.DevULong64, "Frames reduced", "Frames reduced in this run.")
    frames_lost = Reading("frames_lost", tango.DevULong64, "Frames lost", "Frames that never arrived.")
    frames_dropped = Reading(
        "frames_dropped", tango.DevULong64, "Frames dropped", "Frames that arrived but could not be taken in."
    )
    frames_failed = Reading(
        "frames_failed", tango.DevULong64, "Frames failed", "Frames that arrived broken, or on which a step failed."
    )
    frame_rate = Reading(
        "frame_rate",
        float,
        "Frame rate (frames per second)",
        "Frames reduced per second, over the last second. Past the default limits it can hardly be true.",
        unit="Hz",
        max_warning=20_000,
        max_alarm=100_000,
    )
    input_rate = Reading(
        "input_rate",
        float,
        "Input rate",
        "What arrives, as received, over the last second. The default limits are those of a 100 Gbit/s link.",
        unit="MB/s",
        max_warning=10_000,
        max_alarm=12_500,
    )
    output_rate = Reading(
        "output_rate",
        float,
        "Output rate",
        "What is written, as stored, over the last second. Above the default limits most disks cannot follow.",
        unit="MB/s",
        max_warning=2_000,
        max_alarm=5_000,
    )
    buffer_occupancy = Reading(
        "buffer_occupancy",
        float,
        "Buffer occupancy",
        "Share of the ring of frames that waits to be reduced; at 100 % frames of a live source are dropped.",
        unit="%",
        max_warning=50,
        max_alarm=90,
    )
    processing_time = Reading(
        "processing_time",
        float,
        "Processing time (per frame)",
        "Time from handing a batch to an OpenCL device until its results are there, per frame.",
        unit="ms",
        max_warning=1_000,
        max_alarm=5_000,
    )
    upload_time = Reading(
        "upload_time",
        float,
        "Upload time (per frame)",
        "What the OpenCL device takes to fetch a frame from the host, by its own clock, over the last second; 0 where "
        "it reads the memory of the host. NaN: its driver does not tell.",
        unit="ms",
    )
    kernel_time = Reading(
        "kernel_time",
        float,
        "Kernel time (per frame)",
        "What the OpenCL device takes to run the kernels on a frame, likewise.",
        unit="ms",
    )
    download_time = Reading(
        "download_time",
        float,
        "Download time (per frame)",
        "What the OpenCL device takes to send the results of a frame to the host, likewise.",
        unit="ms",
    )
    device_utilisation = Reading(
        "device_utilisation",
        float,
        "Device utilisation",
        "Share of the last second in which the OpenCL device ran kernels or sent results; of several devices the mean. "
        "It has no limits by default: a device at 100 % keeps up as long as nothing waits (buffer_occupancy).",
        unit="%",
    )

    free_space = Reading(
        "free_space",
        float,
        "Free space (disk of the files)",
        "What is free where the last run writes, looked at every 2 s; NaN: not known. Below the default limit the "
        "disk is nearly full.",
        unit="GB",
        min_alarm=5,
    )
    time_until_full = Reading(
        "time_until_full",
        float,
        "Time until the disk is full",
        "At the rate of the last half minute; NaN: nothing is written.",
        unit="s",
        min_alarm=60,
    )

    # --- newest frame, what the run uses

    last_frame_number = Reading(
        "last_frame_number", tango.DevLong64, "Last frame number", "Number of the newest reduced frame, -1 = none yet."
    )
    series_id = Reading("series_id", str, "Series", "Name that the source gives to the series.")
    monitor_value = Reading(
        "monitor_value",
        float,
        "Monitor (newest frame)",
        "Incoming intensity (I0) with the newest frame, in the units of whoever measured it; NaN = unknown.",
    )
    parameter_set = Reading(
        "parameter_set",
        tango.DevULong,
        "Parameter set (newest frame)",
        "Number of the set of live parameters with which the newest frame was reduced.",
    )
    parameter_set_in_force = Computed(
        lambda device: device.pipeline.parameters.current.number,
        tango.DevULong,
        "Parameter set (in force)",
        "Number of the newest set of live parameters: the one with which the next batch of frames will be reduced.",
    )
    last_error = Reading("last_error", str, "Last error", "What went wrong last in this run.")
    # what belongs to the preview is pushed before it: a client who gets a preview has its peaks already
    preview_step = Reading(
        "preview_step",
        tango.DevULong,
        "Step of the preview (pixels)",
        "The preview has every so many-th pixel of every so many-th row.",
    )
    preview_frame = Reading(
        "preview_frame", tango.DevLong64, "Frame of the preview", "Number of the frame in the preview, -1 = none yet."
    )
    preview_peaks = Reading(
        "preview_peaks",
        ((tango.DevFloat,),),
        "Peaks of the preview",
        "Peaks of the very frame that the preview shows, in pixels of the whole frame; columns as in last_peaks.",
        max_dim_x=6,
        max_dim_y=MAX_PEAKS,
        min_interval=0.0,  # it changes with the preview only
    )
    preview = Reading(
        "preview",
        ((tango.DevUShort,),),
        "Preview (newest frame)",
        "The newest frame, decimated to at most a million pixels; 65535 where a pixel is masked or has no value.",
        max_dim_x=MAX_PREVIEW,
        max_dim_y=MAX_PREVIEW,
    )
    output_file = Reading(
        "output_file",
        str,
        "Output file",
        "The file that is, or was last, written. Whole frames (saving_dense) lie beside it, in NAME_nxmx.h5.",
    )
    opencl_device_name = Reading(
        "opencl_device_name",
        str,
        "OpenCL device in use",
        "Platform and device; several with semicolons.",
        display_level=EXPERT,
    )
    decoding = Reading(
        "decoding",
        str,
        "Decoding of compressed frames",
        "Where bslz4 frames are decoded, on the device or the host, as the faster one was measured at Prepare; empty "
        "where frames come otherwise.",
        display_level=EXPERT,
    )
    mask_info = Reading(
        "mask_info",
        str,
        "Mask in use",
        "The mask of the run as JSON: file, sha256, loaded, masked_by_file, masked_by_source, masked_pixels (all that "
        "are left out); empty = no run yet.",
    )
    ring_size = Computed(
        lambda device: device.pipeline.setup.ring_size,
        tango.DevULong,
        "Ring size (frames)",
        "Frames that can wait for the OpenCL device; property RingSize.",
        display_level=EXPERT,
    )
    batch_size = Computed(
        lambda device: device.pipeline.setup.batch_size,
        tango.DevULong,
        "Batch size (frames)",
        "Frames that the OpenCL device takes at once; property BatchSize.",
        display_level=EXPERT,
    )
    settings_available = Computed(
        lambda device: device.saved.names,
        (str,),
        "Saved settings",
        "Names that LoadSettings accepts.",
        max_dim_x=MAX_PRESETS,
    )

    log = Computed(
        lambda device: messages().lines,
        (str,),
        "Log (last messages)",
        f"The last {KEPT} messages of the server, the newest last: time, level, where from, text.",
        max_dim_x=KEPT,
    )
    version = Computed(
        lambda device: "; ".join(f"{name} {version}" for name, version in versions().items()),
        str,
        "Version",
        "Versions of framesieve, of what it stands on, and of the OpenCL devices and their drivers; git: the commit, "
        "where the server runs from a checkout.",
        display_level=EXPERT,
    )

    settings = AllSettings(
        str,
        "All settings",
        "The settings of all devices as JSON, under the names of the attributes; a part of them may be written: all of "
        "it or nothing comes into force.",
        memorized=False,
        display_level=EXPERT,
    )

    def use_properties(self) -> None:
        """Check the properties and make the controller."""
        setup = HardwareSetup(self.SavingRoot, self.RingSize, self.BatchSize, self.DecodeThreads)
        setup.check()
        if self.pipeline.database.is_used:  # otherwise they live in memory only
            self.saved = SavedSettings(self.Presets)
        self.pipeline.set_up(setup, self.OpenCLDevice)

    def alarms(self) -> list[str]:
        lost = ["Frames are being lost: see frames_lost and frames_dropped."] if self.pipeline.losing_frames else []
        disk = [text] if (text := self.pipeline.published.disk_alarm) else []
        passed = super().alarms()
        if any(text.startswith(DISK_READINGS) for text in passed):
            disk.append(
                "The disk is nearly full: make room, or Stop and choose another saving_directory. Once it is full, the "
                "run ends in FAULT; what was written is safe."
            )
        return lost + disk + passed

    def notes(self) -> list[str]:
        in_memory = self.saved.names and not self.pipeline.database.is_used
        text = "Saved settings are kept in memory only: there is no Tango database."
        return super().notes() + ([text] if in_memory else [])

    def ignores_limits_of(self, name: str) -> bool:
        value = getattr(self.pipeline.published, name, None)
        if isinstance(value, float) and math.isnan(value):  # not known
            return True
        # a file is read as fast as there is room, so the buffer is always full and nothing is lost
        return name == "buffer_occupancy" and self.pipeline.setting("source").startswith(("file:", "follow:"))

    def after_publishing(self) -> None:
        # a run counts saving_next_number up: the memorised value must follow
        number = self.pipeline.setting("saving_next_number")
        known, self._memorised_number = self._memorised_number, number
        if known not in (None, number):
            self.memorise(["saving_next_number"])

    def end_with_server(self) -> None:
        """End the run while the other devices are still there, and have the number that it has counted to memorised."""
        self.pipeline.close()
        if self._memorised_number not in (None, self.pipeline.setting("saving_next_number")):
            self._unsaved.add("saving_next_number")
