"""A PSI detector: one publishing socket for each slsReceiver, modules of frames as JSON and bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..processing.errors import ConfigurationError, OutOfRangeError
from .frame_inputs import FrameInput
from .misbehaviour import Misbehaviour, Step
from .push_detector import UNPACED_FRAME_TIME
from .sending import SendingThread
from .sls_messages import DETECTOR_TYPES, ModuleInfo, end_header, module_header
from .sls_publishers import Publishers

#: the first port of real receivers
SLS_PORT = 30001

#: one module of one frame: (place of the frame in its series, from 0; module, from 0)
ModuleOfFrame = tuple[int, int]

MAX_MODULES = 256


class SlsDetector(SendingThread):
    """Sends series of frames in modules, from a thread of its own, each module from a port of its own.

    A series begins when every port has a subscriber. A receiver of the real detector publishes whether anybody takes
    it or not; so does this one with `drops`, and counts what it dropped. Without, it waits for room instead, so that
    nothing but what is asked for gets lost.

    Parameters
    ----------
    frames
        What to send; closed by `stop`.
    host, port
        Where to listen; the modules' ports follow one another. Port 0 takes free ones; `start` sets it to the first.
    modules
        How many; below one another, unless `grid` (rows, columns) says otherwise.
    n_frames
        Images per series; the input's are repeated as needed. None: each once.
    rate
        Hz; 0 = as fast as possible.
    series
        Number of series, one after the other; 0 = until stopped. Each has a file index of its own, from 1, unless
        `counts_files` is False, as where no files are written.
    first_number
        `frameNumber` of the first frame. It begins anew with each series, unless `numbers_go_on`.
    flipped
        Modules whose rows are sent in reverse order.
    added
        The user's `addJsonHeader` of a frame, given its place in the series.
    misbehaviour
        What goes wrong with whole frames and series; all modules then have it. There is no message that begins a
        series, so that `no_start` changes nothing.
    lost_modules, corrupt_modules, corrupt_headers, duplicated_modules, incomplete_modules
        Modules of frames that are not sent, lack half of their bytes, have half a header, are sent twice, or say that
        packets are missing.
    late_modules
        Modules that are sent behind those of so many later frames.
    away
        Receiver → (first, last) place: in the first series, its socket is closed before the first of these frames, and
        open again behind the last one, when its subscriber is back.
    endless
        Receivers that do not say that a series is over.

    Attributes
    ----------
    done : Done
        What was sent so far, and what went wrong with whole frames.
    dropped : list of (int, int, int)
        (series from 1, place, module) of what was not sent because nobody had room, or the receiver was away.
    """

    stored_encoding = "none"

    def __init__(
        self,
        frames: FrameInput,
        *,
        host: str = "127.0.0.1",
        port: int = SLS_PORT,
        modules: int = 1,
        grid: tuple[int, int] | None = None,
        n_frames: int | None = None,
        rate: float = 0.0,
        series: int = 1,
        detector: str = "jungfrau",
        file_name: str = "run",
        counts_files: bool = True,
        first_number: int = 1,
        numbers_go_on: bool = False,
        flipped: Collection[int] = (),
        added: Callable[[int], Mapping[str, Any]] | None = None,
        drops: bool = False,
        misbehaviour: Misbehaviour | None = None,
        lost_modules: Collection[ModuleOfFrame] = (),
        corrupt_modules: Collection[ModuleOfFrame] = (),
        corrupt_headers: Collection[ModuleOfFrame] = (),
        duplicated_modules: Collection[ModuleOfFrame] = (),
        incomplete_modules: Collection[ModuleOfFrame] = (),
        late_modules: Mapping[ModuleOfFrame, int] | None = None,
        away: Mapping[int, tuple[int, int]] | None = None,
        endless: Collection[int] = (),
    ) -> None:
        super().__init__()
        self.frames = frames
        self.host, self.port = host, port
        self.grid = grid or (modules, 1)
        self.n_modules = self.grid[0] * self.grid[1]
        self.n_frames = frames.n_frames if n_frames is None else n_frames
        self.rate, self.series = rate, series
        self.file_name, self.counts_files = file_name, counts_files
        self.first_number, self.numbers_go_on = first_number, numbers_go_on
        self.flipped, self.added, self.drops = frozenset(flipped), added, drops
        self.misbehaviour = misbehaviour or Misbehaviour()
        self.lost_modules, self.corrupt_modules = frozenset(lost_modules), frozenset(corrupt_modules)
        self.corrupt_headers = frozenset(corrupt_headers)
        self.duplicated_modules = frozenset(duplicated_modules)
        self.incomplete_modules = frozenset(incomplete_modules)
        self.late_modules, self.away, self.endless = dict(late_modules or {}), dict(away or {}), frozenset(endless)
        self.dropped: list[tuple[int, int, int]] = []
        self._check(modules, detector)
        rows, columns = frames.info.shape
        self._info = ModuleInfo(
            self.grid, (0, 0), (rows // self.grid[0], columns // self.grid[1]), 8 * frames.info.dtype.itemsize,
            1, file_name, self.n_frames, detector, False,
        )  # fmt: skip
        self._publishers: Publishers | None = None

    def _check(self, modules: int, detector: str) -> None:
        if self.n_frames < 1 or not 0 <= self.rate < float("inf") or self.series < 0:
            raise OutOfRangeError(f"{self.n_frames} frames, {self.rate} Hz, {self.series} series: must not be negative")
        if modules not in (1, self.n_modules) or min(self.grid) < 1 or self.n_modules > MAX_MODULES:
            raise OutOfRangeError(f"{modules} modules, grid {self.grid}: 1 … {MAX_MODULES} modules are expected")
        if not 0 <= self.port <= 65536 - self.n_modules:
            raise OutOfRangeError(f"port {self.port}: 0 … {65536 - self.n_modules} is expected")
        if detector not in DETECTOR_TYPES:
            raise OutOfRangeError(f"detector {detector!r}: one of {', '.join(DETECTOR_TYPES)} is expected")
        shape, dtype = self.frames.info.shape, self.frames.info.dtype
        if shape[0] % self.grid[0] or shape[1] % self.grid[1]:
            raise ConfigurationError(
                f"{shape[0]} × {shape[1]} pixels cannot be divided into {self.grid[0]} × {self.grid[1]} equal modules"
            )
        if dtype.kind != "u":
            raise ConfigurationError(f"receivers send uint8, uint16 or uint32, the pixels are {dtype.name}")

    @property
    def url(self) -> str:
        """The source that reads it."""
        return f"sls://{self.host}:{self.port}" + (f"?modules={self.n_modules}" if self.n_modules > 1 else "")

    @property
    def total(self) -> int | None:
        """Frames that it will send in all, if nothing goes wrong; None: until stopped."""
        return self.n_frames * self.series if self.series else None

    def start(self) -> None:
        """Listen, and send as soon as every port has a subscriber.

        Raises
        ------
        ConfigurationError
            The address cannot be used.
        """
        if self._publishers is not None:
            return
        self._publishers = Publishers(self.host, self.port, self.n_modules, self._stop)
        self.port = self._publishers.port
        self._launch("sls-detector")

    def _close(self, linger: float) -> None:
        if self._publishers is not None:
            self._publishers.destroy(linger)
            self._publishers = None
        self.frames.close()

    def _send_series(self, series: int) -> bool:
        """Send one series; False when told to stop before its end."""
        if not self._publishers.wait_for_subscribers():
            return False
        frame_time = 1 / self.rate if self.rate else UNPACED_FRAME_TIME
        begin, n_sent, last, late = time.monotonic(), 0, -1, []
        for step in self.misbehaviour.steps(self.n_frames, series):
            if self._stop.is_set():
                return False
            if step.kind == "pause":
                self._stop.wait(step.seconds)
            elif step.kind == "die":
                self.done.died.append(step.place)
                if not self._die(step.seconds):
                    return False
            elif step.kind == "image":
                if self.rate and self._stop.wait(max(0.0, begin + n_sent * frame_time - time.monotonic())):
                    return False
                if series == 1 and not self._come_and_go(step.place):
                    return False
                late = [(left - 1, place, module) for left, place, module in late]
                late += self._send_frame(series, step, frame_time)
                late = self._send_late(series, frame_time, late)
                n_sent += 1
                last = last if step.stray else max(last, step.place)
                self.done.count(step)
            elif step.kind == "end":
                self._send_late(series, frame_time, [(0, place, module) for _, place, module in late])
                self._send_ends()
        self.done.count_lost(self.misbehaviour, series, last, self.n_frames)
        return not self._stop.is_set()

    def _die(self, seconds: float) -> bool:
        """The whole detector is gone for a while; False when told to stop meanwhile."""
        for module in range(self.n_modules):
            self._publishers.close(module)
        self._stop.wait(seconds)
        for module in range(self.n_modules):
            self._publishers.reopen(module)
        return self._publishers.wait_for_subscribers()

    def _come_and_go(self, place: int) -> bool:
        """Close and open the receivers that are away for some frames; False when told to stop meanwhile."""
        for module, (first, last) in self.away.items():
            if place == first:
                self._publishers.close(module)
            elif place == last + 1 and not self._publishers.is_open(module):
                self._publishers.reopen(module)
                if not self._publishers.wait_for_subscribers():
                    return False
        return True

    def _send_frame(self, series: int, step: Step, frame_time: float) -> list[tuple[int, int, int]]:
        """Send the modules of a frame; (frames to wait, place, module) of those that are to be late."""
        late = []
        for module in range(self.n_modules):
            place = (step.place, module)
            if place in self.lost_modules:
                continue
            if place in self.late_modules:
                late.append((self.late_modules[place], step.place, module))
            else:
                self._send_module(series - step.stray, step.place, module, frame_time, step.corrupt)
        return late

    def _send_late(
        self, series: int, frame_time: float, late: list[tuple[int, int, int]]
    ) -> list[tuple[int, int, int]]:
        for left, place, module in late:
            if left <= 0:
                self._send_module(series, place, module, frame_time, False)
        return [waiting for waiting in late if waiting[0] > 0]

    def _send_module(self, series: int, place: int, module: int, frame_time: float, corrupt: bool) -> None:
        key, index = (place, module), self.frames.number(place)
        position = divmod(module, self.grid[1])
        flip = module in self.flipped
        info = replace(
            self._info, position=position, flip_rows=flip, file_index=series if self.counts_files else 1
        )  # fmt: skip
        header = module_header(
            info,
            frame_index=index,
            frame_number=self.first_number + index + self.numbers_go_on * (series - 1) * self.n_frames,
            time=1000 + index * frame_time + 100 * module,  # clocks of modules do not agree
            exposure=frame_time,
            complete=key not in self.incomplete_modules,
            added=self.added(place) if self.added else None,
        )
        pixels = self._pixels(place, position)
        data = (pixels[::-1] if flip else pixels).tobytes()
        if corrupt or key in self.corrupt_modules:
            data = data[: len(data) // 2]
        if key in self.corrupt_headers:
            header = header[: len(header) // 2]
        for _ in range(2 if key in self.duplicated_modules else 1):
            if not self._publishers.send(module, [header, data], waits=not self.drops):
                self.dropped.append((series, place, module))

    def _pixels(self, place: int, position: tuple[int, int]) -> np.ndarray:
        """The part of a frame that a module sees."""
        info, (rows, columns) = self.frames.info, self._info.shape
        stored = self.frames.encoded(place % self.frames.n_frames, self.stored_encoding)
        image = np.frombuffer(stored, info.dtype.newbyteorder("<")).reshape(info.shape)
        row, column = position[0] * rows, position[1] * columns
        return image[row : row + rows, column : column + columns]

    def _send_ends(self) -> None:
        for module in range(self.n_modules):
            if module not in self.endless:
                self._publishers.send(module, [end_header()])
