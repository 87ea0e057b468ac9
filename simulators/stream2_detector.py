"""A detector that sends a DECTRIS stream2: PUSH socket, one CBOR message per frame."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from ..processing.errors import OutOfRangeError
from .compression import compress
from .detector_layout import all_ones
from .frame_inputs import FrameInput
from .push_detector import PushDetector
from .stream2_messages import end_message, image_message, multi_dim_array, start_message, unique_id

#: the port of real detectors
STREAM2_PORT = 31001


class Stream2Detector(PushDetector):
    """Sends series of frames as CBOR messages; see `PushDetector`, also for the parameters that are not here.

    Parameters
    ----------
    channels
        Names of the channels. The first carries the frame, the others its counts halved once, twice …, as higher
        energy thresholds would count less.
    header_detail
        "all" sends flat field and pixel mask in the start message, "basic" does not.
    user_data
        Anything CBOR can carry; goes into start and image messages.
    """

    thread_name = "stream2-detector"
    header_details = ("all", "basic")

    def __init__(
        self,
        frames: FrameInput,
        *,
        host: str = "127.0.0.1",
        port: int = STREAM2_PORT,
        n_frames: int | None = None,
        rate: float = 0.0,
        encoding: str = "bslz4",
        channels: Sequence[str] = ("threshold_1",),
        series: int = 1,
        header_detail: str = "all",
        user_data: Any = None,
        lost: Collection[int] = (),
        broken: Collection[int] = (),
    ) -> None:
        super().__init__(
            frames, host=host, port=port, n_frames=n_frames, rate=rate, encoding=encoding, series=series,
            header_detail=header_detail, user_data=user_data, lost=lost, broken=broken,
        )  # fmt: skip
        self.channels = tuple(channels)
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise OutOfRangeError(f"channels {list(channels)}: at least one name is expected, each once")

    def _start_message(self, series_id: int, frame_time: float, date: datetime) -> list[bytes]:
        self._identity = {"series_id": series_id, "series_unique_id": unique_id()}
        self._date = date
        start = start_message(
            self.frames.info,
            **self._identity,
            channels=self.channels,
            number_of_images=self.n_frames,
            frame_time=frame_time,
            date=date,
            header_detail=self.header_detail,
            user_data=self.user_data,
        )
        return [start]

    def _image_message(self, place: int, start: float, exposure: float) -> list[bytes]:
        message = image_message(
            self._channel_data(place % self.frames.n_frames, place in self.broken),
            image_id=self.frames.number(place),
            **self._identity,
            date=self._date,
            start=start,
            exposure=exposure,
            user_data=self.user_data,
        )
        return [message]

    def _end_message(self) -> list[bytes]:
        return [end_message(**self._identity)]

    def _channel_data(self, i: int, broken: bool) -> dict[str, Any]:
        info = self.frames.info
        data = {self.channels[0]: self.frames.encoded(i, self.encoding)}
        for halvings, channel in enumerate(self.channels[1:], 1):
            image = self.frames.image(i)
            flagged = image == np.array(all_ones(info.dtype)).astype(info.dtype)
            data[channel] = compress(np.where(flagged, image, image >> halvings), self.encoding)
        if broken:
            data = {channel: content[: len(content) // 2] for channel, content in data.items()}
        return {c: multi_dim_array(content, info.shape, info.dtype, self.encoding) for c, content in data.items()}
