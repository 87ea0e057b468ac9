"""The messages of a slsReceiver (slsDetectorPackage 9, `jsonversion` 5): from their parts to a module of a frame.

The first part is JSON, the second one the pixels of one module as raw bytes, little-endian. A header whose `data` is 0
comes without a second part and says that this receiver has finished its acquisition; all its other fields are zero.

All functions raise `FrameError`, whose text says what was wrong.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..processing.errors import FrameError
from .frame_facts import facts_of
from .message_fields import jsonable, read_count, read_number, read_text, shown
from .payload import MAX_PIXELS

JSON_VERSION: Final = 5

#: a header that is longer is not parsed: a real one takes about 600 bytes
MAX_JSON: Final = 1 << 16

#: `bitmode` → pixel type. EIGER's 4 bits are two pixels in one byte, which nothing here unpacks
PIXEL_TYPES: Final = {8: np.dtype("<u1"), 16: np.dtype("<u2"), 32: np.dtype("<u4")}

#: `detType`, as slsDetectorPackage counts
DETECTORS: Final = {
    1: "EIGER", 2: "GOTTHARD", 3: "JUNGFRAU", 4: "CHIPTESTBOARD", 5: "MOENCH", 6: "MYTHEN3", 7: "GOTTHARD2",
}  # fmt: skip

#: ticks of `timestamp` in a second
CLOCK_HZ: Final = 10_000_000

#: from `progress`, which has six digits, the number of frames is known exactly up to here
MAX_KNOWN_FRAMES: Final = 50_000

#: fields that are different in every header: of no use to whoever wants to know what was measured
_CHANGING: Final = frozenset(
    ("acqIndex", "frameIndex", "progress", "data", "completeImage", "frameNumber", "packetNumber", "timestamp", "modId",
     "row", "column", "detSpec1", "detSpec2", "detSpec3", "detSpec4", "flipRows")
)  # fmt: skip

#: `fileIndex` and `fname` of an acquisition
SeriesKey = tuple[int, str]


@dataclass(frozen=True, slots=True)
class ModuleKind:
    """What all modules of a series have in common: (rows, columns) of one module, its pixel type as stored, and how
    many modules lie (below, beside) one another."""

    shape: tuple[int, int]
    dtype: np.dtype
    grid: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.shape[0]} × {self.shape[1]} {self.dtype.name}, grid {self.grid[0]} × {self.grid[1]}"


@dataclass(frozen=True, slots=True)
class ModuleMessage:
    """One module of one frame. Where `problem` is not empty, its pixels cannot be used; `kind` is None where the header
    does not even tell what they would be."""

    series_key: SeriesKey
    number: int  # `frameNumber`, which may go on from one acquisition to the next
    index: int  # `frameIndex`, from 0 in every acquisition; may differ between receivers by frames that got lost
    fields: dict[str, Any]
    data: memoryview
    kind: ModuleKind | None = None
    problem: str = ""

    @property
    def base(self) -> int:
        """The frame number that this receiver counts as the first one."""
        return self.number - self.index

    @property
    def position(self) -> tuple[int, int]:
        """(row, column) of the module in the grid; FrameError where it is not told."""
        return read_count(self.fields, "row"), read_count(self.fields, "column")

    @property
    def is_flipped(self) -> bool:
        """Whether the rows come in reverse order."""
        return bool(read_number(self.fields, "flipRows"))

    @property
    def lacks_packets(self) -> bool:
        """Whether the receiver did not get the whole module from the detector."""
        return self.fields.get("completeImage", 1) in (0, False)

    @property
    def clock(self) -> float | None:
        """When the detector took the frame, seconds on its own clock; None where it does not tell."""
        ticks = read_number(self.fields, "timestamp")
        return ticks / CLOCK_HZ if ticks and ticks > 0 else None

    @property
    def number_of_frames(self) -> int | None:
        """Frames of the whole acquisition, from how much of it the receiver says is done; None where it is unclear."""
        progress = read_number(self.fields, "progress")  # per cent
        if not progress or not 0 < progress <= 100:
            return None
        number = 100 * (self.index + 1) / progress
        return round(number) if number <= MAX_KNOWN_FRAMES and abs(number - round(number)) < 0.05 else None

    @property
    def facts(self) -> tuple[float, tuple[float, float]]:
        """Monitor and position that the user adds in `addJsonHeader`, see `facts_of`."""
        return facts_of(self.fields.get("addJsonHeader"))

    def metadata(self) -> dict[str, Any]:
        """What is the same for the whole series, as JSON-able values; `detector` as in
        `stream2_messages.StartMessage.metadata`, and `header`: fields under the names of slsDetectorPackage."""
        header = {name: jsonable(value) for name, value in self.fields.items() if name not in _CHANGING}
        model = self.fields.get("detType")
        name = DETECTORS.get(model) if isinstance(model, int) else None
        return ({"detector": f"PSI {name}"} if name else {}) | {"header": header}


@dataclass(frozen=True, slots=True)
class EndMessage:
    """A receiver has finished its acquisition."""


Message = ModuleMessage | EndMessage


def parse_message(parts: list[memoryview]) -> Message:
    """One message of a receiver. The pixels stay where they are, in the second part.

    Raises
    ------
    FrameError
        It cannot be told to which frame it belongs. Whatever else is wrong is the `problem` of the module.
    """
    fields = _header(parts[0])
    version = fields.get("jsonversion")
    if version != JSON_VERSION or isinstance(version, bool):
        raise FrameError(
            f"jsonversion {shown(version)} is not supported (accepted: {JSON_VERSION}, of slsDetectorPackage 9)"
        )
    if read_count(fields, "data") == 0:
        return EndMessage()
    key = (read_count(fields, "fileIndex"), _file_name(fields))
    number, index = read_count(fields, "frameNumber"), read_count(fields, "frameIndex")
    if index > number:
        raise FrameError(f"frameIndex {index} is beyond frameNumber {number}")
    kind, data, problem = None, memoryview(b""), ""
    try:
        kind = _kind(fields)
        data = _pixels(fields, kind, parts)
    except FrameError as error:
        problem = str(error)
    return ModuleMessage(key, number, index, fields, data, kind, problem)


def _header(part: memoryview) -> dict[str, Any]:
    if len(part) > MAX_JSON:
        raise FrameError(f"the header has {len(part)} bytes, which is too long")
    try:
        fields = json.loads(bytes(part))
    except (ValueError, RecursionError) as error:
        raise FrameError(f"the header is no valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise FrameError("the header is JSON, but no object")
    if "htype" in fields:
        raise FrameError(
            f"{shown(fields['htype'])} is no header of a slsReceiver: read a DECTRIS detector as stream1://"
        )
    return fields


def _file_name(fields: dict[str, Any]) -> str:
    # names of series go into files and attributes, which hold text of any length, but no half characters
    return (read_text(fields, "fname") or "").encode(errors="replace").decode()[:100]


def _kind(fields: dict[str, Any]) -> ModuleKind:
    bits = fields.get("bitmode")
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in PIXEL_TYPES:
        raise FrameError(f"bitmode {shown(bits)} is not supported (accepted: {', '.join(map(str, PIXEL_TYPES))})")
    shape, grid = _x_y(fields, "shape"), _x_y(fields, "detshape")
    if math.prod(shape) * math.prod(grid) > MAX_PIXELS:
        raise FrameError(f"impossible image size: {grid[0]} × {grid[1]} modules of {shape[0]} × {shape[1]} pixels")
    return ModuleKind(shape, PIXEL_TYPES[bits], grid)


def _x_y(fields: dict[str, Any], name: str) -> tuple[int, int]:
    """(y, x) of two numbers that are written the other way round."""
    match fields.get(name):
        case [int(x), int(y)] if not isinstance(x, bool) and not isinstance(y, bool) and min(x, y) > 0:
            return y, x
    raise FrameError(f"{name} is {shown(fields.get(name))}, not two numbers above 0")


def _pixels(fields: dict[str, Any], kind: ModuleKind, parts: list[memoryview]) -> memoryview:
    if len(parts) != 2:
        raise FrameError(f"a module in {len(parts)} parts, 2 are expected")
    expected, arrived = math.prod(kind.shape) * kind.dtype.itemsize, len(parts[1])
    if arrived != expected:
        raise FrameError(
            f"wrong number of bytes: {kind.shape[0]} × {kind.shape[1]} {kind.dtype.name} are {expected}, "
            f"but {arrived} arrived"
        )
    if fields.get("size") is not None and read_count(fields, "size") != arrived:
        raise FrameError(f"the header announces {fields['size']} bytes, but {arrived} arrived")
    return parts[1]
