"""`framesieve demo`: the whole system on this computer, from the detector's wire to the file.

An embedded Tango database, the device server and a detector run as child processes; this process is the user: it
sets the devices up, starts a run, turns two thresholds while frames flow, and judges the result.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from ..processing.errors import CommunicationError, ConfigurationError, FrameSieveError, HardwareError, OutOfRangeError
from ..simulators.frame_inputs import open_input
from .common import FAILED, exit_status, program, progress_display, stop_on_signals

if TYPE_CHECKING:
    from ..clients import Applied, Change, Reduction

_STALL = 60.0  # s without a new frame: something is wrong


def demo(
    frames: Annotated[int, typer.Option(help="Frames of the run.", min=3)] = 200,
    hits: Annotated[float, typer.Option(help="Share of frames with a crystal, per cent.", min=0, max=100)] = 30.0,
    rate: Annotated[float, typer.Option(help="Frames per second; 0 = as fast as they are taken.")] = 20.0,
    output: Annotated[Path, typer.Option(help="Directory for the result.")] = Path("demo-output"),
    source: Annotated[str | None, typer.Option("--input", help="Send real frames: HDF5 or CBF file.")] = None,
    geometry: Annotated[Path | None, typer.Option(help="PONI file of the real frames.")] = None,
    mask: Annotated[str, typer.Option(help="Mask of the real frames, non-zero = bad.")] = "",
    seed: Annotated[int, typer.Option(help="The same number gives the same simulated frames.")] = 1,
) -> None:
    """Show everything at work: detector, Tango devices, live thresholds, sparse file."""
    problems: list[str] = []
    with (
        exit_status("demo", stopped=FAILED),
        stop_on_signals() as check_stop,
        contextlib.ExitStack() as stack,
    ):
        from ..clients import ReductionError  # Tango takes a while to import

        if (source is None) != (geometry is None):
            raise ConfigurationError("--input and --geometry belong together: give both, or none for simulated frames")
        if not 0 <= rate < float("inf"):
            raise OutOfRangeError(f"--rate {rate}: accepted are frames per second, 0 = as fast as they are taken")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"--output {output}: cannot be created ({error.strerror})") from None
        _take(output, stack)
        truth = None
        if source is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framesieve-demo-")))
            truth = folder / "simulated.h5"
            source, geometry, mask = _simulate(truth, frames, hits, seed)
            numbers = set(range(frames))
        else:
            with contextlib.closing(open_input(source)) as real:
                frames = real.n_frames
                numbers = {real.number(i) for i in range(frames)}
        reduction, check_children = _start_everything(stack, source, geometry, mask, rate, output)
        stall = max(_STALL, 3 / rate) if rate else _STALL
        try:
            frame_rate, changes = _run(reduction, frames, stall, lambda: (check_stop(), check_children()))
            problems = _report(reduction, frame_rate, numbers, changes, truth)
        except ReductionError as error:  # somebody else works with the same devices
            raise FrameSieveError(str(error)) from None
    if problems:
        raise typer.Exit(FAILED)


def _take(output: Path, stack: contextlib.ExitStack) -> None:
    """Keep other demos out of this directory, since all write a file of the same name."""
    directory = os.open(output, os.O_RDONLY)
    stack.callback(os.close, directory)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(f"--output {output}: another demo writes into it; name another directory") from None
    except OSError:  # a file system without locks
        pass


def _simulate(path: Path, frames: int, hits: float, seed: int) -> tuple[str, Path, str]:
    """Write simulated frames; what to send, their PONI file and mask."""
    from ..simulators.diffraction import StillSimulator
    from ..simulators.simulation_file import write_simulation

    simulator = StillSimulator(hit_share=hits / 100, n_frames=frames, seed=seed)
    what = "simulating a detector of 2167 × 2070 pixels"
    if not (console := Console(stderr=True)).is_terminal:  # no progress is shown
        console.print(f"{what}: {frames} frames")
    with stop_on_signals(at_once=False) as check_stop, progress_display() as progress:
        task = progress.add_task(what, total=frames)

        def written(done: int, _: int) -> None:
            check_stop()
            progress.update(task, completed=done)

        write_simulation(path, simulator, frames, progress=written)
    poni = path.with_suffix(".poni")
    poni.write_text(simulator.poni_text())
    return str(path), poni, f"{path}::/entry/data/mask"


def _start_everything(
    stack: contextlib.ExitStack, source: str, geometry: Path, mask: str, rate: float, output: Path
) -> tuple[Reduction, Callable[[], None]]:
    """Database, server, detector; the devices, set up, and what raises an error where one of the programs has ended."""
    from ..clients import NotReachedError, Reduction, ReductionError
    from ..tango_db import register, sample_path
    from ..tango_db.beamline import load
    from ..tango_db.child import ChildProcess
    from ..tango_db.embedded import EmbeddedDatabase, ServerProcess

    say = functools.partial(Console(stderr=True).print, soft_wrap=True)  # what is to be copied stays in one line
    database = stack.enter_context(EmbeddedDatabase())
    say(f"Tango database  tango://{database.host}  (embedded, on loopback)")
    connection = database.database()
    register.apply(register.plan(load(sample_path("demo")), connection).changes, connection)
    server = stack.enter_context(ServerProcess("demo", database.host))
    say("device server   FrameSieve demo  (demo/framesieve/…)")
    command = ["framesieve.cli.main", "simulate", "stream2", "--input", source, "--rate", str(rate), "--port", "0"]
    detector = stack.enter_context(ChildProcess("the simulated detector", command, r"stream2://\S+", timeout=120))
    address = detector.wait_for(r"stream2://\S+", 0).strip()
    say(f"detector        {address}")

    def check() -> None:
        database.check()
        server.check()
        detector.check(may_end=True)

    say(f"to watch it     {program()} panel tango://{database.host}/demo")
    reduction = Reduction(f"tango://{database.host}/demo", timeout=20.0, patience=60.0, check=check)
    settings = {
        "source": address,
        "geometry": str(Path(geometry).resolve()),
        "mask": mask,
        "saving_directory": str(output.resolve()),
        "saving_prefix": "demo",
        "saving_overwrite_policy": "overwrite",
    }
    try:
        reduction.set(**settings)
    except NotReachedError:
        raise
    except ReductionError as error:
        raise ConfigurationError(error.description) from None
    return reduction, check


def _run(reduction: Reduction, expected: int, stall: float, check: Callable[[], object]) -> tuple[float, list[Applied]]:
    """A run with two thresholds turned in its middle; its frames per second, and what became of the changes. What
    `check` raises ends it, and so do `stall` seconds without a frame."""
    due = [(1 / 3, "snr_pick", 2.5), (2 / 3, "min_peaks", 30)]
    made: list[tuple[str, Change]] = []  # which wait for a frame
    changes: list[Applied] = []
    reduction.start()
    begin = end = last_change = time.monotonic()
    count, first = 0, 0
    console = Console(stderr=True)
    if not console.is_terminal:
        console.print("started: kernels are built, then frames flow")
    # a table that refreshes itself is for terminals; elsewhere the lines alone, as they come
    with Live(refresh_per_second=5, console=console) if console.is_terminal else contextlib.nullcontext() as live:
        while True:
            check()
            state = reduction.state
            now = time.monotonic()
            new_count = reduction.frame_count
            if new_count != count:
                if count == 0:
                    begin, first = now, new_count
                count, end, last_change = new_count, now, now
            if live is not None:
                live.update(_table(reduction))
            while due and count >= due[0][0] * expected:
                _, name, value = due.pop(0)
                text = f"{name} {getattr(reduction, name):g} → {value:g}"
                made.append((text, reduction.change(**{name: value})))
            while made and (applied := made[0][1].poll()) is not None:
                text, _ = made.pop(0)
                changes.append(applied)
                where = applied.note if applied.first_frame is None else f"from frame {applied.first_frame} on"
                console.print(f"{text}: parameter set {applied.parameter_set}, {where}")
            if state == "FAULT":
                raise HardwareError(reduction.status().text)
            if state == "STANDBY" and not made:
                if live is None:
                    console.print(_table(reduction))
                return (count - first) / max(end - begin, 1e-3), changes
            if now - last_change > stall:
                raise CommunicationError(f"no frame for {stall:g} s; {reduction.status().text}")
            time.sleep(0.1)


def _table(r: Reduction) -> Table:
    table = Table(title=r.status().text.splitlines()[0], title_justify="left", show_header=False)
    rows = [
        ("state", r.state, "frames", f"{r.frame_count}"),
        ("frame rate", f"{r.frame_rate:.1f} Hz", "device time", f"{r.processing_time:.1f} ms/frame"),
        ("compression", f"{r.compression_ratio:.1f}", "against raw", f"{r.compression_ratio_raw:.1f}"),
        ("pixels kept", f"{r.fraction_picked:.2f} %", "peaks, newest", f"{r.peak_count}"),
        ("kept", f"{r.kept_count}", "vetoed", f"{r.vetoed_count}"),
        ("hit rate", f"{r.hit_rate:.1f} %", "ring", f"{r.buffer_occupancy:.0f} % full"),
        ("snr_pick", f"{r.snr_pick:g}", "min_peaks", f"{r.min_peaks}"),
    ]
    for column in ("", "", " ", " "):
        table.add_column(column, justify="right" if column == "" else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _report(
    reduction: Reduction, frame_rate: float, numbers: set[int], changes: list[Applied], truth: Path | None
) -> list[str]:
    """Print what came out; what is wrong with it. `numbers` are those of the frames that were sent, `changes` those of
    thresholds."""
    from ..formats.sparse_reader import SparseFile
    from .demo_report import judge_frames, judge_peaks

    path = Path(reduction.output_file)
    if not path.is_file():
        raise FrameSieveError(f"no file was written: {reduction.status().text}")
    with SparseFile(path) as file:
        problems: list[str] = []
        lines = judge_frames(file, path, frame_rate, numbers, changes, problems)
        if truth is not None:
            lines += judge_peaks(file, truth, problems)
    print("\n" + "\n".join(lines))
    print(
        f"\n{path} can be opened with\n  {program()} info {path}\n"
        f"  fabio.open({str(path)!r}), h5py, silx view, densify_Bragg: see docs/files.md"
    )
    for problem in problems:
        print(f"WRONG: {problem}")
    return problems
