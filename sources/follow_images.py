"""Image files that appear in a folder one after another."""

from __future__ import annotations

import logging
import os
import time

from ..processing.errors import ConfigurationError
from ..processing.frames import Payload, SeriesStart
from .hdf5_growing import SETTLED
from .images import FabioFrames
from .inputs import matching, number_in

log = logging.getLogger(__name__)


class ImageFollower:
    """Implements `Follower` for the images that a pattern, a folder or a path stands for, in natural order.

    A file is taken once it can be read and its checksum is right; where it has none, once a later file is there or it
    has not changed for `SETTLED` seconds. Frames have the numbers at the ends of the names where the first name has
    one, until a name does not go on like that; else 0, 1, 2 …
    """

    is_complete = False
    expected: int | None = None

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self._settled = min(SETTLED, timeout / 2)
        self.reason = f"{path}: no file yet"
        self._waiting: list[str] = []
        self._taken: set[str] = set()
        self._current: FabioFrames | None = None
        self._index = 0  # of the next frame in it
        self._stamp: tuple[int, int] | None = None  # of the current file, when it was opened
        self._tried: tuple[str, tuple[int, int], float] | None = None  # the file that is next, and since when it is so
        self._failed = -float("inf")  # when it could not be read
        self._prefix: str | None = None  # of the names that end in numbers
        self._used: set[int] = set()
        self._named: str | None = None  # the file that `_next` is of
        self._next = 0  # number of its first frame
        self._highest = -1

    @property
    def number(self) -> int:
        if self._is_within():
            return self._next + self._index
        self._give_number(self._waiting[0], 1)
        return self._next

    def _is_within(self) -> bool:
        return self._current is not None and self._index < self._current.count

    def look(self) -> None:
        """See which files there are."""
        try:
            self._waiting = matching(self.path, self._taken)
        except OSError as error:
            self.reason = f"{self.path}: cannot be read ({error.strerror})"
            return
        if not self._waiting and not self._is_within():
            self._look_for_more()

    def _look_for_more(self) -> None:
        """The last file may be one to which frames are appended."""
        current = self._current
        if current is None or _stamp_of(current.path) in (self._stamp, None):
            return
        again = self._try(current.path)
        if again is not None:
            self._stamp = _stamp_of(current.path)
            current.close()
            self._current = again

    def payload(self) -> Payload | None:
        if not self._is_within():
            frames = self._try(self._waiting[0]) if self._waiting else None
            if frames is None:
                return None
            self.close()
            self._current, self._index, self._stamp = frames, 0, self._tried[1]
            self._taken.add(self._waiting.pop(0))
            self._give_number(frames.path, frames.count)
        return self._current.payload(self._index)

    def _try(self, path: str) -> FabioFrames | None:
        """The frames of a file, if all of it is there."""
        now, stamp = time.monotonic(), _stamp_of(path)
        if stamp is None:
            return None
        if self._tried is None or self._tried[:2] != (path, stamp):
            self._tried = (path, stamp, now)
        elif now - self._failed < self._settled:
            return None
        is_settled = now - self._tried[2] >= self._settled or (len(self._waiting) > 1 and path == self._waiting[0])
        try:
            frames = FabioFrames(path)
        except ConfigurationError as error:
            self.reason, self._failed = str(error), now
            return None
        if frames.is_whole and (frames.is_verified or is_settled):
            return frames
        frames.close()
        self.reason = f"{path}: is being written"
        return None

    def _give_number(self, path: str, count: int) -> None:
        if self._named == path:
            return
        found, is_first = number_in(path), self._named is None
        if is_first and count == 1 and found is not None:
            self._prefix = found[0]
        fits = count == 1 and found is not None and found[0] == self._prefix and found[1] not in self._used
        if self._prefix is not None and not fits:
            log.warning("%s: the name does not go on like those before: frames are counted on from here", path)
            self._prefix = None
        self._named = path
        self._next = found[1] if fits and self._prefix is not None else self._highest + 1

    def start(self, payload: Payload | None) -> SeriesStart:
        """Of the series whose first frame this is, None: a broken one."""
        if payload is None:
            path = self._current.path if self._is_within() else self._waiting[0]
            return SeriesStart(os.path.basename(path), metadata={"files": [path]})
        frames = self._current
        metadata = frames.metadata | {"files": [frames.path]}
        return SeriesStart(os.path.basename(frames.path), payload.shape, payload.dtype, None, metadata)

    def advance(self) -> None:
        number = self.number
        self._highest = max(self._highest, number)
        if self._prefix is not None:
            self._used.add(number)
        if self._is_within():
            self._index += 1
        else:  # it was given up
            self._taken.add(self._waiting.pop(0))

    def missing(self, *, at_end: bool) -> int | None:
        if self._is_within() or not self._waiting:
            return None
        return 1 if at_end or len(self._waiting) > 1 else None

    def close(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None


def _stamp_of(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
