"""Random sequences of commands, writes, restarts and failing detectors: the server never dies, never gets stuck, and
never counts wrong.

A few sequences always, the same ones; more of them, and others each time, with FRAMESIEVE_SEQUENCES=200.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
import tango
from framesieve.formats.sparse_reader import SparseFile
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from integration_helpers import Detector
from sequences_helpers import BUSY, DEFAULTS, REASONS, House, check_ledger_of_series
from tango import DevState

SEQUENCES = int(os.environ.get("FRAMESIEVE_SEQUENCES", "8"))
STEPS = 10
ROLES = ("acquisition", "sparsifier", "peakfinder", "veto")

#: what is wrong with a series of 24 images → (lost, failed)
FAULTS = {
    "": (0, 0),
    "lost=0,3,17": (3, 0),
    "corrupt=5,20": (0, 2),
    "duplicated=5,11 late=6:8": (0, 0),
    "no-start lost=7": (1, 0),
    "shuffled=6 corrupt=23": (0, 1),
}
IMAGES = 24

GOOD = {
    ("sparsifier", "snr_clip"): st.sampled_from([0.0, 2.5, 4.0]),
    ("sparsifier", "noise"): st.sampled_from([0.5, 1.0, 7.0]),
    ("sparsifier", "snr_pick"): st.sampled_from([1.0, 3.0, 20.0]),
    ("sparsifier", "clip_cycles"): st.integers(0, 100),
    ("peakfinder", "snr_peak"): st.sampled_from([2.0, 3.0, 9.0]),
    ("peakfinder", "max_peaks"): st.sampled_from([1, 50, 10_000]),
    ("veto", "enabled"): st.booleans(),
    ("veto", "min_peaks"): st.integers(0, 30),
    ("veto", "control_fraction"): st.sampled_from([0.0, 50.0, 100.0]),
}
BAD = [
    ("sparsifier", "snr_clip", -1.0),
    ("sparsifier", "noise", 1e9),
    ("sparsifier", "clip_cycles", 101),
    ("peakfinder", "patch_size", 4),
    ("peakfinder", "min_pixels", 0),
    ("peakfinder", "max_peaks", 0),
    ("veto", "control_fraction", 101.0),
    ("veto", "min_peaks", 10_001),
    ("veto", "what_if_min_peaks", 10_001),
    ("acquisition", "settings", '{"sparsifier": {"noise": 2.0, "snr_pick": -1}}'),
    ("acquisition", "settings", '{"sparsifier": {"noises": 2.0}}'),
    ("acquisition", "settings", "{"),
    ("acquisition", "source", "nonsense://here"),
    ("acquisition", "geometry", "/nowhere/a.poni"),
    ("acquisition", "mask", "/nowhere/mask.npy"),
    ("acquisition", "polarization", 3.0),
    ("acquisition", "saving_prefix", "a/b"),
]


class Sequences(RuleBasedStateMachine):
    """One sequence. The server outlives it, unless it is killed in it."""

    house: ClassVar[House]
    seen: ClassVar[Counter[DevState]] = Counter()  # states in which steps were taken

    def __init__(self) -> None:
        super().__init__()
        self.detector: Detector | None = None
        self.presets: dict[str, dict] = {}
        self.values = {(role, name): value for role, values in DEFAULTS.items() for name, value in values.items()}

    @initialize(rate=st.sampled_from([None, 30.0, 200.0]), words=st.sampled_from(sorted(FAULTS)))
    def begin(self, rate, words) -> None:
        if not self.house.server.running:  # a sequence before this one has failed
            self.house.start()
        self.house.make_idle()
        self.house.set_up()
        self.house.set_defaults()
        if rate is not None:
            self.begin_a_run(rate, words)

    # --- detectors

    def connect(self, detector: Detector | None, url: str = "") -> bool:
        """Let frames come from another detector; False where that is refused since a run is on."""
        try:
            self.house.acquisition.source = detector.url if detector else url
        except tango.DevFailed as error:
            self.is_refused(error, "OPERATION_NOT_ALLOWED")
            assert self.house.settle() in BUSY or self.house.acquisition.state() not in BUSY
            if detector:
                detector.stop(linger=0)
            return False
        self.vanish()
        self.detector = detector
        return True

    @rule(rate=st.sampled_from([30.0, 200.0]), words=st.sampled_from(sorted(FAULTS)))
    def begin_a_run(self, rate, words):
        """One that goes on for long."""
        self.house.make_idle()
        self.connect(self.house.detector(100_000, rate, words))
        self.house.acquisition.number_of_frames = 0
        self.house.acquisition.Start()
        self.house.wait_until(lambda: self.house.acquisition.frame_count, "the first frames")

    @rule(rate=st.sampled_from([30.0, 200.0]))
    def a_detector_with_much_to_say(self, rate):
        self.connect(self.house.detector(100_000, rate))

    @rule(words=st.sampled_from(["aborted=10", "no-end", "stall=3:0.2 lost=9", "killed=8:0.2", "corrupt=0,1,2"]))
    def a_detector_that_stops_early(self, words):
        self.connect(self.house.detector(IMAGES, 0.0, words))

    @rule()
    def nobody_at_the_source(self):
        self.connect(None, "stream2://127.0.0.1:9")

    @rule()
    def a_run_that_cannot_begin(self):
        self.house.make_idle()
        self.nobody_at_the_source()
        self.house.acquisition.Start()
        self.house.wait_until(lambda: self.house.acquisition.state() == DevState.FAULT, "FAULT")

    @rule()
    def vanish(self):
        """The detector is gone, whatever is going on."""
        if self.detector is not None:
            self.detector.stop(linger=0)
            self.detector = None

    @rule(words=st.sampled_from(sorted(FAULTS)))
    def a_whole_run(self, words):
        """From its first frame to its last; the counters are what the detector did."""
        self.house.make_idle()
        self.house.acquisition.number_of_frames = 0
        self.house.acquisition.saving_prefix = "whole"
        lost, failed = FAULTS[words]
        with self.house.detector(IMAGES, 0.0, words) as detector:
            self.house.acquisition.source = detector.url
            self.house.acquisition.Start()
            self.house.wait_until(lambda: self.house.acquisition.state() not in BUSY, "the end of a run")
        acquisition = self.house.acquisition
        assert acquisition.state() == DevState.STANDBY, acquisition.status()
        self.house.is_new_run = True
        assert (acquisition.frames_lost, acquisition.frames_failed) == (lost, failed)
        assert acquisition.frame_count + acquisition.frames_dropped == IMAGES - lost - failed
        self.house.check_file()

    # --- commands

    def is_refused(self, error: tango.DevFailed, *reasons: str) -> None:
        assert error.args[0].reason in (reasons or REASONS), error

    @rule(name=st.sampled_from(["Prepare", "Start", "Start", "Stop", "Abort", "Reset"]))
    def command(self, name):
        before = self.house.acquisition.state()
        try:
            self.house.acquisition.command_inout(name)
            self.house.is_new_run |= name == "Start"
        except tango.DevFailed as error:
            self.is_refused(error, "OPERATION_NOT_ALLOWED")
            assert name not in ("Stop", "Abort")
            allowed = {"Reset": {DevState.FAULT, DevState.STANDBY, DevState.ON}}
            assert before not in allowed.get(name, {DevState.STANDBY, DevState.ON}), (before, name, error)
        else:
            if name == "Start":
                assert before not in (DevState.RUNNING, DevState.ALARM) or self.house.settle() in (
                    DevState.STANDBY,
                    *BUSY,
                )
            if name == "Reset":
                assert self.house.acquisition.state() in (DevState.STANDBY, DevState.ON)

    @rule(role=st.sampled_from(ROLES))
    def init(self, role):
        before = self.house.acquisition.state()
        try:
            getattr(self.house, role).Init()
        except tango.DevFailed as error:
            self.is_refused(error, "OPERATION_NOT_ALLOWED")
            assert before in BUSY

    @rule(name=st.sampled_from(["one", "two"]))
    def save(self, name):
        self.house.acquisition.SaveSettings(name)
        self.presets[name] = dict(self.values)

    @rule(name=st.sampled_from(["one", "two", "three"]))
    def load(self, name):
        try:
            self.house.acquisition.LoadSettings(name)
        except tango.DevFailed as error:
            if name in self.presets:  # the source of then, while a run is on
                self.is_refused(error, "OPERATION_NOT_ALLOWED", "CONFIGURATION_ERROR")
            elif name not in self.house.acquisition.settings_available:
                self.is_refused(error, "CONFIGURATION_ERROR")
        else:
            if name in self.presets:
                self.values = dict(self.presets[name])
            else:  # saved by a sequence before this one
                self.values = {key: self.read(*key) for key in self.values}

    @rule(seconds=st.sampled_from([0.05, 0.3]))
    def wait(self, seconds):
        time.sleep(seconds)

    @rule()
    def settle(self):
        self.house.settle()

    # --- settings

    def read(self, role: str, name: str):
        return getattr(self.house, role).read_attribute(name).value

    @rule(key=st.sampled_from(sorted(GOOD)), data=st.data())
    def write(self, key, data):
        value = data.draw(GOOD[key])
        getattr(self.house, key[0]).write_attribute(key[1], value)
        self.values[key] = value

    @rule(noise=st.sampled_from([0.5, 3.0]), least=st.integers(0, 30))
    def write_several(self, noise, least):
        number = self.house.acquisition.parameter_set_in_force
        self.house.acquisition.settings = json.dumps({"sparsifier": {"noise": noise}, "veto": {"min_peaks": least}})
        self.values[("sparsifier", "noise")], self.values[("veto", "min_peaks")] = noise, least
        assert self.house.acquisition.parameter_set_in_force - number in (0, 1), "one set for both"

    @rule(case=st.sampled_from(BAD))
    def write_nonsense(self, case):
        role, name, value = case
        proxy = getattr(self.house, role)
        before = self.read(role, name)
        with pytest.raises(tango.DevFailed) as caught:
            proxy.write_attribute(name, value)
        self.is_refused(caught.value, "DATA_OUT_OF_RANGE", "CONFIGURATION_ERROR", "OPERATION_NOT_ALLOWED")
        assert self.read(role, name) == before

    @rule(count=st.sampled_from([0, 5, 30]))
    def write_what_is_not_live(self, count):
        before = self.house.acquisition.state()
        try:
            self.house.acquisition.number_of_frames = count
        except tango.DevFailed as error:
            self.is_refused(error, "OPERATION_NOT_ALLOWED")
            assert before in BUSY

    # --- restarts

    @rule(role=st.sampled_from(ROLES))
    def restart_a_device(self, role):
        state = self.house.acquisition.state()
        self.house.admin.DevRestart(f"test/framesieve/{role}")
        if state in (DevState.STANDBY, DevState.ON, DevState.FAULT):
            assert self.house.settle() in (state, DevState.STANDBY)
        if role == "acquisition":  # presets live in that device where there is no database
            self.presets = {}

    @rule(how=st.sampled_from(["kill", "close"]))
    def restart_the_server(self, how):
        path, is_running = self.house.acquisition.output_file, self.house.acquisition.state() in BUSY
        getattr(self.house.server, how)()
        assert how == "kill" or self.house.server.returncode == 0, self.house.server.lines[-20:]
        if is_running and path and Path(path).exists():
            with SparseFile(Path(path)) as file:
                check_ledger_of_series(file)
        self.vanish()
        self.house.start()
        self.presets = {}
        self.values = {(role, name): value for role, values in DEFAULTS.items() for name, value in values.items()}

    # --- what must hold after every step

    @invariant()
    def all_is_well(self):
        state = self.house.check_alive()
        self.seen[state] += 1
        if state in BUSY:
            self.house.is_new_run = True
        self.house.check_counters()
        if state in (DevState.STANDBY, DevState.FAULT):  # in ON the file is still empty
            self.house.check_file()
        for key, value in self.values.items():
            assert self.read(*key) == value, key

    def teardown(self):
        try:
            self.house.check_every_attribute()
            self.house.make_idle()
            self.house.check_file()
        finally:
            self.vanish()


@pytest.mark.timeout(300 + 60 * SEQUENCES)
def test_random_sequences(tmp_path):
    Sequences.house = House(tmp_path)
    Sequences.house.start()
    few = SEQUENCES < 50
    options = settings(
        max_examples=SEQUENCES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize=few,
        database=None,
        phases=(Phase.generate,) if few else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    try:
        run_state_machine_as_test(Sequences, settings=options)
    finally:
        Sequences.house.close()
    print(dict(Sequences.seen))
    steps, running = Sequences.seen.total(), Sequences.seen[DevState.RUNNING] + Sequences.seen[DevState.ALARM]
    assert steps > 4 * SEQUENCES and running > steps / 8, "too little happens in mid-run"
    assert {DevState.STANDBY, DevState.FAULT} <= set(Sequences.seen)
