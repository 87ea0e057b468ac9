"""Devices on a `RunController` without source, OpenCL and files; as a program: the device server on top of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import tango
from framesieve.acquisition.controller import RunState
from framesieve.acquisition.settings import RunSettings, check_inside
from framesieve.acquisition.statistics import Snapshot
from framesieve.devices import pipeline
from framesieve.devices.server import CLASSES, main
from framesieve.processing.errors import NotAllowedError
from framesieve.processing.parameters import ParameterStore
from tango.test_context import MultiDeviceTestContext


class FakeController:
    """Follows the contract of `RunController`; a run counts frames until it is stopped."""

    instances: list[FakeController] = []  # noqa: RUF012

    def __init__(self, parameters=None, *, saving_root="", ring_size=32, batch_size=4):
        self.parameters = parameters or ParameterStore()
        self.saving_root, self.ring_size, self.batch_size = saving_root, ring_size, batch_size
        self.settings = RunSettings()
        self.state = RunState.STANDBY
        self.status = "Idle."
        self.what_if_min_peaks = 20
        self.is_shut_down = False
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

    def snapshot(self):
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


MEMBERS = {
    "AcquisitionDevice": "acquisition",
    "SparsifierDevice": "sparsifier",
    "PeakFinderDevice": "peakfinder",
    "VetoDevice": "veto",
}


@dataclass
class Devices:
    """Clients of the four devices, and the controller behind them."""

    acquisition: tango.DeviceProxy
    sparsifier: tango.DeviceProxy
    peakfinder: tango.DeviceProxy
    veto: tango.DeviceProxy

    @property
    def controller(self) -> FakeController:
        return FakeController.instances[-1]

    @property
    def all(self) -> list[tango.DeviceProxy]:
        return [self.acquisition, self.sparsifier, self.peakfinder, self.veto]

    def __getitem__(self, member: str) -> tango.DeviceProxy:
        return getattr(self, member)


@contextmanager
def serve(
    memorised: dict[str, dict[str, str]] | None = None, properties: dict | None = None, order: int = 1
) -> Iterator[Devices]:
    """The four devices in this process; `order` -1 creates them the other way round."""
    info = []
    for cls in CLASSES[::order]:
        member = MEMBERS[cls.__name__]
        device = {"name": f"test/framesieve/{member}", "memorized": (memorised or {}).get(member, {})}
        if cls.__name__ == "AcquisitionDevice":
            device["properties"] = properties or {}
        info.append({"class": cls, "devices": [device]})
    original, pipeline.make_controller = pipeline.make_controller, FakeController
    try:
        with MultiDeviceTestContext(info, process=False):
            yield Devices(*(tango.DeviceProxy(f"test/framesieve/{member}") for member in MEMBERS.values()))
    finally:
        pipeline.make_controller = original


@contextmanager
def refused(reason: str, *words: str) -> Iterator[None]:
    """What is inside is refused for this reason, with a text that has these words."""
    with pytest.raises(tango.DevFailed) as caught:
        yield
    error = caught.value.args[0]
    assert error.reason == reason, error.desc
    for word in words:
        assert word in error.desc


def wait_until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


if __name__ == "__main__":
    pipeline.make_controller = FakeController
    main(sys.argv[1:])
