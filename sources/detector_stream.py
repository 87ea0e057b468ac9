"""Series of a DECTRIS detector, followed through its messages: what stream v1 and stream2 share."""

from __future__ import annotations

import math
from collections import deque
from typing import ClassVar, Protocol

import numpy as np

from ..processing.errors import FrameError
from ..processing.frames import BrokenFrame, Event, Frame, Payload, SeriesEnd, SeriesStart
from .pull_socket import PullSource

#: number of the series, and its unique name or ""
SeriesKey = tuple[int, str]


class Image(Protocol):
    """What must be known of the message of an image."""

    series_key: SeriesKey
    number: int


class Start(Protocol):
    """What must be known of the message that begins a series."""

    def array(self, field: str, channel: str | None) -> np.ndarray | None:
        """One of the tables that came with it, None where it was not sent; FrameError where it is broken."""


class DetectorStream(PullSource):
    """Turns messages into events: begins and ends of series, images in their series, strays left out.

    A subclass parses its messages in `handle` and gives them to `_take_image`, `_take_end`, `_begin`; it says how the
    pixels (`_payload`) and the time (`_timestamp`) of an image are had.

    Joined in the middle of a series, the first image opens it. Images and ends of series that are over, or of one
    older than that being read, are left out and counted in `stray_messages`.
    """

    live: ClassVar[bool] = True
    sends_bslz4: ClassVar[bool] = True

    def __init__(self, host: str, port: int, queue: int = 100, max_message_bytes: int = 1 << 30) -> None:
        super().__init__(host, port, queue, max_message_bytes)
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self.stray_messages = 0  # of series that are over
        self._start: Start | None = None
        self._key: SeriesKey | None = None  # of the series that is open
        self._shape: tuple[int, int] | None = None  # None: not told yet, the first image tells
        self._dtype: np.dtype | None = None
        self._over: deque[SeriesKey] = deque(maxlen=64)

    @property
    def pixel_mask(self) -> np.ndarray | None:
        """Mask that the detector sent with the series (its header_detail "all"), uint32 (rows, columns),
        0 = good. FrameError where it is broken."""
        return self._start.array("pixel_mask", self._channel()) if self._start else None

    @property
    def flatfield(self) -> np.ndarray | None:
        """Flat field that the detector sent with the series, float32 (rows, columns)."""
        return self._start.array("flatfield", self._channel()) if self._start else None

    def _channel(self) -> str | None:
        """The channel that is read, where the stream has several; None: the first one of each image."""
        return None

    def _payload(self, message: Image, is_open: bool) -> Payload:
        """The pixels of an image; FrameError where they cannot be used. `is_open`: its series has begun."""
        raise NotImplementedError

    def _timestamp(self, message: Image, is_open: bool) -> float:
        """When the image was taken, seconds since 1970, NaN where unknown."""
        raise NotImplementedError

    def _is_stray(self, key: SeriesKey) -> bool:
        """Whether an image belongs to a series that is over."""
        return key in self._over or (self._key is not None and key[0] < self._key[0])

    def _take_image(self, message: Image) -> list[Event]:
        key = message.series_key
        if self._is_stray(key):
            self.stray_messages += 1
            return []
        is_open = key == self._key
        timestamp = self._timestamp(message, is_open)
        try:
            payload = self._payload(message, is_open)
            if is_open:
                self._check(payload)
        except FrameError as error:
            return [broken(message.number, key, error, timestamp)]
        events: list[Event] = []
        if not is_open:
            # only an image that is whole may open a series
            events = self._begin(key, payload.shape, payload.dtype)
            events.append(SeriesStart(name_of(key), payload.shape, payload.dtype, joined_late=True))
        self._shape, self._dtype = payload.shape, payload.dtype
        events.append(Frame(message.number, name_of(key), payload, timestamp))
        return events

    def _check(self, payload: Payload) -> None:
        expected = (self._shape or payload.shape, self._dtype or payload.dtype)
        if (payload.shape, payload.dtype) != expected:
            raise FrameError(
                f"the image is {_described(payload.shape, payload.dtype)}, but the series has {_described(*expected)}"
            )

    def _take_end(self, key: SeriesKey) -> list[Event]:
        if key != self._key:
            self.stray_messages += 1
            return []
        return self._finish()

    def _begin(self, key: SeriesKey, shape: tuple[int, int] | None, dtype: np.dtype | None) -> list[Event]:
        # a detector that was aborted may begin anew without an end
        events = self._finish(superseded=True) if self._key is not None else []
        self._key, self._shape, self._dtype, self._start = key, shape, dtype, None
        return events

    def _finish(self, *, superseded: bool = False) -> list[Event]:
        over = self._key
        self._over.append(over)
        self._key = None
        return [SeriesEnd(name_of(over), superseded)]


def broken(number: int, key: SeriesKey | None, error: FrameError, timestamp: float = math.nan) -> BrokenFrame:
    """The event of a message that is no usable frame."""
    # names that a broken message brought may be of any length
    return BrokenFrame(number, name_of(key) if key else "", str(error)[:300], timestamp)


def name_of(key: SeriesKey) -> str:
    """The name under which a series is known outside."""
    return key[1] or str(key[0])


def _described(shape: tuple[int, int], dtype: np.dtype) -> str:
    return f"{shape[0]} × {shape[1]} {dtype.name}"
