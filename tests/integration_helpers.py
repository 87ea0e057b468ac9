"""The whole system for tests: embedded database, device server, detectors on loopback.

The fixtures are in `integration_fixtures`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tango
import zmq
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.bins import make_bins
from framesieve.processing.frames import Verdict
from framesieve.processing.geometry import pixel_geometry
from framesieve.processing.opencl import choose_device
from framesieve.processing.parameters import Parameters
from framesieve.processing.poni import read_poni
from framesieve.processing.reducer import Reducer, Reduction
from framesieve.simulators.compression import compress
from framesieve.simulators.frame_inputs import DetectorInfo
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.stream2_detector import Stream2Detector
from framesieve.tango_db import register, sample_path
from framesieve.tango_db.beamline import load
from framesieve.tango_db.embedded import EmbeddedDatabase, ServerProcess
from sources_helpers import end, image, start

STANDBY, ON, RUNNING, ALARM, INIT, FAULT = (
    getattr(tango.DevState, name) for name in ("STANDBY", "ON", "RUNNING", "ALARM", "INIT", "FAULT")
)
SHAPE = (256, 240)  # of the small detector of most tests; not square, so that swapped axes show
PATIENCE = 60.0  # s; generous, since the machine may be busy with something else
DEVICES = ("acquisition", "sparsifier", "peakfinder", "veto")

DEFAULTS: dict[str, dict[str, Any]] = {
    "acquisition": {
        "source": "",
        "geometry": "",
        "mask": "",
        "dark": "",
        "flat": "",
        "polarization": 0.0,
        "solid_angle": False,
        "source_corrections": True,
        "monitor": "",
        "number_of_frames": 0,
        "opencl_device": "auto",
        "saving_directory": "",
        "saving_prefix": "frames",
        "saving_next_number": 0,
        "saving_overwrite_policy": "abort",
        "saving_sparse": True,
        "saving_dense": False,
        "saving_frames_per_file": 0,
    },
    "sparsifier": {
        "snr_clip": 0.0,
        "clip_cycles": 5,
        "error_model": 0,
        "radial_bins": 100,
        "noise": 1.0,
        "snr_pick": 3.0,
        "surroundings": 0,
    },
    "peakfinder": {
        "snr_peak": 3.0,
        "min_pixels": 4,  # before patch_size: it must fit into the patch at any moment
        "patch_size": 5,
        "max_peaks": 2048,
        "radius_min": 0.0,
        "radius_max": 0.0,
    },
    "veto": {"enabled": True, "max_peaks": 0, "min_peaks": 0, "control_fraction": 0.0, "what_if_min_peaks": 0},
}


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """What `condition` says once it is true."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not happen in time: {what}"
        time.sleep(0.01)
    return value


# ---- the devices ---------------------------------------------------------------------------------------------


