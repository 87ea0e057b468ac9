"""The messages of a DECTRIS stream2: CBOR maps as in DECTRIS' documentation of Stream V2.

Typed arrays are those of RFC 8746; tag 56500 stands for a compressed byte string.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import cbor2
import numpy as np

from .detector_layout import saturation
from .frame_inputs import DetectorInfo

TAG_MULTI_DIM_ARRAY = 40
TAG_COMPRESSED = 56500
TAG_SELF_DESCRIBED = 55799  # detectors put it in front of every message
TAG_TYPED_ARRAY = {
    np.dtype("uint8"): 64,
    np.dtype("<u2"): 69,
    np.dtype("<u4"): 70,
    np.dtype("<i2"): 77,
    np.dtype("<i4"): 78,
    np.dtype("<f4"): 85,
}

#: denominator of the times in image messages, Hz
TIME_BASE = 50_000_000


def multi_dim_array(data: bytes, shape: Sequence[int], dtype: np.dtype, encoding: str = "none") -> cbor2.CBORTag:
    """An array whose bytes are `data`, encoded by `encoding` ("bslz4", "lz4" or "none")."""
    content: Any = data
    if encoding != "none":
        # the modifier is bitshuffle's element size; plain LZ4 has none and sends 0
        modifier = dtype.itemsize if encoding == "bslz4" else 0
        content = cbor2.CBORTag(TAG_COMPRESSED, [encoding, modifier, data])
    return cbor2.CBORTag(TAG_MULTI_DIM_ARRAY, [list(shape), cbor2.CBORTag(TAG_TYPED_ARRAY[dtype], content)])


def unique_id() -> str:
    """An identifier of a series as detectors make them: 26 characters, time first (a ULID)."""
    number = (int(time.time() * 1000) << 80) | secrets.randbits(80)
    return "".join("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[(number >> shift) & 31] for shift in range(125, -1, -5))


def _plain(array: np.ndarray) -> cbor2.CBORTag:
    return multi_dim_array(np.ascontiguousarray(array).tobytes(), array.shape, array.dtype)


def start_message(
    info: DetectorInfo,
    *,
    series_id: int,
    series_unique_id: str,
    channels: Sequence[str],
    number_of_images: int,
    frame_time: float,
    date: datetime,
    header_detail: str,
    user_data: Any,
) -> bytes:
    """The start message. `header_detail` "basic" leaves out flat field and pixel mask, "all" has them.

    Numbers that are not known are sent as 0, as an unconfigured detector does.
    """

    def known(value: float) -> float:
        return value if math.isfinite(value) else 0.0

    detailed = header_detail == "all"
    mask = info.pixel_mask if info.pixel_mask is not None else np.zeros(info.shape, np.uint32)
    message: dict[str, Any] = {
        "type": "start",
        "series_id": series_id,
        "series_unique_id": series_unique_id,
        "arm_date": date,
        "beam_center_x": known(info.beam_center[0]),
        "beam_center_y": known(info.beam_center[1]),
        "channels": list(channels),
        "count_time": frame_time,
        "countrate_correction_enabled": False,
        "detector_description": info.description,
        "detector_serial_number": "SIM-0001",
        "detector_translation": [0.0, 0.0, -known(info.distance)],
        "flatfield_enabled": False,
        "frame_time": frame_time,
        "goniometer": {"omega": {"increment": 0.0, "start": 0.0}},
        "image_dtype": info.dtype.name,
        "image_size_x": info.shape[1],
        "image_size_y": info.shape[0],
        "incident_energy": known(info.energy),
        "incident_wavelength": known(info.wavelength),
        "number_of_images": number_of_images,
        "pixel_mask_enabled": info.pixel_mask is not None,
        "pixel_size_x": known(info.pixel_size),
        "pixel_size_y": known(info.pixel_size),
        "saturation_value": saturation(info.dtype),
        "sensor_material": "Si",
        "sensor_thickness": 450e-6,
        "threshold_energy": {channel: known(info.energy) * 0.5 * (1 + i) for i, channel in enumerate(channels)},
        "user_data": user_data,
        "virtual_pixel_interpolation_enabled": False,
    }
    if detailed:
        flatfield, pixel_mask = _plain(np.ones(info.shape, np.float32)), _plain(mask)
        message["flatfield"] = dict.fromkeys(channels, flatfield)
        message["pixel_mask"] = dict.fromkeys(channels, pixel_mask)
    return _encode(message)


def image_message(
    data: Mapping[str, cbor2.CBORTag],
    *,
    image_id: int,
    series_id: int,
    series_unique_id: str,
    date: datetime,
    start: float,
    exposure: float,
    user_data: Any,
) -> bytes:
    """An image message; `data` has one array per channel, `start` and `exposure` are in seconds after `date`."""
    first, length = round(start * TIME_BASE), round(exposure * TIME_BASE)
    message = _encode(
        {
            "type": "image",
            "series_id": series_id,
            "series_unique_id": series_unique_id,
            "image_id": image_id,
            "real_time": [length, TIME_BASE],
            "series_date": date,
            "start_time": [first, TIME_BASE],
            "stop_time": [first + length, TIME_BASE],
            "user_data": user_data,
            "data": {},
        }
    )
    # The data come last. They are put in behind the rest, instead of the byte that says "no data": cbor2 would copy
    # megabytes three times.
    parts = [message[:-1], _head(5, len(data))]
    for channel, array in data.items():
        parts += [cbor2.dumps(channel), *_array_parts(array)]
    return b"".join(parts)


def _array_parts(array: cbor2.CBORTag) -> list[bytes]:
    """What `multi_dim_array` made, encoded, its pixels not copied."""
    shape, typed = array.value
    content, pixels = b"", typed.value
    if isinstance(pixels, cbor2.CBORTag):
        encoding, modifier, pixels = pixels.value
        content = cbor2.CBORTag(TAG_COMPRESSED, [encoding, modifier, b""])
    empty = cbor2.dumps(cbor2.CBORTag(TAG_MULTI_DIM_ARRAY, [shape, cbor2.CBORTag(typed.tag, content)]))
    return [empty[:-1], _head(2, len(pixels)), pixels]


def _head(major: int, argument: int) -> bytes:
    """The first bytes of a CBOR item (RFC 8949, section 3), in their shortest form."""
    if argument < 24:
        return bytes([major << 5 | argument])
    power = next(power for power in range(4) if argument < 1 << (8 << power))
    return bytes([major << 5 | 24 + power]) + argument.to_bytes(1 << power, "big")


def end_message(*, series_id: int, series_unique_id: str) -> bytes:
    """The end message."""
    return _encode({"type": "end", "series_id": series_id, "series_unique_id": series_unique_id})


def _encode(message: dict[str, Any]) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(TAG_SELF_DESCRIBED, message))
