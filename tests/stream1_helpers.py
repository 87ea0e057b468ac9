"""Stream v1 messages built with the standard library alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from framesieve.sources.stream1 import Stream1Source
from sources_helpers import encode

Parts = list[bytes]

CONFIG = {
    "beam_center_x": 26.5,
    "beam_center_y": 18.25,
    "bit_depth_image": 16,
    "count_time": 0.0099,
    "countrate_correction_count_cutoff": 18533,
    "data_collection_date": "2026-03-01T13:00:00.000+01:00",
    "description": "Dectris EIGER2 Si 500K",
    "detector_distance": 0.25,
    "frame_time": 0.01,
    "nimages": 5,
    "ntrigger": 2,
    "sensor_material": "Si",
    "sensor_thickness": 0.00045,
    "wavelength": 1.0332,
    "x_pixel_size": 7.5e-05,
    "x_pixels_in_detector": 53,
    "y_pixel_size": 8e-05,
    "y_pixels_in_detector": 37,
}


def part(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def header(series: int = 1, detail: str = "basic", appendix: bytes | None = None, **config: Any) -> Parts:
    """A header; fields of the configuration that are None are left out."""
    parts = [part(htype="dheader-1.0", series=series, header_detail=detail)]
    if detail != "none":
        parts.append(json.dumps({k: v for k, v in (CONFIG | config).items() if v is not None}).encode())
    if detail == "all":
        mask = np.zeros((37, 53), np.uint32)
        mask[3, 4] = 1
        flat = np.full((37, 53), 1.5, np.float32)
        for name, table in (("dflatfield", flat), ("dpixelmask", mask), ("dcountrate_table", np.ones((2, 9), "f4"))):
            announced = {"htype": f"{name}-1.0", "shape": list(table.shape[::-1]), "type": table.dtype.name}
            parts += [part(**announced), table.tobytes()]
    return parts if appendix is None else [*parts, appendix]


def image(
    number: int, pixels: np.ndarray, series: int = 1, encoding: str = "<", appendix: bytes | None = None, **fields: Any
) -> Parts:
    """An image; `fields` replace those of its second part. `encoding` as the stream names it."""
    order = encoding[-1]
    stored = pixels.astype(pixels.dtype.newbyteorder(order))
    kind = "none" if len(encoding) == 1 else "lz4block" if encoding[:3] == "lz4" else "bslz4"
    blob = encode(stored, kind)
    announced = {
        "htype": "dimage_d-1.0",
        "shape": list(pixels.shape[::-1]),
        "type": pixels.dtype.name,
        "encoding": encoding,
        "size": len(blob),
    } | fields
    start = 5_000_000_000_000 + number * 10_000_000
    parts = [
        part(htype="dimage-1.0", series=series, frame=number, hash="0" * 32),
        part(**announced),
        blob,
        part(htype="dconfig-1.0", start_time=start, stop_time=start + 9_900_000, real_time=9_900_000),
    ]
    return parts if appendix is None else [*parts, appendix]


def end(series: int = 1) -> Parts:
    return [part(htype="dseries_end-1.0", series=series)]


def feed(source: Stream1Source, *messages: Parts) -> list[Any]:
    """The events that messages give, without a network in between."""
    return [event for parts in messages for event in source.handle([memoryview(bytes(one)) for one in parts])]
