"""The pixels of one frame as they are stored: compressed or not, little or big endian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ..processing.errors import FrameError
from ..processing.frames import PIXEL_DTYPES
from .codec import HEADER, decode

#: what the bytes of a frame may be encoded with; all but "none" and "lz4block" carry the 12-byte header of the HDF5
#: filters
ENCODINGS: Final = ("none", "bslz4", "lz4", "bszstd", "lz4block")

#: one byte of LZ4 stands for this many bytes at most
LZ4_BEST_RATIO: Final = 255

#: more pixels than any frame has: what announces more is broken, and nothing is allocated for it
MAX_PIXELS: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class EncodedPayload:
    """Pixels that are decoded when a buffer is there to take them; implements `Payload`.

    All sizes are checked here, against `shape`: a wrong frame is found out before anything is allocated.

    Parameters
    ----------
    shape : (int, int)
        Rows, columns.
    stored_dtype : numpy.dtype
        Of the pixels as stored, in either byte order.
    encoding : str
        One of `ENCODINGS`. "bslz4" is the chunk that the HDF5 filter 32008 writes, "lz4" that of 32004, "lz4block" a
        bare LZ4 block without any header.
    data : bytes-like
        As received; kept, not copied.
    element_size : int, optional
        Bytes that bitshuffle took as one element; 0 means the item size of `stored_dtype`.

    Raises
    ------
    FrameError
        The pixel type or the encoding is unknown, or the number of bytes does not fit the shape.
    """

    shape: tuple[int, int]
    stored_dtype: np.dtype
    encoding: str
    data: bytes | memoryview
    element_size: int = 0

    def __post_init__(self) -> None:
        if self.dtype not in PIXEL_DTYPES:
            accepted = ", ".join(dtype.name for dtype in PIXEL_DTYPES)
            raise FrameError(f"pixel type {self.dtype.name} is not supported (accepted: {accepted})")
        if self.encoding not in ENCODINGS:
            raise FrameError(f"unknown compression {self.encoding!r} (accepted: {', '.join(ENCODINGS)})")
        rows, columns = self.shape
        if not (rows > 0 and columns > 0 and rows * columns <= MAX_PIXELS):
            raise FrameError(f"impossible shape: {rows} × {columns} pixels")
        expected = self.raw_bytes
        if self.encoding == "none":
            if self.stored_bytes != expected:
                raise FrameError(f"wrong number of bytes: {self._sizes()}, but {self.stored_bytes} arrived")
            return
        if self.encoding == "lz4block":
            # it announces nothing: this much at least can be told before room is made for it
            if self.stored_bytes * LZ4_BEST_RATIO < expected:
                raise FrameError(f"truncated: {self._sizes()}, which {self.stored_bytes} bytes of LZ4 cannot hold")
            return
        if self.stored_bytes < HEADER.size:
            raise FrameError(f"truncated: {self.stored_bytes} bytes of {self.encoding}, its header alone has 12")
        announced, block = HEADER.unpack_from(self.data)
        if announced != expected:
            raise FrameError(
                f"wrong number of bytes: {self._sizes()}, but the {self.encoding} header announces {announced}"
            )
        if not 0 < block <= 1 << 30:  # the default of the HDF5 LZ4 filter, however small the frame is
            raise FrameError(f"corrupt {self.encoding} header: blocks of {block} bytes")
        size = self.element_size or self.stored_dtype.itemsize
        if size not in (1, 2, 4, 8) or expected % size:
            raise FrameError(f"corrupt {self.encoding} data: elements of {size} bytes")

    def _sizes(self) -> str:
        return f"{self.shape[0]} × {self.shape[1]} {self.dtype.name} are {self.raw_bytes} bytes"

    @property
    def dtype(self) -> np.dtype:
        """Of the decoded pixels: that of `stored_dtype` in the byte order of this computer."""
        return self.stored_dtype.newbyteorder("=")

    @property
    def stored_bytes(self) -> int:
        """Bytes as received."""
        return len(self.data)

    @property
    def raw_bytes(self) -> int:
        """Bytes when decoded."""
        return self.shape[0] * self.shape[1] * self.stored_dtype.itemsize

    @property
    def bslz4_chunk(self) -> bytes | memoryview | None:
        """The bytes as received, where an HDF5 dataset of `dtype` with the filter bitshuffle-LZ4 would hold the same,
        and a device may decode them; else None."""
        whole_pixels = self.element_size in (0, self.stored_dtype.itemsize)
        return self.data if self.encoding == "bslz4" and whole_pixels and self.stored_dtype.isnative else None

    def read_into(self, out: np.ndarray) -> None:
        """Decode into `out` (C-contiguous, of `shape` and `dtype`). Other threads run meanwhile.

        Raises
        ------
        FrameError
            The compressed bytes are corrupt.
        """
        if out.shape != self.shape or out.dtype != self.dtype:
            raise ValueError(f"the buffer is {out.dtype} {out.shape}, the frame {self.dtype} {self.shape}")
        if self.encoding == "none":
            # "equiv" swaps bytes where the stored order is not that of this computer
            np.copyto(out, np.frombuffer(self.data, self.stored_dtype).reshape(self.shape), casting="equiv")
            return
        try:
            decode(self.data, self.encoding, self.element_size or self.stored_dtype.itemsize, out)
        except ValueError as error:
            raise FrameError(f"corrupt {self.encoding} data of {len(self.data)} bytes: {error}") from None
        if not self.stored_dtype.isnative:
            out.byteswap(inplace=True)


def read_table(payload: EncodedPayload, what: str, shape: tuple[int, int] | None) -> np.ndarray:
    """A table that came with the start of a series, decoded; `shape` (rows, columns) is that of the images, where it
    must be the same.

    Raises
    ------
    FrameError
        It has another shape, or cannot be decoded.
    """
    if shape is not None and payload.shape != shape:
        raise FrameError(
            f"{what}: has the shape {payload.shape[0]} × {payload.shape[1]}, the image {shape[0]} × {shape[1]}"
        )
    values = np.empty(payload.shape, payload.dtype)
    payload.read_into(values)
    return values
