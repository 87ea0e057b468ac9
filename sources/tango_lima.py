"""Images that a device keeps, to be read by their number: `readImage` of LImA and `getFrame` of LImA2.

The device tells how far it is, and whether it is taking images at all; that is looked at again and again, and at once
where it sends an event. Images are read in order, each once. One that the device has overwritten already is lost.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..processing.errors import CommunicationError, ConfigurationError, FrameError
from .data_array import DataArray, parse_data_array
from .tango_client import is_silence, read_values, text_of
from .tango_reader import SeriesReader

if TYPE_CHECKING:
    import tango

log = logging.getLogger(__name__)

#: images that are read before the device is asked again how far it is
AT_ONCE = 8

#: of LImA's `acq_status`, in lower case
RUNNING = "running"

#: how often one image is asked for while the device does not answer
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a device is: `last` image that can be read (-1: none), images that it will take or None, seconds since
    1970 when this was so, and what went wrong, where something did."""

    is_running: bool
    last: int
    total: int | None
    timestamp: float
    fault: str = ""


class NumberedReader(SeriesReader):
    """Follows the progress of a device, one series after the other."""

    #: attributes whose events mean progress
    signals: ClassVar[tuple[tuple[str, str], ...]] = ()
    #: whether a device that is taking images when we come has taken all of them for us
    reads_from_the_beginning: ClassVar[bool] = False

    _known: int | None = None  # the last image of what is over; None: we have just come
    _seen = -1  # the last image, as it was told last
    _next = 0
    _attempts = 0
    _is_given_up = False
    _started_at = -math.inf  # when an event told that it has begun
    _timestamp = math.nan  # when it was known that an image is there; nothing more exact is told

    def progress(self, proxy: tango.DeviceProxy) -> Progress:
        """How far it is."""
        raise NotImplementedError

    def number_of(self, image: DataArray, asked: int) -> int:
        """The number of the frame; FrameError where it is not the one that was asked for."""
        raise NotImplementedError

    def metadata(self, proxy: tango.DeviceProxy) -> dict[str, Any]:
        """What the device tells of itself; see `SeriesStart`."""
        return {}

    def attach(self, proxy: tango.DeviceProxy) -> None:
        import tango

        try:
            proxy.get_command_config(self.address.name)
            before = self.progress(proxy)
        except tango.DevFailed as error:
            if is_silence(error):
                raise
            raise ConfigurationError(f"{self.address}: {text_of(error)}") from None
        for name, kind in self.signals:
            self.subscribe(proxy, name, kind, self._on_signal)
        if self._known is None:
            self._known = self._seen = before.last
            if before.is_running:
                late = before.last >= 0 and not self.reads_from_the_beginning
                self._begin(proxy, before, first=before.last + 1 if late else 0, late=late)

    def _on_signal(self, event: Any) -> None:
        """In a thread of Tango: something has changed."""
        self.wake.set()

    def turn(self, proxy: tango.DeviceProxy) -> None:
        self.wake.clear()
        looked_at = self._timestamp
        progress = self.progress(proxy)
        has_begun_anew, self._seen = progress.last < self._seen, progress.last
        if has_begun_anew:
            self._known, self._is_given_up = -1, False
            if self.in_series:
                self.end(superseded=True)
        self._is_given_up = self._is_given_up and progress.is_running
        # one that was over before it could be seen has left its event, or another number of images
        is_new = progress.is_running or (
            progress.last >= 0 and (progress.last != self._known or self._started_at > looked_at)
        )
        if not self.in_series and is_new and not self._is_given_up:
            self._begin(proxy, progress)
        if not self.in_series:
            self._known = progress.last
        elif self._read_up_to(proxy, progress.last) and not progress.is_running:
            if progress.fault:
                self.broken(-1, progress.fault, progress.timestamp)
            self._known = progress.last
            self.end()
        if self.end_if_idle():
            self._is_given_up = True  # what it still takes is no new series
        if not self.in_series or self._next > progress.last:
            self.wake.wait(self.options.period)

    def _begin(self, proxy: tango.DeviceProxy, progress: Progress, *, first: int = 0, late: bool = False) -> None:
        self._next, self._attempts = first, 0
        self.begin(progress.total, joined_late=late, metadata=self.metadata(proxy))

    def _read_up_to(self, proxy: tango.DeviceProxy, last: int) -> bool:
        """Read some images; whether all up to `last` have been read."""
        for _ in range(AT_ONCE):
            if self._next > last or self.stopping.is_set():
                break
            if not self._read(proxy):
                return False
        return self._next > last

    def _read(self, proxy: tango.DeviceProxy) -> bool:
        """Read the next image; False where the device has begun anew meanwhile."""
        import tango

        number, self._attempts = self._next, self._attempts + 1
        try:
            encoding, data = proxy.command_inout(self.address.name, number)
        except tango.DevFailed as error:
            if is_silence(error):
                if self._attempts >= ATTEMPTS:
                    self._go_on(f"image {number} could not be read {ATTEMPTS} times: {text_of(error)}")
                raise
            if self.progress(proxy).last < number:
                return False
            self._go_on(f"image {number} is lost: {text_of(error)}")
            return True
        self._next, self._attempts = number + 1, 0
        try:
            image = parse_data_array(encoding, data)
            number = self.number_of(image, number)
        except FrameError as error:
            self.broken(number, str(error), self._timestamp)
            return True
        self.frame(number, image.pixels, self._timestamp)
        return True

    def _go_on(self, why: str) -> None:
        log.warning("%s: %s", self.address, why)
        self._next, self._attempts = self._next + 1, 0


