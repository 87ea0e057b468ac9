"""HDF5 files that another program is writing, and which of their frames are there.

Written in SWMR mode, a file stays open and is refreshed; otherwise what was flushed is seen when it is opened again.
A frame counts as whole when a compressed one decodes, and a later one is there or the file has not changed for a
while: what is stored may be half a frame that decodes, of a program that writes it in pieces. Of one that is not
compressed nothing can be verified: HDF5 itself may hold back a part of it for as long as nothing is written.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import h5py
import numpy as np

from ..processing.errors import ConfigurationError, FrameError
from ..processing.frames import ArrayPayload, Payload
from .hdf5_dataset import StoredFrames
from .hdf5_find import first_line, get, open_hdf5
from .inputs import absence

#: seconds without a change after which the newest frame of a file is believed to be whole if it decodes
SETTLED: Final = 1.0

#: seconds after which a file is opened again though it looks unchanged: its time of change is coarse
_OPEN_AGAIN: Final = 1.0

#: frames so far behind the newest are not decoded for a check: they were written long ago
_FAR_BEHIND: Final = 64

#: how far ahead a later frame is looked for
MAX_AHEAD: Final = 1000

#: datasets that are held open
_MAX_OPEN: Final = 64

_SUPERBLOCK: Final = b"\x89HDF\r\n\x1a\n"


class GrowingFile:
    """A file that may not be there yet, and may grow.

    Attributes
    ----------
    file : h5py.File or None
        Open, as of the last `look`.
    reason : str
        Why it is not open.
    openings : int
        How often it was opened: what was taken from it before is no longer valid.
    is_swmr : bool
        Whether another program writes it in SWMR mode.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: h5py.File | None = None
        self.reason = f"{path}: not looked at yet"
        self.openings = 0
        self.is_swmr = False
        self.is_doubtful = False  # something could not be read: it is opened again at the next look
        self._stamp: tuple[int, int, int] | None = None
        self._changed = self._opened = -float("inf")

    @property
    def unchanged(self) -> float:
        """Seconds since it was last seen to change."""
        return time.monotonic() - self._changed if self.file is not None else 0.0

    def look(self) -> None:
        """Open it, or open it again where that is needed to see what is new."""
        now = time.monotonic()
        try:
            found = os.stat(self.path)
        except OSError as error:
            self.close()
            missing = isinstance(error, FileNotFoundError)
            self.reason = f"{self.path}: {absence(self.path) if missing else error.strerror}"
            return
        stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
        if stamp != self._stamp:
            self._stamp, self._changed = stamp, now
        elif self.file is not None and not self.is_doubtful and (self.is_swmr or now - self._opened < _OPEN_AGAIN):
            return
        if self.file is not None and not self.is_doubtful and self.is_swmr and _is_written_in_swmr(self.path):
            return
        self._open(now)

    def _open(self, now: float) -> None:
        self.close()
        self.is_doubtful = False
        self.is_swmr = _is_written_in_swmr(self.path)
        try:
            self.file = open_hdf5(self.path)
        except (ConfigurationError, RuntimeError) as error:
            self.reason = str(error)
        else:
            self._opened = now
            self.openings += 1

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def _is_written_in_swmr(path: str) -> bool:
    """Of the consistency flags in the superblock (HDF5 file format, version 3)."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return len(head) == 12 and head[:8] == _SUPERBLOCK and head[8] >= 3 and bool(head[11] & 4)


class GrowingFrames:
    """The frames of one dataset in a `GrowingFile`.

    Attributes
    ----------
    frames : StoredFrames or None
        As of the last `look`; None where the dataset is not there.
    reason : str
        Why the last frame that was asked for is not there.
    """

    def __init__(self, file: GrowingFile, name: str, timeout: float) -> None:
        self._file = file
        self._timeout = timeout
        self.name = name
        self.frames: StoredFrames | None = None
        self.reason = ""
        self._openings = -1
        self._sure = 0  # frames below are far behind the newest
        self._ahead: tuple[int, Payload] | None = None  # a later frame that was looked at

    @property
    def extent(self) -> int:
        """Frames that the dataset has room for now."""
        return self.frames.count if self.frames is not None else 0

    @property
    def is_fixed(self) -> bool:
        """Whether the dataset cannot grow: it was made for so many frames."""
        frames = self.frames
        return frames is not None and (frames.dataset.ndim == 2 or frames.dataset.maxshape[0] == frames.count)

    @property
    def is_settled(self) -> bool:
        """Whether the file has not changed for a while."""
        return self._file.unchanged >= min(SETTLED, self._timeout / 2)

    @property
    def first_number(self) -> int | None:
        """Number of its first image in the series, as DECTRIS' data files have it."""
        try:
            value = self.frames.dataset.attrs.get("image_nr_low") if self.frames is not None else None
        except (OSError, RuntimeError):
            return None
        return int(value) if isinstance(value, int | np.integer) else None

    def look(self) -> None:
        """See what is new. The file was looked at before.

        Raises
        ------
        ConfigurationError
            The dataset holds no frames.
        """
        self._ahead = None
        try:
            if self._file.file is None:
                self.frames, self.reason = None, self._file.reason
            elif self.frames is None or self._openings != self._file.openings:
                self._openings, self.frames = self._file.openings, None
                dataset = get(self._file.file, self.name)
                if isinstance(dataset, h5py.Dataset):
                    self.frames = StoredFrames(dataset, f"{self._file.path}::{self.name}")
                else:
                    self.reason = f"{self._file.path}: no dataset {self.name!r} yet"
                    self._file.is_doubtful = True
            elif self._file.is_swmr:
                self.frames.dataset.refresh()
        except (OSError, RuntimeError, KeyError) as error:  # half updated
            self.frames, self.reason = None, f"{self._file.path}: {first_line(error)}"
            self._file.is_doubtful = True

    def frame(self, index: int, is_overtaken: Callable[[], bool] = lambda: False) -> Payload | None:
        """Frame `index`; None where it is not there, or not all of it, and `reason` says what is known.
        `is_overtaken`: whether a later frame is there in another dataset."""
        if index >= self.extent:
            self.reason = self.reason if self.frames is None else f"{self.frames.where}: no frame {index} yet"
            return None
        try:
            payload = self._stored(index)
            if payload is None:
                self.reason = f"{self.frames.where}: frame {index} was not written"
            elif not (self._is_quiet(payload) or self._is_later_there(index) or self._is_over(payload, is_overtaken)):
                self.reason = f"{self.frames.where}: frame {index} is being written"
            else:
                self._check(index, payload)
                return payload
        except (OSError, RuntimeError, KeyError, ValueError, FrameError) as error:
            self.reason = f"{self.frames.where}: frame {index} cannot be read ({first_line(error)})"
            self._file.is_doubtful = True
        return None

    def is_stored(self, index: int) -> bool:
        """Whether something of frame `index` is there, be it readable or not."""
        if not 0 <= index < self.extent:
            return False
        try:
            return self._stored(index) is not None
        except FrameError:
            return True
        except (OSError, RuntimeError, KeyError, ValueError):
            return False

    def next_there(self, index: int) -> int | None:
        """The first frame behind `index` that is there, of the next `MAX_AHEAD` ones."""
        numbers = range(index + 1, min(self.extent, index + 1 + MAX_AHEAD))
        return next((number for number in numbers if self.is_stored(number)), None)

    def _stored(self, index: int) -> Payload | None:
        """What is stored of a frame; None where nothing is."""
        if self._ahead is not None and self._ahead[0] == index:
            return self._ahead[1]
        frames = self.frames
        if frames.encoding is not None and not self._is_allocated_early():
            return frames.chunk(index)
        pixels = frames.pixels(index)
        # room is made for several frames at once: one of fill values alone was not written, as far as one can tell
        is_blank = not pixels.any() or bool((pixels == frames.dataset.fillvalue).all())
        return None if is_blank else ArrayPayload(pixels)

    def _is_allocated_early(self) -> bool:
        return self.frames.dataset.id.get_create_plist().get_alloc_time() == h5py.h5d.ALLOC_TIME_EARLY

    def _is_quiet(self, payload: Payload) -> bool:
        return self._file.unchanged >= self._timeout / 2 if _is_plain(payload) else self.is_settled

    def _is_over(self, payload: Payload, is_overtaken: Callable[[], bool]) -> bool:
        return not _is_plain(payload) and is_overtaken()

    def _is_later_there(self, index: int) -> bool:
        if index + 1 >= self.extent:
            return False
        payload = self._stored(index + 1)
        if payload is not None:
            self._ahead = (index + 1, payload)
        return payload is not None

    def _check(self, index: int, payload: Payload) -> None:
        """Decode, unless the frame was written long ago. FrameError where that cannot be done."""
        if index < self._sure or isinstance(payload, ArrayPayload):
            return
        if index + _FAR_BEHIND < self.extent and self.is_stored(index + _FAR_BEHIND):
            self._sure = index + _FAR_BEHIND // 2
            return
        payload.read_into(np.empty(payload.shape, payload.dtype))


