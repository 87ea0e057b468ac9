"""The whole system under load: `framesieve bench live`.

A simulated detector sends bslz4-compressed frames over stream2 as fast as they are taken (or at a given rate); the
device server receives, decodes, reduces and judges them and writes the hits to disk. Detector, database and server
run on this computer and share it. A short first run warms everything up, tells the rate and what a frame takes on
disk; the second one is measured.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..formats.sparse_reader import SparseFile
from ..processing.errors import ConfigurationError, FrameSieveError, OutOfRangeError
from ..processing.frames import Verdict
from ..simulators.diffraction import StillSimulator
from .live_system import ENCODING, LiveSystem
from .measuring import align
from .process_times import ThreadClock, computer_seconds, resident_mb
from .standard import SHAPE

WARM_UP = 100  # frames
_SETTLED = 2.0  # s after the first frame: from then on it is measured
_SAMPLE = 0.5  # s
_COUNTERS = ("frames_lost", "frames_dropped", "frames_failed")


@dataclass
class Load:
    """What the detector sends."""

    seconds: float = 60.0
    rate: float = 0.0  # Hz, 0 = as fast as frames are taken
    hits: float = 50.0  # %
    distinct: int = 16  # frames that are sent in a cycle
    shape: tuple[int, int] = SHAPE
    dtype: str = "uint16"
    seed: int = 1
    radial_bins: int = 800
    warm_up: int = WARM_UP

    def check(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise OutOfRangeError(f"--seconds {self.seconds:g}: accepted are numbers above 0")
        if self.warm_up < 2:
            raise OutOfRangeError(f"{self.warm_up} frames to warm up: at least 2 are accepted")
        if not 0 <= self.rate < float("inf"):
            raise OutOfRangeError(
                f"--rate {self.rate:g}: accepted are frames per second, 0 = as fast as they are taken"
            )
        if not 0 <= self.hits <= 100:
            raise OutOfRangeError(f"--hits {self.hits:g}: accepted is 0 to 100 (per cent)")
        try:
            np.dtype(self.dtype)
        except TypeError:
            raise OutOfRangeError(f"--dtype {self.dtype}: accepted are uint8, uint16, uint32, int32") from None
        if self.distinct < 1:
            raise OutOfRangeError(f"--distinct {self.distinct}: at least 1 is accepted")


@dataclass
class _Samples:
    """What was seen during the run, a list per quantity."""

    seconds: list[float] = field(default_factory=list)
    reduced: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    buffer_occupancy: list[float] = field(default_factory=list)
    processing_time: list[float] = field(default_factory=list)

    def memory_while_sending(self, n_frames: int) -> dict[str, float]:
        """See `memory`. Once all is sent, the messages that wait become fewer, and with them the memory they take."""
        n = sum(sent < n_frames for sent in self.sent) or len(self.sent)
        return memory(self.seconds[:n], self.memory_mb[:n])


class Watch:
    """Looks at a run while it lasts; the profile begins when it has settled and ends with the sending, or with the last
    frame where `to_the_end`."""

    def __init__(self, system: LiveSystem, n_frames: int, settled: float, *, to_the_end: bool = False) -> None:
        self.samples = _Samples()
        self.first: tuple[float, int] | None = None  # time and count when frames were first seen
        self.last = (0.0, 0)
        self.clocks: list[ThreadClock] = []
        self.profiled = 0.0  # s
        self.computer = 0.0  # s of processor time that all programs used meanwhile
        self.sent = 0
        self._system, self._n_frames, self._settled = system, n_frames, settled
        self._to_the_end = to_the_end
        self._next_sample = self._begin = self._computer = 0.0

    def look(self, seconds: float, reduced: int, detector) -> None:
        self.sent = detector.done.images
        if not reduced:
            return
        if self.first is None:
            self.first = (seconds, reduced)
        if reduced != self.last[1]:
            self.last = (seconds, reduced)
        profiling = (reduced if self._to_the_end else self.sent) < self._n_frames
        if not self.clocks and profiling and seconds - self.first[0] >= self._settled:
            self.clocks = [
                ThreadClock("server", self._system.server.pid),
                ThreadClock("detector", os.getpid()),
                ThreadClock("database", self._system.database.pid),
            ]
            self._begin, self._computer = time.monotonic(), computer_seconds()
        if seconds >= self._next_sample and reduced < self._n_frames:
            self._next_sample = seconds + _SAMPLE
            self._sample(seconds, reduced)
            if self.clocks and profiling:
                for clock in self.clocks:
                    clock.look()
                self.profiled = time.monotonic() - self._begin
                self.computer = computer_seconds() - self._computer

    def _sample(self, seconds: float, reduced: int) -> None:
        samples, acquisition = self.samples, self._system.acquisition
        samples.seconds.append(round(seconds, 2))
        samples.reduced.append(reduced)
        samples.sent.append(self.sent)
        samples.memory_mb.append(round(resident_mb(self._system.server.pid), 1))
        samples.buffer_occupancy.append(round(float(acquisition.buffer_occupancy), 1))
        samples.processing_time.append(round(float(acquisition.processing_time), 3))

    def elsewhere(self, threads: list[dict]) -> float:
        """ms per second that other programs used: what the computer was busy with, less the threads."""
        if not self.profiled:
            return 0.0
        ours = sum(row["cpu_ms_per_s"] for row in threads)
        return round(max(self.computer * 1e3 / self.profiled - ours, 0.0), 1)

    def threads(self) -> list[dict]:
        """Of the server first, then of the detector's process, then of the database."""
        return [row for clock in self.clocks for row in clock.rows(self.profiled)] if self.profiled else []


