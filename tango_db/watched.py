"""Run a Python module or script that must not outlive the process that started it.

`python -m framesieve.tango_db.watched MODULE_OR_SCRIPT ARGUMENT…` with a pipe as standard input: when the other
end of the pipe closes, for whatever reason (`kill -9` of the parent included), this process ends. The alternative,
PR_SET_PDEATHSIG, already strikes when the *thread* that started the child ends, and needs code between fork and
exec, which is unsafe once an ORB has started its threads.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE = 5.0  # seconds between asking this process to end and ending it


def _end_with(pipe: int) -> None:
    while os.read(pipe, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)  # a device server takes its devices out of the database
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    pipe = os.dup(0)  # not inherited by further children
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()

    del sys.argv[0]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