class LimaReader(NumberedReader):
    """`readImage` of LImA: `last_image_ready` and `acq_status` tell how far it is."""

    signals = (("last_image_ready", "CHANGE_EVENT"), ("acq_status", "CHANGE_EVENT"))

    def _on_signal(self, event: Any) -> None:
        if not event.err and str(event.attr_value.value).strip().lower() == RUNNING:
            self._started_at = event.attr_value.time.totime()
        self.wake.set()

    def progress(self, proxy: tango.DeviceProxy) -> Progress:
        # in this order: where it is ready, the last image is final
        status, last, total = read_values(proxy, ("acq_status", "last_image_ready", "acq_nb_frames"))
        self._timestamp = last.time.totime()
        text = str(status.value).strip().lower()
        fault = f"LImA: {self._fault(proxy)}" if text == "fault" else ""
        return Progress(text == RUNNING, int(last.value), int(total.value) or None, self._timestamp, fault)

    def number_of(self, image: DataArray, asked: int) -> int:
        if image.number not in (None, asked):
            raise FrameError(f"image {asked} was asked for, {image.number} came")
        return asked

    def metadata(self, proxy: tango.DeviceProxy) -> dict[str, Any]:
        import tango

        try:
            names = [str(value.value) for value in read_values(proxy, ("camera_type", "camera_model"))]
        except tango.DevFailed:
            return {}
        return {"detector": " ".join(names)}

    def _fault(self, proxy: tango.DeviceProxy) -> str:
        import tango

        try:
            return str(proxy.read_attribute("acq_status_fault_error").value)
        except tango.DevFailed:
            return "the acquisition has failed"


class Lima2Reader(NumberedReader):
    """`getFrame` and its like of a processing device of LImA2: `progress_counters` and `is_finished` tell how far it
    is. Such a device belongs to one acquisition, so all of its frames are read. A receiver that has only a part of the
    frames gives that part; the numbers are those of the acquisition."""

    signals = (("is_finished", "DATA_READY_EVENT"), ("progress_counters", "CHANGE_EVENT"))
    reads_from_the_beginning = True

    def progress(self, proxy: tango.DeviceProxy) -> Progress:
        finished, counters = read_values(proxy, ("is_finished", "progress_counters"))
        self._timestamp = counters.time.totime()
        name = self.options.counter or "nb_frames_processed"
        try:
            found = json.loads(counters.value)
            count = int(found[name])
        except KeyError:
            raise ConfigurationError(
                f"{self.address}: progress_counters has no {name!r} (option counter; there are {', '.join(found)})"
            ) from None
        except (TypeError, ValueError) as error:
            raise CommunicationError(f"{self.address}: progress_counters cannot be understood: {error}") from None
        return Progress(not finished.value, count - 1, None, self._timestamp)

    def number_of(self, image: DataArray, asked: int) -> int:
        return asked if image.number is None else image.number
