"""Keeps the connection of a run that is over for the run that follows at once."""

from __future__ import annotations

import logging
import threading
from typing import Final

from ..processing.frames import Source
from ..processing.threads import start_thread

log = logging.getLogger(__name__)

#: s, how long a connection is kept by which nothing comes. Series that follow each other without a pause are there at
#: once; what else reads the detector's stream shares it meanwhile
KEPT: Final = 5.0

#: s, how long it is kept where something has come: with the connection that would be gone
KEPT_WITH_MESSAGES: Final = 60.0


class Parking:
    """Room for one source that is open, see `park` of `Source`. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._place: tuple[str, Source] | None = None

    def put(self, url: str, source: Source | None) -> None:
        """Keep a source for a while; nothing where it is None."""
        if source is None:
            return
        self.clear()
        with self._changed:
            self._place = (url, source)
            start_thread(self._watch, "kept-source", self._place)

    def take(self, url: str) -> Source | None:
        """The source that is kept, if it is the one of this URL; another one is closed."""
        with self._changed:
            place, self._place = self._place, None
            self._changed.notify_all()
        if place is None or place[0] == url:
            return place and place[1]
        place[1].close()
        return None

    def clear(self) -> None:
        """Close what is kept."""
        self.take("")

    def _watch(self, place: tuple[str, Source]) -> None:
        """Close it when its time is over."""
        with self._changed:
            if self._changed.wait_for(lambda: self._place is not place, KEPT):
                return
            has_waiting = place[1].has_waiting
            if has_waiting and self._changed.wait_for(lambda: self._place is not place, KEPT_WITH_MESSAGES - KEPT):
                return
            self._place = None
        if has_waiting:
            log.warning("%s: what came after the last run is given up: no run has followed", place[0])
        place[1].close()