def _is_plain(payload: Payload) -> bool:
    """Whether half of it could not be told from all of it."""
    return isinstance(payload, ArrayPayload) or payload.encoding == "none"


class GrowingSet:
    """The datasets that are read, in files that are opened once each; the ones not asked for lately are closed.

    `timeout`: seconds without a change after which nothing more is waited for.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._round = 0
        self._files: dict[str, tuple[int, GrowingFile]] = {}
        self._frames: OrderedDict[tuple[str, str], tuple[int, GrowingFrames]] = OrderedDict()

    def look(self) -> None:
        """What is asked for from now on is looked at again, once."""
        self._round += 1

    def file(self, path: str) -> GrowingFile:
        seen, file = self._files.get(path) or (-1, GrowingFile(path))
        if seen != self._round:
            file.look()
            self._files[path] = (self._round, file)
        return file

    def frames(self, path: str, name: str) -> GrowingFrames:
        """ConfigurationError where the dataset can never be one of frames."""
        file = self.file(path)
        seen, frames = self._frames.get((path, name)) or (-1, GrowingFrames(file, name, self._timeout))
        if seen != self._round:
            frames.look()
            self._frames[path, name] = (self._round, frames)
        self._frames.move_to_end((path, name))
        while len(self._frames) > _MAX_OPEN:
            self._forget(next(iter(self._frames)))
        return frames

    def _forget(self, key: tuple[str, str]) -> None:
        del self._frames[key]
        if all(path != key[0] for path, _ in self._frames):
            self._files.pop(key[0])[1].close()

    def close(self) -> None:
        for _, file in self._files.values():
            file.close()
        self._files.clear()
        self._frames.clear()
