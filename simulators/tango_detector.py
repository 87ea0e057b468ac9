"""A detector as a Tango device, for trying out and for tests: `SimulatedDetector INSTANCE [-nodb -dlist sim/det/1]`.

With the protocol `tango` its images are read through Tango: as an attribute (`image`, or `image_TYPE` where pixels are
not uint16, with events), as LImA does it
(`readImage`) and as LImA2 does it (`getFrame`). With the other protocols the device is the handle of a detector that
sends a stream.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tango
from tango.server import Device, attribute, command, run

from ..processing.errors import FrameSieveError, NotAllowedError
from .detector_settings import MAX_SIDE, PIXEL_TYPES, PROTOCOLS, Detector, DetectorSettings, TangoSide
from .tango_series import Shown, TangoSeries

SERVER_NAME = "SimulatedDetector"
PUBLISH_PERIOD = 0.2  # s

# alarm events must be declared as well: see devices/attributes.py
EVENTS = {
    "change_event_implemented": True,
    "change_event_detect": False,
    "archive_event_implemented": True,
    "archive_event_detect": False,
    "alarm_event_implemented": True,
    "alarm_event_detect": True,
}
EXPERT = tango.DispLevel.EXPERT

#: counters of LImA2: frames that came, and frames that can be read
PROGRESS = ("nb_frames_source", "nb_frames_processed")

#: for each pixel type the attribute that shows such images
IMAGES = {"uint16": "image", "uint8": "image_uint8", "uint32": "image_uint32", "int32": "image_int32"}


@contextmanager
def reported(device: tango.LatestDeviceImpl, method: str) -> Iterator[None]:
    """Turn what goes wrong inside into `DevFailed` with a reason and the origin `Class.method`."""
    try:
        yield
    except tango.DevFailed:
        raise
    except Exception as error:
        known = isinstance(error, FrameSieveError)
        reason = error.reason if known else "SOFTWARE_FAILURE"
        text = str(error) if known else f"{type(error).__name__}: {error}"
        device.warn_stream("%s", f"{method}: {text}" if known else f"{method}: {text}\n{traceback.format_exc()}")
        description = text.replace("…", "...").replace("×", "x").encode("latin-1", "replace")
        tango.Except.throw_exception(reason, description, f"{SERVER_NAME}.{method}")


def setting(name: str, dtype: Any, label: str, doc: str, *, memorized: bool = True, **options: Any) -> attribute:
    """An attribute that is one of the `DetectorSettings`; written while no series is sent."""

    def read(device: SimulatedDetector) -> Any:
        return getattr(device.settings, name)

    def write(device: SimulatedDetector, value: Any) -> None:
        device.write_setting(name, value)

    if memorized:
        options |= {"memorized": True, "hw_memorized": True}
    return attribute(
        fget=read, fset=write, dtype=dtype, label=label, doc=doc, access=tango.AttrWriteType.READ_WRITE, **options
    )


def image_attribute(dtype: str) -> attribute:
    """The newest image as an attribute; an attribute of Tango has one pixel type for good."""
    return attribute(
        fget=lambda device: device.read_image(dtype),
        dtype=((PIXEL_TYPES[dtype].type,),),
        max_dim_x=MAX_SIDE,
        max_dim_y=MAX_SIDE,
        label=f"Newest image ({dtype})",
        doc=f"The newest image, with the time at which it was taken, while the frames are {dtype}.",
    )


class SimulatedDetector(Device):
    """A detector that sends simulated or recorded frames, well-behaved or not."""

    DEVICE_CLASS_INITIAL_STATE = tango.DevState.INIT

    protocol = setting("protocol", str, "Protocol", f"How frames are sent. Accepted: {', '.join(PROTOCOLS)}.")
    port = setting(
        "port", tango.DevLong, "Port", "Port of a stream; 0 = a free one, see source_url. Accepted: 0 to 65535."
    )
    encoding = setting("encoding", str, "Encoding", "Compression of a stream. Accepted: bslz4, lz4, none.")
    frame_rate = setting(
        "frame_rate", float, "Frame rate (frames per second)", "0 = as fast as possible.", unit="Hz", format="%.3f"
    )
    number_of_frames = setting("number_of_frames", tango.DevLong, "Number of frames", "Frames of a series, at least 1.")
    number_of_series = setting(
        "number_of_series",
        tango.DevLong,
        "Number of series",
        "Series that Start sends one after the other; 0 = until Stop.",
    )
    input_file = setting(
        "input_file",
        str,
        "Input file",
        "Frames to send: HDF5 (FILE or FILE::DATASET), CBF, ...; empty = simulated ones.",
    )
    misbehaviour = setting(
        "misbehaviour", str, "Misbehaviour", "What goes wrong, e.g. lost=3,7 corrupt=4; empty = nothing."
    )
    hits = setting("hits", float, "Hits", "Share of simulated frames with a crystal.", unit="%", format="%.3f")
    shape = setting(
        "shape", (tango.DevLong,), "Shape (rows, columns)", "Rows and columns of simulated frames.",
        memorized=False, max_dim_x=2,
    )  # fmt: skip
    dtype = setting("dtype", str, "Pixel type", f"Of simulated frames. Accepted: {', '.join(PIXEL_TYPES)}.")
    image_events = setting(
        "image_events", str, "Events of image", "Words of: change, data_ready.", display_level=EXPERT
    )
    buffer_max_number = setting(
        "buffer_max_number", tango.DevLong, "Images kept", "Images that readImage and getFrame can still read.",
        display_level=EXPERT,
    )  # fmt: skip

    frames_sent = attribute(
        fget=lambda self: self._sent(),
        dtype=tango.DevULong64,
        label="Frames sent",
        doc="Frames sent since Start.",
        **EVENTS,
    )
    source_url = attribute(
        fget=lambda self: self._url(), dtype=str, label="Source URL", doc="What a receiver connects to while RUNNING."
    )
    image = image_attribute("uint16")
    image_uint8 = image_attribute("uint8")
    image_uint32 = image_attribute("uint32")
    image_int32 = image_attribute("int32")
    image_number = attribute(
        fget=lambda self: self._shown.number if self._shown else -1, dtype=tango.DevLong,
        label="Number of image", doc="Number of the image that image shows; -1 = none.",
    )  # fmt: skip
    last_image_ready = attribute(
        fget=lambda self: self._present().last, dtype=tango.DevLong, label="Last image ready",
        doc="Number of the last image that readImage gives; -1 = none.",
    )  # fmt: skip
    acq_status = attribute(
        fget=lambda self: self._present().status,
        dtype=str,
        label="Acquisition status",
        doc="Ready or Running.",
        **EVENTS,
    )
    acq_nb_frames = attribute(
        fget=lambda self: self.settings.number_of_frames, dtype=tango.DevLong, label="Frames of the acquisition",
        doc="As number_of_frames.",
    )  # fmt: skip
    progress_counters = attribute(
        fget=lambda self: json.dumps(dict.fromkeys(PROGRESS, self._present().last + 1)),
        dtype=str, label="Progress", doc="Frames that getFrame gives, as JSON.",
    )  # fmt: skip
    is_finished = attribute(
        fget=lambda self: self._present().status != "Running", dtype=bool, label="Series finished",
        doc="Whether no series is being taken.",
    )  # fmt: skip

    # --- life

    def init_device(self) -> None:
        """Be ready. Never raises: an exception here would end the whole server."""
        if not hasattr(self, "settings"):  # Init comes here again
            self.settings = DetectorSettings()
        self._detector: Detector | None = None
        self._idle = TangoSeries(_NoFrames(), n_frames=1)  # what is shown before the first series
        self._player: threading.Thread | None = None
        self._stopping = threading.Event()
        self._shown: Shown | None = None
        for name in ("State", "Status"):
            self.set_change_event(name, True, False)
            self.set_archive_event(name, True, False)
            self.set_alarm_event(name, True, False)
        self._announce_events()
        self._enter(tango.DevState.STANDBY, "Idle. Start sends frames.", push=False)

    def delete_device(self) -> None:
        """End the series."""
        self._stopping.set()
        player = self._player
        if player is not None:
            # it may be pushing events, and wait for the monitor that is held here
            with tango.AutoTangoAllowThreads(self):
                player.join()

    # --- settings

    def write_setting(self, name: str, value: Any) -> None:
        """Write handler of the settings: a refused value raises and changes nothing."""
        value = tuple(int(side) for side in value) if name == "shape" else value
        if tango.Util.instance().is_svr_starting():  # a memorised value; one that raises would be unreadable for good
            try:
                self.settings = self.settings.replace(**{name: value})
            except FrameSieveError as error:
                self.warn_stream("%s", f"memorised value not usable: {error}")
            return
        with reported(self, f"write_{name}"):
            self._refuse_while_busy(f"write {name}")
            self.settings = self.settings.replace(**{name: value})
            if name == "image_events":
                self._announce_events()

    def _announce_events(self) -> None:
        words = self.settings.image_events.split()
        for name in IMAGES.values():
            self.set_change_event(name, "change" in words, False)
            self.set_alarm_event(name, "change" in words, False)
            self.set_data_ready_event(name, "data_ready" in words)

    # --- images

    def read_attr_hardware(self, indices: list[int]) -> None:
        # what is read together belongs together
        self._shown = self._present().newest if not self._present().away else None

    def read_image(self, dtype: str) -> tuple[np.ndarray, float, tango.AttrQuality]:
        """The newest image, where it has this pixel type."""
        with reported(self, "read_image"):
            self._present()
            shown = self._shown
            if shown is None:
                return np.zeros((0, 0), dtype), time.time(), tango.AttrQuality.ATTR_INVALID
            if shown.pixels.dtype != dtype:
                raise NotAllowedError(f"the image is {shown.pixels.dtype}: read {IMAGES[shown.pixels.dtype.name]}")
            return shown.visible, shown.timestamp, tango.AttrQuality.ATTR_VALID

    @command(dtype_in=tango.DevLong, doc_in="number of the image, -1 = the last one", dtype_out=tango.DevEncoded)
    def readImage(self, number: int) -> tuple[str, bytes]:
        """An image by its number, as LImA gives it."""
        with reported(self, "readImage"):
            return "DATA_ARRAY", self._present().image(number).encoded()

    @command(dtype_in=tango.DevLong, doc_in="number of the image", dtype_out=tango.DevEncoded)
    def getFrame(self, number: int) -> tuple[str, bytes]:
        """An image by its number, as LImA2 gives it."""
        with reported(self, "getFrame"):
            return "DENSE_FRAME", self._present().image(number).encoded()

    def _present(self) -> TangoSeries:
        series = self._detector if isinstance(self._detector, TangoSeries) else self._idle
        if series.away:
            with reported(self, "read"):
                raise NotAllowedError("the detector does not answer")
        return series

    def _sent(self) -> int:
        return self._detector.done.images if self._detector is not None else 0

    def _url(self) -> str:
        if self._detector is None or not self._is_busy():
            return ""
        protocol = self.settings.protocol
        if isinstance(self._detector, TangoSeries):
            return f"tango://{self.get_name()}/{IMAGES[self._detector.frames.info.dtype.name]}"
        return f"{protocol}://127.0.0.1:{self._detector.port}"

    # --- series

    @command
    def Start(self) -> None:
        """Send the series; returns at once."""
        with reported(self, "Start"):
            self._refuse_while_busy("Start")
            self._stopping.clear()
            self._detector = None
            self._enter(tango.DevState.RUNNING, "Preparing frames.")
            self._player = threading.Thread(target=self._play, name="player", daemon=True)
            self._player.start()

    @command
    def Stop(self) -> None:
        """Send nothing more; returns at once, and is ignored when nothing is sent."""
        self._stopping.set()
        if isinstance(self._detector, TangoSeries):
            self._detector.status = "Ready"

    @command
    def Reset(self) -> None:
        """Leave FAULT, after its cause has been removed."""
        if self.get_state() == tango.DevState.FAULT:
            self._enter(tango.DevState.STANDBY, "Idle. Start sends frames.")

    def _refuse_while_busy(self, what: str) -> None:
        if self._is_busy():
            raise NotAllowedError(f"{what} while frames are sent: Stop first")

    def _is_busy(self) -> bool:
        return self.get_state() == tango.DevState.RUNNING

    def _play(self) -> None:
        """The thread of a run: makes the detector, follows it, and says how it ended."""
        with tango.EnsureOmniThread():
            state, status = tango.DevState.STANDBY, ""
            detector = None
            try:
                settings = self.settings
                frames = settings.make_input()
                side = TangoSide(self._show, lambda status: self._push("acq_status", status), tango.EnsureOmniThread)
                detector = PROTOCOLS[settings.protocol](settings, frames, side)
                detector.start()
                self._detector = detector
                self._enter(tango.DevState.RUNNING, f"Sending frames: {settings.protocol}, port {detector.port}.")
                while not detector.wait(PUBLISH_PERIOD) and not self._stopping.is_set():
                    self._push("frames_sent", detector.done.images)
                status = "Stopped." if self._stopping.is_set() else "All frames are sent."
            except Exception as error:
                known = isinstance(error, FrameSieveError)
                state = tango.DevState.FAULT
                status = (
                    f"{error if known else f'{type(error).__name__}: {error}'}. Correct it and call Reset or Start."
                )
            finally:
                if detector is not None:
                    detector.stop(linger=0 if self._stopping.is_set() else 5)
                    self._push("frames_sent", detector.done.images)
                self._enter(state, status)

    def _show(self, shown: Shown) -> None:
        """Push the events of an image; called by the thread of the series."""
        if self._stopping.is_set():
            return
        words, name = self.settings.image_events.split(), IMAGES[shown.pixels.dtype.name]
        try:
            if "data_ready" in words:
                self.push_data_ready_event(name, shown.number)
            if "change" in words:
                self.push_change_event(name, shown.visible, shown.timestamp, tango.AttrQuality.ATTR_VALID)
        except Exception as error:  # a client must not be able to stop the detector
            self.warn_stream("%s", f"pushing image {shown.number}: {error}")

    def _push(self, name: str, *values: Any) -> None:
        try:
            self.push_change_event(name, *values)
            self.push_archive_event(name, *values)
        except Exception as error:
            self.warn_stream("%s", f"pushing {name}: {error}")

    def _enter(self, state: tango.DevState, status: str, *, push: bool = True) -> None:
        with tango.AutoTangoMonitor(self):
            self.set_state(state)
            self.set_status(status.encode("latin-1", "replace").decode("latin-1"))
        if push:
            self._push("State")
            self._push("Status")


class _NoFrames:
    """Stands for frames where there are none."""

    n_frames = 1

    def close(self) -> None:
        """Nothing to give back."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the device server until it is ended; `argv` without the name of the program."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for place in [i + 1 for i, argument in enumerate(arguments[:-1]) if argument == "-dlist"]:
        # the class need not be named
        names = arguments[place].split(",")
        arguments[place] = ",".join(name if "::" in name else f"{SERVER_NAME}::{name}" for name in names)
    if not any(argument.startswith(("-ORBendPoint", "-host")) for argument in arguments):
        arguments += ["-host", "127.0.0.1"] if "-port" in arguments else ["-ORBendPoint", "giop:tcp:127.0.0.1:"]
    run((SimulatedDetector,), args=[SERVER_NAME, *arguments])


if __name__ == "__main__":
    main()