def run(
    load: Load,
    *,
    output: Path | None = None,
    device: str = "auto",
    progress: Callable[[str], None] = lambda what: None,
    check_stop: Callable[[], None] = lambda: None,
) -> dict:
    """Run the system under load: an object of plain values, see docs/performance.md.

    Parameters
    ----------
    load
        What the detector sends.
    output
        Folder for the files, which are removed afterwards; None: a temporary one.
    device
        OpenCL device of the server.
    progress
        Called with a word on what is being done.
    check_stop
        Called often; what it raises ends the run.

    Raises
    ------
    OutOfRangeError, ConfigurationError
        The load makes no sense; the folder cannot be used or is too small.
    """
    load_before = os.getloadavg()[0]
    with started(load, output, device, progress) as system:
        progress(f"warming up with {load.warm_up} frames")
        warm = Watch(system, load.warm_up, _SETTLED)
        system.run(load.warm_up, load.rate, warm.look, check_stop)
        rate = load.rate or frame_rate(warm)
        n_frames = max(round(rate * load.seconds), 2)
        _check_disk(system.folder, Path(str(system.acquisition.output_file)), load.warm_up, n_frames, progress)
        progress(f"measuring {n_frames} frames, about {n_frames / rate:.0f} s")
        watch = Watch(system, n_frames, min(_SETTLED, load.seconds / 4))
        begin = time.monotonic()
        system.run(n_frames, load.rate, watch.look, check_stop)
        whole = time.monotonic() - begin
        results = _results(system, load, n_frames, watch, whole)
    return results | {"cpus": os.cpu_count(), "load_before": round(load_before, 2)}


@contextlib.contextmanager
def started(load: Load, output: Path | None, device: str, progress: Callable[[str], None]) -> Iterator[LiveSystem]:
    """The system for this load, started; parameters and errors as for `run`."""
    load.check()
    if output is not None and not output.is_dir():
        raise ConfigurationError(f"--output {output}: there is no such folder")
    simulator = StillSimulator(
        load.shape, hit_share=load.hits / 100, n_frames=load.distinct, seed=load.seed, dtype=load.dtype
    )
    with tempfile.TemporaryDirectory(prefix="framesieve-bench-", dir=output) as folder:
        system = LiveSystem(
            simulator, load.distinct, Path(folder), opencl_device=device, radial_bins=load.radial_bins,
            progress=progress,
        )  # fmt: skip
        with system:
            yield system


