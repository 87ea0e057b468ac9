"""Run a program, and end it and everything it started when this process is asked to end; for `ChildProcess`, which
runs Python only: `run_program.py PROGRAM ARGUMENT…`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

MARK = "FRAMESIEVE_TEST_PROGRAM"


def end(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def kill_offspring(mark: bytes) -> None:
    """Starter's servers are children of init: they are known by what they inherit."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def main() -> None:
    signal.signal(signal.SIGTERM, end)
    mark = f"{os.getpid()}-{os.urandom(4).hex()}"
    process = subprocess.Popen(sys.argv[1:], env=os.environ | {MARK: mark})
    try:
        sys.exit(process.wait())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        kill_offspring(f"{MARK}={mark}".encode())


if __name__ == "__main__":
    main()
