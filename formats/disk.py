"""A thread that does what a disk may not answer: a network share that hangs stops it, and nothing else.

A system call on a file system that hangs does not return, and nothing can interrupt it. Had HDF5 called it, the lock
around all of HDF5 would be held for as long, by every file of the process. So whatever touches the disk goes through
a `Disk`: writes are handed over and done meanwhile, the rest is waited for, and who waits can be released.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ..processing.threads import start_thread

log = logging.getLogger(__name__)

R = TypeVar("R")

WAITING_LIMIT = 64 << 20  # bytes handed over and not written yet; who writes more waits


def no_answer() -> OSError:
    """What becomes of everything that is asked of a disk after it was given up."""
    return OSError(errno.ETIMEDOUT, "the disk does not answer")


class Disk:
    """Does tasks one after the other, in a thread of its own. Tasks come from one thread; the rest may be used by any.

    Attributes
    ----------
    given_up : bool
        Nobody waits for it any more. What was handed over is still done, should the disk answer one day.
    """

    def __init__(self) -> None:
        self.given_up = False
        self._changed = threading.Condition()
        self._tasks: deque[tuple[Callable[[], None], int]] = deque()
        self._waiting = 0  # bytes
        self._begun: float | None = None  # when the task in hand was begun
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def stalled(self) -> float:
        """Seconds that the task in hand has taken; 0 without any."""
        begun = self._begun
        return 0.0 if begun is None else time.monotonic() - begun

    def submit(self, task: Callable[[], None], size: int = 0) -> None:
        """Have a task done, which tells by itself what goes wrong; it holds `size` bytes of memory until then."""
        with self._changed:
            if self._waiting >= WAITING_LIMIT:
                self._changed.wait_for(lambda: self._waiting < WAITING_LIMIT or self.given_up)
            self._tasks.append((task, size))
            self._waiting += size
            if self._thread is None:
                with contextlib.suppress(RuntimeError):  # Python is ending and starts nothing new
                    self._thread = start_thread(self._run, "disk")
            has_thread = self._thread is not None
            self._changed.notify_all()
        if not has_thread:
            while self._tasks:
                self._do_next()

    def call(self, function: Callable[..., R], *args: Any) -> R:
        """The result of `function`, once everything before it is done.

        Raises
        ------
        OSError
            ETIMEDOUT: the disk was given up.
        """
        if self.given_up:
            raise no_answer()
        done: list[tuple[Any, BaseException | None]] = []

        def task() -> None:
            try:
                done.append((function(*args), None))
            except BaseException as error:
                done.append((None, error))

        self.submit(task)
        with self._changed:
            self._changed.wait_for(lambda: done or self.given_up)
        if not done:
            raise no_answer()
        result, error = done[0]
        if error is not None:
            raise error
        return result

    def give_up(self) -> None:
        """Release all who wait."""
        with self._changed:
            self.given_up = True
            self._changed.notify_all()

    def close(self, *, wait: bool = True) -> None:
        """Let the thread end after its last task; waits for that unless the disk is given up."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if wait:
                self._changed.wait_for(lambda: self._thread is None or self.given_up)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or self._closed)
                if not self._tasks:
                    self._thread = None
                    self._changed.notify_all()
                    return
            self._do_next()

    def _do_next(self) -> None:
        with self._changed:
            task, size = self._tasks.popleft()
            self._begun = time.monotonic()
        try:
            task()
        except BaseException:
            log.exception("a task of the disk failed")
        del task  # and the memory it holds
        with self._changed:
            self._begun = None
            self._waiting -= size
            self._changed.notify_all()
