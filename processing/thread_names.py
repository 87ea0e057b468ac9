"""Give the threads of this process the names in the operating system that they have in Python.

`top -H`, `perf` and `/proc` then tell what each thread does. Python does it by itself from 3.14 on only.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

_PREFIX = "framesieve-"  # every name has it, and the system keeps 15 characters only
_LENGTH = 15


def name_threads() -> None:
    """Name every thread that runs now and that Python has started; does nothing where the system has no /proc."""
    for thread in threading.enumerate():
        if thread.native_id is not None and thread is not threading.main_thread():
            name_thread(thread.name, thread.native_id)


def name_thread(name: str, native_id: int | None = None) -> None:
    """Name one thread of this process, the calling one unless another is given; threads that it starts inherit it."""
    text = name.removeprefix(_PREFIX)[:_LENGTH]
    with contextlib.suppress(OSError):  # it has ended, or there is no /proc
        Path(f"/proc/self/task/{native_id or threading.get_native_id()}/comm").write_text(text)
