"""Writes kept frames whole, without loss: one chunk per frame, in the layout of NXmx."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from ..processing.errors import NotAllowedError
from ..processing.frames import Payload, ReducedFrame, RunInfo
from . import chunks, nexus
from .growing_dataset import GrowingDataset
from .hdf5_writer import PROGRAM, VERSION, Hdf5Writer, iso_time

NUMBERS_PER_CHUNK = 4096
IMAGE = {"interpretation": "image"}


class DenseWriter(Hdf5Writer):
    """Frames in `/entry/data/data` (n, rows, columns), their numbers in `/entry/data/frame_number` (n,).

    `begin` once, then `append`, then `close`. Parameters and errors of the constructor: see `Hdf5Writer`.
    """

    _images: GrowingDataset | None = None  # from the first frame on, which tells the pixel type

    def _write_fixed(self, info: RunInfo) -> None:
        self._h5.attrs["creator"] = f"{PROGRAM} {VERSION}"
        self._h5.attrs["default"] = "entry"
        entry = nexus.group(self._h5, "entry", "NXentry", default="data")
        entry["definition"] = "NXmx"
        entry["start_time"] = iso_time()
        nexus.write_process(entry, PROGRAM, info)
        self._data = nexus.group(entry, "data", "NXdata", signal="data")
        self._numbers = self._create_growing(self._data, "frame_number", np.int64, (), NUMBERS_PER_CHUNK)
        self._timestamps = self._create_growing(self._data, "timestamp", np.float64, (), NUMBERS_PER_CHUNK)
        self._timestamps.dataset.attrs["units"] = "s"
        detector = nexus.write_nxmx(entry, info, info.dtype)
        self._n_images = detector["detectorSpecific"].create_dataset("nimages", data=np.uint32(0))
        self._last_written = [self._timestamps, self._numbers]

    def append(self, frames: Sequence[ReducedFrame]) -> None:
        """Add the frames whose `dense` is not None. They are compressed later, in other threads: they must not change.

        Raises
        ------
        NotAllowedError
            The file is not open or has not begun.
        ValueError
            A frame has another shape or pixel type than the first; nothing of `frames` is written.
        HardwareError
            The disk refuses. What was visible before stays valid; nothing more can be appended.
        """
        dense = self._check_all(frames)
        if not dense:
            return
        with self._writing():
            if self._images is None:
                self._images = self._create_images(dense[0].dense.dtype, self._info.shape)
            for frame in dense:
                self._images.append_chunk(partial(_chunk, frame.dense))
            self._timestamps.append(np.array([frame.timestamp for frame in dense]))
            self._numbers.append(np.array([frame.number for frame in dense], dtype=np.int64))
            self._rows += len(dense)
            self._commit_if_due()

    def _check_all(self, frames: Sequence[ReducedFrame]) -> list[ReducedFrame]:
        """Those that are saved."""
        if self._info is None:
            raise NotAllowedError(f"{self.path}: begin() comes first")
        dense = [frame for frame in frames if frame.dense is not None]
        if dense:
            shape, dtype = self._info.shape, (self._images or dense[0].dense).dtype
            for frame in dense:
                if frame.dense.shape != shape or frame.dense.dtype != dtype:
                    raise ValueError(
                        f"frame {frame.number}: {frame.dense.shape} {frame.dense.dtype} does not fit {shape} {dtype}"
                    )
        return dense

    def _create_images(self, dtype: np.dtype, shape: tuple[int, int]) -> GrowingDataset:
        images = self._create_growing(self._data, "data", dtype, shape, 1, chunks.PIXELS)
        images.dataset.attrs.update(IMAGE)
        return images

    def _before_commit(self) -> None:
        if self._info is not None:
            self._n_images[()] = self._rows


def _chunk(image: Payload) -> chunks.Buffer:
    """A whole frame as it is stored; as it came where it came so."""
    if image.bslz4_chunk is not None:
        return image.bslz4_chunk
    pixels = np.empty(image.shape, image.dtype)
    image.read_into(pixels)
    return chunks.PIXELS.encode(pixels)
