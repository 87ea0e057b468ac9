"""Frames of files that are still being written."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Final, Protocol

import h5py

from ..processing.errors import CommunicationError, ConfigurationError, FrameError
from ..processing.frames import BrokenFrame, Event, Frame, Payload, SeriesEnd, SeriesStart
from .follow_hdf5 import Hdf5Follower
from .follow_images import ImageFollower
from .inputs import absence, is_pattern, kind_of, matching, without_linked
from .source_url import parse_options, seconds_option

log = logging.getLogger(__name__)

TIMEOUT: Final = 30.0  # s without a new frame, after which a series is over

#: s for which a frame is waited for while later ones are there
PATIENCE: Final = 10.0

#: s between two looks at the files; a look that takes long is followed by a longer rest
_LOOK: Final = 0.05
_REST: Final = 5  # times as long as a look


class Follower(Protocol):
    """Files of one kind that grow; it stands at one frame and goes on to the next by `advance`."""

    number: int  # of the frame at which it stands
    expected: int | None  # how many frames the series is to have, where that is known
    is_complete: bool  # as many have been read
    reason: str  # why there is no frame, as far as is known

    def look(self) -> None:
        """See what is new. ConfigurationError where it can never be used."""

    def payload(self) -> Payload | None:
        """The frame at which it stands; None while it is not all there. FrameError where it is, but broken."""

    def start(self, payload: Payload | None) -> SeriesStart | None:
        """Of the series whose first frame this is, None: a broken one; None while not enough is known."""

    def advance(self) -> None:
        """Go on to the next frame."""

    def missing(self, *, at_end: bool) -> int | None:
        """How many frames are not to be had though a later one is, or, `at_end`, something of them is; else None."""

    def close(self) -> None: ...


class FollowSource:
    """The frames of a file, of a master and its data files, or of images in a folder, while another program writes
    them; implements `Source`. Nothing need be there yet.

    The series ends when as many frames have been read as it is to have, or no new one has come for `timeout`
    seconds. A frame that is not there while later ones are is waited for `PATIENCE` seconds, then it is a
    `BrokenFrame`; so is one that is still unreadable at the end.

    Parameters
    ----------
    path : str
        An HDF5 file, an image file, a folder or a pattern of images. Of a folder or pattern of HDF5 files one is
        followed: the first master, else the first.
    dataset : str, optional
        In an HDF5 file.
    timeout : float
        Seconds.
    """

    live = False

    def __init__(self, path: str, dataset: str | None = None, timeout: float = TIMEOUT) -> None:
        self.path = os.path.expanduser(path)
        self.dataset = dataset
        self.timeout = timeout
        self._follower: Follower | None = None
        self._forget()

    @classmethod
    def from_url(cls, url: str) -> FollowSource:
        """Of `follow:PATH[::DATASET][?timeout=SECONDS]`; ConfigurationError where it is written otherwise."""
        rest = url.removeprefix("follow:")
        rest = rest.removeprefix("//") if rest.startswith("///") else rest
        # other question marks belong to a pattern
        given = re.search(r"\?([a-z_]+=[^?/]*)$", rest)
        options = parse_options(url, given[1], ("timeout",)) if given else {}
        path, _, dataset = (rest[: given.start()] if given else rest).partition("::")
        if not path:
            raise ConfigurationError(f"source {url!r} names no file (follow:PATH[::DATASET][?timeout=SECONDS])")
        return cls(path, dataset or None, seconds_option(url, options, "timeout", TIMEOUT, 0.1, 1e6))

    @property
    def sends_bslz4(self) -> bool:
        """Whether it may, as far as is known."""
        return not isinstance(self._follower, ImageFollower) and kind_of(self.path) in ("HDF5", "")

    def _forget(self) -> None:
        self._start: SeriesStart | None = None
        self._is_open = self._has_ended = False
        self._read = 0  # frames, broken ones too
        self._missing = 0  # frames that are given up
        self._waiting_since: float | None = None
        self._next_look = 0.0
        self._reason = ""

    # ---- life ------------------------------------------------------------------------------------------------

    def open(self) -> SeriesStart | None:
        """What is known already; None where the first frame is not there yet.

        Raises
        ------
        ConfigurationError
            What is there cannot be used.
        """
        self.close()
        self._forget()
        self._is_open = True
        self._look()
        return self._begin()

    def read(self, timeout: float) -> Event | None:
        """The next event; None when there was none within `timeout` seconds, or the series is over.

        Raises
        ------
        CommunicationError
            No frame at all came in time.
        ConfigurationError
            What came cannot be used.
        """
        if not self._is_open:
            raise ConfigurationError("the file is not open")
        deadline = time.monotonic() + timeout
        while not self._has_ended:
            event = self._next()
            if event is None and time.monotonic() >= self._next_look:
                self._look()
                event = self._next() or self._at_rest()
            if event is not None:
                self._waiting_since = None
                return event
            now = time.monotonic()
            if now >= deadline:
                break
            time.sleep(min(max(self._next_look - now, 0.001), deadline - now))
        return None

    def close(self) -> None:
        """Close the files; frames that were read stay valid."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None
        self._is_open = False

    # ---- looking ---------------------------------------------------------------------------------------------

    def _look(self) -> None:
        begin = time.monotonic()
        if self._follower is None:
            self._follower = self._choose()
        if self._follower is not None:
            self._follower.look()
        end = time.monotonic()
        self._next_look = end + max(_LOOK, _REST * (end - begin))

    def _choose(self) -> Follower | None:
        """By what is there first."""
        path = self.path
        try:
            if os.path.isdir(path) or is_pattern(path):
                found = matching(path)
                if not found:
                    self._reason = f"{path}: no file yet"
                    return None
                if kind_of(found[0]) == "HDF5" or h5py.is_hdf5(found[0]):
                    found = without_linked(found, self.dataset)
                    masters = [name for name in found if "master" in os.path.basename(name)]
                    return self._chosen(Hdf5Follower((masters or found)[0], self.dataset, self.timeout))
                return self._chosen(ImageFollower(path, self.timeout))
            if os.path.getsize(path) == 0:
                self._reason = f"{path}: is empty"
                return None
            if kind_of(path) == "HDF5" or h5py.is_hdf5(path):
                return self._chosen(Hdf5Follower(path, self.dataset, self.timeout))
            return self._chosen(ImageFollower(path, self.timeout))
        except FileNotFoundError:
            self._reason = f"{path}: {absence(path)}"
        except OSError as error:
            self._reason = f"{path}: cannot be read ({error.strerror})"
        return None

    def _chosen(self, follower: Hdf5Follower | ImageFollower) -> Follower:
        if isinstance(follower, ImageFollower) and self.dataset is not None:
            raise ConfigurationError(f"{follower.path}: is no HDF5 file, it has no dataset {self.dataset!r}")
        log.info("following %s", follower.path)
        return follower

    # ---- events ----------------------------------------------------------------------------------------------

    def _begin(self) -> SeriesStart | None:
        if self._follower is not None and self._start is None:
            try:
                payload = self._follower.payload()
            except FrameError:
                self._start = self._follower.start(None)
            else:
                self._start = self._follower.start(payload) if payload is not None else None
        return self._start

    def _next(self) -> Event | None:
        """What is there without another look."""
        follower = self._follower
        if self._start is None:
            return self._begin()
        if self._missing:
            self._missing -= 1
            why = follower.reason or "it was not written"
            return self._advance(BrokenFrame(follower.number, self._start.series_id, f"given up: {why}"))
        try:
            payload = follower.payload()
        except FrameError as error:
            return self._advance(BrokenFrame(follower.number, self._start.series_id, str(error)))
        if payload is None:
            return None
        return self._advance(Frame(follower.number, self._start.series_id, payload))

    def _advance(self, event: Event) -> Event:
        self._follower.advance()
        self._read += 1
        return event

    def _at_rest(self) -> Event | None:
        """Nothing new is there: wait on, give up what later ones have overtaken, or end."""
        now, follower = time.monotonic(), self._follower
        if self._start is not None and follower.is_complete:
            return self._end(logging.INFO, f"all {follower.expected} frames have been read")
        if self._waiting_since is None:
            self._waiting_since = now
        waited = now - self._waiting_since
        is_over = waited >= self.timeout
        if waited < min(self.timeout, PATIENCE):
            return None
        missing = follower.missing(at_end=is_over and self._start is not None) if follower is not None else None
        if missing is not None:
            self._missing = missing
            self._start, is_first = self._start or follower.start(None), self._start is None
            return self._start if is_first else self._next()
        self._next_look = max(self._next_look, now + min(1.0, self.timeout / 10))
        if not is_over:
            return None
        if self._start is None:
            reason = follower.reason if follower is not None else self._reason
            raise CommunicationError(f"no frame came within {self.timeout:g} s: {reason} (a longer time: ?timeout=…)")
        announced = "" if follower.expected is None else f" of {follower.expected}"
        return self._end(logging.WARNING, f"no new frame for {self.timeout:g} s after {self._read}{announced}")

    def _end(self, level: int, why: str) -> SeriesEnd:
        log.log(level, "series %s is over: %s", self._start.series_id, why)
        self._has_ended = True
        return SeriesEnd(self._start.series_id)
