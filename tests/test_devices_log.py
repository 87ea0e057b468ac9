"""What the server says: the attribute `log`, and Tango's logging targets."""

from __future__ import annotations

import re
import sys

import pytest
import tango
from devices_helpers import DEVICES, FAKE_RUN, ON_FAKE, refused, serve, wait_until, without_database
from framesieve.devices.messages import KEPT, LONGEST

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR) (\S+): (.*)")
TWO_LINES = "σ\nand so on 漢"
LOGGER = "__import__('logging').getLogger('framesieve.sources.trial')"


@pytest.fixture(scope="module")
def devices():
    with serve() as devices:
        yield devices


def entries(devices):
    """(level, source, text) of the messages in the attribute."""
    return [LINE.fullmatch(line).groups() for line in devices.acquisition.log]


def test_commands_states_and_refusals_are_in_it(devices):
    devices.acquisition.Start()
    wait_until(lambda: ("INFO", "devices.publisher", "RUNNING: Reducing frames.") in entries(devices))
    with refused("OPERATION_NOT_ALLOWED"):
        devices.acquisition.Start()
    with refused("DATA_OUT_OF_RANGE"):
        devices.sparsifier.noise = -1
    devices.acquisition.Stop()
    wait_until(lambda: ("INFO", "devices.publisher", "STANDBY: Idle.") in entries(devices))
    found = entries(devices)
    assert ("INFO", "acquisition", "Start") in found
    assert [text for level, source, text in found if (level, source) == ("WARNING", "sparsifier")] == [
        "write_noise refused: noise = -1.0: accepted is 0.0 to 1000000.0"
    ]


def test_a_memorised_value_that_cannot_be_used_is_told_once_and_not_by_every_device():
    memorised = {"acquisition": {"geometry": "/nowhere/a.poni"}, "sparsifier": {"noise": "-1"}}
    with serve(memorised=memorised) as devices:
        for device in devices.all:
            device.ping(), device.state()
        told = [text for _, _, text in entries(devices) if text.startswith("memorised value not usable")]
    assert sorted(told) == sorted(set(told))
    assert ["noise = -1" in text for text in sorted(told)] == [False, True]
    assert "/nowhere/a.poni" in sorted(told)[0]


def test_it_holds_the_last_messages_each_in_one_line_that_tango_can_carry(devices):
    devices.evaluate(f"[{LOGGER}.info('message %d', i) for i in range({KEPT} + 50)]")
    devices.evaluate(f"{LOGGER}.warning({'σ ≥ %s'!a}, '2' * 2000)")
    found = entries(devices)
    assert len(found) == KEPT
    assert found[0][2] == "message 51"
    assert found[-1][:2] == ("WARNING", "sources.trial")
    assert found[-1][2].startswith("sigma >= 2222") and len(devices.acquisition.log[-1]) == LONGEST
    devices.evaluate(f"{LOGGER}.warning({TWO_LINES!a})")
    assert entries(devices)[-1][2] == "sigma and so on ?"


def test_it_is_pushed(devices):
    seen = []
    number = devices.acquisition.subscribe_event("log", tango.EventType.CHANGE_EVENT, seen.append)
    try:
        for i in range(3):
            devices.evaluate(f"{LOGGER}.error('pushed %d', {i})")
            wait_until(lambda i=i: seen[-1].attr_value.value[-1].endswith(f"sources.trial: pushed {i}"))
    finally:
        devices.acquisition.unsubscribe_event(number)
    assert not any(event.err for event in seen)


def test_a_message_that_cannot_be_put_together_harms_nobody(devices):
    devices.evaluate(f"{LOGGER}.error('%d', 'no number')")
    devices.evaluate(f"{LOGGER}.error('after it')")
    assert entries(devices)[-1][2] == "after it"


def test_levels_and_targets_are_set_as_for_any_device(devices, tmp_path):
    target = tmp_path / "acquisition.log"
    devices.acquisition.set_logging_level(3)
    devices.acquisition.add_logging_target(f"file::{target}")
    shown = target.read_text if target.exists() else lambda: target.read_text() if target.exists() else ""
    devices.evaluate(f"{LOGGER}.info('too little')")
    devices.evaluate(f"{LOGGER}.warning('100 % enough')")
    wait_until(lambda: "100 % enough" in shown())
    devices.acquisition.set_logging_level(5)
    wait_until(lambda: devices.evaluate(f"{LOGGER}.isEnabledFor(10)"))
    devices.evaluate(f"{LOGGER}.debug('a detail')")
    wait_until(lambda: "a detail" in shown())
    devices.acquisition.set_logging_level(3)
    wait_until(lambda: not devices.evaluate(f"{LOGGER}.isEnabledFor(10)"))
    devices.acquisition.remove_logging_target(f"file::{target}")
    devices.evaluate(f"{LOGGER}.error('nobody listens')")
    devices.evaluate(f"{LOGGER}.error('nor now')")
    wait_until(lambda: entries(devices)[-1][2] == "nor now")
    assert "too little" not in shown() and "nobody listens" not in shown()
    assert not any(level == "DEBUG" for level, _, _ in entries(devices))  # details are for the targets


def test_a_device_speaks_through_its_own_target(devices, tmp_path):
    target = tmp_path / "veto.log"
    devices.veto.set_logging_level(3)  # a server without -v begins with 0, nothing
    devices.veto.add_logging_target(f"file::{target}")
    with refused("DATA_OUT_OF_RANGE"):
        devices.veto.control_fraction = 101
    with refused("DATA_OUT_OF_RANGE"):
        devices.sparsifier.noise = -2
    wait_until(lambda: target.exists() and "control_fraction" in target.read_text())
    devices.veto.remove_logging_target(f"file::{target}")
    assert "noise" not in target.read_text()


@pytest.mark.parametrize("verbosity", ["-v4", None])
def test_the_console_shows_each_message_once(verbosity, tmp_path):
    """With -v Tango writes them, otherwise Python does: warnings only."""
    command = [sys.executable, ON_FAKE]
    arguments = ["-nodb", "-dlist", ",".join([*DEVICES, FAKE_RUN]), *([verbosity] if verbosity else [])]
    lines: list[str] = []
    with without_database(command, *arguments, output=lines) as devices:
        devices.acquisition.Start()
        with refused("DATA_OUT_OF_RANGE"):
            devices.sparsifier.noise = -1
        devices.acquisition.Stop()
        wait_until(lambda: any("write_noise refused" in line for line in lines))
        devices.evaluate(f"{LOGGER}.warning('the last one')")
        wait_until(lambda: any("the last one" in line for line in lines))
    assert sum("write_noise refused" in line for line in lines) == 1
    assert sum(line.rstrip().endswith(": Start") for line in lines) == bool(verbosity)
