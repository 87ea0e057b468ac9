"""How fast frames come in: `framesieve bench sources`.

Each source alone, without an OpenCL device behind it: frames are received, decoded into a buffer by as many threads as
decode in a run, and handed over. Detectors run in a process of their own, on the same cores, and send frames that were
compressed beforehand as fast as they are taken. A source is a row of `SOURCES`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from ..processing.errors import CommunicationError, FrameSieveError, OutOfRangeError
from ..processing.frames import BrokenFrame, Frame, SeriesEnd, Source
from ..processing.threads import Crew, automatic, start_thread
from ..simulators.diffraction import StillSimulator
from ..simulators.frame_inputs import SimulatedInput
from ..sources.registry import open_source
from ..tango_db.child import ChildProcess
from .measuring import Spread, align
from .process_times import ThreadClock
from .standard import SHAPE

#: uncompressed, on two cores with the sender on them too, GB/s
WANTED = {"stream1": 1.0, "stream2": 1.0}

DTYPES = ("uint16", "uint32")
RING, BATCH = 32, 4  # as the device server has them
_STALL = 60.0  # s without a frame: something is wrong
_PERIOD = 0.2  # s between two looks at the program that sends
_SETTLED = 0.5  # s before the first round
_SERIES = 1000  # frames of a series of a detector
_FILE_FRAMES = 64

Say = Callable[[str], None]


@dataclass(frozen=True)
class Load:
    """What is sent or stored: so many different frames, in a cycle."""

    dtype: str
    shape: tuple[int, int] = SHAPE
    distinct: int = 8
    hits: float = 50.0  # %
    seed: int = 1


@contextlib.contextmanager
def _simulated(protocol: str, load: Load, *options: str) -> Iterator[tuple[str, ChildProcess | None]]:
    """A detector in a process of its own."""
    command = [
        "framesieve.cli.main", "simulate", protocol, "--port", "0", "--rate", "0", "--series-repeat", "0",
        "--frames", str(_SERIES), "--distinct", str(load.distinct), "--hits", str(load.hits), "--seed", str(load.seed),
        "--dtype", load.dtype, "--shape", *map(str, load.shape),
        *options,
    ]  # fmt: skip
    address = rf"{protocol}://\S+"
    with ChildProcess(f"the simulated {protocol} detector", command, address, timeout=300) as detector:
        yield detector.wait_for(address, 0).strip(), detector


@contextlib.contextmanager
def _file(load: Load, folder: Path) -> Iterator[tuple[str, ChildProcess | None]]:
    """An HDF5 file, bitshuffle-LZ4, one frame per chunk."""
    simulator = StillSimulator(
        load.shape, hit_share=load.hits / 100, n_frames=load.distinct, seed=load.seed, dtype=load.dtype
    )
    frames = SimulatedInput(simulator, load.distinct)
    frames.prepare("bslz4")
    path = folder / f"{load.dtype}.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "entry/data/data", (_FILE_FRAMES, *load.shape), load.dtype, chunks=(1, *load.shape),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )  # fmt: skip
        for i in range(_FILE_FRAMES):
            data.id.write_direct_chunk((i, 0, 0), frames.encoded(i % load.distinct, "bslz4"))
    yield f"file:{path}", None
    path.unlink()


#: makes frames of a source flow: a context manager of (load, folder) that gives the URL and the sending program, if any
SOURCES: dict[str, Callable[[Load, Path], contextlib.AbstractContextManager[tuple[str, ChildProcess | None]]]] = {
    "stream1": lambda load, folder: _simulated("stream1", load),
    "stream2": lambda load, folder: _simulated("stream2", load),
    # not compressed, in two modules
    "sls": lambda load, folder: _simulated("sls", load, "--grid", "1", "2"),
    "file": _file,
}


def run(
    sources: Sequence[str] = (),
    seconds: float = 2.0,
    rounds: int = 3,
    *,
    shape: tuple[int, int] = SHAPE,
    threads: int = 0,
    output: Path | None = None,
    progress: Say = lambda what: None,
    check_stop: Callable[[], None] = lambda: None,
) -> dict:
    """Measure each source (default: all), for uint16 and uint32: an object of plain values, see docs/performance.md.

    Raises
    ------
    OutOfRangeError
        A source is not known, or there is nothing to measure.
    """
    for name in sources:
        if name not in SOURCES:
            raise OutOfRangeError(f"source {name!r}: accepted are {', '.join(SOURCES)}")
    if not 0 < seconds < float("inf") or rounds < 1:
        raise OutOfRangeError(f"{rounds} rounds of {seconds:g} s: accepted are at least one, of more than 0 s")
    load_before = os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory(prefix="framesieve-bench-", dir=output) as folder:
        for name in sources or SOURCES:
            for dtype in DTYPES:
                progress(f"{name}, {dtype}: simulating frames")
                load = Load(dtype, shape)
                with SOURCES[name](load, Path(folder)) as (url, sender):
                    progress(f"{name}, {dtype}: measuring {rounds} × {seconds:g} s")
                    rows.append(
                        {"source": name, "dtype": dtype} | _measure(url, sender, seconds, rounds, threads, check_stop)
                    )
    return {
        "sources": rows,
        "shape": list(shape),
        "encoding": "bslz4",
        "decode_threads": automatic(threads),
        "wanted_gb_per_s": WANTED,
        "cpus": os.cpu_count(),
        "load_before": round(load_before, 2),
    }


class _Receiver:
    """The first step of a run: from the source into a ring. A file begins again when it ends."""

    def __init__(self, source: Source) -> None:
        self.ring: queue.Queue[Frame | Exception] = queue.Queue(RING)
        self._source = source
        self._stop = threading.Event()
        self._thread = start_thread(self._run, "receive")

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                event = self._source.read(0.1)
                if isinstance(event, BrokenFrame):
                    raise FrameSieveError(f"frame {event.number}: {event.reason}")
                if isinstance(event, Frame):
                    self._put(event)
                elif isinstance(event, SeriesEnd) and not self._source.live:
                    self._source.open()
        except Exception as error:
            self._put(error)

    def _put(self, item: Frame | Exception) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self.ring.put(item, timeout=0.1)
                return

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def _measure(
    url: str, sender: ChildProcess | None, seconds: float, rounds: int, threads: int, check_stop: Callable[[], None]
) -> dict:
    def check() -> None:
        check_stop()
        if sender is not None:
            sender.check()

    source = open_source(url)
    source.open()
    receiver, crew = _Receiver(source), Crew(automatic(threads), "decode")
    try:
        _consume(receiver.ring, crew, _SETTLED, check)
        clocks = [ThreadClock("receiver", os.getpid())] + ([ThreadClock("sender", sender.pid)] if sender else [])
        begin = time.perf_counter()
        measured = [_consume(receiver.ring, crew, seconds, check) for _ in range(rounds)]
        whole = time.perf_counter() - begin
        for clock in clocks:
            clock.look()
        used = [row for clock in clocks for row in clock.rows(whole)]
    finally:
        receiver.close()
        crew.close()
        source.close()
    per_s = Spread.of([frames / passed for frames, _, _, passed in measured])
    frames, raw, stored = (sum(column) for column in list(zip(*measured, strict=True))[:3])
    cost = {"receive": 0.0, "decode": 0.0, "sender": 0.0}
    for row in used:
        cost[_task(row["process"], row["thread"])] += row["cpu_ms_per_s"] * whole / frames
    speed = Spread.of([1e-9 * raw / passed for _, raw, _, passed in measured])
    return {
        "gb_per_s": round(speed.median, 3),
        "gb_per_s_quartiles": speed.quartiles(),
        "frames_per_s": round(per_s.median, 1),
        "stored_mb_per_s": round(per_s.median * stored / frames / 1e6, 1),
        "ratio": round(raw / stored, 2),
        "frames": frames,
        # of processor time, of all threads: what a core would take that had nothing else to do
        "gb_per_cpu_s": round(1e-6 * raw / frames / sum(cost.values()), 3),
        "cpu_ms_per_frame": {task: round(ms, 3) for task, ms in cost.items()},
    }


def _task(process: str, thread: str) -> str:
    """What a thread does; ZeroMQ's own take the bytes from the network."""
    if process == "sender":
        return "sender"
    return "receive" if thread == "receive" or thread.startswith("ZMQ") else "decode"


