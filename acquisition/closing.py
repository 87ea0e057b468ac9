"""The last step of a run: everything is closed."""

from __future__ import annotations

from ..processing.threads import start_thread
from .preparation import Prepared


class Closing:
    """Closes a run in a thread of its own, for it may take long."""

    def __init__(self, prepared: Prepared) -> None:
        self.error: Exception | None = None
        self._prepared = prepared
        self._thread = start_thread(self._close, "close")

    def join(self, timeout: float) -> bool:
        """Whether it is done within so many seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _close(self) -> None:
        try:
            self._prepared.close()
        except Exception as error:
            self.error = error
