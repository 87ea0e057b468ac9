"""Stream2 messages built with cbor2, compression by independent packages, and reading until something comes."""

from __future__ import annotations

import datetime
import struct
import time
from typing import Any

import bitshuffle
import cbor2
import lz4.block
import numpy as np
from framesieve.processing.frames import Event, Payload, Source
from framesieve.sources.stream2 import Stream2Source

TYPED_ARRAY_TAGS = {
    **{"|u1": 64, ">u2": 65, ">u4": 66, ">u8": 67, "<u2": 69, "<u4": 70, "<u8": 71},
    **{"|i1": 72, ">i2": 73, ">i4": 74, "<i2": 77, "<i4": 78, "<i8": 79},
    **{">f4": 81, ">f8": 82, "<f4": 85, "<f8": 86},
}
PATIENCE = 60.0  # s; what takes longer does not come
DATE = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


def encode(pixels: np.ndarray, encoding: str, block: int = 8192) -> bytes:
    """The bytes of `pixels` as the HDF5 filters and DECTRIS frame them."""
    if encoding == "none":
        return pixels.tobytes()
    if encoding == "lz4block":
        return lz4.block.compress(pixels.tobytes(), store_size=False)
    header = struct.pack(">QI", pixels.nbytes, block)
    if encoding == "bslz4":
        return header + bitshuffle.compress_lz4(np.ascontiguousarray(pixels), block // pixels.itemsize).tobytes()
    raw, blocks = pixels.tobytes(), []
    for start in range(0, len(raw), block):
        piece = raw[start : start + block]
        packed = lz4.block.compress(piece, store_size=False)
        packed = packed if len(packed) < len(piece) else piece
        blocks.append(struct.pack(">I", len(packed)) + packed)
    return header + b"".join(blocks)


def decode(data: bytes, encoding: str, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """The opposite of `encode`, with the packages bitshuffle and lz4."""
    if encoding == "none":
        return np.frombuffer(data, dtype).reshape(shape)
    if encoding == "lz4block":
        raw = lz4.block.decompress(data, uncompressed_size=shape[0] * shape[1] * dtype.itemsize)
        return np.frombuffer(raw, dtype).reshape(shape)
    size, block = struct.unpack_from(">QI", data)
    if encoding == "bslz4":
        return bitshuffle.decompress_lz4(np.frombuffer(data, np.uint8)[12:], shape, dtype, block // dtype.itemsize)
    raw, position = b"", 12
    while len(raw) < size:
        (length,) = struct.unpack_from(">I", data, position)
        wanted = min(block, size - len(raw))
        piece = data[position + 4 : position + 4 + length]
        raw += piece if length == wanted else lz4.block.decompress(piece, uncompressed_size=wanted)
        position += 4 + length
    return np.frombuffer(raw, dtype).reshape(shape)


def pixels_of(payload: Payload) -> np.ndarray:
    out = np.empty(payload.shape, payload.dtype)
    payload.read_into(out)
    return out


def random_pixels(dtype: str, shape: tuple[int, int] = (37, 53), seed: int = 0) -> np.ndarray:
    """Counts with the extreme values of the type among them."""
    pixels = np.random.default_rng(seed).poisson(3, shape).astype(dtype)
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    pixels[0, 0], pixels[0, 1] = limits.min, limits.max
    return pixels


def typed_array(pixels: np.ndarray, encoding: str = "none") -> cbor2.CBORTag:
    """Multi-dimensional typed array of the dtype (and byte order) of `pixels`."""
    content: Any = encode(pixels, encoding)
    if encoding != "none":
        content = cbor2.CBORTag(56500, [encoding, pixels.itemsize if encoding == "bslz4" else 0, content])
    tag = TYPED_ARRAY_TAGS[pixels.dtype.str]
    return cbor2.CBORTag(40, [list(pixels.shape), cbor2.CBORTag(tag, content)])


def dumps(fields: dict[str, Any]) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(55799, fields))


def start(shape: tuple[int, int] = (37, 53), dtype: str = "uint16", series: int = 1, **fields: Any) -> bytes:
    return dumps(
        {
            "type": "start",
            "series_id": series,
            "series_unique_id": f"unique-{series}",
            "arm_date": DATE,
            "beam_center_x": 26.5,
            "beam_center_y": 18.25,
            "channels": ["threshold_1"],
            "detector_description": "Dectris EIGER2 Si 500K",
            "image_dtype": dtype,
            "image_size_x": shape[1],
            "image_size_y": shape[0],
            "incident_wavelength": 1.0332,
            "number_of_images": 10,
            "pixel_size_x": 7.5e-05,
            "pixel_size_y": 7.5e-05,
            "saturation_value": 65534,
            "threshold_energy": {"threshold_1": 6000.0},
            "user_data": {"sample": "Größe 💙"},
        }
        | fields
    )


def image(number: int, data: np.ndarray | dict[str, Any], series: int = 1, encoding: str = "none", **fields) -> bytes:
    if isinstance(data, np.ndarray):
        data = {"threshold_1": typed_array(data, encoding)}
    return dumps(
        {
            "type": "image",
            "series_id": series,
            "series_unique_id": f"unique-{series}",
            "image_id": number,
            "real_time": [499995, 50000000],
            "series_date": DATE,
            "start_time": [number * 500000, 50000000],
            "stop_time": [number * 500000 + 499995, 50000000],
            "user_data": [1, "💙"],
            "data": data,
        }
        | fields
    )


def end(series: int = 1) -> bytes:
    return dumps({"type": "end", "series_id": series, "series_unique_id": f"unique-{series}"})


def feed(source: Stream2Source, *messages: bytes) -> list[Any]:
    """The events that messages give, without a network in between."""
    return [event for message in messages for event in source.handle([memoryview(message)])]


def read_until(source: Source, kind: type, count: int = 1, timeout: float = PATIENCE) -> list[Event]:
    """The events up to and with so many of a kind."""
    events, deadline = [], time.monotonic() + timeout
    while time.monotonic() < deadline:
        event = source.read(0.2)
        if event is not None:
            events.append(event)
            count -= isinstance(event, kind)
            if count == 0:
                return events
    raise AssertionError(f"no {kind.__name__} within {timeout} s, but {events}")
