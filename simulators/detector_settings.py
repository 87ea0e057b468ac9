"""What the Tango device `SimulatedDetector` can be told, and the detectors that it can be."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ..processing.errors import ConfigurationError, OutOfRangeError
from .compression import check_encoding
from .counting import DTYPES
from .diffraction import StillSimulator
from .frame_inputs import FrameInput, SimulatedInput, open_input
from .misbehaviour import Misbehaviour
from .push_detector import PushDetector
from .sending import Done
from .sls_detector import SlsDetector
from .stream1_detector import Stream1Detector
from .stream2_detector import Stream2Detector
from .tango_series import MAX_FRAMES, Shown, TangoSeries

#: distinct simulated frames that are kept in memory; a longer series repeats them
DISTINCT = 100

#: rows and columns that a simulated detector can have
MIN_SIDE, MAX_SIDE = 64, 16_384

#: pixel types by name
PIXEL_TYPES: Final = {dtype.name: dtype for dtype in DTYPES}


class Detector(Protocol):
    """What a protocol's detector can do; `PushDetector`, `SlsDetector` and `TangoSeries` are such."""

    port: int
    done: Done

    def start(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def stop(self, linger: float = 0.0) -> None: ...


@dataclass(frozen=True)
class DetectorSettings:
    """Settings of a simulated detector. `shape`, `dtype` and `hits` (%) are those of simulated frames; with
    `input_file` the frames come from there. `port` 0 takes a free one."""

    protocol: str = "tango"
    port: int = 0
    encoding: str = "bslz4"
    frame_rate: float = 10.0
    number_of_frames: int = 100
    number_of_series: int = 1
    input_file: str = ""
    misbehaviour: str = ""
    hits: float = 30.0
    shape: tuple[int, int] = (512, 512)
    dtype: str = "uint16"
    image_events: str = "change data_ready"
    buffer_max_number: int = 32

    def replace(self, **changes: Any) -> DetectorSettings:
        """Settings with these changes, checked.

        Raises
        ------
        ConfigurationError, OutOfRangeError
            Names the setting, its value and what is accepted.
        """
        changed = dataclasses.replace(self, **changes)
        for name in changes:
            _CHECKS[name](name, getattr(changed, name))
        return changed

    def make_input(self) -> FrameInput:
        """The frames; simulated ones are drawn now, which takes a while."""
        if self.input_file:
            return open_input(self.input_file)
        kept = min(self.number_of_frames, DISTINCT)
        simulator = StillSimulator(self.shape, hit_share=self.hits / 100, n_frames=kept, dtype=self.dtype)
        return SimulatedInput(simulator, kept)


@dataclass(frozen=True)
class TangoSide:
    """What the protocol `tango` needs of the device: where images and the status go, and what its thread must enter."""

    show: Callable[[Shown], None]
    tell: Callable[[str], None]
    context: Callable[[], contextlib.AbstractContextManager]


def _series_of(settings: DetectorSettings) -> dict[str, Any]:
    """What every detector is told of its series."""
    return {
        "n_frames": settings.number_of_frames,
        "rate": settings.frame_rate,
        "series": settings.number_of_series,
        "misbehaviour": Misbehaviour.parse(settings.misbehaviour),
    }


def make_tango(settings: DetectorSettings, frames: FrameInput, side: TangoSide) -> TangoSeries:
    return TangoSeries(
        frames,
        **_series_of(settings),
        buffer_size=settings.buffer_max_number,
        show=side.show,
        tell=side.tell,
        context=side.context,
    )


def make_stream(kind: type[PushDetector]) -> Callable[[DetectorSettings, FrameInput, TangoSide], PushDetector]:
    def make(settings: DetectorSettings, frames: FrameInput, side: TangoSide) -> PushDetector:
        return kind(
            frames,
            port=settings.port,
            encoding=settings.encoding,
            **_series_of(settings),
        )

    return make


def make_sls(settings: DetectorSettings, frames: FrameInput, side: TangoSide) -> SlsDetector:
    return SlsDetector(
        frames,
        port=settings.port,
        **_series_of(settings),
    )


#: makes the detector of a protocol; another protocol is another line here
PROTOCOLS: Final[dict[str, Callable[[DetectorSettings, FrameInput, TangoSide], Detector]]] = {
    "stream1": make_stream(Stream1Detector),
    "stream2": make_stream(Stream2Detector),
    "sls": make_sls,
    "tango": make_tango,
}

#: for `image_events`: the words, and the events of Tango that they stand for
IMAGE_EVENTS: Final = ("change", "data_ready")


def _one_of(*accepted: str) -> Callable[[str, str], None]:
    def check(name: str, value: str) -> None:
        if value not in accepted:
            raise OutOfRangeError(f"{name} = {value!r}: accepted is one of {', '.join(accepted)}")

    return check


def _between(low: float, high: float) -> Callable[[str, float], None]:
    def check(name: str, value: float) -> None:
        if not low <= value <= high:
            raise OutOfRangeError(f"{name} = {value}: accepted is {low:g} to {high:g}")

    return check


def _check_input(name: str, value: str) -> None:
    if value:
        open_input(value).close()


def _check_shape(name: str, value: tuple[int, int]) -> None:
    if len(value) != 2 or not all(MIN_SIDE <= side <= MAX_SIDE for side in value):
        raise OutOfRangeError(f"{name} = {list(value)}: accepted are rows and columns, {MIN_SIDE} to {MAX_SIDE} each")


def _check_events(name: str, value: str) -> None:
    if set(value.split()) - set(IMAGE_EVENTS):
        raise ConfigurationError(f"{name} = {value!r}: accepted are the words {' and '.join(IMAGE_EVENTS)}, or none")


_CHECKS: Final[dict[str, Callable[[str, Any], None]]] = {
    "protocol": _one_of(*PROTOCOLS),
    "port": _between(0, 65_535),
    "encoding": lambda name, value: check_encoding(value),
    "frame_rate": _between(0, 100_000),
    "number_of_frames": _between(1, MAX_FRAMES),
    "number_of_series": _between(0, MAX_FRAMES),
    "input_file": _check_input,
    "misbehaviour": lambda name, value: Misbehaviour.parse(value),
    "hits": _between(0, 100),
    "shape": _check_shape,
    "dtype": _one_of(*PIXEL_TYPES),
    "image_events": _check_events,
    "buffer_max_number": _between(1, 10_000),
}
