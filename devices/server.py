"""The device server `FrameSieve`: `FrameSieve INSTANCE [-v4] [-nodb -dlist …]`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import tango
from tango.server import run

from .acquisition import AcquisitionDevice
from .messages import messages
from .peak_finder import PeakFinderDevice
from .sparsifier import SparsifierDevice
from .veto import VetoDevice

SERVER_NAME = "FrameSieve"  # whatever the program is called that starts it
CLASSES = (AcquisitionDevice, SparsifierDevice, PeakFinderDevice, VetoDevice)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the device server until it is ended; `argv` without the name of the program."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sys.stdout.reconfigure(line_buffering=True)  # whoever started it sees at once that it is ready
    write_log(log_level(arguments))
    run(CLASSES, args=[SERVER_NAME, *with_endpoint(arguments, tango.ApiUtil.get_env_var("TANGO_HOST") or "")])


def with_endpoint(arguments: Sequence[str], tango_host: str) -> list[str]:
    """The arguments, and where to listen if they do not say so.

    Without a database, or with one on this computer's loopback interface, nobody elsewhere is expected: the server
    listens on loopback only. With a database of the beamline it listens as Tango servers do, on all interfaces.
    """
    arguments = list(arguments)
    if any(argument.startswith(("-ORBendPoint", "-host")) for argument in arguments):
        return arguments
    database = not any(argument.startswith(("-nodb", "-file")) for argument in arguments)
    if database and not all(is_loopback(host.rpartition(":")[0]) for host in tango_host.split(",")):
        return arguments
    if "-port" in arguments:
        return [*arguments, "-host", "127.0.0.1"]
    return [*arguments, "-ORBendPoint", "giop:tcp:127.0.0.1:"]


def is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "[::1]"


def write_log(level: int | None) -> None:
    """Take down messages, and write them to the standard error output: with -v until Tango does so.

    Parameters
    ----------
    level
        From option -v, see `log_level`.
    """
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    console.setLevel(logging.WARNING if level is None else level)
    if level is not None:
        console.addFilter(lambda record: not messages().are_passed_on)
    logging.basicConfig(handlers=[console])
    messages()


def log_level(arguments: Sequence[str]) -> int | None:
    """The level for the log of the package, from Tango's own option -v (information) or -v4, -v5 (everything); None
    without it."""
    verbosity = next((argument[2:] for argument in arguments if argument.startswith("-v")), None)
    if verbosity is None:
        return None
    return logging.DEBUG if verbosity.isdigit() and int(verbosity) >= 4 else logging.INFO


if __name__ == "__main__":
    main()
