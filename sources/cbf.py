"""CBF images as PILATUS and EIGER detectors write them (miniCBF): whether they are whole, what their headers tell."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from typing import Any, BinaryIO, Final

from ..processing.errors import FrameError

#: behind it the binary section begins (CBF/imgCIF)
_MARKER: Final = b"\x0c\x1a\x04\xd5"
_BEGIN: Final = b"###CB"
_MAX_HEADER: Final = 1 << 20
_PIECE: Final = 1 << 20

_FLOAT: Final = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"


def check_cbf(stream: BinaryIO, path: str) -> bool:
    """Whether the checksum of the pixels could be verified; the stream is at the beginning of the file.

    Raises
    ------
    FrameError
        The pixels are not all there, or others than those the checksum was made of.
    """
    head = stream.read(_MAX_HEADER)
    if head[:5] != _BEGIN[: len(head)]:
        return False  # no CBF: those who read it will say so
    begin = head.find(_MARKER)
    size = re.search(rb"X-Binary-Size:\s*(\d{1,12})\b", head[:begin]) if begin >= 0 else None
    if size is None:
        raise FrameError(f"{path}: no whole CBF header")
    wanted = int(size[1])
    digest = hashlib.md5(usedforsecurity=False)
    data = head[begin + len(_MARKER) :][:wanted]
    there = 0
    while data and there < wanted:
        digest.update(data)
        there += len(data)
        data = stream.read(min(_PIECE, wanted - there))
    if there < wanted:
        raise FrameError(f"{path}: is cut off: {there} of {wanted} bytes of pixels are there")
    stated = re.search(rb"Content-MD5:\s*([A-Za-z0-9+/=]+)", head[:begin])
    if stated is None:
        return False
    if stated[1] != base64.b64encode(digest.digest()):
        raise FrameError(f"{path}: the pixels do not have the checksum that the header states")
    return True


def read_cbf_header(text: str) -> dict[str, Any]:
    """What the comment lines of a miniCBF header tell, under the names and in the units of
    `stream2_messages.StartMessage.metadata`; what is missing or not written as usual is left out."""
    pixel = _numbers(rf"Pixel_size\s+{_FLOAT}\s*m\s*x\s*{_FLOAT}\s*m", text)
    center = _numbers(rf"Beam_xy\s*[:=]?\s*\(\s*{_FLOAT}\s*,\s*{_FLOAT}\s*\)\s*pixels", text)
    cutoff = _numbers(rf"Count_cutoff\s*[:=]?\s*{_FLOAT}\s*counts", text)
    sensor = re.search(r"#\s*(\w+)\s+sensor\s*,\s*thickness", text)
    name = re.search(r"#\s*Detector\s*[:=]?[ \t]+(\S[^\r\n]*)", text)
    thickness = _positive(rf"sensor\s*,\s*thickness\s*[:=]?\s*{_FLOAT}\s*m\b", text)
    wavelength = _positive(rf"Wavelength\s*[:=]?\s*{_FLOAT}\s*A", text)
    values = {
        "wavelength": None if wavelength is None else wavelength * 1e-10,
        "distance": _positive(rf"Detector_distance\s*[:=]?\s*{_FLOAT}\s*m\b", text),
        "pixel_size": pixel[::-1] if pixel and min(pixel) > 0 else None,  # x, that is the fast axis, comes first
        "beam_center": center,
        "saturation_value": cutoff[0] if cutoff else None,
        "detector": name[1].strip() if name else None,
        "sensor_material": sensor[1] if sensor else None,
        "sensor_thickness": thickness,
    }
    return {key: value for key, value in values.items() if value is not None}


def _numbers(pattern: str, text: str) -> list[float] | None:
    found = re.search(r"#\s*" + pattern, text)
    values = [float(value) for value in found.groups()] if found else []
    return values if values and all(map(math.isfinite, values)) else None


def _positive(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    value = float(found[1]) if found else math.nan
    return value if 0 < value < math.inf else None
