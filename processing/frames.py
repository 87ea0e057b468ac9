"""What travels through framesieve: events of a source, and reduced frames.

A source yields `SeriesStart`, then `Frame` and `BrokenFrame`, then `SeriesEnd`. The pipeline turns every
frame into one `ReducedFrame`, which the writer and the statistics take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:
    from .poni import Poni

#: dtypes of pixels that the core reduces
PIXEL_DTYPES = tuple(np.dtype(name) for name in ("uint8", "uint16", "uint32", "int16", "int32", "float32"))

#: where the position of a scan is not known
NOWHERE = (math.nan, math.nan)

#: columns of `ReducedFrame.peaks`, float32: position of the centroid in pixels (centre of the first pixel = 0),
#: summed background-free intensity and its standard uncertainty (counts), signal-to-noise ratio, number of
#: pixels above `snr_peak`, largest raw value (dark-subtracted, counts)
PEAK_COLUMNS = ("x", "y", "intensity", "sigma", "snr", "n_pixels", "maximum")


class Verdict(IntEnum):
    """What became of a frame number; the values are those stored in the ledger."""

    KEPT = 0
    VETOED = 1
    CONTROL = 2  # vetoed, but kept at random so that the veto can be checked
    LOST = 3  # never arrived
    DROPPED = 4  # arrived, but could not be taken in
    FAILED = 5  # arrived broken, or a step failed on it

    @property
    def is_saved(self) -> bool:
        """Whether the frame has a row in `sparse_frames`."""
        return self in (Verdict.KEPT, Verdict.CONTROL)


class Payload(Protocol):
    """The pixels of one frame, decoded only when a buffer is there to take them."""

    shape: tuple[int, int]  # (rows, columns)
    dtype: np.dtype
    stored_bytes: int  # as received, compressed or not
    #: the frame as HDF5's bitshuffle-LZ4 filter stores it, for its `dtype`; None where it did not come so
    bslz4_chunk: bytes | memoryview | None

    def read_into(self, out: np.ndarray) -> None:
        """Decode into `out` (C-contiguous, of `shape` and `dtype`).

        Raises
        ------
        FrameError
            The pixels cannot be decoded.
        """


@dataclass(frozen=True, slots=True)
class ArrayPayload:
    """Pixels that are in memory already; `stored_bytes` 0 means as many as the array has."""

    array: np.ndarray
    stored: int = 0
    bslz4_chunk: ClassVar[None] = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def stored_bytes(self) -> int:
        return self.stored or self.array.nbytes

    def read_into(self, out: np.ndarray) -> None:
        np.copyto(out, self.array, casting="no")


@dataclass(frozen=True, slots=True)
class SeriesStart:
    """A series begins. `shape` (rows, columns), `dtype` and `number_of_frames` are None where the source
    does not know them yet; `metadata` is what else it told (JSON-able values). `joined_late`: the beginning was not
    seen, the first frame that came opens the series.

    `pixel_mask` (rows, columns), non-zero = bad, and `flatfield` float32 (rows, columns), the factors by which pixels
    are still to be multiplied, are None where the source has none. `problems`: what it sent that cannot be used.
    `came_before`: frames of it that came before this run, by a connection kept since the last one; None where it began
    afterwards.
    """

    series_id: str
    shape: tuple[int, int] | None = None
    dtype: np.dtype | None = None
    number_of_frames: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    joined_late: bool = False
    pixel_mask: np.ndarray | None = field(default=None, compare=False)
    flatfield: np.ndarray | None = field(default=None, compare=False)
    problems: tuple[str, ...] = ()
    came_before: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it arrived. `number` counts as the source counts; `timestamp` is seconds since 1970, `monitor` the
    incoming intensity (I0) in the units of whoever measured it, `position` (x, y) that of the scan: NaN where unknown.
    `note` is what the ledger shall tell of the frame, e.g. that a part of it is missing."""

    number: int
    series_id: str
    payload: Payload
    timestamp: float = math.nan
    monitor: float = math.nan
    position: tuple[float, float] = NOWHERE
    note: str = ""


@dataclass(frozen=True, slots=True)
class BrokenFrame:
    """A message that is no usable frame. `number` is -1 where it could not be read."""

    number: int
    series_id: str
    reason: str
    timestamp: float = math.nan


@dataclass(frozen=True, slots=True)
class SeriesEnd:
    """The series is over: the source said so or, where `superseded`, began another one instead."""

    series_id: str
    superseded: bool = False


Event = SeriesStart | Frame | BrokenFrame | SeriesEnd


