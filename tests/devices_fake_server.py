"""The device server on a `RunController` without source, OpenCL and files, as a program for tests.

The class `FakeRun` gives the tests a hand on that controller.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from dataclasses import asdict, replace

import numpy as np
import tango
from framesieve.acquisition.overview import Overview
from framesieve.acquisition.run_state import RunState
from framesieve.acquisition.settings import RunSettings, check_inside
from framesieve.acquisition.statistics import Snapshot
from framesieve.devices import pipeline
from framesieve.devices.server import CLASSES, SERVER_NAME, log_level, write_log
from framesieve.processing.bins import make_bins
from framesieve.processing.errors import NotAllowedError
from framesieve.processing.frames import ReducedFrame, Verdict
from framesieve.processing.parameters import Parameters, ParameterStore
from tango.server import Device, command, run


class FakeController:
    """Follows the contract of `RunController`; a run counts frames until it is stopped."""

    instances: list[FakeController] = []  # noqa: RUF012

    def __init__(self, parameters=None, *, saving_root="", ring_size=32, batch_size=4, decode_threads=0):
        self.parameters = parameters or ParameterStore()
        self.saving_root, self.ring_size, self.batch_size = saving_root, ring_size, batch_size
        self.decode_threads = decode_threads
        self.settings = RunSettings()
        self.state = RunState.STANDBY
        self.status = "Idle."
        self.what_if_min_peaks = 20
        self.is_shut_down = False
        self.disconnected = 0  # how often
        self.published = 0  # how often the publisher has asked
        self.overview = Overview()
        self._snapshot = Snapshot()
        self.instances.append(self)

    def configure(self, **changes):
        if self.state in (RunState.INIT, RunState.RUNNING):
            raise NotAllowedError(f"{', '.join(changes)} cannot be changed while the run is {self.state.value}")
        settings = self.settings.replace(**changes)
        settings.check()
        check_inside(settings.saving_directory, self.saving_root)
        self.settings = settings
        if self.state is RunState.ON:
            self.state = RunState.STANDBY
        return settings

    def prepare(self):
        if self.state is not RunState.STANDBY:
            raise NotAllowedError(f"Prepare in state {self.state.value}: accepted in STANDBY")
        self.state = RunState.ON

    def start(self):
        if self.state not in (RunState.STANDBY, RunState.ON):
            raise NotAllowedError(f"Start in state {self.state.value}: a run is on already, or Reset is needed")
        self.state, self.status = RunState.RUNNING, "Reducing frames."
        self._snapshot = Snapshot()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while self.state is RunState.RUNNING:
            self.feed()
            time.sleep(0.05)

    def feed(self, **values):
        number = self._snapshot.frame_count
        values = {
            "frame_count": number + 1,
            "last_frame_number": number,
            "parameter_set": self.parameters.current.number,
            "peak_count": 2,
            "last_peaks": np.ones((2, 6), np.float32),
            "radius": np.arange(5.0),
            "background_mean": np.array([np.nan, 1, 2, 3, 4]),
            "preview": np.full((3, 4), number, np.uint16),
        } | values
        self._snapshot = replace(self._snapshot, **values)

    def plant(self, number, peaks, position=(float("nan"),) * 2, shape=(20, 30)):
        """A frame of the overview with some peaks (x, y, intensity), whose brightest pixel is 100 on a background of
        3."""
        if not self.overview.view().virtual_powder_max.size:
            y, x = np.mgrid[: shape[0], : shape[1]]
            self.overview.begin(make_bins(np.hypot(x, y), 10), np.uint16)
        rows = np.array([(*peak, 1, 9, 4, 100) for peak in peaks], np.float32).reshape(-1, 7)
        index = np.sort(rows[:, 0] + rows[:, 1] * shape[1]).astype(np.uint32)
        curve = np.full(10, 3, np.float32)
        frame = ReducedFrame(
            number, "s", 0.0, Verdict.KEPT, n_peaks=len(rows), index=index, peaks=rows, position=position,
            intensity=np.full(len(rows), 100, np.uint16), background_mean=curve, background_std=curve,
        )  # fmt: skip
        self.overview.add([frame], self.parameters.current)

    def stop(self):
        if self.state is RunState.RUNNING:
            self.settings = self.settings.replace(saving_next_number=self.settings.saving_next_number + 1)
            self.state, self.status = RunState.STANDBY, "Idle."

    abort = stop

    def fail(self, status):
        self.state, self.status = RunState.FAULT, status

    def reset(self):
        if self.state is RunState.RUNNING:
            raise NotAllowedError("Reset in state RUNNING: stop or abort the run first")
        self.state, self.status = RunState.STANDBY, "Idle."

    def disconnect(self):
        self.disconnected += 1

    def snapshot(self):
        self.published += "publisher" in threading.current_thread().name
        return self._snapshot

    def read_counters(self, from_frame):
        frames = list(range(max(from_frame, 0), self._snapshot.frame_count))
        return {
            "frame": frames,
            "n_peaks": [np.int64(2) for _ in frames],
            "n_pixels": [10 for _ in frames],
            "verdict": ["kept" for _ in frames],
            "parameter_set": [1 for _ in frames],
        }

    def wait(self, timeout=None):
        return True

    def shutdown(self):
        self.stop()
        self.is_shut_down = True


class FakeRun(Device):
    """Lets other processes look at the controller and play the run."""

    @command(dtype_in=tango.DevEncoded)
    def Feed(self, values):
        """New numbers in the snapshot."""
        FakeController.instances[-1].feed(**pickle.loads(values[1]))

    @command(dtype_in=str, dtype_out=tango.DevEncoded)
    def Evaluate(self, expression):
        """The value of an expression on `controller`."""
        return "pickle", pickle.dumps(eval(expression, globals() | {"controller": FakeController.instances[-1]}))

    @command
    def Clear(self):
        """As after the start of the server, and pushed."""
        controller = FakeController.instances[-1]
        controller.stop()
        controller.state, controller.status = RunState.STANDBY, "Idle."
        controller.settings, controller.what_if_min_peaks = RunSettings(), 20
        controller.parameters.update(**asdict(Parameters()))
        controller._snapshot, controller.overview = Snapshot(), Overview()
        before, deadline = controller.published, time.monotonic() + 2
        while controller.published < before + 2 and time.monotonic() < deadline:
            time.sleep(0.01)


def explode():
    raise KeyError("oops")


if __name__ == "__main__":
    pipeline.make_controller = FakeController
    write_log(log_level(sys.argv[1:]))
    order = int(os.environ.get("ORDER_OF_CLASSES", "1"))
    run((*CLASSES, FakeRun)[::order], args=[SERVER_NAME, *sys.argv[1:]])
