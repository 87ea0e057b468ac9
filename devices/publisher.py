"""The one thread that pushes events: ten times a second whatever has changed, on every device.

Pushing takes the monitor of a device, so no other thread pushes, the frame path makes no Tango call at all, and
nobody who holds a monitor ever waits for this thread.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

import tango

from ..acquisition.run_state import RunState
from ..processing.threads import start_thread
from .messages import messages

if TYPE_CHECKING:
    from .pipeline import Pipeline

log = logging.getLogger(__name__)

PERIOD = 0.1  # s


class Publisher:
    """Calls `device.publish(snapshot, state, status)` for every device of a pipeline, with the same numbers."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._stopped = threading.Event()
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None
        self._noted: RunState | None = None

    def start(self) -> None:
        """Start the thread, once."""
        if self._thread is None and not self._stopped.is_set():
            messages().are_passed_on = True
            self._thread = start_thread(self._run, "publisher")

    def wake(self) -> None:
        """Publish at once instead of at the next tick."""
        self._awake.set()

    def stop(self) -> None:
        """Let the thread end; returns at once."""
        self._stopped.set()
        self._awake.set()

    def _run(self) -> None:
        with tango.EnsureOmniThread():
            while not self._stopped.is_set():
                started = time.monotonic()
                try:
                    self._publish()
                except Exception:  # whatever it was, the next tick tries again
                    log.exception("publishing failed")
                self._awake.wait(max(0.01, started + PERIOD - time.monotonic()))
                self._awake.clear()

    def _note(self, state: RunState, status: str) -> None:
        """Have the log tell what becomes of the run."""
        if self._noted != state:
            self._noted = state
            log.log(logging.ERROR if state is RunState.FAULT else logging.INFO, "%s: %s", state.value, status)

    def _publish(self) -> None:
        if tango.Util.instance().is_svr_starting():
            return
        pipeline = self._pipeline
        messages().pass_on(list(pipeline.devices))
        # State first: once it says that the run is over, the numbers read after it are final. They are pushed
        # before the state, so that a client who waits for the end finds them in place.
        state, status = pipeline.state, pipeline.status
        snapshot = pipeline.snapshot()
        pipeline.watch_losses(snapshot)
        self._note(state, status)
        for device in list(pipeline.devices):
            if self._stopped.is_set():
                return
            device.publish(snapshot, state, status)
