"""The one pipeline that the devices of a server share, and what they need of it beyond the controller."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..acquisition.controller import RunController
from ..acquisition.overview import Overview
from ..acquisition.run_state import RunState
from ..acquisition.settings import RunSettings
from ..acquisition.statistics import Snapshot
from ..processing.errors import ConfigurationError, FrameSieveError, OutOfRangeError
from ..processing.parameters import ParameterSet, ParameterStore
from .database import DatabaseLink
from .errors import text_of
from .publisher import Publisher

if TYPE_CHECKING:
    from .base import FrameSieveDevice

log = logging.getLogger(__name__)

#: makes the controller; tests put their own here
make_controller: Callable[..., RunController] = RunController

MAX_RING = 100_000
MAX_DECODE_THREADS = 64
LOSS_SHOWN = 5.0  # seconds for which a lost frame keeps the state at ALARM


@dataclass(frozen=True, slots=True)
class HardwareSetup:
    """What the properties of `AcquisitionDevice` say; fixed for the life of a controller."""

    saving_root: str = ""
    ring_size: int = 32
    batch_size: int = 4
    decode_threads: int = 0

    def check(self) -> None:
        """Refuse what cannot be used.

        Raises
        ------
        FrameSieveError
            Names the property, and says what is accepted.
        """
        if not 2 <= self.ring_size <= MAX_RING:
            raise OutOfRangeError(f"property RingSize = {self.ring_size}: accepted is 2 to {MAX_RING}")
        if not 1 <= self.batch_size <= self.ring_size:
            raise OutOfRangeError(f"property BatchSize = {self.batch_size}: accepted is 1 to RingSize")
        if not 0 <= self.decode_threads <= MAX_DECODE_THREADS:
            raise OutOfRangeError(
                f"property DecodeThreads = {self.decode_threads}: accepted is 0 (automatic) to {MAX_DECODE_THREADS}"
            )
        root = self.saving_root
        if root and not os.path.isabs(root):
            raise ConfigurationError(f"property SavingRoot = {root!r}: accepted is the full path of a directory")
        if root and not Path(root).is_dir():
            raise ConfigurationError(f"property SavingRoot = {root!r}: there is no such directory; create it")


@dataclass(frozen=True, slots=True)
class Unusable:
    """A memorised value that could not be put into force at start-up, and why."""

    value: Any
    reason: str


class Pipeline:
    """Controller, live parameters and publisher of one server process.

    The controller is made when `AcquisitionDevice` gives its properties, whatever the order in which Tango creates
    the devices; settings that arrive earlier are carried over.
    """

    def __init__(self) -> None:
        self.parameters = ParameterStore()
        self.publisher = Publisher(self)
        self.database = DatabaseLink()
        self.setup = HardwareSetup()
        self.devices: list[FrameSieveDevice] = []
        self.is_started = False  # all devices are there, with their memorised values
        self.fault = ""  # why there is no usable controller
        self.losing_frames = False
        self.published = Snapshot()  # the newest that clients see
        self._controller: RunController | None = None
        self._unusable: dict[str, Unusable] = {}
        self._told: set[str] = set()  # why, as far as it is in the log
        self._lock = threading.RLock()
        self._losses = 0
        self._lost_at = -LOSS_SHOWN

    # --- the controller

    @property
    def controller(self) -> RunController:
        """The controller; raises a `FrameSieveError` that says why there is none."""
        if self._controller is None and not self.fault:
            self.set_up(self.setup)
        if self.fault:
            raise ConfigurationError(self.fault)
        return self._controller

    def set_up(self, setup: HardwareSetup, opencl_device: str = "auto") -> None:
        """Make the controller, or a new one when the properties have changed; settings are carried over.

        Never raises: what goes wrong ends up in `fault`. While a run is on nothing is changed.
        """
        with self._lock:
            if self.is_busy:
                return
            if self._controller is not None and setup == self.setup and not self.fault:
                self._controller.disconnect()  # Init begins anew
                return
            old = self._controller
            changes = {} if old is None else _differences(old.settings)
            changes |= {name: unusable.value for name, unusable in self._unusable_settings().items()}
            if opencl_device != "auto":
                changes.setdefault("opencl_device", opencl_device)
            try:
                new = make_controller(self.parameters, **dataclasses.asdict(setup))
            except Exception as error:
                log.exception("the pipeline cannot be set up")
                self.fault = f"The pipeline cannot be set up: {text_of(error)}"
                return
            self.setup, self._controller, self.fault = setup, new, ""
            for name, value in changes.items():
                self.restore_setting(name, value)
            if old is not None:
                new.what_if_min_peaks = old.what_if_min_peaks
                old.shutdown()

    def close(self) -> None:
        """Stop the publisher and the run; joins the threads of the run, never the publisher."""
        self.publisher.stop()
        if self._controller is not None:
            self._controller.shutdown()

    # --- state and numbers

    @property
    def state(self) -> RunState:
        if self.fault:
            return RunState.FAULT
        return RunState.INIT if self._controller is None else self._controller.state

    @property
    def status(self) -> str:
        """A sentence on the run, and a line for every memorised value that could not be used."""
        if self.fault:
            return f"{self.fault}. Correct it and call Reset of the acquisition device."
        lines = ["Starting." if self._controller is None else self._controller.status]
        lines += [
            f"Memorised value not usable: {unusable.reason}" for _, unusable in sorted(self._unusable.copy().items())
        ]
        return "\n".join(lines)

    @property
    def setup_is_missing(self) -> bool:
        """Whether nobody has made the controller yet."""
        return self._controller is None and not self.fault

    @property
    def is_busy(self) -> bool:
        """Whether a run is on or being prepared."""
        return self._controller is not None and self.state in (RunState.INIT, RunState.RUNNING)

    def snapshot(self) -> Snapshot:
        return Snapshot() if self._controller is None else self._controller.snapshot()

    @property
    def overview(self) -> Overview:
        return Overview() if self._controller is None else self._controller.overview

    def watch_losses(self, snapshot: Snapshot) -> None:
        """Keep `losing_frames` and `published` up to date; called by the publisher with every new snapshot."""
        self.published = snapshot
        losses = snapshot.frames_lost + snapshot.frames_dropped
        if losses > self._losses:
            self._lost_at = time.monotonic()
        elif losses < self._losses:  # a new run counts from zero
            self._lost_at = -LOSS_SHOWN
        self._losses = losses
        self.losing_frames = time.monotonic() - self._lost_at < LOSS_SHOWN

    # --- settings

    @property
    def what_if_min_peaks(self) -> int:
        return 0 if self._controller is None else self._controller.what_if_min_peaks

    def update(self, **changes: Any) -> ParameterSet:
        """Change live parameters."""
        parameter_set = self.parameters.update(**changes)
        self._forget(changes)
        return parameter_set

    def setting(self, name: str) -> Any:
        """A run setting as clients see it: a memorised value that cannot be used (yet) is shown all the same, so
        that nothing is silently left out."""
        unusable = self._unusable.get(name)
        if unusable is not None:
            return unusable.value
        return getattr(RunSettings() if self._controller is None else self._controller.settings, name)

    def configure(self, **changes: Any) -> None:
        """Change run settings."""
        self.controller.configure(**changes)
        self._forget(changes)

    def restore_parameter(self, name: str, value: Any) -> None:
        """Put a memorised live parameter into force as soon as the others allow it.

        Tango restores in no given order, and some values are only right together (`min_peaks` ≤ `max_peaks`):
        what is refused waits and is tried again after every other one.
        """
        with self._lock:
            self._unusable[name] = Unusable(value, "")
            progress = True
            while progress:
                progress = False
                for waiting in [key for key in self._unusable if hasattr(self.parameters.current.values, key)]:
                    try:
                        self.update(**{waiting: self._unusable[waiting].value})
                        progress = True
                    except FrameSieveError as error:
                        self._unusable[waiting] = Unusable(self._unusable[waiting].value, str(error))

    def restore_setting(self, name: str, value: Any) -> None:
        """Put a memorised run setting into force; one that cannot be used is kept and refused by `check_usable`."""
        if value == self.setting(name) and name not in self._unusable:
            return
        if name == "saving_next_number" and self.is_started and value < self.setting(name):
            return  # runs have counted on since it was memorised: their files are not to be met again
        try:
            self.configure(**{name: value})
        except Exception as error:
            self._unusable[name] = Unusable(value, text_of(error))

    def check_usable(self) -> None:
        """Refuse to prepare a run while a memorised setting cannot be used; tries once more, since a file may
        have come back."""
        for name, unusable in self._unusable_settings().items():
            if self.controller.state is not RunState.RUNNING:
                self.configure(**{name: unusable.value})

    def refused_at_restore(self) -> list[str]:
        """Why memorised values are not in force, a sentence for each reason that was not asked for before."""
        reasons = dict.fromkeys(unusable.reason for unusable in self._unusable.copy().values())
        new = [reason for reason in reasons if reason not in self._told]
        self._told |= reasons.keys()
        return new

    def _unusable_settings(self) -> dict[str, Unusable]:
        """The run settings among the unusable values."""
        return {name: unusable for name, unusable in self._unusable.copy().items() if hasattr(RunSettings, name)}

    def _forget(self, names: dict[str, Any]) -> None:
        for name in names:
            if (unusable := self._unusable.pop(name, None)) is not None:
                self._told.discard(unusable.reason)


def _differences(settings: RunSettings) -> dict[str, Any]:
    """The settings that are not at their default."""
    default = dataclasses.asdict(RunSettings())
    return {name: value for name, value in dataclasses.asdict(settings).items() if value != default[name]}


_pipeline: Pipeline | None = None
_lock = threading.Lock()


def current() -> Pipeline:
    """The pipeline of this process, made by whichever device comes first."""
    global _pipeline
    with _lock:
        if _pipeline is None:
            _pipeline = Pipeline()
        return _pipeline


def join(device: FrameSieveDevice) -> None:
    """Have a device published by its pipeline, from now on."""
    with _lock:
        if device not in device.pipeline.devices:
            device.pipeline.devices.append(device)
    device.pipeline.publisher.start()


def leave(device: FrameSieveDevice) -> None:
    """The last device that leaves ends the pipeline, so that the next one starts afresh."""
    global _pipeline
    with _lock:
        if _pipeline is None or device not in _pipeline.devices:
            return
        _pipeline.devices.remove(device)
        if _pipeline.devices:
            return
        ended, _pipeline = _pipeline, None
    ended.close()
