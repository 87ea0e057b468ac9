"""Reads the DevEncoded format SMX_SPARSE_FRAME byte by byte, as a client would who has nothing but its description."""

from __future__ import annotations

import struct
from typing import Any


def read_smx(encoded: tuple[str, bytes]) -> dict[str, Any]:
    name, data = encoded[0], bytes(encoded[1])
    assert name == "SMX_SPARSE_FRAME"
    (width,) = struct.unpack_from("<H", data, 0)
    (height,) = struct.unpack_from("<H", data, 2)
    bins, pixels, frame = (struct.unpack_from("<I", data, at)[0] for at in (4, 8, 12))
    at, found = 16, {"width": width, "height": height, "frame": frame}
    for field, kind, count in (
        ("index", "i", pixels),
        ("intensity", "f", pixels),
        ("mean", "f", bins),
        ("std", "f", bins),
    ):
        found[field] = list(struct.unpack_from(f"<{count}{kind}", data, at))
        at += 4 * count
    assert at == len(data), "all of it has been read"
    return found
