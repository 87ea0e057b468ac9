"""Series of images that stay with the detector until somebody reads them: what a detector behind Tango has to offer.

Nothing here knows of Tango; `tango_detector` does.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..processing.errors import NotAllowedError, OutOfRangeError
from .data_array_messages import data_array
from .frame_inputs import FrameInput
from .misbehaviour import Misbehaviour, Step
from .sending import SendingThread

#: after a series that was complete, and before the next one, s
REARM = 0.3

MAX_FRAMES = 1_000_000


@dataclass(frozen=True)
class Shown:
    """One image: `number` counts from 0 in its series, `timestamp` is seconds since 1970."""

    number: int
    pixels: np.ndarray
    timestamp: float
    is_corrupt: bool = False

    @property
    def visible(self) -> np.ndarray:
        """The pixels as an attribute shows them: of a corrupt image half of the rows."""
        return self.pixels[: len(self.pixels) // 2] if self.is_corrupt else self.pixels

    def encoded(self) -> bytes:
        """As `DATA_ARRAY`; of a corrupt image the second half of the message is missing."""
        message = data_array(self.pixels, self.number)
        return message[: len(message) // 2] if self.is_corrupt else message


class TangoSeries(SendingThread):
    """Plays series of images from a thread of its own: the newest is there to be looked at, and the last `buffer_size`
    of a series can be had by their number, as with LImA.

    Of the misbehaviours, `stray` and `no-start` do not apply: a device holds the images of one series, and sends no
    messages. With `no-end` the series stays "Running"; while it is `killed`, every request fails.

    Parameters
    ----------
    frames
        What to show; closed by `stop`.
    n_frames
        Images per series; the input's are repeated as needed.
    rate
        Hz; 0 = as fast as possible.
    series
        Number of series, one after the other; 0 = until stopped.
    show
        Called with every image, in the order of the misbehaviour, from the thread.
    tell
        Called with every new status, from the thread.
    context
        Entered by the thread.

    Attributes
    ----------
    done : Done
        What was shown so far, and what went wrong.
    status : str
        "Ready" or "Running", as LImA says it.
    last : int
        `last_image_ready`: all images up to this number can be read, but those that are lost; -1: none.
    newest : Shown or None
        What an image attribute shows.
    away : bool
        Whether the detector answers nobody.
    """

    port = 0  # it has none of its own

    def __init__(
        self,
        frames: FrameInput,
        *,
        n_frames: int,
        rate: float = 0.0,
        series: int = 1,
        misbehaviour: Misbehaviour | None = None,
        buffer_size: int = 32,
        show: Callable[[Shown], None] = lambda shown: None,
        tell: Callable[[str], None] = lambda status: None,
        context: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        super().__init__()
        if not 1 <= n_frames <= MAX_FRAMES or not 0 <= rate < float("inf") or series < 0 or buffer_size < 1:
            raise OutOfRangeError(
                f"{n_frames} frames (1 … {MAX_FRAMES}), {rate} Hz, {series} series, {buffer_size} images kept: wrong"
            )
        self.frames, self.n_frames, self.rate, self.series = frames, n_frames, rate, series
        self.misbehaviour = misbehaviour or Misbehaviour()
        self.buffer_size = buffer_size
        self.status, self.last = "Ready", -1
        self.newest: Shown | None = None
        self.away = False
        self._show, self._tell, self._context = show, tell, context
        self._buffer: OrderedDict[int, Shown] = OrderedDict()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin with the first series."""
        if self._thread is None:
            self.status = "Running"
            self._launch("tango-detector")

    def _close(self, linger: float) -> None:
        self.frames.close()  # what was shown can still be read

    def image(self, number: int) -> Shown:
        """Image `number` of the series that is, or was last, taken; -1: the last one that is ready.

        Raises
        ------
        NotAllowedError
            There is no such image, or no more.
        """
        with self._lock:
            number = self.last if number == -1 else number
            if number > self.last or number < 0:
                raise NotAllowedError(f"image {number} is not available yet: the last one is {self.last}")
            if number not in self._buffer:
                raise NotAllowedError(f"image {number} is not available any more")
            return self._buffer[number]

    def _send_all(self) -> None:
        with self._context():
            super()._send_all()

    def _send_series(self, series: int) -> bool:
        with self._lock:
            self._buffer.clear()
            self.last = -1
        self._enter("Running")
        arrived: set[int] = set()  # beyond the last one that is ready
        farthest = -1
        begin = time.monotonic()
        for step in self.misbehaviour.steps(self.n_frames, series):
            if step.kind in ("pause", "die"):
                if step.kind == "die":
                    self.away = True
                    self.done.died.append(step.place)
                self._stop.wait(step.seconds)
                self.away = False
                begin += step.seconds
            elif step.kind == "image" and not step.stray:
                if self.rate:
                    self._stop.wait(max(0.0, begin + step.place / self.rate - time.monotonic()))
                if not self._stop.is_set():
                    self._take(step, arrived)
                    farthest = max(farthest, step.place)
            elif step.kind == "end":
                self._enter("Ready")
                if series != self.series:
                    self._stop.wait(REARM)  # as whoever begins the next one takes some time
            if self._stop.is_set():
                self._enter("Ready")
                return False
        self.done.count_lost(self.misbehaviour, series, farthest, self.n_frames)
        return True

    def _enter(self, status: str) -> None:
        self.status = status
        self._tell(status)

    def _take(self, step: Step, arrived: set[int]) -> None:
        pixels = self.frames.image(step.place % self.frames.n_frames)
        shown = Shown(step.place, pixels, time.time(), step.corrupt)
        with self._lock:
            self.newest = shown
            self._buffer[step.place] = shown
            while len(self._buffer) > self.buffer_size:
                self._buffer.popitem(last=False)
            arrived.add(step.place)
            while (following := self.last + 1) in arrived or (
                following in self.misbehaviour.lost and following < self.n_frames
            ):
                arrived.discard(following)
                self.last = following
            arrived -= {place for place in arrived if place <= self.last}
        self.done.count(step)
        self._show(shown)
