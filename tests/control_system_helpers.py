"""A control system as beamlines have it: MariaDB, the C++ DataBaseds and Starter, of Debian's packages.

What is not installed is fetched from Debian and unpacked into a folder, without installing it: no script of a
package runs, no service starts, no root is needed. The processes listen on loopback or on a socket in a folder of
their own, and end with the tests.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

import tango
from framesieve.tango_db.child import ChildProcess

# dbconfig-no-thanks: satisfies a dependency of tango-db without the client programs of MariaDB
PACKAGES = ("mariadb-server-core", "tango-db", "tango-starter", "dbconfig-no-thanks")
MARIADB, DATABASE, STARTER = "usr/sbin/mariadbd", "usr/lib/tango/DataBaseds", "usr/lib/tango/Starter"
MARIADB_TABLES = "usr/share/mysql/mysql_system_tables.sql"
TANGO_TABLES = "usr/share/dbconfig-common/data/tango-db/install/mysql"
NEEDED = (MARIADB, DATABASE, STARTER, MARIADB_TABLES, TANGO_TABLES)
RUN_PROGRAM = str(Path(__file__).with_name("run_program.py"))


class Unavailable(Exception):
    """The packages cannot be had here."""


def programs(folder: Path) -> Path:
    """The folder below which the programs lie: `/` where they are installed, else one in `folder`, made if need be.

    Raises
    ------
    Unavailable
        Says why they can be neither found nor fetched.
    """
    for root in (Path("/"), folder / "root"):
        if all((root / name).exists() for name in NEEDED):
            return root
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise Unavailable(f"{', '.join(PACKAGES)} are not installed, and there is no apt-get to fetch them with")
    debs = folder / "debs"
    (debs / "partial").mkdir(parents=True, exist_ok=True)
    try:
        _fetch(debs)
    except Unavailable:  # the computer may never have asked what there is
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        _apt_get("update", f"-oDir::State::lists={lists}")
        _fetch(debs, f"-oDir::State::lists={lists}")
        shutil.rmtree(lists)
    unpacked = folder / f"unpacking-{os.getpid()}"
    for deb in debs.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", deb, unpacked], check=True)
    missing = [name for name in NEEDED if not (unpacked / name).exists()]
    if missing:
        raise Unavailable(f"Debian's packages hold no {', '.join(missing)}")
    with contextlib.suppress(OSError):  # somebody else was faster
        unpacked.rename(folder / "root")
    shutil.rmtree(debs)
    return folder / "root"


def _fetch(debs: Path, *options: str) -> None:
    download = ("install", "--download-only", "--no-install-recommends", f"-oDir::Cache::archives={debs}")
    _apt_get(*download, *options, *PACKAGES)


def _apt_get(*arguments: str) -> None:
    command = ["apt-get", "-y", "-q", "-oDebug::NoLocking=true", "-oAcquire::http::Timeout=10", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=80, env=os.environ | {"LC_ALL": "C"})
    except subprocess.TimeoutExpired:
        raise Unavailable("apt-get takes more than 80 s to fetch them") from None
    if done.returncode:
        raise Unavailable(f"apt-get cannot fetch them: {(done.stderr or done.stdout).strip()[-300:]}")


class ControlSystem:
    """MariaDB, DataBaseds and Starter for as long as the `with` block lasts.

    Parameters
    ----------
    root
        Where the programs lie; see `programs`.
    folder
        An empty one, with a short path: a socket lies in it.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self._password = secrets.token_hex(16)
        self.host_name = socket.gethostname().partition(".")[0]
        self.starter_name = f"tango/admin/{self.host_name}"
        self.servers, self.logs = folder / "servers", folder / "logs"
        for name in (self.servers, self.logs, folder / "data"):
            name.mkdir()
        (self.servers / "FrameSieve").symlink_to(Path(sys.executable).with_name("FrameSieve"))
        self._processes = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._make_tables()
            stack.enter_context(self._mariadb())
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            self.host = f"127.0.0.1:{self.port}"
            stack.enter_context(self._database_server())
            self.db = tango.Database("127.0.0.1", self.port)
            stack.enter_context(self._starter())
            self.starter = tango.DeviceProxy(f"tango://{self.host}/{self.starter_name}")
            self._processes = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def proxy(self, name: str) -> tango.DeviceProxy:
        return tango.DeviceProxy(f"tango://{self.host}/{name}")

    def state_of(self, server: str) -> str:
        """How Starter shows a server: ON, MOVING (starts or does not answer), FAULT (stopped), '' (not listed)."""
        lines = self.starter.read_attribute("Servers").value or ()
        return next((line.split("\t")[1] for line in lines if line.split("\t")[0].lower() == server.lower()), "")

    def _child(self, name: str, program: str, *arguments: str, ready: str, **env: str) -> ChildProcess:
        command = [RUN_PROGRAM, str(self._root / program), *arguments]
        return ChildProcess(name, command, ready, env=env | self._libraries(), timeout=60)

    def _libraries(self) -> dict[str, str]:
        if self._root == Path("/"):
            return {}
        folders = [str(path) for path in (self._root / "usr/lib").glob("*-linux-*")]
        return {"LD_LIBRARY_PATH": ":".join(filter(None, [*folders, os.environ.get("LD_LIBRARY_PATH")]))}

    def _mariadb_options(self) -> list[str]:
        # as Debian's configuration has it, but without InnoDB: the tables of Tango are MyISAM
        return [
            *("--no-defaults", f"--user={pwd.getpwuid(os.getuid()).pw_name}", f"--datadir={self._folder / 'data'}"),
            *(f"--lc-messages-dir={self._root / 'usr/share/mysql'}", "--character-set-server=utf8mb4"),
            *("--skip-innodb", "--default-storage-engine=Aria"),
        ]

    def _make_tables(self) -> None:
        def text(name: str) -> str:
            """The statements in a file, and in those that it takes in: `source` is a word of the client program."""
            lines = (self._root / name).read_text()
            return re.sub(r"^source /(\S+)$", lambda match: text(match[1]), lines, flags=re.MULTILINE)

        statements = "CREATE DATABASE mysql;\nUSE mysql;\n" + text(MARIADB_TABLES)
        statements += "\nCREATE DATABASE tango;\nUSE tango;\n" + text(TANGO_TABLES)
        command = [self._root / MARIADB, *self._mariadb_options(), "--bootstrap"]
        environment = os.environ | self._libraries()
        done = subprocess.run(command, input=statements, env=environment, capture_output=True, text=True)
        if done.returncode or "ERROR" in done.stderr:
            raise RuntimeError(f"the tables of the Tango database cannot be made: {done.stderr[-1000:]}")

    def _mariadb(self) -> ChildProcess:
        rights = self._folder / "rights.sql"
        rights.touch(0o600)
        rights.write_text(
            f"CREATE USER tango@localhost IDENTIFIED BY '{self._password}';\nGRANT ALL ON tango.* TO tango@localhost;\n"
        )
        socket_only = ("--skip-networking", f"--socket={self._folder / 'sql'}", f"--init-file={rights}")
        pid_file = f"--pid-file={self._folder / 'pid'}"
        options = (*self._mariadb_options(), *socket_only, pid_file)
        return self._child("MariaDB", MARIADB, *options, ready="ready for connections")

    def _database_server(self) -> ChildProcess:
        endpoint = ("-ORBendPoint", f"giop:tcp:{self.host}")
        access = {"MYSQL_UNIX_PORT": str(self._folder / "sql"), "MYSQL_HOST": "localhost", "MYSQL_USER": "tango"}
        access |= {"MYSQL_PASSWORD": self._password, "TANGO_HOST": self.host}
        return self._child("DataBaseds", DATABASE, "2", *endpoint, ready="Ready to accept request", **access)

    def _starter(self) -> ChildProcess:
        info = tango.DbDevInfo()
        info.name, info.server, info._class = self.starter_name, f"Starter/{self.host_name}", "Starter"
        self.db.add_device(info)
        self.db.put_device_property(
            self.starter_name, {"StartDsPath": [str(self.servers)], "LogFileHome": [str(self.logs)]}
        )
        endpoint = ("-ORBendPoint", "giop:tcp:127.0.0.1:")
        return self._child(
            "Starter", STARTER, self.host_name, *endpoint, ready="Ready to accept request", TANGO_HOST=self.host
        )
