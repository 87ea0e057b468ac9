"""Frames from files, one after another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

import h5py

from ..processing.errors import ConfigurationError, FrameError
from ..processing.frames import BrokenFrame, Event, Frame, SeriesEnd, SeriesStart
from .hdf5 import Hdf5Frames
from .images import FabioFrames, count_frames
from .inputs import expanded, numbers_in, split_spec


class FileSource:
    """The frames of one file or of several as one series; implements `Source`.

    Frames are numbered 0, 1, 2 … over all files, unless every file brings its own numbers (`frame_number`,
    see `Hdf5Frames`) and these increase from file to file, or several files hold one image each and their names end
    in increasing numbers behind the same text. A frame that cannot be read is a `BrokenFrame`.

    Parameters
    ----------
    inputs : str or sequence of str
        `PATH[::DATASET]` each. HDF5 (a stack, NXmx, an Eiger master) or an image that fabio reads (CBF, also
        .gz, TIFF, EDF …). A path with * or ? stands for the files that match, a folder for the HDF5 files or images in
        it, in the natural order of their names (x_2 before x_10), without the data files that a master among them has.
    """

    live = False

    def __init__(self, inputs: str | Sequence[str]) -> None:
        self.inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        self._current: Hdf5Frames | FabioFrames | None = None
        self._forget()

    @classmethod
    def from_url(cls, url: str) -> FileSource:
        """Of `file:PATH[::DATASET]`; ConfigurationError where no path is given."""
        rest = url.removeprefix("file:")
        # file:///data/x.h5 is the usual way to write an absolute path as a URL
        path = rest.removeprefix("//") if rest.startswith("///") else rest
        if not path.partition("::")[0]:
            raise ConfigurationError(f"source {url!r} names no file (file:PATH[::DATASET])")
        return cls(path)

    @property
    def sends_bslz4(self) -> bool:
        """Of the file that is read now."""
        return isinstance(self._current, Hdf5Frames) and self._current.is_bslz4

    def _forget(self) -> None:
        self._files: list[tuple[str, str | None]] = []
        self._counts: list[int] = []
        self._numbers: list[int] | None = None
        self._file = 0  # index of the file that is read
        self._frame = 0  # the next frame in it
        self._position = 0  # the next frame of the series
        self._start: SeriesStart | None = None
        self._ended = False

    def open(self) -> SeriesStart:
        """Look at every file; `read` begins with the first frame.

        Raises
        ------
        ConfigurationError
            A file is missing or cannot be read, or does not fit to the first one.
        """
        self.close()
        self._forget()
        self._files = [split_spec(spec) for given in self.inputs for spec in expanded(given)]
        if not self._files:
            raise ConfigurationError("no input file is named")
        first = self._current = _open_frames(*self._files[0])
        try:
            self._counts, numbers = [first.count], [first.numbers]
            for path, dataset in self._files[1:]:
                if not h5py.is_hdf5(path):
                    self._counts.append(_count(path))
                    numbers.append(None)
                    continue
                frames = _open_frames(path, dataset)
                frames.close()
                if (frames.shape, frames.dtype) != (first.shape, first.dtype):
                    raise ConfigurationError(f"{path}: {_described(frames)}, but {first.path} has {_described(first)}")
                self._counts.append(frames.count)
                numbers.append(frames.numbers)
        except BaseException:
            self.close()
            raise
        paths = [path for path, _ in self._files]
        self._numbers = _joined(numbers)
        if isinstance(first, FabioFrames) and len(paths) == sum(self._counts) > 1:
            self._numbers = numbers_in(paths)
        mask, flat, problems = first.images()
        self._start = SeriesStart(
            os.path.basename(first.path),
            first.shape,
            first.dtype,
            sum(self._counts),
            first.metadata | {"files": paths},
            pixel_mask=mask,
            flatfield=flat,
            problems=problems,
        )
        return self._start

    def read(self, timeout: float = 0.0) -> Event | None:
        """The next event, at once; None when the series is over."""
        if self._start is None:
            raise ConfigurationError("the file is not open")
        if self._ended:
            return None
        if self._file == len(self._files):
            self._ended = True
            return SeriesEnd(self._start.series_id)
        number = self._numbers[self._position] if self._numbers is not None else self._position
        event: Event
        try:
            if self._current is None:
                self._current = self._open_next()
            event = self._read_frame(self._current, number)
        except (FrameError, ConfigurationError) as error:
            event = BrokenFrame(number, self._start.series_id, str(error))
        self._frame += 1
        self._position += 1
        if self._frame == self._counts[self._file]:
            self._release()
            self._file, self._frame = self._file + 1, 0
        return event

    def _read_frame(self, frames: Hdf5Frames | FabioFrames, number: int) -> Frame:
        index, values, name = self._frame, frames.values, self._start.series_id
        payload = frames.payload(index)
        if values is None:
            return Frame(number, name, payload)
        return Frame(number, name, payload, values.timestamp(index), values.monitor(index), values.position(index))

    def _open_next(self) -> Hdf5Frames | FabioFrames:
        frames = _open_frames(*self._files[self._file])
        if (frames.shape, frames.dtype) != (self._start.shape, self._start.dtype):
            frames.close()
            start = self._start
            raise FrameError(
                f"{frames.path}: {_described(frames)}, but the series has "
                f"{start.shape[0]} × {start.shape[1]} {start.dtype.name}"
            )
        return frames

    def _release(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None

    def close(self) -> None:
        """Close the file; frames that were read stay valid."""
        self._release()
        self._start = None


def _open_frames(path: str, dataset: str | None) -> Hdf5Frames | FabioFrames:
    if h5py.is_hdf5(path):
        return Hdf5Frames(path, dataset)
    if dataset is not None:
        raise ConfigurationError(f"{path}: is no HDF5 file, it has no dataset {dataset!r}")
    return FabioFrames(path)


def _count(path: str) -> int:
    """How many frames an image file holds; of one that cannot be read that is said when it is its turn."""
    try:
        return count_frames(path)
    except ConfigurationError:
        return 1


def _joined(numbers: list[list[int] | None]) -> list[int] | None:
    """The files' own frame numbers one after another, if all have them and they go on increasing."""
    if any(own is None for own in numbers):
        return None
    joined = [number for own in numbers for number in own]
    return joined if all(a < b for a, b in pairwise(joined)) else None


def _described(frames: Hdf5Frames | FabioFrames) -> str:
    return f"{frames.shape[0]} × {frames.shape[1]} {frames.dtype.name}"
