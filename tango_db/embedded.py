"""A Tango database and device servers as children of this process, on loopback: for the demo and for tests.

The database is PyTango's own (`tango.databaseds`, sqlite). It needs no installation and starts in under a second;
PyTango calls it experimental, so a beamline runs the C++ DataBaseds instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import tango

from ..processing.errors import ConfigurationError
from .child import ChildProcess

READY = "Ready to accept request"
LISTENING = r"listening on: host=\S+, port=(\d+)"


class EmbeddedDatabase(ChildProcess):
    """A Tango database for as long as the `with` block lasts.

    >>> with EmbeddedDatabase() as db:
    ...     db.host
    '127.0.0.1:40171'

    Parameters
    ----------
    path
        File that keeps the database from one start to the next, made if it is missing; None: in memory only.
    port
        TCP port; 0: a free one.

    Raises
    ------
    ConfigurationError
        The directory of `path` does not exist.
    CommunicationError
        On start: it did not become ready.
    """

    def __init__(self, path: str | Path | None = None, *, port: int = 0, timeout: float = 30.0) -> None:
        if path is not None:
            path = Path(path).absolute()
            if not path.parent.is_dir():
                raise ConfigurationError(f"Tango database in {path}: there is no directory {path.parent}")
        self.path = path
        # "2" is the customary instance name: the database device becomes sys/database/2
        command = ["tango.databaseds.database", "--host", "127.0.0.1", "--port", str(port), "--print-host-port", "2"]
        name = "PYTANGO_DATABASE_NAME"
        super().__init__(
            "the embedded Tango database", command, READY, env={name: str(path or ":memory:")}, timeout=timeout
        )

    @property
    def port(self) -> int:
        """The port it listens on; raises `CommunicationError` when it has not been started."""
        line = self.wait_for(LISTENING, 0.0)
        return int(re.search(LISTENING, line)[1])

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`, the value for TANGO_HOST."""
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a child process needs in its environment to use this database."""
        return {"TANGO_HOST": self.host}

    def database(self) -> tango.Database:
        """A connection to it; does not touch TANGO_HOST of this process."""
        return tango.Database("127.0.0.1", self.port)


class ServerProcess(ChildProcess):
    """The device server `FrameSieve INSTANCE`, listening on loopback only.

    Parameters
    ----------
    instance
        Its devices must be in the database; see `register`.
    tango_host
        `HOST:PORT` of the Tango database.
    arguments
        Further arguments, e.g. `-v4`.
    server
        Module or `.py` file of another device server.
    """

    def __init__(
        self,
        instance: str,
        tango_host: str,
        *arguments: str,
        server: str = "framesieve.devices.server",
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self.instance = instance
        # ended by a ':' without a number: any free port
        command = [server, instance, *arguments, "-ORBendPoint", "giop:tcp:127.0.0.1:"]
        environment = dict(env or {}) | {"TANGO_HOST": tango_host}
        super().__init__(f"the device server FrameSieve {instance}", command, READY, env=environment, timeout=timeout)
