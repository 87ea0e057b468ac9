"""A detector that sends a DECTRIS stream2: PUSH socket, one CBOR message per frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..processing.errors import OutOfRangeError
from .compression import compress
from .detector_layout import all_ones
from .frame_inputs import FrameInput
from .push_detector import PushDetector, Series
from .stream2_messages import end_message, image_message, multi_dim_array, start_message

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

    scheme = "stream2"
    usual_port = STREAM2_PORT
    header_details = ("all", "basic")

    def __init__(
        self,
        frames: FrameInput | Sequence[FrameInput],
        *,
        channels: Sequence[str] = ("threshold_1",),
        **options: Any,
    ) -> None:
        super().__init__(frames, **options)
        self.channels = tuple(channels)
        if not self.channels or len(set(self.channels)) != len(self.channels):
            raise OutOfRangeError(f"channels {list(channels)}: at least one name is expected, each once")

    def _start_message(self, series: Series) -> list[bytes]:
        start = start_message(
            series.frames.info,
            **_identity(series),
            channels=self.channels,
            number_of_images=series.n_frames,
            frame_time=series.frame_time,
            date=series.date,
            header_detail=self.header_detail,
            user_data=self.user_data(None),
        )
        return [start]

    def _image_message(self, series: Series, place: int, start: float, corrupt: bool) -> list[bytes]:
        message = image_message(
            self._channel_data(series.frames, place % series.frames.n_frames, corrupt),
            image_id=series.frames.number(place),
            **_identity(series),
            date=series.date,
            start=start,
            exposure=series.frame_time,
            user_data=self.user_data(place),
        )
        return [message]

    def _end_message(self, series: Series) -> list[bytes]:
        return [end_message(**_identity(series))]

    def _channel_data(self, frames: FrameInput, i: int, corrupt: bool) -> dict[str, Any]:
        info = frames.info
        data = {self.channels[0]: frames.encoded(i, self.encoding)}
        for halvings, channel in enumerate(self.channels[1:], 1):
            image = frames.image(i)
            flagged = image == np.array(all_ones(info.dtype)).astype(info.dtype)
            data[channel] = compress(np.where(flagged, image, image >> halvings), self.encoding)
        if corrupt:
            data = {channel: content[: len(content) // 2] for channel, content in data.items()}
        return {c: multi_dim_array(content, info.shape, info.dtype, self.encoding) for c, content in data.items()}


def _identity(series: Series) -> dict[str, Any]:
    return {"series_id": series.number, "series_unique_id": series.unique_id}
