"""A device server without a database that may be killed and started again, with simulated detectors around it."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import tango
from devices_helpers import DEVICES, MEMBERS
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.experiment import Experiment
from framesieve.simulators.misbehaviour import Misbehaviour
from framesieve.simulators.planted import PlantedSimulator
from framesieve.tango_db.child import ChildProcess
from integration_helpers import Detector, Images, check_ledger
from tango import DevState

SHAPE = (128, 96)
PATIENCE = 60.0  # s; for what takes its time on a busy computer
ANSWER = 5_000  # ms; a device answers within this time whatever goes on
STATES = {DevState.INIT, DevState.STANDBY, DevState.ON, DevState.RUNNING, DevState.ALARM, DevState.FAULT}
BUSY = {DevState.INIT, DevState.RUNNING, DevState.ALARM}
REASONS = {
    *("CONFIGURATION_ERROR", "DATA_OUT_OF_RANGE", "OPERATION_NOT_ALLOWED", "COMMUNICATION_BROKEN"),
    *("OUT_OF_MEMORY", "HARDWARE_FAILURE", "SOFTWARE_FAILURE"),
}
#: memorised, or not: without a database all begin anew with the server
DEFAULTS: dict[str, dict[str, Any]] = {
    "sparsifier": {"snr_clip": 0.0, "noise": 1.0, "snr_pick": 3.0, "clip_cycles": 5},
    "peakfinder": {"snr_peak": 3.0, "min_pixels": 4, "patch_size": 5, "max_peaks": 2048},
    "veto": {"enabled": True, "max_peaks": 0, "min_peaks": 20, "control_fraction": 1.0},
}


class House:
    """The server, its clients, and what the detectors send."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.geometry = folder / "a.poni"
        self.geometry.write_text(Experiment(SHAPE).poni_text())
        simulators = [PlantedSimulator(SHAPE, n_peaks=n, snr=(15, 60), background=20.0, seed=n) for n in (3, 25)]
        self.images = [simulators[i % 2].frame(i) for i in range(8)]
        self.starts = 0
        self.server: ChildProcess | None = None
        self.is_new_run = True  # since a file was last checked
        self._checked = ""

    def start(self) -> None:
        """Start the server, with the settings that a run needs."""
        self.starts += 1
        with socket.create_server(("127.0.0.1", 0)) as probe:  # the kernel keeps the port of a server that was killed
            port = probe.getsockname()[1]
        command = ["framesieve.devices.server", "test", "-nodb", "-dlist", ",".join(DEVICES)]
        command += ["-ORBendPoint", f"giop:tcp:127.0.0.1:{port}"]
        self.server = ChildProcess("the server", command, "Ready to accept request", timeout=PATIENCE).start()
        names = [f"tango://127.0.0.1:{port}/test/framesieve/{member}#dbase=no" for member in MEMBERS.values()]
        self.all = [tango.DeviceProxy(name) for name in names]
        for proxy in self.all:
            proxy.set_timeout_millis(ANSWER)
        self.acquisition, self.sparsifier, self.peakfinder, self.veto = self.all
        self.admin = tango.DeviceProxy(f"tango://127.0.0.1:{port}/dserver/framesieve/test#dbase=no")
        self.admin.set_timeout_millis(ANSWER)
        self.set_up()

    def set_up(self) -> None:
        """What a run needs; not its source."""
        self.acquisition.geometry = str(self.geometry)
        self.acquisition.saving_directory = str(self.folder)
        self.acquisition.saving_prefix = f"server{self.starts}"
        self.acquisition.saving_overwrite_policy = "overwrite"
        self.sparsifier.radial_bins = 50

    def set_defaults(self) -> None:
        """As after the start of the server."""
        everything = {role: dict(values) for role, values in DEFAULTS.items()}
        everything["acquisition"] = {"number_of_frames": 0, "mask": ""}
        self.acquisition.settings = json.dumps(everything)

    def detector(self, count: int, rate: float = 0.0, words: str = "") -> Detector:
        options = {"n_frames": count, "rate": rate, "misbehaviour": Misbehaviour.parse(words)}
        detector = Detector(Images(self.images, range(count)), **options)
        detector.start()
        return detector

    # --- what holds at any time

    def check_alive(self) -> DevState:
        """Every device answers, and says the same."""
        assert self.server.running, "\n".join(self.server.lines[-30:])
        for _ in range(100):
            before = self.acquisition.state()
            others = [proxy.state() for proxy in (self.sparsifier, self.peakfinder, self.veto)]
            if self.acquisition.state() == before:  # it did not change meanwhile
                break
        assert {before, *others} <= STATES
        assert len({DevState.RUNNING if state == DevState.ALARM else state for state in (before, *others)}) == 1
        assert self.acquisition.status()
        return before

    def check_counters(self) -> None:
        """Kept and vetoed frames are all frames, while they are being counted and after it."""
        if self.acquisition.state() == DevState.INIT:
            return  # a new run sets them to nothing
        before = self.acquisition.frame_count
        kept, vetoed = self.veto.kept_count, self.veto.vetoed_count
        after = self.acquisition.frame_count
        if after >= before:
            assert before <= kept + vetoed <= after
        control = self.veto.control_count
        assert control <= self.veto.kept_count or self.acquisition.frame_count < after

    def check_every_attribute(self) -> None:
        for proxy in self.all:
            for value in proxy.read_attributes(list(proxy.get_attribute_list())):
                assert not value.has_failed, (value.name, value.get_err_stack())
                assert value.quality != tango.AttrQuality.ATTR_INVALID, value.name

    def check_file(self) -> None:
        """After a run: the ledger has each number once and adds up to what the devices tell."""
        path = self.acquisition.output_file
        if path and path == self._checked and not self.is_new_run:
            return
        counters = {
            name: self.acquisition.read_attribute(name).value
            for name in ("frame_count", "frames_lost", "frames_dropped", "frames_failed")
        }
        if not path or not Path(path).exists():
            assert counters["frame_count"] == 0, "frames were reduced, and there is no file"
            return
        with SparseFile(Path(path)) as file:
            check_ledger_of_series(file, counters)
        self._checked, self.is_new_run = path, False

    # --- the way to a known state

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not happen; {self.acquisition.state()}: {self.acquisition.status()}")
            time.sleep(0.02)

    def settle(self) -> DevState:
        """The state, once nothing is being prepared."""
        self.wait_until(lambda: self.acquisition.state() != DevState.INIT, "the end of a preparation")
        return self.acquisition.state()

    def make_idle(self) -> None:
        """Abort and Reset lead from everywhere to STANDBY."""
        self.acquisition.Abort()
        self.wait_until(lambda: self.acquisition.state() not in BUSY, "the end of a run")
        with suppress(tango.DevFailed):  # a preparation may have come to its end just before
            self.acquisition.Abort()
        self.acquisition.Reset()
        self.wait_until(lambda: self.acquisition.state() == DevState.STANDBY, "STANDBY")

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None


def check_ledger_of_series(file: SparseFile, counters: dict[str, int] | None = None) -> None:
    """Each number of each series once. Without `counters` the file is that of a server that was killed."""
    ledger = file.ledger
    rows = Counter((bytes(row["series"]), int(row["frame"])) for row in ledger if row["frame"] >= 0)
    assert all(count == 1 for count in rows.values()), [key for key, count in rows.items() if count > 1]
    if counters is not None and len({series for series, _ in rows}) <= 1:
        check_ledger(ledger, counters)
    elif counters is not None:
        verdicts = Counter(Verdict(int(verdict)) for verdict in ledger["verdict"])
        reduced = verdicts[Verdict.KEPT] + verdicts[Verdict.VETOED] + verdicts[Verdict.CONTROL]
        found = (reduced, verdicts[Verdict.LOST], verdicts[Verdict.DROPPED], verdicts[Verdict.FAILED])
        assert found == tuple(counters.values())
    for row in {0, len(file) - 1} if len(file) else ():
        file.frame(row)