def frame_rate(watch: Watch) -> float:
    """Frames per second between the first and the last that were seen to be reduced."""
    if watch.first is None or watch.last[0] <= watch.first[0]:
        return max(watch.last[1], 1) / max(watch.last[0], 0.1)
    return (watch.last[1] - watch.first[1]) / (watch.last[0] - watch.first[0])


def _check_disk(folder: Path, file: Path, warm_up: int, n_frames: int, progress: Callable[[str], None]) -> None:
    """Take the file of the first run as the measure for the second, and remove it."""
    if not file.is_file():
        raise FrameSieveError("the first run wrote no file")
    needed = file.stat().st_size / warm_up * n_frames
    file.unlink()
    free = shutil.disk_usage(folder).free
    progress(f"up to {needed / 1e6:.0f} MB go to {folder}, and are removed afterwards")
    if needed > 0.9 * free:
        raise ConfigurationError(
            f"{folder}: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free; "
            "name another folder with --output or lower --seconds"
        )


def _results(system: LiveSystem, load: Load, n_frames: int, watch: Watch, whole: float) -> dict:
    acquisition, veto = system.acquisition, system.veto
    counters = {name.removeprefix("frames_"): int(getattr(acquisition, name)) for name in _COUNTERS}
    reduced = int(acquisition.frame_count)
    path = Path(str(acquisition.output_file))
    with SparseFile(path) as file:
        ledger = file.ledger
        bytes_in, bytes_raw = int(ledger["stored_bytes"].sum()), int(ledger["raw_bytes"].sum())
        in_ledger = len(np.unique(ledger["frame"]))
        kept_in_file = int(np.count_nonzero(np.isin(ledger["verdict"], [Verdict.KEPT, Verdict.CONTROL])))
    bytes_out = path.stat().st_size
    frames = {
        "sent": n_frames,
        "received": reduced + counters["dropped"] + counters["failed"],
        "reduced": reduced,
        "kept": int(veto.kept_count),
        "vetoed": int(veto.vetoed_count),
        "control": int(veto.control_count),
        **counters,
        "in_ledger": in_ledger,
        "saved": kept_in_file,
    }
    samples = watch.samples
    frames_per_s = frame_rate(watch)
    threads = watch.threads()
    return {
        "frames_per_s": round(frames_per_s, 2),
        "seconds": round(watch.last[0] - (watch.first or (0.0, 0))[0], 2),
        "seconds_with_start_and_end": round(whole, 2),
        "rate_asked": load.rate,
        "frames": frames,
        "none_lost": not any(counters.values()) and reduced == in_ledger == n_frames,
        "shape": list(load.shape),
        "dtype": load.dtype,
        "encoding": ENCODING,
        "hits_percent": load.hits,
        "bytes": {
            "in": bytes_in,
            "raw": bytes_raw,
            "out": bytes_out,
            "in_mb_per_s": round(bytes_in / reduced * frames_per_s / 1e6, 2) if reduced else 0.0,
            "out_mb_per_s": round(bytes_out / reduced * frames_per_s / 1e6, 2) if reduced else 0.0,
        },
        "memory_mb": samples.memory_while_sending(n_frames),
        "buffer_occupancy": {
            "median": statistics.median(samples.buffer_occupancy or [0.0]),
            "highest": max(samples.buffer_occupancy, default=0.0),
        },
        "processing_time_ms": round(statistics.median(samples.processing_time or [0.0]), 3),
        "profiled_seconds": round(watch.profiled, 2),
        "threads": threads,
        "elsewhere_ms_per_s": watch.elsewhere(threads),
        "samples": {
            "seconds": samples.seconds,
            "frame_rate": rates(samples.seconds, samples.reduced),
            "memory_mb": samples.memory_mb,
            "buffer_occupancy": samples.buffer_occupancy,
        },
        "device": str(acquisition.opencl_device_name),
    }