def _consume(ring: queue.Queue, crew: Crew, seconds: float, check: Callable[[], None]) -> tuple[int, int, int, float]:
    """Decode what comes for so long, in batches as a run does it: frames, bytes uncompressed and as they came, and the
    seconds that passed."""
    out: np.ndarray | None = None
    count = raw = stored = 0
    begin = now = time.perf_counter()
    while now - begin < seconds:
        check()
        batch = [_next(ring, check)]
        with contextlib.suppress(queue.Empty):
            while len(batch) < BATCH:
                batch.append(ring.get_nowait())
        for frame in batch:
            if isinstance(frame, Exception):
                raise frame
        payloads = [frame.payload for frame in batch]
        if out is None:
            out = np.empty((BATCH, *payloads[0].shape), payloads[0].dtype)
        crew.map(lambda k, payloads=payloads, out=out: payloads[k].read_into(out[k]), range(len(batch)))
        count += len(batch)
        raw += sum(out[0].nbytes for _ in batch)
        stored += sum(payload.stored_bytes for payload in payloads)
        now = time.perf_counter()
    return count, raw, stored, now - begin


def _next(ring: queue.Queue, check: Callable[[], None]) -> Frame | Exception:
    deadline = time.monotonic() + _STALL
    while time.monotonic() < deadline:
        with contextlib.suppress(queue.Empty):
            return ring.get(timeout=_PERIOD)
        check()
    raise CommunicationError(f"no frame for {_STALL:g} s")


def table(results: dict) -> str:
    """The same for people."""
    rows, columns = results["shape"]
    head = "source,pixels,GB/s,quartiles,frames/s,MB/s stored,GB/cpu s,receive,decode,sender,wanted"
    lines = [head.split(",")]
    for row in results["sources"]:
        wanted = results["wanted_gb_per_s"].get(row["source"])
        low, high = row["gb_per_s_quartiles"]
        lines.append([
            row["source"], row["dtype"], f"{row['gb_per_s']:.2f}", f"{low:.2f} to {high:.2f}",
            f"{row['frames_per_s']:.0f}", f"{row['stored_mb_per_s']:.0f}", f"{row['gb_per_cpu_s']:.2f}",
            *(f"{ms:.1f}" for ms in row["cpu_ms_per_frame"].values()),
            "" if wanted is None else f"≥ {wanted:g}: {'yes' if row['gb_per_s'] >= wanted else 'NO'}",
        ])  # fmt: skip
    return "\n".join([
        f"{rows} × {columns}, {results['encoding']}, decoded by {results['decode_threads']} threads; "
        f"{results['cpus']} CPUs, load {results['load_before']} before",
        "GB: uncompressed; receive, decode, sender: ms of processor time per frame", "",
        *align(lines, left=2),
    ])  # fmt: skip
