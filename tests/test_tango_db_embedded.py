"""The embedded database and device servers as child processes: they start, speak, and never stay behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tango
from framesieve.processing.errors import CommunicationError, ConfigurationError
from framesieve.tango_db.child import ChildProcess
from framesieve.tango_db.embedded import EmbeddedDatabase, ServerProcess

TOY_SERVER = """
import sys
from tango.server import Device, attribute, run

class Toy(Device):
    value = 1.0

    @attribute(dtype=float, memorized=True, hw_memorized=True)
    def threshold(self):
        return self.value

    @threshold.setter
    def threshold(self, value):
        self.value = value

run((Toy,), args=["Toy", *sys.argv[1:]])
"""


def wait_until_gone(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":  # ended; its new parent has not taken note
                    return True
        except FileNotFoundError:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


@pytest.fixture(scope="module")
def db():
    with EmbeddedDatabase() as database:
        yield database


def test_listens_on_a_free_loopback_port_only(db):
    assert db.host == f"127.0.0.1:{db.port}"
    assert db.environment == {"TANGO_HOST": db.host}
    assert "sys/database/2" in list(db.database().get_device_exported("*"))
    listening = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()
    ]
    addresses = [entry[1] for entry in listening if entry[3] == "0A" and entry[1].endswith(f":{db.port:04X}")]
    assert addresses == [f"0100007F:{db.port:04X}"]


def test_two_at_once_know_nothing_of_each_other(db):
    with EmbeddedDatabase() as other:
        assert other.port != db.port
        other.database().put_device_property("a/b/c", {"P": ["1"]})
        assert list(db.database().get_device_property("a/b/c", ["P"])["P"]) == []
    assert wait_until_gone(other.pid, 0)


def test_close_ends_the_process_and_may_be_repeated():
    database = EmbeddedDatabase().start()
    database.close()
    assert not database.running
    assert wait_until_gone(database.pid, 0)
    database.close()


def test_nothing_stays_after_an_exception():
    with pytest.raises(ZeroDivisionError), EmbeddedDatabase() as database:
        _ = 1 / 0
    assert wait_until_gone(database.pid, 0)


def test_nothing_stays_after_the_parent_was_killed(tmp_path):
    toy = tmp_path / "toy.py"
    toy.write_text(TOY_SERVER)
    script = f"""
import time, tango
from framesieve.tango_db.embedded import EmbeddedDatabase, ServerProcess
db = EmbeddedDatabase().start()
info = tango.DbDevInfo()
info.name, info.server, info._class = "a/b/toy", "Toy/x", "Toy"
db.database().add_device(info)
server = ServerProcess("x", db.host, server={str(toy)!r}).start()
print(db.pid, server.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert [wait_until_gone(pid) for pid in pids] == [True, True]


def test_a_path_persists(tmp_path):
    path = tmp_path / "tango.db"
    for _ in range(2):
        with EmbeddedDatabase(path) as database:
            connection = database.database()
            found = list(connection.get_device_property("a/b/c", ["P"])["P"])
            connection.put_device_property("a/b/c", {"P": ["kept"]})
    assert found == ["kept"]


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"there is no directory .*/nowhere"):
        EmbeddedDatabase(tmp_path / "nowhere" / "tango.db")


def test_a_port_in_use_is_reported_with_the_last_output(db):
    with pytest.raises(CommunicationError, match=r"embedded Tango database ended .*last output") as error:
        EmbeddedDatabase(port=db.port).start()
    assert len(str(error.value).splitlines()) > 1


def test_a_child_that_never_gets_ready_is_ended(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text("import time\nprint('warming up')\ntime.sleep(60)\n")
    child = ChildProcess("the slow one", [str(script)], "ready", timeout=0.5)
    with pytest.raises(CommunicationError, match=r"the slow one did not say 'ready' within 0.5 s; .*\n  warming up"):
        child.start()
    assert not child.running


def test_a_child_that_ignores_sigterm_is_killed(tmp_path):
    script = tmp_path / "stubborn.py"
    script.write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready')\ntime.sleep(60)\n"
    )
    child = ChildProcess("the stubborn one", [str(script)], "ready").start()
    child.close(grace=0.2)
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("status", "may_end"), [(3, False), (3, True), (0, False), (0, True)])
def test_a_child_that_has_ended_says_how_and_what_it_said_last(tmp_path, status, may_end):
    script, told = tmp_path / "printer.py", tmp_path / "told"
    script.write_text(
        "import pathlib, sys, time\n"
        "print('ready')\n"
        "while not pathlib.Path(sys.argv[1]).exists():\n"
        "    time.sleep(0.02)\n"
        "print('no more paper')\n"
        "sys.exit(int(sys.argv[2]))\n"
    )
    child = ChildProcess("the printer", [str(script), str(told), str(status)], "ready")
    with pytest.raises(CommunicationError, match="the printer has not been started"):
        child.check()
    with child:
        child.check(within=0.1)  # it runs
        told.touch()
        if status == 0 and may_end:
            child.check(may_end=True, within=30.0)
            assert not child.running
            return
        ended = rf"^the printer ended with status {status}; its last output:\n  ready\n  no more paper$"
        with pytest.raises(CommunicationError, match=ended):
            child.check(may_end=may_end, within=30.0)


def test_server_lives_through_stop_kill_and_restart(db, tmp_path):
    toy = tmp_path / "toy.py"
    toy.write_text(TOY_SERVER)
    info = tango.DbDevInfo()
    info.name, info.server, info._class = "a/b/toy", "Toy/x", "Toy"
    db.database().add_device(info)
    with ServerProcess("x", db.host, server=str(toy)) as server:
        proxy = tango.DeviceProxy(f"tango://{db.host}/a/b/toy")
        proxy.threshold = 4.5
        assert any("Ready to accept request" in line for line in server.lines)
        first = server.pid
        server.kill()
        assert server.returncode == -signal.SIGKILL
        server.start()
        assert server.pid != first
        assert tango.DeviceProxy(f"tango://{db.host}/a/b/toy").threshold == 4.5
        server.restart()
        assert tango.DeviceProxy(f"tango://{db.host}/a/b/toy").threshold == 4.5
    assert server.returncode == 0
    assert db.database().get_device_info("a/b/toy").exported == 0  # it said goodbye


def test_a_server_that_is_not_in_the_database_says_so(db, tmp_path):
    toy = tmp_path / "toy.py"
    toy.write_text(TOY_SERVER)
    with pytest.raises(CommunicationError, match=r"(?s)FrameSieve nowhere ended .*not defined in database"):
        ServerProcess("nowhere", db.host, server=str(toy)).start()
