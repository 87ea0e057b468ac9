"""What all that reads images from a Tango device shares: images become frames of a series, and wait to be taken."""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..processing.errors import ConfigurationError, FrameError
from ..processing.frames import ArrayPayload, BrokenFrame, Event, Frame, SeriesEnd, SeriesStart
from .pixels import converted, pixel_dtype
from .tango_address import TangoAddress
from .tango_client import TangoClient

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReaderOptions:
    """`period` between two looks at the device, `timeout` of a call to it, `idle` time after which a series is over (0:
    never), all in seconds; `counter` names what tells the number of an image, `queue` is the number of frames that may
    wait."""

    period: float = 0.05
    timeout: float = 3.0
    idle: float = 0.0
    counter: str = ""
    queue: int = 16


class SeriesReader(TangoClient):
    """Reads images in a thread of its own; `events` has what became of them."""

    def __init__(self, address: TangoAddress, options: ReaderOptions) -> None:
        super().__init__(address, options.timeout, "tango")
        self.options = options
        self.events: queue.Queue[Event] = queue.Queue(options.queue)
        self.in_series = False
        self._series = 0
        self._announced: SeriesStart | None = None  # not told of yet
        self._shape: tuple[int, int] | None = None
        self._dtype: np.dtype | None = None
        self._newest = time.monotonic()  # when the newest frame came

    @property
    def series_id(self) -> str:
        """The name of the series that is, or was last, read."""
        return f"{self.address}-{self._series}"

    def begin(
        self, number_of_frames: int | None = None, *, joined_late: bool = False, metadata: dict[str, Any] | None = None
    ) -> None:
        """A series begins; it is told of with the first image, which knows the shape."""
        self._series += 1
        self.in_series = True
        self._newest = time.monotonic()
        self._shape = self._dtype = None
        self._announced = SeriesStart(
            self.series_id, number_of_frames=number_of_frames, metadata=metadata or {}, joined_late=joined_late
        )

    def frame(self, number: int, pixels: np.ndarray, timestamp: float) -> None:
        """An image of the series."""
        try:
            pixels = as_pixels(pixels)
            expected = (self._shape or pixels.shape, self._dtype or pixels.dtype)
            if (pixels.shape, pixels.dtype) != expected:
                raise FrameError(f"the image is {_described(pixels.shape, pixels.dtype)}, but the series has "
                                 f"{_described(*expected)}")  # fmt: skip
        except FrameError as error:
            self.broken(number, str(error), timestamp)
            return
        self._tell_start(pixels.shape, pixels.dtype)
        self._shape, self._dtype = pixels.shape, pixels.dtype
        self._newest = time.monotonic()
        self.put(Frame(number, self.series_id, ArrayPayload(pixels), timestamp))

    def broken(self, number: int, reason: str, timestamp: float) -> None:
        """An image of the series that cannot be used."""
        self._tell_start(None, None)
        self._newest = time.monotonic()
        self.put(BrokenFrame(number, self.series_id, reason[:300], timestamp))

    def end(self, *, superseded: bool = False) -> None:
        """The series is over."""
        self.in_series = False
        if superseded and self._announced is not None:  # nothing of it has come
            self._announced = None
            return
        self._tell_start(None, None)
        self.put(SeriesEnd(self.series_id, superseded))

    def end_if_idle(self) -> bool:
        """End the series where nothing has come for so long as the option `idle` says; whether it did."""
        is_idle = self.in_series and self.options.idle and time.monotonic() - self._newest > self.options.idle
        if is_idle:
            self.end()
        return bool(is_idle)

    def put(self, event: Event) -> None:
        """Hand on an event; waits while as many as may wait do so."""
        while not self.stopping.is_set():
            try:
                self.events.put(event, timeout=0.1)
            except queue.Full:
                continue
            return

    def _tell_start(self, shape: tuple[int, int] | None, dtype: np.dtype | None) -> None:
        start, self._announced = self._announced, None
        if start is not None:
            self.put(
                SeriesStart(start.series_id, shape, dtype, start.number_of_frames, start.metadata, start.joined_late)
            )


def as_pixels(pixels: np.ndarray) -> np.ndarray:
    """An image as it can be reduced, C-contiguous; doubles are rounded to float32, in which frames are reduced anyway.

    Raises
    ------
    FrameError
        It is none, or a value of it does not fit.
    """
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise FrameError(f"no image of rows and columns: its shape is {pixels.shape}")
    if pixels.dtype.newbyteorder("=") == np.float64:
        with np.errstate(over="ignore"):
            rounded = np.ascontiguousarray(pixels, np.float32)
        if np.count_nonzero(np.isinf(rounded)) != np.count_nonzero(np.isinf(pixels)):
            raise FrameError("a value (float64) does not fit into float32")
        return rounded
    try:
        dtype = pixel_dtype(pixels.dtype, "the image")
    except ConfigurationError as error:
        raise FrameError(str(error)) from None
    return converted(pixels, dtype)


def _described(shape: tuple[int, int], dtype: np.dtype) -> str:
    return f"{shape[0]} × {shape[1]} {dtype.name}"
