"""What the steps of a run share: how it ends, and queues at which nobody waits in vain."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from .errors import FrameSieveError
from .threads import start_thread

log = logging.getLogger(__name__)

POLL = 0.05  # s, how long a step waits before it looks whether the run is over
END = object()  # travels down the queues when nothing follows


class Flow:
    """The threads of one run and what ends them. `stopping`: take nothing new; `aborting`: give up what has not been
    reduced yet; `broken`: a step has died, nobody waits for a queue any more."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.aborting = threading.Event()
        self.broken = threading.Event()
        self.error: Exception | None = None  # what ended the run, where it did not end by itself
        self._threads: list[threading.Thread] = []

    def start(self, name: str, step: Callable[..., None], *args: Any) -> threading.Thread:
        """Start a step as a thread. One that fails as a whole, not on a frame, ends the run."""
        thread = start_thread(self._guard, name, name, step, *args)
        self._threads.append(thread)
        return thread

    def _guard(self, name: str, step: Callable[..., None], *args: Any) -> None:
        try:
            step(*args)
        except Exception as error:
            if not isinstance(error, FrameSieveError):
                log.exception("%s failed", name)
            self.fail(error)
            self.broken.set()

    def fail(self, error: Exception) -> None:
        """End the run because of this; what has arrived is still accounted for."""
        if self.error is None:
            self.error = error
        self.abort()

    def stop(self) -> None:
        self.stopping.set()

    def abort(self) -> None:
        self.stopping.set()
        self.aborting.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of all threads; whether it came within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:  # steps may start others: these come later in the list
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)

    def put(self, target: queue.Queue, item: Any) -> None:
        """Put, and wait for room unless the step that would make it has died."""
        while True:
            try:
                return target.put(item, timeout=POLL)
            except queue.Full:
                if self.broken.is_set():
                    return None

    def get(self, origin: queue.Queue, *, wait: float | None = None) -> Any:
        """Get; `END` where nothing more can come. None where nothing comes within `wait` seconds, if given."""
        while True:
            try:
                return origin.get_nowait() if wait == 0 else origin.get(timeout=POLL if wait is None else wait)
            except queue.Empty:
                if self.broken.is_set():
                    return END
                if wait is not None:
                    return None