class Source(Protocol):
    """Where frames come from. Used by one thread only."""

    live: bool  # a detector that does not wait: frames that cannot be taken in are dropped
    sends_bslz4: bool  # frames are, or may be, bslz4 chunks, which a device can decode
    # Optional: `first_number` (int), where the protocol fixes the number of the first frame of every series. Without it
    # that is 0, or 1 where the first frame that arrives has this number.
    # Optional: `park()`, called in the place of `close` when a run is over: keep the connection, and return the source
    # whose `open` goes on with it, or None where there is nothing to keep. It comes with `has_waiting` (bool): whether
    # something has come since.

    def open(self) -> SeriesStart | None:
        """Connect or open the file. The start of the series where it is known at once, which `read` then does not
        give again; else None.

        Raises
        ------
        ConfigurationError, CommunicationError
            Nothing usable is there.
        """

    def read(self, timeout: float) -> Event | None:
        """The next event, in order of arrival; None when nothing arrived within `timeout` seconds."""

    def close(self) -> None:
        """Give everything back; may be called twice."""


EMPTY_PEAKS = np.zeros((0, len(PEAK_COLUMNS)), dtype=np.float32)


@dataclass(slots=True)
class ReducedFrame:
    """What became of one frame number: one row of the ledger and, where kept, its pixels and peaks.

    `index` uint32 (n,) is the sorted flat pixel index y·width + x, `intensity` (n,) the raw − dark values in
    the pixel type of the file, `background_mean` and `background_std` float32 (bins,) the curves (NaN where a
    bin is empty), `peaks` float32 (m, 7) with the columns `PEAK_COLUMNS`, the strongest first.
    """

    number: int
    series_id: str
    timestamp: float
    verdict: Verdict
    reason: str = ""
    parameter_set: int = 0
    n_pixels: int = 0
    n_peaks: int = 0
    index: np.ndarray | None = None
    intensity: np.ndarray | None = None
    background_mean: np.ndarray | None = None
    background_std: np.ndarray | None = None
    peaks: np.ndarray = field(default_factory=lambda: EMPTY_PEAKS)
    stored_bytes: int = 0  # of the input frame, as received
    raw_bytes: int = 0  # of the input frame, uncompressed
    monitor: float = math.nan  # as in `Frame`
    position: tuple[float, float] = NOWHERE
    dense: Payload | None = None  # the whole frame as it came, only where dense saving is on and the frame is kept

    @classmethod
    def of(cls, frame: Frame | BrokenFrame, verdict: Verdict, reason: str) -> ReducedFrame:
        """The row of a frame that arrived."""
        row = cls(frame.number, frame.series_id, frame.timestamp, verdict, reason)
        if isinstance(frame, Frame):
            row.stored_bytes = frame.payload.stored_bytes
            row.raw_bytes = math.prod(frame.payload.shape) * frame.payload.dtype.itemsize
            row.monitor, row.position = frame.monitor, frame.position
            row.reason = "; ".join(filter(None, (reason, frame.note)))
        return row

    @classmethod
    def lost(cls, number: int, series_id: str) -> ReducedFrame:
        """The row of a frame that did not."""
        return cls(number, series_id, math.nan, Verdict.LOST, "never arrived")


@dataclass(slots=True)
class RunInfo:
    """What a file must hold beside the frames; fixed for a run.

    `radius` float32 (bins,) are the bin centres in metres, `radius_image` float32 (rows, columns) the radius of
    each pixel in metres, NaN where masked, `normalization` the same shape or None where it is one everywhere.
    """

    shape: tuple[int, int]
    dtype: np.dtype  # of the intensities that are stored
    radius: np.ndarray
    radius_image: np.ndarray
    normalization: np.ndarray | None
    poni_text: str
    wavelength: float | None  # m
    distance: float  # m
    pixel_size: tuple[float, float]  # (slow, fast), m
    beam_center: tuple[float, float]  # (x, y) where the normal from the sample hits, pixel index + 0.5
    detector: str
    source: str  # where the frames came from
    configuration: dict[str, Any] = field(default_factory=dict)  # run settings that are not live, JSON-able
    source_metadata: dict[str, Any] = field(default_factory=dict)  # what the source told of itself, JSON-able

    @classmethod
    def of_geometry(cls, poni: Poni, told: dict[str, Any], **fields: Any) -> RunInfo:
        """With the geometry that a PONI file says, and of what the source told (`told`) what it leaves open."""
        return cls(
            poni_text=poni.text,
            wavelength=poni.wavelength or told.get("wavelength"),
            distance=poni.distance,
            pixel_size=(poni.pixel1, poni.pixel2),
            beam_center=poni.beam_center,
            detector=told.get("detector", poni.detector) if poni.detector == "Detector" else poni.detector,
            source_metadata=told,
            **fields,
        )
