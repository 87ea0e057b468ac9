"""A sparse frame in one piece, as LImA2 gives it to its clients: the DevEncoded format `SMX_SPARSE_FRAME`.

Little endian, nothing between the parts:

    uint16 width, height; uint32 bins, pixels, frame
    int32 index[pixels]             y · width + x, ascending
    float32 intensity[pixels]
    float32 background_avg[bins]    NaN where a bin is empty
    float32 background_std[bins]
"""

from __future__ import annotations

import struct

from ..processing.errors import OutOfRangeError
from ..processing.frames import ReducedFrame

FORMAT = "SMX_SPARSE_FRAME"

_HEADER = struct.Struct("<HHIII")
NO_FRAME = bytes(_HEADER.size)  # a frame without pixels and bins, of a detector without pixels
_LARGEST_SIDE = 0xFFFF


def encode(frame: ReducedFrame, shape: tuple[int, int]) -> bytes:
    """A reduced frame of a detector of `shape` (rows, columns); of its number the lower 32 bits.

    Raises
    ------
    OutOfRangeError
        The detector has more rows or columns than the format can say.
    """
    rows, columns = shape
    if max(shape) > _LARGEST_SIDE:
        raise OutOfRangeError(
            f"{rows} × {columns} pixels: SMX_SPARSE_FRAME has room for {_LARGEST_SIDE} rows and columns"
        )
    bins = frame.background_mean.size
    arrays = (
        frame.index.astype("<i4"),
        frame.intensity.astype("<f4"),
        frame.background_mean.astype("<f4"),
        frame.background_std.astype("<f4"),
    )
    header = _HEADER.pack(columns, rows, bins, frame.index.size, frame.number & 0xFFFFFFFF)
    return header + b"".join(array.tobytes() for array in arrays)
