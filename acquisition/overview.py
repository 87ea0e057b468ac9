"""What the frames of a run have in common: virtual powder, peaks over the scan, the last hit as a picture; and the
newest frame in one piece."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..formats import smx_sparse_frame
from ..formats.densify import Densifier
from ..processing.bins import RadialBins
from ..processing.frames import ReducedFrame
from ..processing.parameters import ParameterSet
from ..processing.veto import is_hit
from .virtual_powder import VirtualPowder

INVALID = 65535  # in pictures: pixels without a value
MAP_FRAMES = 10_000  # frames whose scan positions are remembered


def _empty(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.zeros(shape, dtype=dtype)


@dataclass(frozen=True, slots=True)
class View:
    """The overview at one moment. Names are those of the Tango attributes."""

    virtual_powder_frames: int = 0
    virtual_powder_step: int = 1
    virtual_powder_max: np.ndarray = field(default_factory=lambda: _empty(0, 0))  # float32, as in `VirtualPowder`
    virtual_powder_sum: np.ndarray = field(default_factory=lambda: _empty(0, 0))
    hit_map: np.ndarray = field(default_factory=lambda: _empty(0, 3, dtype="float64"))  # x, y, peaks; oldest first
    last_hit_number: int = -1
    last_hit_peaks: np.ndarray = field(default_factory=lambda: _empty(0, 6))
    last_hit_preview: np.ndarray = field(default_factory=lambda: _empty(0, 0, dtype="uint16"))


class Overview:
    """Takes every batch of reduced frames, which costs next to nothing; what clients see is made when they ask.

    Thread-safe. Memory is bounded: 12 bytes per decimated pixel, one hit, the newest frame, `MAP_FRAMES` positions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making = threading.Lock()  # held while a view is made; frames go on meanwhile
        self._bins: RadialBins | None = None
        self._dtype = np.dtype(np.uint32)
        self._powder = VirtualPowder((0, 0))
        self._positions = np.zeros((MAP_FRAMES, 3))
        self._positioned = 0  # frames with a position so far
        self._newest: ReducedFrame | None = None
        self._encoded: tuple[ReducedFrame | None, bytes] = (None, smx_sparse_frame.NO_FRAME)  # of which, and it
        self._hit: ReducedFrame | None = None
        self._pictured: ReducedFrame | None = None  # the hit in the view
        self._densifier: Densifier | None = None
        self._version = 0
        self._view = View()
        self._made = (0, float("-inf"))  # version of the view, and when it was made

    def begin(self, bins: RadialBins, dtype: np.dtype) -> None:
        """The frames that come are of this detector and pixel type; called once, before the first of them."""
        with self._making, self._lock:
            self._bins, self._dtype = bins, np.dtype(dtype)
            self._powder = VirtualPowder(bins.shape)
            self._version += 1

    def add(self, frames: Sequence[ReducedFrame], parameter_set: ParameterSet | None) -> None:
        """A batch of frames that were reduced with one set of parameters."""
        if not frames:
            return
        hits = [row for row in frames if parameter_set is not None and is_hit(row.n_peaks, parameter_set.values)]
        with self._lock:
            self._powder.add([row.peaks for row in frames])
            for row in frames:
                if np.isfinite(row.position).all():
                    self._positions[self._positioned % MAP_FRAMES] = (*row.position, row.n_peaks)
                    self._positioned += 1
            self._newest = replace(frames[-1], dense=None)
            if hits:
                self._hit = replace(hits[-1], dense=None)
            self._version += 1

    def clear(self) -> None:
        """Begin powder and map anew; the last hit stays."""
        with self._lock:
            self._powder.clear()
            self._positioned = 0
            self._version += 1

    @property
    def last_sparse_frame(self) -> tuple[str, bytes]:
        """The frame that was reduced last, kept or not, and the format in which it is, see `smx_sparse_frame`; made
        when somebody asks. Width and height are 0 before the first one."""
        newest, encoded = self._newest, self._encoded
        if newest is not encoded[0]:
            encoded = self._encoded = newest, smx_sparse_frame.encode(newest, self._bins.shape)
        return smx_sparse_frame.FORMAT, encoded[1]

    def view(self, max_age: float = 0.0) -> View:
        """The overview now, or as it was at most `max_age` seconds ago; the same object where nothing has changed."""
        with self._making:
            version, made = self._made
            if self._version == version or time.monotonic() - made < max_age:
                return self._view
            with self._lock:
                powder, n = self._powder, self._positioned
                self._made = self._version, time.monotonic()
                hit, start = self._hit, n % MAP_FRAMES if n > MAP_FRAMES else 0
                view = replace(
                    self._view,
                    virtual_powder_frames=powder.frames,
                    virtual_powder_step=powder.step,
                    virtual_powder_max=powder.highest,
                    virtual_powder_sum=powder.total,
                    hit_map=np.roll(self._positions[: min(n, MAP_FRAMES)], -start, axis=0),
                )
            if hit is not self._pictured:
                view = replace(
                    view,
                    last_hit_number=hit.number,
                    last_hit_peaks=np.ascontiguousarray(hit.peaks[:, :6]),
                    last_hit_preview=self._picture(hit),
                )
            self._view, self._pictured = view, hit
            return view

    def _picture(self, frame: ReducedFrame) -> np.ndarray:
        """uint16 (rows, columns), decimated as the powder: the background without noise, and the picked pixels, which
        stand for those around them that are left out."""
        bins, step = self._bins, self._powder.step
        if self._densifier is None:
            radius = bins.position.reshape(bins.shape)[::step, ::step] * bins.width + bins.radius[0]
            norm = None if bins.norm is None else bins.norm.reshape(bins.shape)[::step, ::step]
            self._densifier = Densifier(radius, bins.radius, self._dtype, norm)
        background = replace(frame, index=None, intensity=None)
        picture = self._densifier.image(background, dtype=np.dtype(np.uint16), masked=INVALID, lowest=0)
        y, x = np.divmod(frame.index.astype(np.int64), bins.shape[1])
        counts = np.clip(np.rint(frame.intensity), 0, INVALID - 1).astype(np.uint16)
        place = (y // step) * picture.shape[1] + x // step
        flat = picture.reshape(-1)
        usable = flat[place] != INVALID
        np.maximum.at(flat, place[usable], counts[usable])
        return picture
