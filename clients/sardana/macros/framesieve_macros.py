# ruff: noqa: RUF012  Sardana reads these lists and dictionaries from the classes
"""Macros of framesieve for Sardana's MacroServer: fs_define, fs_set, fs_show, fs_tune_veto, fs_map."""

from framesieve.clients import Reduction
from framesieve.clients.raster_map import map_of_positions, raster_map, write_png
from framesieve.clients.sardana import ELEMENTS
from framesieve.clients.tuning import propose_threshold
from sardana.macroserver.macro import Macro, Type

ENVIRONMENT = "FrameSieve"  # the variable that has the address of the devices
GROUP = "fs"  # the measurement group that fs_define makes
SHOWN = (
    "source", "frame_count", "frames_lost", "frames_dropped", "frames_failed", "frame_rate", "buffer_occupancy",
    "compression_ratio", "hit_rate", "kept_count", "vetoed_count", "control_count", "saved_fraction", "snr_clip",
    "clip_cycles", "error_model", "noise", "snr_pick", "surroundings", "snr_peak", "patch_size", "min_pixels",
    "peakfinder_max_peaks", "radius_min", "radius_max", "enabled", "min_peaks", "veto_max_peaks", "control_fraction",
    "output_file",
)  # fmt: skip


def devices_of(macro):
    """The devices that the environment names."""
    try:
        address = macro.getEnv(ENVIRONMENT)
    except Exception:
        raise RuntimeError(f"no devices are known: fs_define DOMAIN, or senv {ENVIRONMENT} DOMAIN") from None
    return Reduction(str(address))


def say(macro, text):
    """Put a line out. It travels as a Tango string, which is Latin-1: what has no place there becomes '?'."""
    macro.output("%s", text.replace("σ", "sigma").encode("latin-1", "replace").decode("latin-1"))


def plain(value):
    return f"{value:g}" if isinstance(value, float) else str(value)


def controller_of(controller_class):
    """What fs_define calls the controller of a class."""
    return f"ctrl_{controller_class.lower()}"


class fs_define(Macro):
    """Makes the controllers of framesieve, an element of each of their axes, and the measurement group `fs` with the
    counters and readings; remembers the devices for the other macros."""

    param_def = [["devices", Type.String, None, "domain (id00) or name of the acquisition device"]]

    def run(self, devices):
        Reduction(devices, patience=2.0)  # refuses what is not there
        known = set(self.getControllers()) | {controller.name for controller in self.getControllers().values()}
        try:
            before = self.getEnv(ENVIRONMENT)
        except Exception:  # the variable is not set
            before = devices
        if before != devices and known & {controller_of(name) for name in ELEMENTS}:
            raise RuntimeError(f"the controllers are those of {before}: take them away first (udefelem, udefctrl)")
        self.setEnv(ENVIRONMENT, devices)
        for controller_class, names in ELEMENTS.items():
            controller = controller_of(controller_class)
            if controller in known:
                self.warning(f"{controller} is there already and stays as it is")
                continue
            self.execMacro("defctrl", controller_class, controller, ["Devices", devices])
            for axis, name in enumerate(names, 1):
                self.execMacro("defelem", name, controller, axis)
        if not self.findObjs(GROUP, type_class=Type.MeasurementGroup):
            channels = [*ELEMENTS["FrameSieveCounters"], *ELEMENTS["FrameSieveReadings"][:2]]
            self.execMacro("defmeas", GROUP, channels)
        say(self, f"measurement group {GROUP}: senv ActiveMntGrp {GROUP}, then ct 1, ascan snr_pick 1 4 6 1")


class fs_set(Macro):
    """Puts settings into force and tells from which frame on they hold: fs_set snr_pick 2.5 min_peaks 30"""

    param_def = [
        [
            "settings",
            [["name", Type.String, None, "a setting"], ["value", Type.String, None, "its value"], {"min": 1}],
            None,
            "names and values",
        ]
    ]

    def run(self, settings):
        devices = devices_of(self)
        values = {name: as_setting(devices, name, text) for name, text in settings}
        before = {name: getattr(devices, name) for name in values}
        applied = devices.set(**values)
        for name, value in applied.values.items():
            say(self, f"{name}: {plain(before[name])} -> {plain(value)}")
        where = applied.note if applied.first_frame is None else f"from frame {applied.first_frame} on"
        say(self, f"parameter set {applied.parameter_set}, {where}")


