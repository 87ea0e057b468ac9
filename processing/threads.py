"""Threads that can be told apart in a profile, and a crew of them that shares work."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_MAX_AUTOMATIC = 4  # more would take the cores from others
_PR_SET_NAME, _PR_GET_NAME = 15, 16  # <linux/prctl.h>
_NAME_BYTES = 16  # of a thread, the closing zero included


def start_thread(run: Callable[..., None], name: str, *args: Any) -> threading.Thread:
    """Start a daemon thread called `framesieve-NAME`, for the operating system `fs-NAME` (its first 15 characters)."""

    def named() -> None:
        _set_name(f"fs-{name}")
        run(*args)

    thread = threading.Thread(target=named, name=f"framesieve-{name}", daemon=True)
    thread.start()
    return thread


def thread_pool(size: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads are called `NAME_0`, `NAME_1` …, for the operating system all `fs-NAME`."""
    return ThreadPoolExecutor(size, thread_name_prefix=name, initializer=_set_name, initargs=(f"fs-{name}",))


@contextlib.contextmanager
def inherited_name(name: str) -> Iterator[None]:
    """Threads that a library starts meanwhile are called `name`: they take the name of the thread that starts them."""
    before = _get_name()
    _set_name(name)
    try:
        yield
    finally:
        _set_name(before)


def _set_name(name: str) -> None:
    prctl = _prctl()
    if prctl and name:
        prctl(_PR_SET_NAME, name.encode()[: _NAME_BYTES - 1], 0, 0, 0)


def _get_name() -> str:
    prctl = _prctl()
    if not prctl:
        return ""
    name = ctypes.create_string_buffer(_NAME_BYTES)
    prctl(_PR_GET_NAME, name, 0, 0, 0)
    return name.value.decode(errors="replace")


def _prctl() -> Callable[..., int] | None:
    """What Linux names threads with; None elsewhere, where threads stay without a name."""
    try:
        return ctypes.CDLL(None).prctl
    except (OSError, TypeError, AttributeError):
        return None


def available_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def automatic(size: int) -> int:
    """The size of a crew: as given, or where that is 0, as many as there are cores, up to four."""
    return size or min(available_cores(), _MAX_AUTOMATIC)


class Crew:
    """Threads that do one thing to many items at once. Whoever asks is one of them, so one item costs no hand-over.

    Parameters
    ----------
    size
        Threads in all; 1: the one that asks.
    name
        Of the threads, see `start_thread`.
    """

    def __init__(self, size: int, name: str) -> None:
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._threads = [start_thread(self._work, f"{name}-{k}") for k in range(1, size)]

    def map(self, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`[do(item) for item in items]`, several at a time. An exception is raised when all items are through."""
        if not self._threads or len(items) < 2:
            return [do(item) for item in items]
        results: list[Any] = [None] * len(items)
        errors: list[BaseException] = []
        finished: queue.SimpleQueue = queue.SimpleQueue()

        def at(k: int) -> None:
            try:
                results[k] = do(items[k])
            except BaseException as error:
                errors.append(error)
            finally:
                finished.put(k)

        for k in range(1, len(items)):
            self._tasks.put((at, k))
        at(0)
        with contextlib.suppress(queue.Empty):
            while True:
                task, k = self._tasks.get_nowait()
                task(k)
        for _ in items:
            finished.get()
        if errors:
            raise errors[0]
        return results

    def close(self) -> None:
        """Let the threads end, and wait for them."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            run, k = task
            run(k)
