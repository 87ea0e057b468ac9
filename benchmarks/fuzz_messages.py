"""Valid messages of each protocol, small ones from the simulators and recorded ones, and how they are changed."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..simulators import sls_messages, stream1_messages, stream2_messages
from ..simulators.compression import compress
from ..simulators.data_array_messages import data_array
from ..simulators.frame_inputs import DetectorInfo
from ..simulators.recorded import read_stream1

Parts = list[bytes]

SHAPE = (37, 53)
DATE = datetime(2026, 3, 1, 13, tzinfo=UTC)

#: values that a number or a text of JSON may be mistaken for
ODD_JSON = [
    b"null", b"-1", b"1e999", b"NaN", b"true", b"[]", b"{}", b'""', b"9" * 400, b'"\\ud800"', str(1 << 63).encode(),
    b"0", b"4294967295", b"[[[[", b'"a', b"-0.0",
]  # fmt: skip

#: bytes that begin items of CBOR: lengths and numbers that are far too large, breaks, tags
ODD_CBOR = [
    *(bytes.fromhex(text) for text in ("9f", "bf", "ff", "f6", "d828", "d9dcb4", "60", "40", "80", "a0", "f97e00")),
    *(bytes([head]) + b"\xff" * 8 for head in (0x1B, 0x3B, 0x5B, 0x7B, 0x9B, 0xBB)),
    bytes.fromhex("bb0000000100000000"),
    bytes.fromhex("fb7ff0000000000000"),
]


def mutate(parts: Parts, others: list[Parts], rng: random.Random) -> Parts:
    """The message, changed in one to three ways; `others` are messages of which pieces may be taken."""
    parts = list(parts)
    for _ in range(1 if rng.random() < 0.8 else rng.randint(2, 3)):
        parts = rng.choice(_WAYS)(parts, others, rng) or [b""]
    return parts


def _place(parts: Parts, rng: random.Random) -> int:
    """Mostly a part with structure in it, seldom one with pixels."""
    small = [i for i, part in enumerate(parts) if len(part) < 4096]
    return rng.choice(small) if small and rng.random() < 0.8 else rng.randrange(len(parts))


def _position(part: bytes, rng: random.Random) -> int:
    """Mostly near the beginning or the end, where the structure is."""
    size, reach = len(part) or 1, 700
    if size > reach and rng.random() < 0.8:
        at = rng.randrange(reach)
        return at if rng.random() < 0.8 else size - 1 - at
    return rng.randrange(size)


def _with(parts: Parts, place: int, part: bytes) -> Parts:
    return [*parts[:place], part, *parts[place + 1 :]]


def _change_bytes(parts: Parts, _: list[Parts], rng: random.Random) -> Parts:
    place = _place(parts, rng)
    data = bytearray(parts[place])
    for _ in range(rng.randint(1, 4) if data else 0):
        at = _position(data, rng)
        data[at] = rng.choice((rng.randrange(256), 0, 255, data[at] ^ 1 << rng.randrange(8)))
    return _with(parts, place, bytes(data))


def _change_pixels(parts: Parts, _: list[Parts], rng: random.Random) -> Parts:
    """Bytes anywhere in the largest part, beyond where the structure is as a rule."""
    place = max(range(len(parts)), key=lambda i: len(parts[i]))
    data = bytearray(parts[place])
    for _ in range(rng.randint(1, 8) if data else 0):
        data[rng.randrange(len(data) // 8, len(data))] = rng.choice((rng.randrange(256), 0, 255))
    return _with(parts, place, bytes(data))


def _cut(parts: Parts, _: list[Parts], rng: random.Random) -> Parts:
    place = _place(parts, rng)
    return _with(parts, place, parts[place][: _position(parts[place], rng)])


def _insert(parts: Parts, _: list[Parts], rng: random.Random) -> Parts:
    place = _place(parts, rng)
    at = _position(parts[place], rng)
    piece = rng.choice((rng.randbytes(rng.randint(1, 9)), rng.choice(ODD_CBOR), rng.choice(ODD_JSON)))
    behind = at if rng.random() < 0.5 else at + len(piece)
    return _with(parts, place, parts[place][:at] + piece + parts[place][behind:])


def _leave_out(parts: Parts, _: list[Parts], rng: random.Random) -> Parts:
    place = _place(parts, rng)
    first, last = sorted(_position(parts[place], rng) for _ in range(2))
    return _with(parts, place, parts[place][:first] + parts[place][last:])


def _splice(parts: Parts, others: list[Parts], rng: random.Random) -> Parts:
    """A piece of another message."""
    place, other = _place(parts, rng), rng.choice(rng.choice(others))[:4096]
    at, start = _position(parts[place], rng), _position(other, rng)
    piece = other[start : start + rng.randint(1, 200)]
    return _with(parts, place, parts[place][:at] + piece + parts[place][at + len(piece) :])


def _odd_value(parts: Parts, _: list[Parts], rng: random.Random) -> Parts:
    """Another value in a part of JSON."""
    place = _place(parts, rng)
    if len(parts[place]) > 1 << 16:
        return parts
    values = list(re.finditer(rb'(?<=":)\s*[^,}]+', parts[place]))
    if not values:
        return parts
    chosen = rng.choice(values)
    return _with(parts, place, parts[place][: chosen.start()] + rng.choice(ODD_JSON) + parts[place][chosen.end() :])


def _shuffle_parts(parts: Parts, others: list[Parts], rng: random.Random) -> Parts:
    """Drop, repeat, swap or replace whole parts."""
    place, other = rng.randrange(len(parts)), rng.randrange(len(parts))
    match rng.randrange(4):
        case 0:
            return [*parts[:place], *parts[place + 1 :]]
        case 1:
            return [*parts[:place], parts[place], *parts[place:]]
        case 2:
            swapped = list(parts)
            swapped[place], swapped[other] = swapped[other], swapped[place]
            return swapped
    return _with(parts, place, rng.choice(rng.choice(others))[: 1 << 16])


_WAYS: list[Callable[[Parts, list[Parts], random.Random], Parts]] = [
    _change_bytes, _change_bytes, _change_pixels, _change_pixels, _cut, _insert, _leave_out, _splice, _odd_value,
    _odd_value, _shuffle_parts,
]  # fmt: skip


# ---- valid messages --------------------------------------------------------------------------------------------------


def _info(dtype: str) -> DetectorInfo:
    mask = np.zeros(SHAPE, np.uint32)
    mask[3, 4] = 1
    return DetectorInfo(SHAPE, np.dtype(dtype), mask, 75e-6, 0.1, 1.0, (26.5, 18.2))


def _pixels(dtype: str) -> np.ndarray:
    return np.random.default_rng(1).poisson(3, SHAPE).astype(dtype)


def stream1_series(number: int) -> list[Parts]:
    """A whole series of one image."""
    info, data = _info("uint16"), compress(_pixels("uint16"), "bslz4")
    header = stream1_messages.header_message(
        info, series=number, header_detail="basic", number_of_images=1, frame_time=0.01, date=DATE, encoding="bslz4",
        appendix=None,
    )  # fmt: skip
    image = stream1_messages.image_message(
        data, info, series=number, frame=0, encoding="bslz4", start=0, exposure=9, appendix=None
    )
    return [header, image, stream1_messages.end_message(series=number)]


def stream2_series(number: int) -> list[Parts]:
    """A whole series of one image."""
    series = {"series_id": number, "series_unique_id": f"series {number}"}
    data = stream2_messages.multi_dim_array(compress(_pixels("uint16"), "bslz4"), SHAPE, np.dtype("<u2"), "bslz4")
    start = stream2_messages.start_message(
        _info("uint16"), **series, channels=["a"], number_of_images=1, frame_time=0.01, date=DATE,
        header_detail="basic", user_data=None,
    )  # fmt: skip
    image = stream2_messages.image_message(
        {"a": data}, image_id=0, **series, date=DATE, start=0.0, exposure=0.009, user_data=None
    )
    return [[start], [image], [stream2_messages.end_message(**series)]]


def stream1_valid() -> list[Parts]:
    """Headers of every detail, images of every encoding, an end."""
    info = _info("uint16")
    fields: dict[str, Any] = {"number_of_images": 5, "frame_time": 0.01, "date": DATE, "encoding": "bslz4"}
    messages = [
        stream1_messages.header_message(info, series=series, header_detail=detail, appendix=appendix, **fields)
        for series, detail, appendix in ((1, "basic", None), (2, "all", b'{"a": 1}'), (3, "none", None))
    ]
    facts = json.dumps({"monitor": 5.5, "position": [1, 2]}).encode()
    for number, (encoding, dtype, appendix) in enumerate(
        (("bslz4", "uint16", None), ("lz4", "uint16", facts), ("none", "uint8", facts), ("bslz4", "uint32", None))
    ):
        data = compress(_pixels(dtype), "lz4block" if encoding == "lz4" else encoding)
        messages.append(
            stream1_messages.image_message(
                data, replace(info, dtype=np.dtype(dtype)), series=1, frame=number, encoding=encoding,
                start=5 * 10**12 + number, exposure=9, appendix=appendix,
            )
        )  # fmt: skip
    return [*messages, stream1_messages.end_message(series=1)]


def stream2_valid() -> list[Parts]:
    """Start messages with and without tables, images of every encoding, an end."""
    info = _info("uint16")
    channels = ("threshold_1", "threshold_2")
    series = [{"series_id": k, "series_unique_id": f"01H0000000000000000000000{k}"} for k in (1, 2)]
    messages = [
        stream2_messages.start_message(
            info, **series[k], channels=channels, number_of_images=5, frame_time=0.01, date=DATE, header_detail=detail,
            user_data={"sample": "a"},
        )
        for k, detail in enumerate(("basic", "all"))
    ]  # fmt: skip
    for number, (encoding, dtype) in enumerate((("bslz4", "<u2"), ("lz4", "<u2"), ("none", "|u1"), ("bslz4", "<u4"))):
        data = compress(_pixels(dtype), encoding)
        array = stream2_messages.multi_dim_array(data, SHAPE, np.dtype(dtype), encoding)
        messages.append(
            stream2_messages.image_message(
                dict.fromkeys(channels, array), image_id=number, **series[0], date=DATE, start=0.01 * number,
                exposure=0.009, user_data={"monitor": 5.5, "position": [1, 2]},
            )
        )  # fmt: skip
    return [[message] for message in (*messages, stream2_messages.end_message(**series[0]))]


def sls_series(number: int) -> list[Parts]:
    """A whole series of one image, in one module."""
    return [_sls_module(0, file_index=number, n_frames=1), [sls_messages.end_header()]]


def sls_valid() -> list[Parts]:
    """Modules of every pixel type, of two series, with what users add; an end."""
    messages = [_sls_module(k, dtype, 1) for k, dtype in enumerate(("uint16", "uint8", "uint32", "uint16"))]
    messages.append(_sls_module(1, file_index=2, added={"monitor": "1.5", "position": "[1, 2]"}))
    messages.append(_sls_module(2, file_index=2, complete=False))
    return [*messages, [sls_messages.end_header()]]


def _sls_module(
    frame: int, dtype: str = "uint16", file_index: int = 1, n_frames: int = 5, complete: bool = True, **options: Any
) -> Parts:
    pixels = _pixels(dtype)
    module = sls_messages.ModuleInfo(
        (1, 1), (0, 0), SHAPE, 8 * pixels.itemsize, file_index, "run", n_frames, "jungfrau", False
    )
    header = sls_messages.module_header(
        module, frame_index=frame, frame_number=frame + 1, time=5 + 0.01 * frame, exposure=0.01, complete=complete,
        **options,
    )  # fmt: skip
    return [header, pixels.tobytes()]


def data_array_series(number: int) -> list[Parts]:
    """One image; this protocol knows no series."""
    return [[b"DATA_ARRAY", data_array(_pixels("uint16"), number)]]


def data_array_valid() -> list[Parts]:
    """The name of the encoding, and images of every pixel type and of two versions."""
    return [
        [name, data_array(_pixels(dtype), k, version=version, extra_header=b"12345678" * (version - 3))]
        for k, dtype in enumerate(("uint8", "uint16", "uint32", "int32", "int64", "float32", "float64"))
        for name, version in ((b"DATA_ARRAY", 3), (b"DENSE_FRAME", 4))
    ]


# ---- recorded messages -----------------------------------------------------------------------------------------------


def recordings() -> Path | None:
    """The folder of recorded messages, where there is one (environment variable FRAMESIEVE_DATA)."""
    folder = os.environ.get("FRAMESIEVE_DATA")
    return Path(folder) if folder and Path(folder).is_dir() else None


def stream1_recorded() -> list[Parts]:
    folder = recordings()
    paths = [folder / "dectris_stream1" / name for name in ("header", "image000044")] if folder else []
    return [read_stream1(path) for path in paths if path.is_file()]


def stream2_recorded() -> list[Parts]:
    folder = recordings()
    return [[path.read_bytes()] for path in sorted((folder / "dectris_stream2").glob("*/*.cbor"))] if folder else []
