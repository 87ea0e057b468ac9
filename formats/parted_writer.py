"""Files of so many frames, each complete in itself, and a master that joins them.

    <name>.h5           ledger, parameter sets, curves, peaks, geometry; pixels as virtual datasets
    <name>_000001.h5    the first frames, with their pixels and all the rest
    <name>_000002.h5    …

The master is as safe as any other file: a part is brought up to date before the master speaks of its frames.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ..processing.errors import ConfigurationError, HardwareError
from ..processing.frames import ReducedFrame, RunInfo
from ..processing.parameters import ParameterSet
from . import layout
from .chunks import Buffer
from .dense_writer import IMAGE, DenseWriter
from .disk import Disk
from .hdf5_writer import Hdf5Writer
from .joined import Joined, JoinedDatasets
from .sparse_writer import INDEX_NAME, SparseWriter

PARTS_PER_CHUNK = 64


def part_path(master: Path, number: int) -> Path:
    """The file of part `number`, which counts from 1."""
    return master.with_name(f"{master.stem}_{number:06d}{master.suffix}")


def check_parts(master: Path, *, overwrite: bool, inputs: Sequence[str] = ()) -> None:
    """Parts of another run of this name may lie there only if they may be overwritten, and none may be an input.

    Raises
    ------
    ConfigurationError
    """
    pattern = re.compile(re.escape(master.stem) + r"_[0-9]{6,}" + re.escape(master.suffix))
    for name in inputs:
        path = Path(name)
        if pattern.fullmatch(path.name) and path.parent.resolve() == master.parent.resolve():
            raise ConfigurationError(f"{path} is read by this run, whose files have such names: name another file")
    if overwrite or not master.parent.is_dir():
        return
    for path in sorted(master.parent.iterdir()):
        if pattern.fullmatch(path.name):
            raise ConfigurationError(
                f"{path} exists; choose another prefix or number, or the overwrite policy 'overwrite'"
            )


class _Parted(Hdf5Writer):
    """What masters have in common: how parts begin and end. Comes before the class of a file in one piece."""

    _part_class: type[Hdf5Writer]

    def __init__(
        self, path: str | os.PathLike[str], frames_per_file: int, *, overwrite: bool = False, disk: Disk | None = None
    ) -> None:
        self._frames_per_file = frames_per_file
        self._overwrite = overwrite
        self._part: Hdf5Writer | None = None
        self._count = 0  # of the parts
        self._finished_bytes = 0
        super().__init__(path, overwrite=overwrite, disk=disk)

    @property
    def bytes_written(self) -> int:
        """Of all files, as readers see them."""
        part = self._part
        return super().bytes_written + self._finished_bytes + (part.bytes_written if part is not None else 0)

    def append(self, frames: Sequence[ReducedFrame]) -> None:
        self._check_all(frames)  # what does not fit is refused before any of it is written
        group: list[ReducedFrame] = []
        room = self._frames_per_file - self._part.rows if self._part is not None else 0
        for frame in frames:
            if self._is_saved(frame):
                if room == 0:
                    self._append_group(group)
                    group, room = [], self._frames_per_file
                    self._next_part()
                room -= 1
            group.append(frame)
        self._append_group(group)

    def _append_group(self, frames: list[ReducedFrame]) -> None:
        """To the part in hand, then to the master."""
        if frames:
            with self._writing():
                self._part.append(frames)
            super().append(frames)

    def _next_part(self) -> None:
        with self._writing():
            self._end_part()
            self._commit()  # should there be no next one
            self._begin_part(self._info)
            self._commit()
            self._joined.forget()

    def _begin_part(self, info: RunInfo) -> None:
        path = part_path(self._path, self._count + 1)
        self._part = self._part_class(path, overwrite=self._overwrite, hidden=True, disk=self._disk)
        self._part.begin(info)
        self._count += 1
        row = np.zeros(1, layout.PART_DTYPE)
        row["file"] = layout.encode_texts([path.name], layout.PART_DTYPE["file"])
        row["first_row"] = self._rows
        self._parts.append(row)

    def _end_part(self) -> None:
        self._part.close()
        self._finished_bytes, self._part = self._finished_bytes + self._part.bytes_written, None

    def _before_commit(self) -> None:
        super()._before_commit()
        if self._part is not None and not self._part.closed:
            self._part.flush()

    def close(self) -> None:
        if self._closed:
            return
        told = self._told
        failure = None
        if self._part is not None:
            try:
                self._part.close()
            except HardwareError as error:
                failure = error
                self._file.error, self._told = self._file.error or OSError(errno.EIO, str(error)), True
        super().close()
        if failure is not None and not told:
            raise failure

    def remove(self) -> None:
        super().remove()
        if self._part is not None and not self._part.rows:
            with contextlib.suppress(HardwareError):
                self._part.remove()

    def _is_saved(self, frame: ReducedFrame) -> bool:
        """Whether it takes a row of a part."""
        return frame.verdict.is_saved


class PartedSparseWriter(_Parted, SparseWriter):
    """As `SparseWriter`, with the pixels in files of `frames_per_file` saved frames."""

    _part_class = SparseWriter
    _newest_set: tuple[ParameterSet, int, float] | None = None

    def _create_pixels(self, frames: h5py.Group, info: RunInfo) -> None:
        entry = frames.parent
        self._parts = self._create_growing(entry, "parts", layout.PART_DTYPE, (), PARTS_PER_CHUNK)
        datasets = [
            Joined(f"{frames.name}/index", np.dtype(np.uint32), attributes={"long_name": INDEX_NAME}),
            Joined(f"{frames.name}/intensity", np.dtype(info.dtype)),
        ]
        self._joined = JoinedDatasets(entry, "pixels_of_parts", frames, datasets)
        self._first_pixel = 0  # of the part in hand
        self._begin_part(info)

    def _begin_part(self, info: RunInfo) -> None:
        super()._begin_part(info)
        if self._newest_set is not None:  # what comes was, as a rule, reduced with it
            self._part.add_parameter_set(*self._newest_set)
        length = self._pixels - self._first_pixel  # of the part before
        self._first_pixel = self._pixels
        self._joined.add(self._part.path.name, [length, length])

    def _append_pixels(self, saved: Sequence[ReducedFrame]) -> None:
        """They are in the part."""

    def add_parameter_set(self, pset: ParameterSet, first_frame: int, time: float) -> None:
        super().add_parameter_set(pset, first_frame, time)
        self._newest_set = (pset, first_frame, time)
        with self._writing():
            self._part.add_parameter_set(pset, first_frame, time)


class PartedDenseWriter(_Parted, DenseWriter):
    """As `DenseWriter`, with the images in files of `frames_per_file` frames."""

    _part_class = DenseWriter
    _joined: JoinedDatasets | None = None  # from the first frame on, which tells the pixel type

    def _write_fixed(self, info: RunInfo) -> None:
        super()._write_fixed(info)
        self._parts = self._create_growing(self._data.parent, "parts", layout.PART_DTYPE, (), PARTS_PER_CHUNK)
        self._begin_part(info)

    def _create_images(self, dtype: np.dtype, shape: tuple[int, int]) -> _ImagesOfParts:
        images = Joined(layout.DENSE_DATA, dtype, shape, IMAGE)
        self._joined = JoinedDatasets(self._data.parent, "images_of_parts", self._data, [images])
        self._joined.add(self._part.path.name, [0])
        return _ImagesOfParts(dtype)

    def _begin_part(self, info: RunInfo) -> None:
        super()._begin_part(info)
        if self._joined is not None:
            self._joined.add(self._part.path.name, [self._frames_per_file])

    def _is_saved(self, frame: ReducedFrame) -> bool:
        return frame.dense is not None


@dataclass(frozen=True, slots=True)
class _ImagesOfParts:
    """In place of the dataset of a file in one piece."""

    dtype: np.dtype

    def append_chunk(self, encode: Callable[[], Buffer]) -> None:
        """It is in the part."""
