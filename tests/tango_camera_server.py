"""A Tango device that does what a test tells it, image by image, as a program for tests: `camera INSTANCE …`."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import tango
from tango.server import Device, attribute, command, run

SHAPE = (5, 7)
TYPES = ("uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def pixels(number: int, dtype: str = "uint16", shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """The image with this number; every one is another."""
    return (np.arange(shape[0] * shape[1]).reshape(shape) + 10 * number).astype(dtype)


def image_attribute(dtype: str) -> attribute:
    return attribute(
        fget=lambda device: device.read_image(dtype),
        dtype=((np.dtype(dtype).type,),),
        max_dim_x=1000,
        max_dim_y=1000,
    )


class Camera(Device):
    """Images with events or without; a number with events and one without."""

    for name in TYPES:
        locals()[name] = image_attribute(name)
    del name

    words = attribute(dtype=((str,),), max_dim_x=9, max_dim_y=9, fget=lambda self: [["a"]])
    spectrum = attribute(dtype=(float,), max_dim_x=9, fget=lambda self: [1.0])
    text = attribute(dtype=str, fget=lambda self: "text")
    number = attribute(dtype=int, fget=lambda self: self.count)

    def init_device(self) -> None:
        self.count, self.dtype, self.shape, self.time = -1, "uint16", SHAPE, 0.0
        self.shown = -1
        self.current = float("nan")
        self.SetEvents(os.environ.get("CAMERA_EVENTS", ""))
        self.set_change_event("pushed", True, False)
        self.set_alarm_event("pushed", True, False)
        self.set_state(tango.DevState.ON)

    @attribute(dtype=float)
    def pushed(self) -> float:
        return self._current()

    @attribute(dtype=float)
    def read(self) -> float:
        return self._current()

    def _current(self):
        if self.current == -1:
            return 0.0, time.time(), tango.AttrQuality.ATTR_INVALID
        return self.current

    @command(dtype_in=float)
    def SetCurrent(self, value: float) -> None:
        self.current = value
        quality = tango.AttrQuality.ATTR_INVALID if value == -1 else tango.AttrQuality.ATTR_VALID
        self.push_change_event("pushed", value, time.time(), quality)

    @command(dtype_in=str)
    def SetEvents(self, words: str) -> None:
        """Which events there are, in the order in which they are pushed: `change`, `data_ready`."""
        self.events = words.split()
        for name in TYPES:
            self.set_change_event(name, "change" in self.events, False)
            self.set_alarm_event(name, "change" in self.events, False)
            self.set_data_ready_event(name, "data_ready" in self.events)

    @command(dtype_in=str)
    def SetType(self, dtype: str) -> None:
        self.dtype = dtype

    @command(dtype_in=[int])
    def SetShape(self, shape) -> None:
        self.shape = tuple(int(side) for side in shape)

    @command(dtype_in=int)
    def Show(self, number: int) -> None:
        """Take the image with this number."""
        self.count, self.shown, self.time = number, number, time.time()
        for event in self.events:
            if event == "change":
                self.push_change_event(self.dtype, *self.read_image(self.dtype))
            else:
                self.push_data_ready_event(self.dtype, number)

    @command(dtype_in=int)
    def SetCount(self, number: int) -> None:
        """Set the counter, and show what was shown before."""
        self.count = number

    def read_image(self, dtype: str):
        quality = tango.AttrQuality.ATTR_VALID if self.shown >= 0 else tango.AttrQuality.ATTR_INVALID
        return pixels(max(self.shown, 0), dtype, self.shape), self.time or time.time(), quality


if __name__ == "__main__":
    run((Camera,), args=["camera", *sys.argv[1:]])
