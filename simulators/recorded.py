"""Recorded messages of real DECTRIS detectors, sent again as they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..processing.errors import ConfigurationError
from .frame_inputs import DetectorInfo
from .misbehaviour import Misbehaviour
from .push_detector import PushDetector, Series
from .stream1_detector import STREAM1_PORT
from .stream2_detector import STREAM2_PORT

PORTS = {"stream1": STREAM1_PORT, "stream2": STREAM2_PORT}

#: the parts of one message
Parts = Sequence[bytes]


class RecordedDetector(PushDetector):
    """Sends recorded messages, one after another, begins and ends of series among them.

    Parameters
    ----------
    paths
        Of the messages, in the order of sending; a folder stands for the files in it, in the order of their names.
        `.cbor`: a message of stream2 each; others: one of stream v1, as the MessagePack list of its parts.
    host, port, rate, series
        See `PushDetector`; a series is once through all messages.
    misbehaviour
        What goes wrong; its places are those of the messages.

    Raises
    ------
    ConfigurationError
        A file cannot be read, or they are of both protocols.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        rate: float = 0.0,
        series: int = 1,
        misbehaviour: Misbehaviour | None = None,
    ) -> None:
        files = _files(paths)
        self.scheme = "stream2" if files[0].suffix == ".cbor" else "stream1"
        if any((file.suffix == ".cbor") != (self.scheme == "stream2") for file in files):
            raise ConfigurationError("messages of stream2 (.cbor) and of stream v1 cannot be sent together")
        self.messages = [[file.read_bytes()] if self.scheme == "stream2" else read_stream1(file) for file in files]
        super().__init__(
            _Messages(len(self.messages)),
            host=host,
            port=PORTS[self.scheme] if port is None else port,
            rate=rate,
            series=series,
            misbehaviour=replace(misbehaviour or Misbehaviour(), no_start=True, no_end=True),
        )

    def _image_message(self, series: Series, place: int, start: float, corrupt: bool) -> Parts:
        parts = self.messages[place]
        largest = max(range(len(parts)), key=lambda k: len(parts[k]))
        return [part[: len(part) // 2] if corrupt and k == largest else part for k, part in enumerate(parts)]


class _Messages:
    """Stands where other detectors have their frames; a `FrameInput` that is only counted."""

    info = DetectorInfo((1, 1), np.dtype(np.uint8))

    def __init__(self, n_frames: int) -> None:
        self.n_frames = n_frames

    def close(self) -> None:
        """Nothing to give back."""


def _files(paths: Sequence[str | Path]) -> list[Path]:
    files = []
    for path in map(Path, paths):
        found = sorted(item for item in path.iterdir() if item.is_file()) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            raise ConfigurationError(f"{path}: {'holds no messages' if path.is_dir() else 'no such file'}")
        files += found
    if not files:
        raise ConfigurationError("no recorded message is named")
    return files


def read_stream1(path: Path) -> list[bytes]:
    """A recorded message of stream v1: the MessagePack list of its parts, the first one of which is a map and no JSON
    any more. ConfigurationError where the file holds something else."""
    try:
        value, rest = _unpack(memoryview(path.read_bytes()))
        if rest or not isinstance(value, list):
            raise ValueError("more than one list")
        return [json.dumps(one).encode() if isinstance(one, dict) else bytes(one) for one in value]
    except (ValueError, LookupError, TypeError, struct.error) as error:
        raise ConfigurationError(f"{path}: no recorded message of stream v1 ({error})") from None


def _unpack(data: memoryview) -> tuple[Any, memoryview]:
    """One value of MessagePack, as far as the recording uses it, and what follows."""
    code, data = data[0], data[1:]
    if code < 0x80:
        return code, data
    if code >> 4 in (8, 9):
        values = []
        for _ in range((code & 15) * (2 if code >> 4 == 8 else 1)):
            value, data = _unpack(data)
            values.append(value)
        if code >> 4 == 9:
            return values, data
        texts = [str(value, "utf-8") if isinstance(value, memoryview) else value for value in values]
        return dict(zip(texts[::2], texts[1::2], strict=True)), data
    if code == 0xCD:
        return struct.unpack(">H", data[:2])[0], data[2:]
    if code >> 5 == 5:
        length = code & 31
    else:
        size = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1}[code]
        length, data = int.from_bytes(data[:size], "big"), data[size:]
    if length > len(data):
        raise ValueError("it is cut off")
    return data[:length], data[length:]
