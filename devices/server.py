"""The device server `FrameSieve`: `FrameSieve INSTANCE [-v4] [-nodb -dlist …]`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from tango.server import run

from .acquisition import AcquisitionDevice
from .peak_finder import PeakFinderDevice
from .sparsifier import SparsifierDevice
from .veto import VetoDevice

SERVER_NAME = "FrameSieve"  # whatever the program is called that starts it
CLASSES = (AcquisitionDevice, SparsifierDevice, PeakFinderDevice, VetoDevice)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the device server until it is ended; `argv` without the name of the program."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=log_level(arguments), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run(CLASSES, args=[SERVER_NAME, *arguments])


def log_level(arguments: Sequence[str]) -> int:
    """The level for the log of the package, from Tango's own option -v (information) or -v4, -v5 (everything)."""
    verbosity = next((argument[2:] for argument in arguments if argument.startswith("-v")), None)
    if verbosity is None:
        return logging.WARNING
    return logging.DEBUG if verbosity.isdigit() and int(verbosity) >= 4 else logging.INFO


if __name__ == "__main__":
    main()
