"""A Sardana server (pool, MacroServer, door) on the embedded database, and what tests do with it."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import tango
from framesieve.clients import sardana
from framesieve.tango_db.child import ChildProcess
from framesieve.tango_db.embedded import EmbeddedDatabase

PATIENCE = 60.0  # s
DEVICES = {
    "Pool": ("pool/test/1", "Pool_test", {"PoolPath": [sardana.CONTROLLERS]}),
    "MacroServer": ("macroserver/test/1", "MS_test", {"PoolNames": ["Pool_test"], "MacroPath": [sardana.MACROS]}),
    "Door": ("door/test/1", "Door_test", {"MacroServerName": ["MS_test"]}),
}


ENDED = ("finish", "exception", "abort", "stop")


class MacroError(RuntimeError):
    """A macro has failed; the text is what it said."""


class Sardana:
    """The server for as long as the `with` block lasts; `run` runs a macro."""

    def __init__(self, database: EmbeddedDatabase, folder: Path) -> None:
        self.folder = folder
        connection = database.database()
        for device_class, (name, alias, properties) in DEVICES.items():
            info = tango.DbDevInfo()
            info.server, info._class, info.name = "Sardana/test", device_class, name
            connection.add_device(info)
            connection.put_device_alias(name, alias)
            connection.put_device_property(name, properties)
        connection.put_device_property(DEVICES["MacroServer"][0], {"EnvironmentDb": [str(folder / "environment")]})
        self.door = f"tango://{database.host}/{DEVICES['Door'][0]}"
        program = str(Path(__file__).with_name("sardana_server.py"))
        command = [program, "test", "--log-level=info", "-ORBendPoint", "giop:tcp:127.0.0.1:"]
        environment = {"TANGO_HOST": database.host, "HOME": str(folder)}
        self.server = ChildProcess("the Sardana server", command, "Ready to accept", env=environment, timeout=PATIENCE)
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._ended: dict[str, dict] = {}  # number of a macro → how it ended

    def restart(self) -> None:
        self.server.close()
        self.__enter__()

    def __enter__(self) -> Sardana:
        self.server.start()
        try:
            self._proxy = tango.DeviceProxy(self.door)
            for stream in ("Output", "Warning", "Error", "Critical"):
                self._proxy.subscribe_event(stream, tango.EventType.CHANGE_EVENT, self._hear)
            self._proxy.subscribe_event("MacroStatus", tango.EventType.CHANGE_EVENT, self._follow)
            self.retry("senv", "ScanDir", str(self.folder))  # events of its end come once they are subscribed to
            self.run("senv", "ScanFile", "scan.h5")
        except BaseException:
            self.server.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def _hear(self, event: tango.EventData) -> None:
        if not event.err and event.attr_value.value:
            with self._changed:
                self._lines += event.attr_value.value

    def _follow(self, event: tango.EventData) -> None:
        if event.err or not event.attr_value.value[1]:
            return
        with self._changed:
            for status in json.loads(event.attr_value.value[1]):
                if status["state"] in ENDED:
                    self._ended[status["id"]] = status
            self._changed.notify_all()

    def run(self, *macro: Any) -> str:
        """Run a macro to its end; what it has said. Raises `MacroError` where it fails."""
        return self.finish(*self.begin(*macro))

    def begin(self, *macro: Any) -> tuple[str, tuple]:
        """Begin a macro; what `finish` needs to know."""
        with self._changed:
            self._lines.clear()
            self._ended.clear()
        [xml] = self._proxy.RunMacro([str(word) for word in macro])
        return re.search(r'<macro\b[^>]*\bid="([^"]+)"', xml)[1], macro

    def stop(self) -> None:
        """What Ctrl-C does."""
        self._proxy.StopMacro()

    def finish(self, number: str, macro: tuple) -> str:
        """Wait for the end of a macro; as `run`."""
        ended = self._end_of(number, macro)
        # the state follows, and what was said last
        deadline = time.monotonic() + PATIENCE
        while self._proxy.state() == tango.DevState.RUNNING and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.05)
        text = "\n".join(self._lines)
        if ended["state"] != "finish":
            raise MacroError(f"{ended.get('exc_value', ended['state'])}\n{text}")
        return text

    def _end_of(self, number: str, macro: tuple) -> dict:
        """How a macro ended. One that was never begun, for a wrong parameter, does not tell: the door is at rest."""
        at_rest = 0
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and at_rest < 10:
            with self._changed:
                if self._changed.wait_for(lambda: number in self._ended, 0.5):
                    return self._ended[number]
            at_rest = at_rest + 1 if self._proxy.state() != tango.DevState.RUNNING else 0
        raise MacroError(f"{macro} does not end: {self._lines}")

    def retry(self, *macro: Any) -> str:
        """The same, again and again while a server is still being restarted."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.run(*macro)
            except (MacroError, tango.DevFailed):
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def element(self, alias: str) -> tango.DeviceProxy:
        """A client of an element of the pool."""
        host, _, _ = self.door.removeprefix("tango://").partition("/")
        return tango.DeviceProxy(f"tango://{host}/{alias}")

    def status_of(self, alias: str) -> str:
        return self.element(alias).status()