def memory(seconds: list[float], mb: list[float], settled: float = _SETTLED) -> dict[str, float]:
    """Where resident memory began, ended and was highest, and its slope by least squares; the first `settled`
    seconds after the first sample, in which buffers are made, are left out."""
    pairs = [(t, m) for t, m in zip(seconds, mb, strict=True) if t - seconds[0] >= settled] or list(zip(seconds, mb))  # noqa: B905
    if not pairs:
        return {"start": 0.0, "end": 0.0, "highest": 0.0, "slope_per_minute": 0.0}
    times, values = np.array(pairs).T
    slope = np.polyfit(times, values, 1)[0] * 60 if np.ptp(times) > 0 else 0.0
    return {
        "start": values[0].item(),
        "end": values[-1].item(),
        "highest": values.max().item(),
        "slope_per_minute": round(float(slope), 2),
    }


def rates(seconds: list[float], counts: list[int]) -> list[float]:
    """Frames per second since the sample before; the first has none before it and takes the second's."""
    if len(seconds) < 2:
        return [0.0] * len(seconds)
    between = np.diff(counts) / np.maximum(np.diff(seconds), 1e-6)
    return [round(value, 2) for value in [between[0].item(), *between.tolist()]]


def table(results: dict) -> str:
    """The same for people."""
    frames, data, mb = results["frames"], results["bytes"], results["memory_mb"]
    rows, columns = results["shape"]
    asked = f"{results['rate_asked']:g} Hz asked" if results["rate_asked"] else "as fast as they were taken"
    lines = [
        f"{results['device']}; {results['cpus']} CPUs, load {results['load_before']} before",
        f"{rows} × {columns} {results['dtype']}, {results['encoding']}, {results['hits_percent']:g} % hits, {asked}",
        "",
        f"frames per second  {results['frames_per_s']:.1f} over {results['seconds']:.1f} s "
        f"({results['seconds_with_start_and_end']:.1f} s with start and end)",
        f"frames             {frames['sent']} sent, {frames['reduced']} reduced: {frames['kept']} kept "
        f"(of them {frames['control']} control), {frames['vetoed']} vetoed",
        f"not reduced        {frames['lost']} lost, {frames['dropped']} dropped, {frames['failed']} failed",
        f"data               {data['in_mb_per_s']:.1f} MB/s in, {data['out_mb_per_s']:.2f} MB/s out; "
        f"{data['in'] / 1e6:.0f} MB in, {data['out'] / 1e6:.1f} MB out",
        f"memory of server   {mb['start']:.0f} MB → {mb['end']:.0f} MB, highest {mb['highest']:.0f}, "
        f"{mb['slope_per_minute']:+.1f} MB/min",
        f"ring               {results['buffer_occupancy']['median']:.0f} % full (median), "
        f"{results['buffer_occupancy']['highest']:.0f} % at most",
        f"device             {results['processing_time_ms']:.1f} ms per frame",
    ]
    if threads := [row for row in results["threads"] if row["cpu_ms_per_s"] >= 0.05]:
        lines += ["", f"where each millisecond of a second went (mean over {results['profiled_seconds']:.0f} s)"]
        cells = [["process", "thread", "number", "on a core", "waiting for a core", "ms per frame"]]
        for row in threads:
            waiting = "" if row["waiting_ms_per_s"] is None else f"{row['waiting_ms_per_s']:.1f}"
            per_frame = row["cpu_ms_per_s"] / results["frames_per_s"] if results["frames_per_s"] else 0.0
            cpu = f"{row['cpu_ms_per_s']:.1f}"
            cells.append([row["process"], row["thread"], str(row["count"]), cpu, waiting, f"{per_frame:.2f}"])
        total = sum(row["cpu_ms_per_s"] for row in results["threads"])
        cells.append(["all", "", "", f"{total:.1f}", "", f"of {1000 * results['cpus']} ms on {results['cpus']} cores"])
        cells.append(["others", "", "", f"{results['elsewhere_ms_per_s']:.1f}", "", ""])
        lines += align(cells, left=2)
    return "\n".join(lines)