class Beamline:
    """An embedded database, a server and clients of its four devices."""

    def __init__(self, properties: dict[str, str] | None = None) -> None:
        self.database = EmbeddedDatabase()
        self.properties = properties or {}

    def __enter__(self) -> Beamline:
        self.database.start()
        connection = self.database.database()
        register.apply(register.plan(load(sample_path("demo")), connection).changes, connection)
        if self.properties:
            values = {name: [value] for name, value in self.properties.items()}
            connection.put_device_property("demo/framesieve/acquisition", values)
        self.server = ServerProcess("demo", self.host_for_server())
        try:
            self.server.start()
            self.connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()
        self.database.close()

    def host_for_server(self) -> str:
        """Where the server finds the database."""
        return self.database.host

    def connect(self) -> None:
        prefix = f"tango://{self.database.host}/demo/framesieve"
        for name in DEVICES:
            proxy = tango.DeviceProxy(f"{prefix}/{name}")
            proxy.set_timeout_millis(20_000)
            setattr(self, name, proxy)

    # --- settings

    def set(self, device: str = "acquisition", **values: Any) -> None:
        for name, value in values.items():
            getattr(self, device).write_attribute(name, value)

    def reset_settings(self) -> None:
        for device, values in DEFAULTS.items():
            self.set(device, **values)

    # --- a run

    @property
    def state(self) -> tango.DevState:
        return self.acquisition.state()

    @property
    def counters(self) -> dict[str, int]:
        names = ("frame_count", "frames_lost", "frames_dropped", "frames_failed")
        return {name: self.acquisition.read_attribute(name).value for name in names}

    def wait_for(self, *states: tango.DevState) -> None:
        """Wait for one of some states; FAULT that is not waited for fails at once, with its reason."""
        deadline = time.monotonic() + PATIENCE
        while (state := self.state) not in states:
            assert state != FAULT, self.acquisition.status()
            assert time.monotonic() < deadline, f"{state} instead of {states}: {self.acquisition.status()}"
            time.sleep(0.01)

    def wait_for_end(self) -> None:
        self.wait_for(STANDBY)

    def wait_for_frames(self, count: int) -> None:
        """In a run that has been started; until it runs the counters are those of the last one."""
        self.wait_for(RUNNING, ALARM, STANDBY)
        wait_until(lambda: self.acquisition.frame_count >= count, f"{count} frames reduced")

    def run(self, source: str, **settings: Any) -> Path:
        """A whole run; the file that it wrote."""
        self.set(source=source, **settings)
        self.acquisition.Start()
        self.wait_for_end()
        return self.output

    @property
    def output(self) -> Path:
        return Path(self.acquisition.read_attribute("output_file").value)

    def read_counters(self, from_frame: int = 0) -> dict[str, list]:
        kind, data = self.acquisition.ReadCounters(from_frame)
        assert kind == "json"
        return json.loads(data)

    def make_idle(self) -> None:
        """Whatever state a test has left behind."""
        with suppress(tango.DevFailed):
            self.acquisition.Abort()
        wait_until(lambda: self.state not in (RUNNING, ALARM, INIT), "the end of a run")
        if self.state == FAULT:
            self.acquisition.Reset()
        elif self.state == ON:
            self.acquisition.Stop()
        self.wait_for(STANDBY)

    def fault(self, command: str = "Prepare") -> str:
        """The first line of Status in FAULT, into which a command has led."""
        getattr(self.acquisition, command)()
        wait_until(lambda: self.state in (FAULT, ON, STANDBY), "the end of a preparation")
        assert self.state == FAULT
        status = self.acquisition.status()
        assert "Traceback" not in status and "Error:" not in status
        assert "Reset" in status  # what to do
        assert all(device.state() == FAULT for device in (self.sparsifier, self.peakfinder, self.veto))
        return status.splitlines()[0]

    def good_run(self, directory: Path, geometry: Path) -> None:
        """Show that the server still works."""
        with small_detector(4) as detector:
            self.set(
                geometry=str(geometry), mask="", dark="", flat="", opencl_device="auto", number_of_frames=0,
                saving_directory=str(directory), saving_prefix="good", saving_overwrite_policy="overwrite",
            )  # fmt: skip
            path = self.run(detector.url)
        assert self.counters == {"frame_count": 4, "frames_lost": 0, "frames_dropped": 0, "frames_failed": 0}
        with SparseFile(path) as file:
            assert [file.frame(row).number for row in range(len(file))] == [0, 1, 2, 3]


@contextmanager
def refused(reason: str, *words: str) -> Iterator[None]:
    """What is inside is refused for this reason, with a text that has these words."""
    with pytest.raises(tango.DevFailed) as caught:
        yield
    error = caught.value.args[0]
    assert error.reason == reason, error.desc
    for word in words:
        assert word in error.desc, error.desc


# ---- detectors -----------------------------------------------------------------------------------------------


class Images:
    """Given images as the input of a `Stream2Detector`."""

    def __init__(self, images: Sequence[np.ndarray], numbers: Sequence[int] | None = None) -> None:
        self.images, self.numbers = images, numbers
        self.n_frames = len(images)
        self.info = DetectorInfo(images[0].shape, images[0].dtype)
        self._encoded: dict[tuple[int, str], bytes] = {}

    def number(self, i: int) -> int:
        return i if self.numbers is None else self.numbers[i]

    def image(self, i: int) -> np.ndarray:
        return self.images[i]

    def encoded(self, i: int, encoding: str) -> bytes:
        if (i, encoding) not in self._encoded:
            self._encoded[i, encoding] = compress(self.images[i], encoding)
        return self._encoded[i, encoding]

    def close(self) -> None:
        self._encoded.clear()


class Detector(Stream2Detector):
    """On a free port of the loopback interface."""

    def __init__(self, frames: Any, **options: Any) -> None:
        super().__init__(frames, port=0, **options)

    @property
    def url(self) -> str:
        return f"stream2://{self.host}:{self.port}"


