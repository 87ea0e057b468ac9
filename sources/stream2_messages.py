"""The messages of DECTRIS stream2: from bytes to start, image and end.

Every message is one CBOR map whose `type` is "start", "image" or "end". A frame is a map from channel name
to multi-dimensional array (tag 40) of a typed array (tags 64-87, RFC 8746), whose bytes are plain or
compressed (tag 56500, DECTRIS). All functions raise `FrameError`, whose text says what was wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..processing.errors import FrameError
from ..processing.frames import PIXEL_DTYPES
from . import cbor
from .cbor import Tagged
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

TAG_DATE_TEXT: Final = 0
TAG_ROW_MAJOR_ARRAY: Final = 40
TAG_DECTRIS_COMPRESSION: Final = 56500
TAG_SELF_DESCRIBED: Final = 55799

#: RFC 8746, section 2: tag of a typed array → numpy type
TYPED_ARRAYS: Final = {
    tag: np.dtype(name)
    for tag, name in {
        **{64: "u1", 65: ">u2", 66: ">u4", 67: ">u8", 68: "u1", 69: "<u2", 70: "<u4", 71: "<u8"},
        **{72: "i1", 73: ">i2", 74: ">i4", 75: ">i8", 77: "<i2", 78: "<i4", 79: "<i8"},
        **{80: ">f2", 81: ">f4", 82: ">f8", 84: "<f2", 85: "<f4", 86: "<f8"},
    }.items()
}

#: sent by Jungfraujoch beside the three types of DECTRIS; they hold no frames
OTHER_TYPES: Final = ("calibration", "metadata")

#: fields of a start message that hold big arrays
_ARRAY_FIELDS: Final = ("pixel_mask", "flatfield", "countrate_correction_lookup_table")


@dataclass(frozen=True, slots=True)
class StartMessage:
    """A series begins; `fields` has every field as received."""

    series_key: tuple[int, str]
    shape: tuple[int, int]
    dtype: np.dtype
    number_of_images: int | None
    channels: tuple[str, ...]
    fields: dict[str, Any]

    @property
    def is_flat(self) -> bool:
        """Whether the detector has applied its flat field already, as it does unless it says otherwise."""
        return self.fields.get("flatfield_enabled") not in (False, 0)

    def metadata(self) -> dict[str, Any]:
        """What the detector told, as JSON-able values, without the big arrays.

        The common names in SI units (`wavelength`, `distance`, `pixel_size` (slow, fast) in m, `beam_center`
        (x, y) in pixels, `saturation_value`, `detector`, `sensor_material`, `sensor_thickness`) where they are
        known, and `header`: all fields under the names and in the units of DECTRIS (wavelength in Å, energy
        in eV).
        """
        fields = self.fields
        common = {
            "wavelength": wavelength(
                read_number(fields, "incident_wavelength"), read_number(fields, "incident_energy")
            ),
            "distance": read_number(fields, "detector_distance"),  # Jungfraujoch; DECTRIS detectors do not know it
            "pixel_size": read_pair(fields, "pixel_size_y", "pixel_size_x"),
            "beam_center": read_pair(fields, "beam_center_x", "beam_center_y"),
            "saturation_value": read_number(fields, "saturation_value"),
            "detector": read_text(fields, "detector_description"),
            "sensor_material": read_text(fields, "sensor_material"),
            "sensor_thickness": read_number(fields, "sensor_thickness"),
        }
        header = {name: jsonable(value) for name, value in fields.items() if name not in _ARRAY_FIELDS}
        return {name: value for name, value in common.items() if value is not None} | {"header": header}

    def array(self, field: str, channel: str | None) -> np.ndarray | None:
        """`pixel_mask` or `flatfield` of one channel (None: the first one); None where it was not sent.

        Raises
        ------
        FrameError
            It was sent, but cannot be decoded.
        """
        arrays = self.fields.get(field)
        if not isinstance(arrays, dict) or not arrays:
            return None
        name = channel if channel is not None else next(iter(arrays))
        if name not in arrays:
            return None
        what = f"{field} of channel {name!r}"
        return read_table(parse_array(arrays[name], what), what, self.shape)


@dataclass(frozen=True, slots=True)
class ImageMessage:
    """One image; `data` maps channel names to arrays that are not parsed yet."""

    series_key: tuple[int, str]
    number: int
    timestamp: float  # s since 1970, NaN where unknown
    data: dict[str, Any]
    user_data: Any

    def payload(self, channel: str | None) -> EncodedPayload:
        """The pixels of one channel; None: of the first one."""
        name = channel if channel is not None else next(iter(self.data))
        if name not in self.data:
            raise FrameError(f"no channel {name!r} in the image (has: {', '.join(map(str, self.data))})")
        return parse_array(self.data[name], f"channel {name!r}")


@dataclass(frozen=True, slots=True)
class EndMessage:
    """A series is over."""

    series_key: tuple[int, str]


@dataclass(frozen=True, slots=True)
class OtherMessage:
    """A message of a known type that holds no frame."""

    type: str


Message = StartMessage | ImageMessage | EndMessage | OtherMessage


def parse_message(data: bytes | memoryview) -> Message:
    """One message of the stream. The pixels stay where they are, in `data`.

    Raises
    ------
    MessageError
    """
    if bytes(data[:8]) == b'{"htype"':
        raise MessageError("a message of DECTRIS stream v1 (JSON): set the detector's stream format to cbor")
    try:
        fields = cbor.loads(data)
    except cbor.CborError as error:
        raise MessageError(f"no valid CBOR: {error}") from None
    if isinstance(fields, Tagged) and fields.tag == TAG_SELF_DESCRIBED:
        fields = fields.value
    if not isinstance(fields, dict):
        raise MessageError("not a stream2 message: CBOR, but no map")
    kind = fields.get("type")
    if kind in OTHER_TYPES:
        return OtherMessage(kind)
    if kind not in ("start", "image", "end"):
        raise MessageError(f"unknown message type {shown(kind)} (known: start, image, end)")
    number, key = -1, None
    try:
        # read first, so that whatever else is wrong can be told of this frame
        if kind == "image":
            number = read_count(fields, "image_id")
        key = (read_count(fields, "series_id"), read_text(fields, "series_unique_id") or "")
        if kind == "start":
            return _start(fields, key)
        return _image(fields, key, number) if kind == "image" else EndMessage(key)
    except FrameError as error:
        raise MessageError(str(error), number, key) from None


def _start(fields: dict[str, Any], key: tuple[int, str]) -> StartMessage:
    shape = (read_count(fields, "image_size_y"), read_count(fields, "image_size_x"))
    if not (shape[0] and shape[1] and shape[0] * shape[1] <= MAX_PIXELS):
        raise FrameError(f"impossible image size in the start message: {shape[0]} × {shape[1]} pixels")
    name = read_text(fields, "image_dtype")
    accepted = {dtype.name: dtype for dtype in PIXEL_DTYPES}
    if name not in accepted:
        raise FrameError(f"image_dtype {shown(name)} is not supported (accepted: {', '.join(accepted)})")
    number = read_count(fields, "number_of_images") if fields.get("number_of_images") is not None else None
    channels = fields.get("channels") or []
    if not isinstance(channels, list) or not all(isinstance(channel, str) for channel in channels):
        raise FrameError("channels of the start message is no list of names")
    return StartMessage(key, shape, accepted[name], number, tuple(channels), fields)


def _image(fields: dict[str, Any], key: tuple[int, str], number: int) -> ImageMessage:
    data = fields.get("data")
    if not isinstance(data, dict) or not data:
        raise FrameError("an image without data")
    timestamp = _timestamp(fields.get("series_date"), fields.get("start_time"))
    return ImageMessage(key, number, timestamp, data, fields.get("user_data"))


def parse_array(value: Any, what: str) -> EncodedPayload:
    """A two-dimensional typed array; `what` names it in errors."""
    match value:
        case Tagged(tag=tag, value=[[int(rows), int(columns)], Tagged(tag=kind, value=content)]):
            if tag != TAG_ROW_MAJOR_ARRAY or isinstance(rows, bool) or isinstance(columns, bool):
                raise FrameError(f"{what} is no row-major array (CBOR tag {tag}, not 40)")
            if kind not in TYPED_ARRAYS:
                raise FrameError(f"{what} is no typed array (CBOR tag {kind}, not 64 to 87)")
        case Tagged(tag=40, value=[list(shape), _]):
            raise FrameError(f"{what} has the shape {shown(shape)}, not two numbers of pixels")
        case _:
            raise FrameError(f"{what} is no multi-dimensional typed array")
    encoding, element_size = "none", 0
    match content:
        case memoryview():
            pass
        case Tagged(tag=56500, value=[str(encoding), int(element_size), memoryview()]):
            content = content.value[2]
            if encoding in ("none", "lz4block"):  # our own words
                raise FrameError(f"{what}: unknown compression {encoding!r}")
        case Tagged(tag=tag):
            raise FrameError(f"{what}: its bytes are tagged {tag} and cannot be read")
        case _:
            raise FrameError(f"{what} holds no bytes")
    try:
        return EncodedPayload((rows, columns), TYPED_ARRAYS[kind], encoding, content, element_size)
    except FrameError as error:
        raise FrameError(f"{what}: {error}") from None


def _timestamp(date: Any, start: Any) -> float:
    """Seconds since 1970 of `start` = [numerator, denominator] seconds after `date`; NaN where not told."""
    match date, start:
        case Tagged(tag=0, value=str(date)), [int(numerator), int(denominator)] if denominator > 0:
            begin = seconds_since_1970(date)
            return math.nan if begin is None else begin + numerator / denominator
    return math.nan
