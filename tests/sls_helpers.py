"""Messages of slsReceivers built with the standard library alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from framesieve.processing.frames import Event
from framesieve.sources.sls_layout import Layout
from framesieve.sources.sls_series import SlsSeries

Parts = list[bytes]

#: as a receiver of slsDetectorPackage 9 writes it, for a module of 4 × 6 pixels
HEADER: dict[str, Any] = {
    "jsonversion": 5, "bitmode": 16, "fileIndex": 1, "detshape": [1, 2], "shape": [6, 4], "size": 48, "acqIndex": 1,
    "frameIndex": 0, "progress": 10.0, "fname": "run", "data": 1, "completeImage": 1, "frameNumber": 1, "expLength": 50,
    "packetNumber": 128, "detSpec1": 0, "timestamp": 100_000_000, "modId": 0, "row": 0, "column": 0, "detSpec2": 0,
    "detSpec3": 0, "detSpec4": 0, "detType": 3, "version": 2, "flipRows": 0, "quad": 0, "rx_roi": [-1, -1, -1, -1],
}  # fmt: skip

END: Parts = [
    json.dumps({name: 5 if name == "jsonversion" else type(value)() for name, value in HEADER.items()}).encode()
]


def module(receiver: int, index: int, pixels: np.ndarray | None = None, first: int = 1, **fields: Any) -> Parts:
    """The module of one receiver; receivers lie below one another. Fields that are None are left out."""
    if pixels is None:
        pixels = pixels_of_module(receiver, index)
    number = first + index
    changes = {
        "bitmode": 8 * pixels.itemsize, "shape": list(pixels.shape[::-1]), "size": pixels.nbytes,
        "frameIndex": index, "frameNumber": number, "acqIndex": number, "row": receiver,
        "timestamp": 100_000_000 + 20_000 * index, "progress": 100 * (index + 1) / 10,
    }  # fmt: skip
    header = {name: value for name, value in (HEADER | changes | fields).items() if value is not None}
    return [json.dumps(header).encode(), pixels.tobytes()]


def pixels_of_module(receiver: int, index: int) -> np.ndarray:
    return (1000 * receiver + 10 * index + np.arange(24)).reshape(4, 6).astype("<u2")


def series(n: int = 2, layout: Layout | None = None, deadline: float = 0.5) -> SlsSeries:
    return SlsSeries(n, layout, deadline)


def feed(target: SlsSeries, *messages: tuple[int, Parts], now: float = 0.0) -> list[Event]:
    """The events that messages (receiver, parts) give, without a network in between."""
    return [event for r, parts in messages for event in target.handle(r, [memoryview(one) for one in parts], now)]


def frame_of(index: int, n: int = 2, **fields: Any) -> list[tuple[int, Parts]]:
    """All modules of a frame."""
    return [(r, module(r, index, **fields)) for r in range(n)]
