"""The message `DATA_ARRAY` in which LImA's `readImage` and LImA2's `getFrame` hand over an image."""

from __future__ import annotations

import struct

import numpy as np

MAGIC = 0x44544159  # "DTAY"

#: magic, version, bytes of the header, category, type; byte order, number of dimensions, six dimensions, six steps,
#: number of the image
HEADER = struct.Struct("<IHHIIHHHHHHHHIIIIIIQ")

#: an image, as opposed to a scalar, a spectrum or a stack
CATEGORY_IMAGE = 2

#: numbers of the pixel types
TYPE_CODES = {
    np.dtype(name): code
    for code, name in enumerate(
        ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")
    )
}


def data_array(pixels: np.ndarray, number: int, *, version: int = 3, extra_header: bytes = b"") -> bytes:
    """The message of an image (rows, columns), little-endian. Dimensions and steps begin with the fastest one, steps
    count pixels. `extra_header` is what versions above 3 append to the header."""
    rows, columns = pixels.shape
    dimensions = (columns, rows, 0, 0, 0, 0)
    steps = (1, columns, 0, 0, 0, 0)
    header = HEADER.pack(
        MAGIC,
        version,
        HEADER.size + len(extra_header),
        CATEGORY_IMAGE,
        TYPE_CODES[pixels.dtype.newbyteorder("=")],
        0,  # little-endian
        2,
        *dimensions,
        *steps,
        number,
    )
    return header + extra_header + pixels.astype(pixels.dtype.newbyteorder("<"), copy=False).tobytes()
