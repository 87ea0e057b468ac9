# ruff: noqa: RUF012  Sardana reads these lists and dictionaries from the classes
"""Controllers of framesieve for the device pool of Sardana.

`fs_define` makes an element of every axis; `framesieve.clients.sardana.ELEMENTS` lists them.
"""

import math
import re
import time

import h5py
import numpy as np
from framesieve.clients import Reduction
from framesieve.clients.sardana import ELEMENTS
from framesieve.clients.sardana.window import Window
from sardana import State
from sardana.pool.controller import (
    CounterTimerController,
    DefaultValue,
    Description,
    MotorController,
    Referable,
    TwoDController,
    Type,
    ZeroDController,
)

DEVICES = {
    "Devices": {
        Type: str,
        Description: "A domain (id00), or the name of the acquisition device, with tango://HOST:PORT/ where needed.",
    }
}

MOST_FILES = 100_000
LOOK_AGAIN = 1.0  # s between two looks whether what made an acquisition fail is over
RETRY = 5.0  # s between two tries to reach devices that are not there


class _Connected:
    """What all controllers have in common: the devices, once somebody asks for them.

    A pool starts without them, and goes on when they come back: what cannot be reached shows in the state of the
    elements."""

    _reduction = None
    _failure = None  # of the last try, and when that was
    _shown = None  # state and status, and until when they hold

    @property
    def reduction(self):
        if self._reduction is None:
            # a pool has dozens of elements that all ask when it starts
            if self._failure is not None and time.monotonic() - self._failure[1] < RETRY:
                raise RuntimeError(self._failure[0])
            try:
                self._reduction = Reduction(self.Devices, patience=1.0)
            except Exception as error:
                self._failure = str(error), time.monotonic()
                raise
        return self._reduction

    @classmethod
    def name_of(cls, axis):
        """What an axis stands for."""
        names = ELEMENTS[cls.__name__]
        if not 1 <= axis <= len(names):
            raise ValueError(f"axis {axis}: accepted is 1 to {len(names)}, for {', '.join(names)}")
        return names[axis - 1]

    def AddDevice(self, axis):
        self.name_of(axis)

    def DeleteDevice(self, axis):
        pass

    def reachable(self):
        """State and status of an element that does nothing."""
        now = time.monotonic()
        if self._shown is None or now > self._shown[1]:
            try:
                shown, good = (State.On, f"the devices are {self.reduction.state}"), 0.5
            except Exception as error:
                shown, good = (State.Alarm, str(error)), RETRY
            self._shown = shown, time.monotonic() + good
        return self._shown[0]


class FrameSieveSettings(_Connected, MotorController):
    """Live settings as motors: they have arrived when a frame was reduced with the new value."""

    ctrl_properties = {
        **DEVICES,
        "Patience": {
            Type: float,
            Description: "Seconds to wait for a frame with the new value; without one the motion ends all the same.",
            DefaultValue: 10.0,
        },
    }
    MaxDevice = len(ELEMENTS["FrameSieveSettings"])

    def __init__(self, inst, props, *args, **kwargs):
        MotorController.__init__(self, inst, props, *args, **kwargs)
        self._changes = {}  # axis → Change, and when it was made
        self._notes = {}  # axis → how the last change went
        self._failures = {}  # axis → why the last change failed

    def StartOne(self, axis, position):
        name = self.name_of(axis)
        self._failures.pop(axis, None)
        self._changes[axis] = self.reduction.change(**{name: position}), time.monotonic()

    def StateOne(self, axis):
        if axis in self._failures:  # until the next motion, or the scan that it is part of would go on
            return State.Alarm, self._failures[axis], MotorController.NoLimitSwitch
        if axis not in self._changes:
            state, status = self.reachable()
            return state, self._notes.get(axis, status), MotorController.NoLimitSwitch
        change, began = self._changes[axis]
        try:
            applied = change.poll()
            if applied is None and time.monotonic() - began > self.Patience:
                applied = change.wait(0.0)
        except Exception as error:
            del self._changes[axis]
            self._failures[axis] = str(error)
            return State.Alarm, str(error), MotorController.NoLimitSwitch
        if applied is None:
            return State.Moving, "waiting for a frame with the new value", MotorController.NoLimitSwitch
        del self._changes[axis]
        self._notes[axis] = str(applied)
        return State.On, str(applied), MotorController.NoLimitSwitch

    def ReadOne(self, axis):
        return float(getattr(self.reduction, self.name_of(axis)))

    def AbortOne(self, axis):
        """Do not wait for frames any more; the value stays in force."""
        self._changes.pop(axis, None)

    def GetAxisPar(self, axis, name):
        # a setting needs no time to travel
        return {"velocity": 1e6, "acceleration": 1e-6, "deceleration": 1e-6, "base_rate": 0.0, "step_per_unit": 1.0}[
            name.lower()
        ]

    def SetAxisPar(self, axis, name, value):
        pass


