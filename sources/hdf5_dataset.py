"""Frames of one HDF5 dataset: chunks are handed on as they are stored, the rest is sliced."""

from __future__ import annotations

from typing import Final

import h5py
import numpy as np

from ..processing.errors import ConfigurationError
from ..processing.frames import ArrayPayload, Payload
from .payload import EncodedPayload
from .pixels import converted, pixel_dtype

_FILTER_BITSHUFFLE: Final = 32008
_FILTER_LZ4: Final = 32004


class StoredFrames:
    """A dataset with two dimensions (one frame) or three (a stack); `where` names it in errors.

    Attributes
    ----------
    shape, dtype
        (rows, columns) of a frame and its pixel type as reduced.
    encoding : str or None
        How a chunk is encoded, where it is one frame that `EncodedPayload` decodes.

    Raises
    ------
    ConfigurationError
        Other dimensions, no pixels, a pixel type that is not supported.
    """

    def __init__(self, dataset: h5py.Dataset, where: str) -> None:
        if dataset.ndim not in (2, 3):
            raise ConfigurationError(
                f"{where}: has {dataset.ndim} dimensions, not 2 (a frame) or 3 (a stack of frames)"
            )
        self.dataset, self.where = dataset, where
        self.shape: tuple[int, int] = dataset.shape[-2:]
        self.dtype = pixel_dtype(dataset.dtype, where)
        if 0 in self.shape:
            raise ConfigurationError(f"{where}: holds no pixels (shape {dataset.shape})")
        self.encoding, self._element_size = self._chunk_encoding()

    @property
    def count(self) -> int:
        """Number of frames; it grows while the dataset is refreshed."""
        return self.dataset.shape[0] if self.dataset.ndim == 3 else 1

    def _chunk_encoding(self) -> tuple[str | None, int]:
        dataset = self.dataset
        frame = self.shape if dataset.ndim == 2 else (1, *self.shape)
        if dataset.is_virtual or dataset.chunks != frame or self.dtype != dataset.dtype.newbyteorder("="):
            return None, 0
        plan = dataset.id.get_create_plist()
        filters = [plan.get_filter(i) for i in range(plan.get_nfilters())]
        if not filters:
            return "none", 0
        identifier, _, options, _ = filters[0]
        if len(filters) == 1 and identifier == _FILTER_LZ4:
            return "lz4", 0
        if len(filters) == 1 and identifier == _FILTER_BITSHUFFLE and len(options) >= 5:
            return {2: "bslz4", 3: "bszstd"}.get(options[4]), options[2]
        return None, 0

    def payload(self, index: int) -> Payload:
        """Frame `index`; what was never written has the fill value."""
        chunk = self.chunk(index)
        if chunk is not None:
            return chunk
        stored = 0 if self.dataset.is_virtual else self.dataset.id.get_storage_size() // max(self.count, 1)
        return ArrayPayload(self.pixels(index), stored)

    def chunk(self, index: int) -> EncodedPayload | None:
        """Frame `index` as it is stored; None where it is not stored so, or was never written.

        Raises
        ------
        FrameError
            The chunk is not that of such a frame.
        """
        if self.encoding is None:
            return None
        offset = (0, 0) if self.dataset.ndim == 2 else (index, 0, 0)
        try:
            skipped_filters, data = self.dataset.id.read_direct_chunk(offset)
        except (OSError, RuntimeError, MemoryError):
            return None  # slicing gives the fill value, or says what is wrong
        encoding = "none" if skipped_filters else self.encoding
        return EncodedPayload(self.shape, self.dataset.dtype, encoding, data, self._element_size)

    def pixels(self, index: int) -> np.ndarray:
        """The pixels of frame `index` as `dtype`, C-contiguous. FrameError where a value does not fit."""
        return converted(self.dataset[()] if self.dataset.ndim == 2 else self.dataset[index], self.dtype)
