"""`DATA_ARRAY`: how LImA's `readImage` and LImA2's `getFrame` hand over an image.

A header, little-endian and without gaps, and the pixels behind it:

    uint32 magic, uint16 version, uint16 bytes of the header, uint32 category, uint32 pixel type,
    uint16 byte order of the pixels (0 little, 1 big), uint16 number of dimensions, 6 × uint16 dimensions, the fastest
    first, 6 × uint32 steps, and from version 3 on uint64 number of the image; version 4 appends more

LImA's server counts steps in bytes, its manual in pixels, and LImA2 does not fill them in: all that is asked of them is
that rows follow each other without gaps.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..processing.errors import FrameError
from .payload import MAX_PIXELS

#: names under which Tango hands it over: of LImA and LImA2, and of newer LImA2
ENCODINGS: Final = ("DATA_ARRAY", "DENSE_FRAME")

MAGIC: Final = 0x44544159  # "DTAY"
HEADER: Final = struct.Struct("<IHHII HH 6H 6I Q")

#: the version from which on the header has the number of the image
NUMBERED_SINCE: Final = 3

#: numbers of the categories that hold an image: stack of scalars (LImA2 says so of images), image, stack of images
CATEGORIES: Final = {0: "scalar stack", 2: "image", 4: "image stack"}

#: pixel types by their number
TYPES: Final = tuple(
    np.dtype(name)
    for name in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
)


@dataclass(frozen=True, slots=True)
class DataArray:
    """One image: `pixels` (rows, columns) is a view of the message, in its byte order; `number` None where the message
    does not tell it."""

    number: int | None
    pixels: np.ndarray


def parse_data_array(encoding: str, data: bytes | memoryview) -> DataArray:
    """Read what a command of type DevEncoded gave: the name of the encoding, and the bytes.

    Raises
    ------
    FrameError
        What is wrong with it.
    """
    if encoding not in ENCODINGS:
        raise FrameError(f"the encoding is {encoding[:40]!r} (accepted: {', '.join(ENCODINGS)})")
    if len(data) < HEADER.size:
        raise FrameError(f"truncated DATA_ARRAY: {len(data)} bytes, its header alone has {HEADER.size}")
    magic, version, header_size, category, code, order, n_dimensions, *sizes, number = HEADER.unpack_from(data)
    dimensions, steps = sizes[:6], sizes[6:]
    if magic != MAGIC:
        raise FrameError(f"no DATA_ARRAY: it begins with {magic:#010x}, not {MAGIC:#010x}")
    if version < 1:
        raise FrameError(f"DATA_ARRAY of version {version}: 1 or later is expected")
    if not HEADER.size <= header_size <= len(data):
        raise FrameError(
            f"DATA_ARRAY with a header of {header_size} bytes: {HEADER.size} to {len(data)}, all that came, is expected"
        )
    if category not in CATEGORIES:
        accepted = ", ".join(f"{key} {name}" for key, name in CATEGORIES.items())
        raise FrameError(f"DATA_ARRAY of category {category} holds no image (accepted: {accepted})")
    if code >= len(TYPES):
        raise FrameError(f"DATA_ARRAY with pixel type {code}: 0 to {len(TYPES) - 1} are known")
    if order > 1:
        raise FrameError(f"DATA_ARRAY with byte order {order}: 0 (little-endian) or 1 (big-endian) is expected")
    if not 2 <= n_dimensions <= 6 or any(size != 1 for size in dimensions[2:n_dimensions]):
        raise FrameError(
            f"DATA_ARRAY of dimensions {dimensions[:n_dimensions]}: one image of columns, rows is expected"
        )
    columns, rows = dimensions[:2]
    if not 0 < rows * columns <= MAX_PIXELS:
        raise FrameError(f"DATA_ARRAY of {rows} × {columns} pixels: impossible")
    dtype = TYPES[code].newbyteorder(">" if order else "<")
    _check_steps(steps[:2], columns, dtype)
    expected = rows * columns * dtype.itemsize
    if len(data) - header_size != expected:
        what = "truncated" if len(data) - header_size < expected else "overlong"
        raise FrameError(
            f"{what} DATA_ARRAY: {rows} × {columns} {TYPES[code].name} are {expected} bytes, "
            f"{len(data) - header_size} came"
        )
    pixels = np.frombuffer(data, dtype, rows * columns, header_size).reshape(rows, columns)
    return DataArray(number if version >= NUMBERED_SINCE else None, pixels)


def _check_steps(steps: list[int], columns: int, dtype: np.dtype) -> None:
    """That rows follow each other without gaps, where it is told."""
    pixel, row = steps
    is_told = (pixel, row) not in ((0, 0), (1, 1))
    if is_told and (pixel not in (1, dtype.itemsize) or row != pixel * columns):
        raise FrameError(
            f"DATA_ARRAY with steps {pixel}, {row}: rows of {columns} pixels of {dtype.itemsize} bytes without gaps "
            f"have 1, {columns} or {dtype.itemsize}, {dtype.itemsize * columns}"
        )
