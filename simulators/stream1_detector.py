"""A detector that sends a DECTRIS stream v1: PUSH socket, multipart messages of JSON and bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from datetime import datetime
from typing import Any

from ..processing.errors import ConfigurationError
from .frame_inputs import FrameInput
from .push_detector import PushDetector
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
        Anything JSON can carry; sent as the appendix of header and images.

    Raises
    ------
    ConfigurationError
        The pixels are signed: stream v1 has no word for that.
    """

    thread_name = "stream1-detector"
    header_details = ("all", "basic", "none")

    def __init__(
        self,
        frames: FrameInput,
        *,
        host: str = "127.0.0.1",
        port: int = STREAM1_PORT,
        n_frames: int | None = None,
        rate: float = 0.0,
        encoding: str = "bslz4",
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
        if frames.info.dtype.kind != "u":
            raise ConfigurationError(
                f"stream v1 carries uint8, uint16 or uint32, the pixels are {frames.info.dtype.name}: use stream2"
            )
        self._appendix = None if user_data is None else json.dumps(user_data).encode()

    @property
    def stored_encoding(self) -> str:
        """The encoding in which the frames are asked for: plain LZ4 has no header here."""
        return "lz4block" if self.encoding == "lz4" else self.encoding

    def _start_message(self, series_id: int, frame_time: float, date: datetime) -> list[bytes]:
        self._series = series_id
        self._clock = time.monotonic_ns()  # runs since the detector was switched on
        return header_message(
            self.frames.info,
            series=series_id,
            number_of_images=self.n_frames,
            frame_time=frame_time,
            date=date,
            header_detail=self.header_detail,
            encoding=self.encoding,
            appendix=self._appendix,
        )

    def _image_message(self, place: int, start: float, exposure: float) -> list[bytes]:
        data = self.frames.encoded(place % self.frames.n_frames, self.stored_encoding)
        return image_message(
            data[: len(data) // 2] if place in self.broken else data,
            self.frames.info,
            series=self._series,
            frame=self.frames.number(place),
            encoding=self.encoding,
            start=self._clock + round(start * 1e9),
            exposure=round(exposure * 1e9),
            appendix=self._appendix,
        )

    def _end_message(self) -> list[bytes]:
        return end_message(series=self._series)
