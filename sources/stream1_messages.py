"""The messages of DECTRIS stream v1: from the parts of a ZeroMQ message to header, image and end.

The first part is JSON whose `htype` tells what the message is:

* `dheader-1.0` opens a series. With `header_detail` "basic" the configuration of the detector follows as JSON, with
  "all" also flat field, pixel mask and count-rate table, each announced by a part of JSON.
* `dimage-1.0` is followed by the shape of the image, its bytes and its times.
* `dseries_end-1.0` closes a series.

The user may have one more part, the appendix, sent with each header and each image. All functions raise `FrameError`,
whose text says what was wrong.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..processing.errors import FrameError
from ..processing.frames import PIXEL_DTYPES
from .message_fields import (
    MessageError,
    jsonable,
    read_count,
    read_number,
    read_pair,
    read_text,
    seconds_since_1970,
    shown,
    wavelength,
)
from .payload import MAX_PIXELS, EncodedPayload, read_table

#: JSON that is longer is not parsed: the configuration of a detector takes about 2 kB
MAX_JSON: Final = 1 << 20

#: an appendix that is longer is not kept
MAX_APPENDIX: Final = 1 << 16

#: tables of a header with all details, in their order: name here → `htype`
TABLES: Final = {"flatfield": "dflatfield", "pixel_mask": "dpixelmask", "countrate_table": "dcountrate_table"}

#: parts of a header without the appendix
HEADER_PARTS: Final = {"none": 1, "basic": 2, "all": 2 + 2 * len(TABLES)}

#: parts of an image without the appendix
IMAGE_PARTS: Final = 4

#: a clock that counts nanoseconds since 1970 is beyond this since September 2001, one that counts since the detector
#: was switched on never is
EARLIEST_EPOCH_NS: Final = 10**18

_PIXEL_TYPES: Final = {dtype.name: dtype for dtype in PIXEL_DTYPES}
_ENCODING: Final = re.compile(r"(?:bs(8|16|32)-?)?(lz4)?([<>])", re.ASCII)


@dataclass(frozen=True, slots=True)
class HeaderMessage:
    """A series begins. `config` is empty, `shape` and `dtype` are None, where the detector did not send them."""

    series_key: tuple[int, str]
    shape: tuple[int, int] | None
    dtype: np.dtype | None
    number_of_images: int | None
    detail: str
    config: dict[str, Any]
    appendix: str | None
    tables: dict[str, EncodedPayload | str]  # a table that cannot be used: why

    @property
    def date(self) -> float | None:
        """When the series was armed, seconds since 1970."""
        date = read_text(self.config, "data_collection_date")
        return seconds_since_1970(date) if date else None

    @property
    def is_flat(self) -> bool:
        """Whether the detector has applied its flat field already, as it does unless it says otherwise."""
        return self.config.get("flatfield_correction_applied") not in (False, 0)

    def metadata(self) -> dict[str, Any]:
        """What the detector told, as JSON-able values, without the tables.

        The common names are those of `stream2_messages.StartMessage.metadata`, in SI units, where they are known;
        `header` is the configuration under the names and in the units of DECTRIS (wavelength in Å, energy in eV),
        with `header_detail` and `header_appendix`.
        """
        config = self.config
        common = {
            "wavelength": wavelength(read_number(config, "wavelength"), read_number(config, "photon_energy")),
            "distance": read_number(config, "detector_distance") or None,  # 0 was never set
            "pixel_size": read_pair(config, "y_pixel_size", "x_pixel_size"),
            "beam_center": read_pair(config, "beam_center_x", "beam_center_y"),
            # the largest count that the correction for the rate lets through
            "saturation_value": read_number(config, "countrate_correction_count_cutoff"),
            "detector": read_text(config, "description"),
            "sensor_material": read_text(config, "sensor_material"),
            "sensor_thickness": read_number(config, "sensor_thickness"),
        }
        header = {name: jsonable(value) for name, value in config.items()} | {"header_detail": self.detail}
        if self.appendix is not None:
            header["header_appendix"] = self.appendix
        return {name: value for name, value in common.items() if value is not None} | {"header": header}

    def array(self, field: str, channel: str | None = None) -> np.ndarray | None:
        """`flatfield`, `pixel_mask` (rows, columns) or `countrate_table`; None where it was not sent.

        Raises
        ------
        FrameError
            It was sent, but cannot be used.
        """
        table = self.tables.get(field)
        if table is None:
            return None
        if isinstance(table, str):
            raise FrameError(table)
        return read_table(table, field, None if field == "countrate_table" else self.shape)


@dataclass(frozen=True, slots=True)
class ImageMessage:
    """One image. `start_time` is in ns on the clock of the detector, None where it was not told; `user_data` is the
    appendix."""

    series_key: tuple[int, str]
    number: int
    start_time: int | None
    payload: EncodedPayload
    user_data: str | None


@dataclass(frozen=True, slots=True)
class EndMessage:
    """A series is over."""

    series_key: tuple[int, str]


Message = HeaderMessage | ImageMessage | EndMessage


def parse_message(parts: list[memoryview]) -> Message:
    """One message of the stream. The pixels stay where they are, in the third part.

    Raises
    ------
    MessageError
    """
    number, key = -1, None
    try:
        fields = _json(parts[0], "its first part")
        kind = _htype(fields)
        if kind not in ("dheader", "dimage", "dseries_end"):
            what = shown(fields.get("htype"))
            raise FrameError(f"unknown message type {what} (known: dheader-1.0, dimage-1.0, dseries_end-1.0)")
        # read first, so that whatever else is wrong can be told of this frame
        if kind == "dimage":
            number = read_count(fields, "frame")
        key = (read_count(fields, "series"), "")
        if kind == "dheader":
            return _header(fields, key, parts)
        if kind == "dimage":
            return _image(key, number, parts)
        if len(parts) != 1:
            raise FrameError(f"the end of a series in {len(parts)} parts, 1 is expected")
        return EndMessage(key)
    except FrameError as error:
        raise MessageError(str(error), number, key) from None


def _header(fields: dict[str, Any], key: tuple[int, str], parts: list[memoryview]) -> HeaderMessage:
    detail = fields.get("header_detail")
    if not isinstance(detail, str) or detail not in HEADER_PARTS:
        raise FrameError(f"header_detail {shown(detail)} is unknown (known: {', '.join(HEADER_PARTS)})")
    appendix = _appendix(parts, HEADER_PARTS[detail], f"a header with header_detail {detail}")
    if detail == "none":
        return HeaderMessage(key, None, None, None, detail, {}, appendix, {})
    config = _json(parts[1], "the configuration in the header")
    tables = _tables(parts) if detail == "all" else {}
    return HeaderMessage(key, _shape(config), _dtype(config), _number(config), detail, config, appendix, tables)


def _shape(config: dict[str, Any]) -> tuple[int, int] | None:
    names = ("y_pixels_in_detector", "x_pixels_in_detector")
    if all(config.get(name) is None for name in names):
        return None
    shape = (read_count(config, names[0]), read_count(config, names[1]))
    if not (shape[0] and shape[1] and shape[0] * shape[1] <= MAX_PIXELS):
        raise FrameError(f"impossible image size in the header: {shape[0]} × {shape[1]} pixels")
    return shape


def _dtype(config: dict[str, Any]) -> np.dtype | None:
    if config.get("bit_depth_image") is None:
        return None
    bits = read_count(config, "bit_depth_image")
    if bits not in (8, 16, 32):
        raise FrameError(f"bit_depth_image {bits} is not supported (accepted: 8, 16, 32)")
    return np.dtype(f"uint{bits}")


def _number(config: dict[str, Any]) -> int | None:
    """Images of a series: so many for each trigger."""
    if config.get("nimages") is None:
        return None
    triggers = read_count(config, "ntrigger") if config.get("ntrigger") is not None else 1
    number = read_count(config, "nimages") * triggers
    return number if number < 1 << 63 else None


def _tables(parts: list[memoryview]) -> dict[str, EncodedPayload | str]:
    """The tables of a header: what is wrong with one is told when it is asked for, since frames do not need it."""
    tables: dict[str, EncodedPayload | str] = {}
    for place, (name, htype) in enumerate(TABLES.items()):
        announcement, data = parts[2 + 2 * place : 4 + 2 * place]
        fields = _json(announcement, f"the announcement of the {name}")
        if _htype(fields) != htype:
            raise FrameError(f"{shown(fields.get('htype'))} where {htype}-1.0 is expected")
        if not len(data):
            continue  # announced, but left out
        try:
            tables[name] = EncodedPayload(_fast_slow(fields), _pixel_type(fields).newbyteorder("<"), "none", data)
        except FrameError as error:
            tables[name] = f"{name}: {error}"
    return tables


def _image(key: tuple[int, str], number: int, parts: list[memoryview]) -> ImageMessage:
    appendix = _appendix(parts, IMAGE_PARTS, "an image")
    fields = _json(parts[1], "the second part of the image")
    if _htype(fields) != "dimage_d":
        raise FrameError(f"{shown(fields.get('htype'))} where dimage_d-1.0 is expected")
    times = _json(parts[3], "the fourth part of the image")
    if _htype(times) != "dconfig":
        raise FrameError(f"{shown(times.get('htype'))} where dconfig-1.0 is expected")
    data = parts[2]
    if fields.get("size") is not None and read_count(fields, "size") != len(data):
        raise FrameError(f"the image announces {fields['size']} bytes, but {len(data)} arrived")
    dtype, (encoding, order, element_size) = _pixel_type(fields), _encoding(fields)
    payload = EncodedPayload(_fast_slow(fields), dtype.newbyteorder(order), encoding, data, element_size)
    start = read_number(times, "start_time")
    return ImageMessage(key, number, None if start is None else int(start), payload, appendix)


def _encoding(fields: dict[str, Any]) -> tuple[str, str, int]:
    """Encoding of a payload, byte order, bytes that bitshuffle took as one element (0: it was not used)."""
    name = fields.get("encoding")
    match = _ENCODING.fullmatch(name) if isinstance(name, str) else None
    if match is None or (match[1] and not match[2]):
        raise FrameError(f"unknown encoding {shown(name)} (known: bs8-lz4<, bs16-lz4<, bs32-lz4<, lz4<, <)")
    if match[1]:
        return "bslz4", match[3], int(match[1]) // 8
    return "lz4block" if match[2] else "none", match[3], 0


def _pixel_type(fields: dict[str, Any]) -> np.dtype:
    name = fields.get("type")
    if not isinstance(name, str) or name not in _PIXEL_TYPES:
        raise FrameError(f"pixel type {shown(name)} is not supported (accepted: {', '.join(_PIXEL_TYPES)})")
    return _PIXEL_TYPES[name]


def _fast_slow(fields: dict[str, Any]) -> tuple[int, int]:
    """(rows, columns) of `shape`, which is written the other way round."""
    match fields.get("shape"):
        case [int(columns), int(rows)] if not isinstance(columns, bool) and not isinstance(rows, bool):
            return rows, columns
    raise FrameError(f"the shape is {shown(fields.get('shape'))}, not two numbers of pixels")


def _appendix(parts: list[memoryview], expected: int, what: str) -> str | None:
    """The part behind those that are expected, where there is one."""
    if not expected <= len(parts) <= expected + 1:
        raise FrameError(f"{what} in {len(parts)} parts, {expected} are expected, or {expected + 1} with an appendix")
    if len(parts) == expected:
        return None
    if len(parts[-1]) > MAX_APPENDIX:
        return f"({len(parts[-1])} bytes)"
    return bytes(parts[-1]).decode(errors="replace")


def _htype(fields: dict[str, Any]) -> str | None:
    """`htype` without its version, of which only the first is known."""
    name, separator, version = (read_text(fields, "htype") or "").rpartition("-")
    return name if separator and version.partition(".")[0] == "1" else None


def _json(part: memoryview, what: str) -> dict[str, Any]:
    if len(part) > MAX_JSON:
        raise FrameError(f"{what} has {len(part)} bytes, which is too long")
    text = bytes(part)
    if text[:1] in (b"\xa3", b"\xbf", b"\xd9"):
        raise FrameError(f"{what} is CBOR and not JSON: read it as stream2://, or set the stream's format to legacy")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"{what} is no valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise FrameError(f"{what} is JSON, but no object")
    return fields
