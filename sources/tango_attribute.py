"""Images that a device shows as an attribute, the newest one only.

What tells that there is a new one, the best first:

* the option `counter` names an attribute that counts images: it is read together with the image;
* change events carry images; where there are data-ready events too, these tell their numbers;
* data-ready events tell the number of an image, which is then read;
* nothing: the attribute is read again and again. An image is new if its time and its pixels are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..processing.errors import CommunicationError, ConfigurationError
from .pixels import pixel_dtype
from .tango_address import TangoAddress
from .tango_client import is_silence, read_values, text_of
from .tango_reader import ReaderOptions, SeriesReader

if TYPE_CHECKING:
    import tango

log = logging.getLogger(__name__)

#: a frame that comes so many numbers behind the newest one is late; one further behind begins another series
LATE = 256

#: how often a device that has nothing to tell is asked whether it is there, s
PING = 1.0

#: ZeroMQ tells the server of a subscription a little after Tango has subscribed: what is pushed before is lost, s
SETTLE = 0.3

#: events that may wait; they are taken at once, unless the device is being asked something
MAX_PUSHED = 10_000


@dataclass(frozen=True, slots=True)
class Pushed:
    """An image that came with an event; `pixels` None where there was no room for it."""

    pixels: np.ndarray | None
    timestamp: float


class AttributeReader(SeriesReader):
    """See the top of this file. Without numbers from the device frames are counted from 0.

    A series ends where the numbers begin anew; otherwise nobody tells, but for the option `idle`.
    """

    def __init__(self, address: TangoAddress, options: ReaderOptions) -> None:
        super().__init__(address, options)
        self._pushed: deque[Pushed | int] = deque()  # images, and numbers of images
        self._lock = threading.Lock()
        self._waiting = 0  # images among them that have pixels
        self._numbers: deque[int] = deque(maxlen=2 * LATE)  # of the newest frames of the series
        self._newest_number = -1
        self._went_back = False  # the counter, since the newest frame
        self._forget_pairing()

    # --- the connection

    def attach(self, proxy: tango.DeviceProxy) -> None:
        import tango

        try:
            config = proxy.get_attribute_config(self.address.name)
            self._check(config)
            if self.options.counter:
                proxy.get_attribute_config(self.options.counter)
        except tango.DevFailed as error:
            if is_silence(error):
                raise
            raise ConfigurationError(f"{self.address}: {text_of(error)}") from None
        name = self.address.name
        self._tells_numbers = self.subscribe(proxy, name, "DATA_READY_EVENT", self._on_data_ready)
        self._sends_images = not self.options.counter and self.subscribe(proxy, name, "CHANGE_EVENT", self._on_change)
        with self._lock:  # what came before both were there may be one half of a pair
            self._pushed.clear()
            self._waiting = 0
        self._forget_pairing()
        self._lost_touch = ""
        if self._sends_images or self._tells_numbers:
            self.stopping.wait(SETTLE)
        self._asked = time.monotonic()
        self._shown = (float("nan"), None)  # time and pixels of the image that was there before
        self._count: int | None = None  # what the counter said
        self._armed: tuple[np.ndarray | None] | None = None  # what was shown when it went back to 0
        if not self._sends_images:
            self._look_before(proxy)

    def _check(self, config: Any) -> None:
        import tango

        where = str(self.address)
        if config.data_format != tango.AttrDataFormat.IMAGE:
            raise ConfigurationError(
                f"{where}: is no image, but a {str(config.data_format).lower()} (for LImA name readImage, for LImA2 "
                "getFrame)"
            )
        kind = tango.CmdArgType.values[config.data_type]
        dtype = _dtype_of(kind)
        if dtype is None:
            raise ConfigurationError(f"{where}: its pixels are {kind}, numbers are expected")
        if dtype != np.float64:
            pixel_dtype(dtype, where)

    def _forget_pairing(self) -> None:
        self._number: int | None = None  # that was told, and whose image has not come yet
        self._unnumbered: Pushed | None = None  # whose number has not been told yet
        self._number_first: bool | None = None

    # --- events, in a thread of Tango: nothing heavy here

    def _on_data_ready(self, event: Any) -> None:
        if event.err:
            self._on_error(event)
        else:
            self._push(int(event.ctr))

    def _on_change(self, event: Any) -> None:
        if event.err:
            self._on_error(event)
        else:
            value = event.attr_value
            # what waits is bounded: an image for which there is no room leaves its place in the count
            full = self._waiting >= self.options.queue or value.value is None
            self._push(Pushed(None if full else value.value, value.time.totime()))

    def _push(self, pushed: Pushed | int) -> None:
        with self._lock:
            if len(self._pushed) == MAX_PUSHED:  # nobody has taken any for long
                self._pushed.clear()
                self._waiting = 0
            self._pushed.append(pushed)
            self._waiting += _has_pixels(pushed)
        self.wake.set()

    def _on_error(self, event: Any) -> None:
        reasons = [error.reason for error in event.errors]
        if "API_EventTimeout" in reasons:  # the server has died, or is another one
            self._lost_touch = "no events come any more"
        else:
            log.info("%s: %s", self.address, event.errors[0].desc)
        self.wake.set()

    # --- turns

    def turn(self, proxy: tango.DeviceProxy) -> None:
        events = self._sends_images or self._tells_numbers
        self.wake.wait(PING / 4 if events and not self.options.counter else self.options.period)
        self.wake.clear()
        told = self._take_pushed()
        if self._lost_touch:
            raise CommunicationError(self._lost_touch)
        if not self._sends_images and (self.options.counter or told is not None or not self._tells_numbers):
            self._look(proxy, told)
            self._asked = time.monotonic()
        elif time.monotonic() - self._asked > PING:
            proxy.ping()
            self._asked = time.monotonic()
        self.end_if_idle()

    def _take_pushed(self) -> int | None:
        """Take what events brought; where they bring no images, the newest number that they told."""
        told = None
        while not self.stopping.is_set():
            with self._lock:
                if not self._pushed:
                    break
                pushed = self._pushed.popleft()
                self._waiting -= _has_pixels(pushed)
            if not self._sends_images:
                told = pushed
            elif isinstance(pushed, Pushed):
                self._pair_image(pushed)
            else:
                self._pair_number(pushed)
        return told

    # A device pushes the number of an image either before the image or after it: the first image shows which.

    def _pair_image(self, image: Pushed) -> None:
        if not self._tells_numbers:
            self._take(image, self._newest_number + 1)
            return
        if self._number_first is None:
            self._number_first = self._number is not None
        if self._number_first:
            number, self._number = self._number, None
            self._take(image, self._newest_number + 1 if number is None else number)
        else:
            before, self._unnumbered = self._unnumbered, image
            if before is not None:  # its number got lost
                self._take(before, self._newest_number + 1)

    def _pair_number(self, number: int) -> None:
        image, self._unnumbered = self._unnumbered, None
        if image is not None:
            self._take(image, number)
        elif self._number_first is not False:
            self._number = number  # another one before it has lost its image

    # --- looking

    def _look_before(self, proxy: tango.DeviceProxy) -> None:
        """What is there already is no new image."""
        import tango

        try:
            if self.options.counter:
                self._count = int(proxy.read_attribute(self.options.counter).value)
            elif not self._tells_numbers:
                image = proxy.read_attribute(self.address.name)
                self._shown = (image.time.totime(), image.value)
        except (tango.DevFailed, TypeError, ValueError) as error:
            log.info("%s: nothing to see yet: %s", self.address, text_of(error))

    def _look(self, proxy: tango.DeviceProxy, told: int | None) -> None:
        name, counter = self.address.name, self.options.counter
        if counter:
            (count,) = read_values(proxy, (counter,))
            if count.value is None or (int(count.value) == self._count and self._armed is None):
                return
            image, count = read_values(proxy, (name, counter))
            if count.value is None or self._is_old(image.value, int(count.value)):
                return
            told = self._count
        else:
            (image,) = read_values(proxy, (name,))
        if image.value is None or image.value.size == 0:
            return
        timestamp = image.time.totime()
        if told is None:
            before, pixels = self._shown
            if timestamp == before or (pixels is not None and np.array_equal(pixels, image.value)):
                return
            self._shown = (timestamp, image.value)
            told = self._newest_number + 1
        self._take(Pushed(image.value, timestamp), told)

    def _is_old(self, pixels: np.ndarray | None, count: int) -> bool:
        """Whether the image that is shown at this count is one from before. A camera that is armed sets its counter
        back, and shows the last image of the series before until it has taken another: 0 may mean that it has none, or
        that this is the first one."""
        before, self._count = self._count, count
        if before is not None and count < before:
            self._went_back = True
            self._armed = (pixels,) if count == 0 else None
            return count <= 0
        if count == before and self._armed is not None and (pixels is None or np.array_equal(pixels, *self._armed)):
            return True
        self._armed = None
        return count < 0

    # --- series

    def _take(self, image: Pushed, number: int) -> None:
        if self.in_series and (self._went_back or self._begins_anew(number)):
            self.end(superseded=True)
        self._went_back = False
        if not self.in_series:
            # an image without a number from the device begins a series with 0
            number = number if self._tells_numbers or self.options.counter else 0
            self._numbers.clear()
            self._newest_number = -1
            self.begin(joined_late=number > 1)
        self._numbers.append(number)
        self._newest_number = max(self._newest_number, number)
        if image.pixels is not None:
            self.frame(number, image.pixels, image.timestamp)

    def _begins_anew(self, number: int) -> bool:
        behind = self._newest_number - number
        return behind > LATE or (behind > 0 and number in self._numbers)


def _has_pixels(pushed: Pushed | int) -> bool:
    return isinstance(pushed, Pushed) and pushed.pixels is not None


def _dtype_of(kind: Any) -> np.dtype | None:
    """The numpy type of a Tango type, None where it is no number."""
    names = {"DevUChar": "uint8", "DevShort": "int16", "DevUShort": "uint16", "DevLong": "int32", "DevULong": "uint32",
             "DevLong64": "int64", "DevULong64": "uint64", "DevFloat": "float32", "DevDouble": "float64"}  # fmt: skip
    name = names.get(str(kind))
    return None if name is None else np.dtype(name)