def small_images(count: int, n_peaks: Sequence[int] = (30,), seed: int = 1) -> list[np.ndarray]:
    """Frames of the small detector; `n_peaks` planted in them in turn."""
    simulators = {
        n: PlantedSimulator(SHAPE, n_peaks=n, snr=(15, 60), background=20.0, seed=seed + k)
        for k, n in enumerate(sorted(set(n_peaks)))
    }
    return [simulators[n_peaks[i % len(n_peaks)]].frame(i) for i in range(count)]


def small_detector(count: int, *, n_peaks: Sequence[int] = (30,), distinct: int = 20, **options: Any) -> Detector:
    """A detector that sends `count` small frames, of which `distinct` are different."""
    return Detector(Images(small_images(min(count, distinct), n_peaks), range(count)), n_frames=count, **options)


class Sender:
    """A PUSH socket for messages made by hand."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self.url = f"stream2://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"

    def send(self, *messages: bytes) -> None:
        for message in messages:
            assert self._socket.poll(int(PATIENCE * 1000), zmq.POLLOUT), "nobody takes the message"
            self._socket.send(message)

    def send_series(self, images: Sequence[np.ndarray], **fields: Any) -> None:
        self.send(start(images[0].shape, str(images[0].dtype), number_of_images=len(images), **fields))
        self.send(*(image(i, pixels) for i, pixels in enumerate(images)), end())

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)


# ---- what the files must hold --------------------------------------------------------------------------------


class Recomputed:
    """The core, fed with frames one by one: the truth that files are compared with."""

    def __init__(self, geometry: Path, images: Sequence[np.ndarray], radial_bins: int = 100) -> None:
        parsed = read_poni(geometry)
        self.bins = make_bins(pixel_geometry(parsed, images[0].shape).radius, radial_bins)
        self.images = images
        self._reducer = Reducer(self.bins, images[0].dtype, choose_device("auto"), batch_size=1)

    def reduce(self, i: int, parameters: Parameters) -> Reduction:
        self._reducer.inputs[0][0][...] = self.images[i % len(self.images)]
        return self._reducer.reduce(0, 1, parameters)[0]

    def close(self) -> None:
        self._reducer.close()


def check_against(recomputed: Recomputed, file: SparseFile) -> None:
    """Every saved frame holds exactly what its parameter set explains, and so does its line in the ledger."""
    sets = {row.parameter_set.number: row.parameter_set.values for row in file.parameter_sets}
    for row in range(len(file)):
        frame = file.frame(row)
        expected = recomputed.reduce(frame.number, sets[frame.parameter_set])
        assert np.array_equal(frame.index, expected.index), f"frame {frame.number}, set {frame.parameter_set}"
        assert np.array_equal(frame.intensity, expected.intensity)
        assert np.array_equal(frame.peaks, expected.peaks)
        assert (frame.n_pixels, frame.n_peaks) == (len(expected.index), expected.n_peaks)


def check_ledger(ledger: np.ndarray, counters: dict[str, int]) -> None:
    """No number twice, and the totals are those that the devices tell."""
    known = ledger["frame"][ledger["frame"] >= 0]
    assert len(np.unique(known)) == len(known)
    verdicts = ledger["verdict"]
    assert int(np.isin(verdicts, (Verdict.KEPT, Verdict.VETOED, Verdict.CONTROL)).sum()) == counters["frame_count"]
    for name, verdict in (
        ("frames_lost", Verdict.LOST),
        ("frames_dropped", Verdict.DROPPED),
        ("frames_failed", Verdict.FAILED),
    ):
        assert int((verdicts == verdict).sum()) == counters[name], name
    saved = np.isin(verdicts, (Verdict.KEPT, Verdict.CONTROL))
    assert np.array_equal(ledger["row"][saved], np.arange(saved.sum()))
    assert np.all(ledger["row"][~saved] == -1)


# ---- programs ------------------------------------------------------------------------------------------------

MARKER = "FRAMESIEVE_TEST_MARKER"  # in the environment of a program and of every child of it


def framesieve(*arguments: str, timeout: float = 200.0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the program `framesieve` to its end."""
    command = [sys.executable, "-m", "framesieve.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)


def marked_processes(marker: str) -> dict[int, str]:
    """pid → command line of the processes that have this marker in their environment."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARKER}={marker}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def end_processes(marker: str) -> None:
    """So that a test that fails leaves nothing behind."""
    for pid in marked_processes(marker):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
