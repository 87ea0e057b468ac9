"""A detector that sends a DECTRIS stream v1: PUSH socket, multipart messages of JSON and bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..processing.errors import ConfigurationError
from .frame_inputs import FrameInput
from .push_detector import PushDetector, Series
from .stream1_messages import end_message, header_message, image_message

#: the port of real detectors
STREAM1_PORT = 9999


class Stream1Detector(PushDetector):
    """Sends series of frames as multipart messages; see `PushDetector`, also for the parameters that are not here.

    Parameters
    ----------
    header_detail
        "all" sends the configuration, flat field, pixel mask and count-rate table in the header, "basic" the
        configuration alone, "none" nothing.
    user_data
        Anything JSON can carry; sent as the appendix of header and images. None: there is no appendix.

    Raises
    ------
    ConfigurationError
        The pixels are signed: stream v1 has no word for that.
    """

    scheme = "stream1"
    usual_port = STREAM1_PORT
    header_details = ("all", "basic", "none")

    def __init__(self, frames: FrameInput | Sequence[FrameInput], **options: Any) -> None:
        super().__init__(frames, **options)
        for one in self.frames:
            if one.info.dtype.kind != "u":
                raise ConfigurationError(
                    f"stream v1 carries uint8, uint16 or uint32, the pixels are {one.info.dtype.name}: use stream2"
                )

    @property
    def stored_encoding(self) -> str:
        """The encoding in which the frames are asked for: plain LZ4 has no header here."""
        return "lz4block" if self.encoding == "lz4" else self.encoding

    def _appendix(self, place: int | None) -> bytes | None:
        user_data = self.user_data(place)
        return None if user_data is None else json.dumps(user_data).encode()

    def _start_message(self, series: Series) -> list[bytes]:
        return header_message(
            series.frames.info,
            series=series.number,
            number_of_images=series.n_frames,
            frame_time=series.frame_time,
            date=series.date,
            header_detail=self.header_detail,
            encoding=self.encoding,
            appendix=self._appendix(None),
        )

    def _image_message(self, series: Series, place: int, start: float, corrupt: bool) -> list[bytes]:
        frames = series.frames
        data = frames.encoded(place % frames.n_frames, self.stored_encoding)
        return image_message(
            data[: len(data) // 2] if corrupt else data,
            frames.info,
            series=series.number,
            frame=frames.number(place),
            encoding=self.encoding,
            start=series.clock + round(start * 1e9),
            exposure=round(series.frame_time * 1e9),
            appendix=self._appendix(place),
        )

    def _end_message(self, series: Series) -> list[bytes]:
        return end_message(series=series.number)