def as_setting(devices, name, text):
    """What was typed, as the type of a setting."""
    value = getattr(devices, name)
    if isinstance(value, str):
        return text
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        if text.lower() not in words:
            raise ValueError(f"{name} = {text!r}: accepted is true or false")
        return words[text.lower()]
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} = {text!r}: accepted is a number") from None


class fs_show(Macro):
    """Shows state, counts and settings: all, or those that are named."""

    param_def = [["names", [["name", Type.String, None, "an attribute"], {"min": 0}], [], "attributes"]]

    def run(self, names):
        devices = devices_of(self)
        say(self, f"{devices.state}: {devices.status().text}")
        for name in names or SHOWN:
            attribute = devices.describe(name)
            say(self, f"{name:20} {plain(getattr(devices, name)):>12} {attribute.unit:6} {attribute.label}")


class fs_tune_veto(Macro):
    """Steps a threshold for the peak count, without applying it, shows which share of the frames of this run it would
    have kept, and proposes one: where frames with and without a crystal lie furthest apart. fs_set min_peaks N applies
    it."""

    param_def = [
        ["first", Type.Integer, 0, "lowest threshold"],
        ["last", Type.Integer, 60, "highest threshold"],
        ["step", Type.Integer, 5, "step"],
    ]
    result_def = [["min_peaks", Type.Integer, None, "the threshold that is proposed, -1 without any"]]

    def run(self, first, last, step):
        if step < 1 or not 0 <= first <= last or (last - first) // step > 1000:
            raise ValueError(f"{first} {last} {step}: accepted are thresholds from 0, upwards, in at most 1000 steps")
        devices = devices_of(self)
        before = devices.what_if_min_peaks
        frames = devices.frame_count
        if not frames:
            raise RuntimeError("no frames have been reduced: start a run first")
        say(self, f"min_peaks  would keep, of {frames} frames (now: {devices.min_peaks})")
        try:
            for threshold in range(first, last + 1, step):
                self.checkPoint()
                devices.what_if_min_peaks = threshold
                share = devices.what_if_kept_fraction
                say(self, f"{threshold:9}  {share:6.2f} %  {'#' * round(share / 2)}")
        finally:
            devices.what_if_min_peaks = before
        proposal = propose_threshold(devices.peak_count_histogram)
        if proposal is None:
            say(self, "no proposal: frames with and without a crystal cannot be told apart by their peaks (yet)")
            return -1
        say(
            self,
            f"proposed: min_peaks {proposal.min_peaks}, which keeps {proposal.hits:.2f} %; "
            f"{100 * proposal.separation:.0f} % of the spread of the peak counts lies between the two groups",
        )
        return proposal.min_peaks


class fs_map(Macro):
    """Peak count over a raster scan, as a picture (PNG): where the source tells the positions of the frames by these,
    else by their numbers, one frame per position."""

    param_def = [
        ["rows", Type.Integer, None, "rows of the scan; 0: as many as the positions have"],
        ["columns", Type.Integer, None, "positions in a row; 0: as many as the positions have"],
        ["file", Type.Filename, None, "the picture to write"],
        ["first_frame", Type.Integer, 0, "number of the first frame of the scan"],
        ["snake", Type.Boolean, False, "every second row was scanned backwards; positions tell it themselves"],
    ]

    def run(self, rows, columns, file, first_frame, snake):
        devices = devices_of(self)
        counters = devices.counters(first_frame)
        image, how = map_of_positions(counters, rows, columns), "by their positions"
        if image is None:
            image, how = raster_map(counters, rows, columns, first_frame=first_frame, snake=snake), "by their numbers"
        write_png(file, image)
        seen = image[image == image]
        say(self, f"{file}: {len(seen)} of {image.size} positions, {seen.max(initial=0):g} peaks at most; frames {how}")