class FrameSieveCounters(_Connected, CounterTimerController):
    """What became of the frames of one acquisition. The timer is axis 1; a negative integration time means that many
    frames."""

    ctrl_properties = DEVICES
    MaxDevice = len(ELEMENTS["FrameSieveCounters"])
    default_timer = 1

    def __init__(self, inst, props, *args, **kwargs):
        CounterTimerController.__init__(self, inst, props, *args, **kwargs)
        self._window = None
        self._value = 0.0
        self._why = ""  # the last acquisition is none
        self._look_again = None  # when the devices are asked whether that is over

    def LoadOne(self, axis, value, repetitions, latency):
        self._value = value

    def StartOne(self, axis, value):
        pass

    def StartAll(self):
        # what is raised here would leave the macro waiting for ever; a state of Fault ends it
        self._why, self._look_again = "", None
        try:
            if self._window is None:
                self._window = Window.of(self.reduction)
            self._window.open(self._value)
        except Exception as error:
            self._why = str(error)

    def StateAll(self):
        if not self._why and self._window is None:
            self._state = self.reachable()
        elif not self._why and self._window.update():
            self._state = State.Moving, "counting frames"
        else:
            self._why = self._why or self._window.failure
            if self._why and not self._is_over():
                self._state = State.Fault, self._why
            else:
                self._state = State.On, "the numbers are final"

    def _is_over(self):
        """Whether what made an acquisition fail is over: in Fault, Sardana would not begin another one."""
        self._look_again = self._look_again or time.monotonic() + LOOK_AGAIN
        if time.monotonic() >= self._look_again:
            try:
                if self.reduction.state != "FAULT":
                    self._why = ""
                    if self._window is not None:
                        self._window.failure = ""
                self._look_again = time.monotonic() + LOOK_AGAIN
            except Exception:  # they are not there yet
                self._look_again = time.monotonic() + RETRY
        return not self._why

    def StateOne(self, axis):
        return self._state

    def ReadOne(self, axis):
        return 0.0 if self._window is None else self._window.count(self.name_of(axis))

    def AbortOne(self, axis):
        if self._window is not None:
            self._window.close()


class FrameSieveReadings(_Connected, ZeroDController):
    """Numbers of the run that are read again and again during an acquisition, and averaged; NaN where the devices do
    not answer."""

    ctrl_properties = DEVICES
    MaxDevice = len(ELEMENTS["FrameSieveReadings"])
    _silent_until = 0.0

    def StateOne(self, axis):
        return self.reachable()

    def ReadOne(self, axis):
        if time.monotonic() < self._silent_until:  # not asked at every reading: each takes a second
            return math.nan
        try:
            return float(getattr(self.reduction, self.name_of(axis)))
        except Exception:
            self._silent_until = time.monotonic() + RETRY
            return math.nan

    def AbortOne(self, axis):
        pass


class FrameSievePreview(_Connected, TwoDController, Referable):
    """The newest frame at the end of an acquisition, decimated; or the name of an HDF5 file that has it."""

    ctrl_properties = DEVICES
    MaxDevice = 1
    _REFERENCE = re.compile(r"h5file://(?P<path>/\S+?\.h5)(::(?P<dataset>\S+))?")

    def __init__(self, inst, props, *args, **kwargs):
        TwoDController.__init__(self, inst, props, *args, **kwargs)
        self._seconds = 0.0
        self._end = None  # of the acquisition
        self._shape = None
        self._image = None
        self._index = 0
        self._pattern, self._by_reference = "", False
        self._reference = ""

    def PrepareOne(self, axis, value, repetitions, latency, nb_starts):
        self._index = 0

    def LoadOne(self, axis, value, repetitions, latency):
        if value < 0:
            raise ValueError("previews are taken after a time; a number of frames cannot be waited for here")
        self._seconds = value

    def StartOne(self, axis, value):
        pass

    def StartAll(self):
        self._image, self._reference = None, ""
        self._end = time.monotonic() + self._seconds

    def StateOne(self, axis):
        if self._end is None:
            return self.reachable()
        if time.monotonic() < self._end:
            return State.Moving, "waiting for the end of the acquisition"
        self._end = None
        try:
            self._take()
        except Exception as error:
            return State.Alarm, str(error)
        return State.On, "the picture has been taken"

    def _take(self):
        # the files of a scan have room for one shape
        image, shape = self.reduction.preview(), self._known_shape()
        self._image = np.full(shape, 65535, image.dtype)
        rows, columns = np.minimum(image.shape, shape)
        self._image[:rows, :columns] = image[:rows, :columns]
        if self._by_reference:
            self._reference = self._save(self._image)

    def _save(self, image):
        """Into the next file that does not exist yet: what an earlier scan refers to stays."""
        for index in range(self._index, self._index + MOST_FILES):
            matched = self._REFERENCE.fullmatch(self._pattern.format(index=index))
            if matched is None:
                raise ValueError(
                    f"ValueRefPattern = {self._pattern!r}: accepted is "
                    "h5file:///DIRECTORY/NAME_{index:04d}.h5[::DATASET]"
                )
            # with a slash in front: without it Sardana 3.7 tries to make a virtual data set of it, which fails
            path, dataset = matched["path"], "/" + (matched["dataset"] or "entry/preview").strip("/")
            try:
                with h5py.File(path, "x") as file:
                    file.create_dataset(dataset, data=image, compression="gzip", compression_opts=1)
                    file[dataset].attrs["frame"] = int(self.reduction.last_frame_number)
            except FileExistsError:
                continue
            self._index = index + 1
            return f"h5file://{path}::{dataset}"
        raise ValueError(f"ValueRefPattern = {self._pattern!r}: no file name is free")

    def _known_shape(self):
        if self._shape is None or 0 in self._shape:
            self._shape = self.reduction.preview().shape
        return self._shape if all(self._shape) else (1, 1)

    def ReadOne(self, axis):
        if self._image is None:
            raise RuntimeError("no picture has been taken yet")
        return self._image

    def RefOne(self, axis):
        return self._reference

    def AbortOne(self, axis):
        self._end = None

    def GetAxisPar(self, axis, name):
        if name.lower() == "shape":
            self._shape = None  # Sardana asks once per scan
            return list(self._known_shape())
        return TwoDController.GetAxisPar(self, axis, name)

    def SetAxisPar(self, axis, name, value):
        if name.lower() == "value_ref_pattern":
            self._pattern = value
        elif name.lower() == "value_ref_enabled":
            self._by_reference = value
