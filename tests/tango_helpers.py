"""Tango servers without database, each in a process of its own that can be killed and started again, and what sources
make of their images."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tango
from framesieve.processing.frames import BrokenFrame, Event, Frame, SeriesEnd, SeriesStart
from framesieve.processing.tracker import FrameTracker
from framesieve.simulators.diffraction import StillSimulator
from framesieve.sources.tango_source import TangoSource

CAMERA = ("test/camera/1", (sys.executable, "-u", str(Path(__file__).with_name("tango_camera_server.py"))))
DETECTOR = ("sim/det/1", (sys.executable, "-u", "-m", "framesieve.simulators.tango_detector"))
PATIENCE = 60.0  # s; generous, since the machine may be busy with something else


class Server:
    """A device server with one device."""

    def __init__(self, device: str, command: Sequence[str], **env: str) -> None:
        self.device, self._command, self._env = device, command, env
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(self) -> None:
        name = f"Camera::{self.device}" if self.device == CAMERA[0] else self.device
        self.process = subprocess.Popen(
            [*self._command, "test", "-nodb", "-dlist", name, "-ORBendPoint", f"giop:tcp:127.0.0.1:{self.port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | self._env,
        )
        output = []
        for line in self.process.stdout:
            output.append(line)
            if "Ready to accept request" in line:
                break
        else:
            raise AssertionError("".join(output))
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.proxy = tango.DeviceProxy(f"tango://127.0.0.1:{self.port}/{self.device}#dbase=no")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def url(self, name: str, options: str = "") -> str:
        return f"tango://127.0.0.1:{self.port}/{self.device}/{name}{options}#dbase=no"


@contextmanager
def serving(device: str, command: Sequence[str], **env: str) -> Iterator[Server]:
    server = Server(device, command, **env)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def opened(url: str) -> Iterator[TangoSource]:
    source = TangoSource.from_url(url)
    source.open()
    try:
        yield source
    finally:
        source.close()


def read_until(source: TangoSource, is_last: Callable[[Event], bool]) -> list[Event]:
    """The events up to the one that is the last."""
    events, deadline = [], time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        event = source.read(0.2)
        if event is not None:
            events.append(event)
            if is_last(event):
                return events
    raise AssertionError(f"it did not come; these did: {events}")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen in time: {what}"
        time.sleep(0.01)


def is_end(event: Event) -> bool:
    """Whether a run ends here."""
    return isinstance(event, SeriesEnd) and not event.superseded


def is_frame(number: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Frame | BrokenFrame) and event.number == number


@dataclass
class Tally:
    """What became of the frames of one series, as the pipeline counts them."""

    frames: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    twice: list[int] = field(default_factory=list)


def tally(events: list[Event], first_number: int | None = None) -> list[Tally]:
    """One for each series; checks that events come in the order of the contract."""
    tracker, found, series = FrameTracker(counts_lost=True, first_number=first_number), [], None
    for event in events:
        match event:
            case SeriesStart():
                assert series is None
                series = event.series_id
                found.append(Tally())
                tracker.start_series(event.number_of_frames, joined_late=event.joined_late)
            case SeriesEnd():
                assert event.series_id == series
                found[-1].lost += tracker.lost(at_end=True, complete=not event.superseded)
                series = None
            case Frame() | BrokenFrame():
                assert event.series_id == series
                kind = found[-1].frames if isinstance(event, Frame) else found[-1].failed
                if event.number >= 0 and tracker.see(event.number):
                    kind = found[-1].twice
                kind.append(event.number)
    if series is not None:
        found[-1].lost += tracker.lost(at_end=True, complete=False)
    return found


def simulated(n: int, shape=(64, 64), dtype: str = "uint16") -> list[np.ndarray]:
    """The frames that a `SimulatedDetector` sends."""
    simulator = StillSimulator(shape, hit_share=0.3, n_frames=n, dtype=dtype)
    return [simulator.frame(i) for i in range(n)]


def set_up(server: Server, **settings: object) -> None:
    """Settings of a `SimulatedDetector`; those that are not given are fit for tests."""
    values = {"shape": (64, 64), "number_of_frames": 20, "frame_rate": 100.0, "misbehaviour": "", "number_of_series": 1,
              "dtype": "uint16", "image_events": "change data_ready", "buffer_max_number": 1000, "protocol": "tango",
              "input_file": "", "hits": 30.0}  # fmt: skip
    for name, value in (values | settings).items():
        server.proxy.write_attribute(name, value)
