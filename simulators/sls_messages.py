"""The messages of a slsReceiver, `jsonversion` 5, with the fields of slsDetectorPackage 9 in their order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: `detType` of slsDetectorPackage
DETECTOR_TYPES = {"eiger": 1, "jungfrau": 3, "moench": 5}

#: ticks of `timestamp` in a second
CLOCK_HZ = 10_000_000

PACKETS_PER_FRAME = 128


@dataclass(frozen=True)
class ModuleInfo:
    """What all headers of a module in one series have in common. `grid` (rows, columns) of modules, `position` (row,
    column) in it, `shape` (rows, columns) of pixels."""

    grid: tuple[int, int]
    position: tuple[int, int]
    shape: tuple[int, int]
    bits: int
    file_index: int
    file_name: str
    n_frames: int
    detector: str
    flip_rows: bool


def module_header(
    module: ModuleInfo,
    *,
    frame_index: int,
    frame_number: int,
    time: float,
    exposure: float,
    complete: bool = True,
    added: Mapping[str, Any] | None = None,
) -> bytes:
    """The header of one module of one frame; times in s. `added` is what the user has receivers add."""
    rows, columns = module.shape
    return _header(
        bitmode=module.bits,
        fileIndex=module.file_index,
        detshape=list(module.grid[::-1]),
        shape=[columns, rows],
        size=rows * columns * module.bits // 8,
        acqIndex=frame_number,
        frameIndex=frame_index,
        progress=float(f"{100 * (frame_index + 1) / module.n_frames:.6g}"),
        fname=module.file_name,
        data=1,
        completeImage=int(complete),
        frameNumber=frame_number,
        expLength=round(exposure * CLOCK_HZ),
        packetNumber=PACKETS_PER_FRAME - (not complete),
        timestamp=round(time * CLOCK_HZ),
        modId=module.position[0] * module.grid[1] + module.position[1],
        row=module.position[0],
        column=module.position[1],
        detType=DETECTOR_TYPES[module.detector],
        version=2,
        flipRows=int(module.flip_rows),
        added=added,
    )


def end_header() -> bytes:
    """What a receiver sends when its acquisition is over: everything but the version is zero."""
    return _header()


def _header(added: Mapping[str, Any] | None = None, **fields: Any) -> bytes:
    empty: dict[str, Any] = {
        "jsonversion": 5, "bitmode": 0, "fileIndex": 0, "detshape": [0, 0], "shape": [0, 0], "size": 0, "acqIndex": 0,
        "frameIndex": 0, "progress": 0, "fname": "", "data": 0, "completeImage": 0, "frameNumber": 0, "expLength": 0,
        "packetNumber": 0, "detSpec1": 0, "timestamp": 0, "modId": 0, "row": 0, "column": 0, "detSpec2": 0,
        "detSpec3": 0, "detSpec4": 0, "detType": 0, "version": 0, "flipRows": 0, "quad": 0,
    }  # fmt: skip
    fields = empty | fields
    if added:
        fields["addJsonHeader"] = dict(added)
    return json.dumps(fields | {"rx_roi": [-1, -1, -1, -1]}).encode() + b"\n"
