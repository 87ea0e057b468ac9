"""Servers with the four devices, each in a process of its own, and what tests do with them.

Never in the process of the tests: event threads of a client do not survive the end of a server in the same process.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tango

ON_FAKE = str(Path(__file__).with_name("devices_fake_server.py"))  # the server on a fake controller

MEMBERS = {
    "AcquisitionDevice": "acquisition",
    "SparsifierDevice": "sparsifier",
    "PeakFinderDevice": "peakfinder",
    "VetoDevice": "veto",
}
DEVICES = [f"{cls}::test/framesieve/{member}" for cls, member in MEMBERS.items()]
FAKE_RUN = "FakeRun::test/framesieve/fake"


class Devices:
    """Clients of the four devices, and of the fake controller behind them."""

    def __init__(self, prefix: str, suffix: str) -> None:
        self.address = prefix, suffix
        self.acquisition, self.sparsifier, self.peakfinder, self.veto = self.all = [
            tango.DeviceProxy(f"{prefix}test/framesieve/{member}{suffix}") for member in MEMBERS.values()
        ]
        self._connect = lambda: tango.DeviceProxy(f"{prefix}test/framesieve/fake{suffix}")

    def __getitem__(self, member: str) -> tango.DeviceProxy:
        return getattr(self, member)

    def feed(self, **values) -> None:
        """New numbers in the snapshot of the run."""
        self._connect().Feed(("pickle", pickle.dumps(values)))

    def evaluate(self, expression: str) -> Any:
        """The value of an expression on `controller`."""
        return pickle.loads(self._connect().Evaluate(expression)[1])

    def clear(self) -> None:
        """As after the start of the server."""
        self._connect().Clear()


@contextmanager
def without_database(
    command: list[str], *arguments: str, env: dict[str, str] | None = None, output: list[str] | None = None
) -> Iterator[Devices]:
    """A server that needs no Tango database; what it prints is added to `output`."""
    output = [] if output is None else output
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*command, "test", *arguments, "-ORBendPoint", f"giop:tcp:127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | (env or {}),  # what it prints is waited for
    )
    try:
        for line in process.stdout:
            output.append(line)
            if "Ready to accept request" in line:
                break
        else:
            raise AssertionError("".join(output))
        threading.Thread(target=output.extend, args=(process.stdout,), daemon=True).start()
        yield Devices(f"tango://127.0.0.1:{port}/", "#dbase=no")
        assert process.poll() is None, "the server has died"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


@contextmanager
def serve(
    memorised: dict[str, dict[str, str]] | None = None, properties: dict[str, str] | None = None, order: int = 1
) -> Iterator[Devices]:
    """The server on the fake controller; `order` -1 creates the devices the other way round."""
    lines = [f"FrameSieve/test/DEVICE/{device.replace('::', ': ')}" for device in (*DEVICES, FAKE_RUN)]
    lines += [f'test/framesieve/acquisition->{name}: "{value}"' for name, value in (properties or {}).items()]
    for member, values in (memorised or {}).items():
        lines += [f'test/framesieve/{member}/{name}->__value: "{value}"' for name, value in values.items()]
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "properties")
        file.write_text("\n".join([*lines, ""]))
        env = {"ORDER_OF_CLASSES": str(order)}
        with without_database([sys.executable, ON_FAKE], f"-file={file}", env=env) as devices:
            yield devices


@contextmanager
def refused(reason: str, *words: str) -> Iterator[None]:
    """What is inside is refused for this reason, with a text that has these words."""
    with pytest.raises(tango.DevFailed) as caught:
        yield
    error = caught.value.args[0]
    assert error.reason == reason, error.desc
    for word in words:
        assert word in error.desc


def wait_until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
