"""Series of a DECTRIS detector, followed through its messages: what stream v1 and stream2 share."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict, deque
from dataclasses import replace
from itertools import dropwhile, takewhile
from typing import Any, ClassVar, Final, Protocol

import numpy as np

from ..processing.errors import FrameError
from ..processing.frames import BrokenFrame, Event, Frame, Payload, SeriesEnd, SeriesStart
from .frame_facts import facts_of
from .pull_socket import PullSource

log = logging.getLogger(__name__)

#: number of the series, and its unique name or ""
SeriesKey = tuple[int, str]


#: what a message holds may be of any length; a name or a reason is not
MAX_NAME: Final = 100
MAX_REASON: Final = 300

#: names of series that are remembered, so that none is given twice
MAX_NAMES: Final = 1000


class Image(Protocol):
    """What must be known of the message of an image."""

    series_key: SeriesKey
    number: int
    user_data: Any  # what the user adds to each image, see `frame_facts`


class Start(Protocol):
    """What must be known of the message that begins a series."""

    series_key: SeriesKey
    shape: tuple[int, int] | None
    dtype: np.dtype | None
    number_of_images: int | None
    is_flat: bool  # whether the detector has applied its flat field already

    def metadata(self) -> dict[str, Any]:
        """What the detector told, under the names of `stream2_messages.StartMessage.metadata`."""

    def array(self, field: str, channel: str | None) -> np.ndarray | None:
        """One of the tables that came with it, as large as the images; None where it was not sent, FrameError where it
        is broken."""


class DetectorStream(PullSource):
    """Turns messages into events: begins and ends of series, images in their series, strays left out.

    A subclass parses its messages in `handle` and gives them to `_take_image`, `_take_end`, `_begin`; it says how the
    pixels (`_payload`) and the time (`_timestamp`) of an image are had.

    Joined in the middle of a series, or where its start message got lost, the first image that is whole opens it.
    Without an end message a series goes on until the next one begins; then nothing is said of images that were
    announced and did not come, since an aborted series never took them. Images and ends of series that are over, or of
    one older than that being read, are left out and counted in `stray_messages`.

    A name is given once: a second series "1" is "1 (2)".

    Where the connection is kept between two runs, series that begin meanwhile are those of the next runs, one after the
    other. A series that the last run left in the middle, by its number of frames or Stop, goes on where it then is:
    its images that came between the runs are left out, and what its start message told still holds.

    Frames bring `monitor` and `position` where the user data of the images hold them, see `frame_facts`. Mask and flat
    field of a series are those of the start message, the flat field only where the detector says that it has not
    applied it; one that cannot be used is told in `problems` and costs nothing else.
    """

    live: ClassVar[bool] = True
    sends_bslz4: ClassVar[bool] = True
    first_number: ClassVar[int] = 0  # of every series

    def __init__(self, host: str, port: int, queue: int = 100, max_message_bytes: int = 1 << 30) -> None:
        super().__init__(host, port, queue, max_message_bytes)
        self._forget()

    def _forget(self) -> None:
        super()._forget()
        self.stray_messages = 0  # of series that are over
        self._key: SeriesKey | None = None  # of the series that is open
        self._name = ""  # of the same
        self._shape: tuple[int, int] | None = None  # None: not told yet, the first image tells
        self._dtype: np.dtype | None = None
        self._told: SeriesStart | None = None  # of the same, as it was told
        self._is_untold = False  # whether it was told to another run only
        self._between_runs: int | None = None  # images left out of what came between two runs; None: during a run
        self._over: deque[SeriesKey] = deque(maxlen=64)
        self._over_before: deque[SeriesKey] = deque(maxlen=64)  # in runs before: a start message may use it again
        self._named: OrderedDict[str, int] = OrderedDict()  # how many series had a name

    def _payload(self, message: Image, is_open: bool) -> Payload:
        """The pixels of an image; FrameError where they cannot be used. `is_open`: its series has begun."""
        raise NotImplementedError

    def _timestamp(self, message: Image, is_open: bool) -> float:
        """When the image was taken, seconds since 1970, NaN where unknown."""
        raise NotImplementedError

    def _is_stray(self, key: SeriesKey) -> bool:
        """Whether an image belongs to a series that is over."""
        return self._is_over(key) or (self._key is not None and key[0] < self._key[0])

    def _is_over(self, key: SeriesKey | None) -> bool:
        return key in self._over or key in self._over_before

    def _is_repeated_start(self, key: SeriesKey) -> bool:
        """Whether a start message with this key is that of the series that is open, once more."""
        return key == self._key and not self._is_untold

    def _take_image(self, message: Image) -> list[Event]:
        key = message.series_key
        if self._is_stray(key):
            self.stray_messages += 1
            return []
        is_open = key == self._key
        if is_open and self._is_untold and self._between_runs is not None:
            self._between_runs += 1
            return []
        timestamp = self._timestamp(message, is_open)
        try:
            payload = self._payload(message, is_open)
            if is_open:
                self._check(payload)
        except FrameError as error:
            return [self._broken(message.number, key, error, timestamp)]
        events: list[Event] = []
        if not is_open:
            # only an image that is whole may open a series
            events = self._begin(key, payload.shape, payload.dtype)
            self._told = SeriesStart(self._name, payload.shape, payload.dtype, joined_late=True)
            events.append(self._told)
        elif self._is_untold:
            self._is_untold = False
            events.append(replace(self._told, shape=payload.shape, dtype=payload.dtype))
        self._shape, self._dtype = payload.shape, payload.dtype
        monitor, position = facts_of(message.user_data)
        events.append(Frame(message.number, self._name, payload, timestamp, monitor, position))
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
        self._key, self._shape, self._dtype = key, shape, dtype
        for over in (self._over, self._over_before):
            if key in over:
                over.remove(key)
        self._name, self._told = self._new_name(key), None
        return events

    def _start_of(self, message: Start, channel: str | None) -> SeriesStart:
        """The event of the message that began the series; `channel` is that whose tables count."""
        problems: list[str] = []

        def table(field: str) -> np.ndarray | None:
            try:
                return message.array(field, channel)
            except FrameError as error:
                problems.append(str(error)[:MAX_REASON])
                return None

        mask = table("pixel_mask")
        if mask is not None and mask.dtype.kind not in "iu":
            problems.append(f"pixel_mask: its values are {mask.dtype.name}, integers are expected")
            mask = None
        flatfield = None if message.is_flat else table("flatfield")
        if flatfield is not None:
            # ones, as a detector without calibration sends them, are nothing to be multiplied by
            flatfield = None if (flatfield == 1).all() else flatfield.astype(np.float32)
        self._told = SeriesStart(
            self._name,
            message.shape,
            message.dtype,
            message.number_of_images,
            message.metadata(),
            pixel_mask=mask,
            flatfield=flatfield,
            problems=tuple(problems),
        )
        return self._told

    def _finish(self, *, superseded: bool = False) -> list[Event]:
        self._over.append(self._key)
        self._key = None
        if self._is_untold:  # this run knows nothing of it
            self._is_untold = False
            return []
        return [SeriesEnd(self._name, superseded)]

    def _end_run(self) -> None:
        # what waits may hold series that have begun since: the one that is open is then the last of them
        begun = list(dropwhile(_is_no_start, self._pending))
        self._pending = deque(begun)
        self._over_before.extend(self._over)
        self._over.clear()
        self._named = OrderedDict((event.series_id, 1) for event in begun if isinstance(event, SeriesStart))
        self.stray_messages, self._between_runs = 0, 0
        if self._key is not None and not begun and self._told is not None:
            self._is_untold = True
            self._name = self._new_name(self._key)
            self._told = replace(self._told, series_id=self._name, joined_late=True, problems=())

    def _begin_run(self) -> None:
        left_out, self._between_runs = self._between_runs, None
        if left_out:
            log.info("%d images of a series that the last run has left came between two runs: left out", left_out)
        begun = list(dropwhile(_is_no_start, self._pending))
        if begun:
            waiting = [event for event in takewhile(_is_no_start, begun[1:]) if isinstance(event, Frame | BrokenFrame)]
            begun[0] = replace(begun[0], came_before=len(waiting))
        self._pending = deque(begun)

    def _new_name(self, key: SeriesKey) -> str:
        """The name of a series that begins; where another one had it before, with a number behind it."""
        name = name_of(key)
        times = self._named.pop(name, 0) + 1
        self._named[name] = times
        if len(self._named) > MAX_NAMES:
            self._named.popitem(last=False)
        return name if times == 1 else f"{name} ({times})"

    def _broken(
        self, number: int, key: SeriesKey | None, error: FrameError, timestamp: float = math.nan
    ) -> BrokenFrame:
        """The event of a message that is no usable frame. One that names no series belongs to the open one, if any."""
        key = key or self._key
        name = "" if key is None else self._name if key == self._key else name_of(key)
        return BrokenFrame(number, name, str(error)[:MAX_REASON], timestamp)


def _is_no_start(event: Event) -> bool:
    return not isinstance(event, SeriesStart)


def name_of(key: SeriesKey) -> str:
    """How the detector names a series."""
    return key[1][:MAX_NAME] or str(key[0])


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} × {shape[1]}"


def _described(shape: tuple[int, int], dtype: np.dtype) -> str:
    return f"{_size(shape)} {dtype.name}"
