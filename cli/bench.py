"""`framesieve bench`: how fast it is on this computer."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .common import FAILED, exit_status, stop_on_signals

app = typer.Typer(help="Benchmarks.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Plot = Annotated[Path | None, typer.Option(help="Write a plot: FILE.png, .svg or .pdf.")]
Device = Annotated[str, typer.Option(help="OpenCL device: auto or PLATFORM:DEVICE.")]
Shape = Annotated[tuple[int, int], typer.Option(help="Rows and columns.", min=64)]
Output = Annotated[
    Path | None, typer.Option(help="Folder for files, removed afterwards [default: that for temporary files].")
]


@app.callback()
def bench() -> None:
    """Benchmarks; each measures medians on this computer."""


@app.command()
def core(
    as_json: AsJson = False,
    plot: Plot = None,
    device: Device = "auto",
    batches: Annotated[
        int | None, typer.Option(help="Batches that are timed [default: 30, fewer where they take long].", min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Frames per batch.", min=1)] = 4,
    sweep: Annotated[
        bool | None,
        typer.Option(help="Vary size, bins, cycles, peaks, pixel type, batch, or nothing [default: what has a limit]."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Rounds of each sweep [default: a third of the batches].", min=1)
    ] = None,
) -> None:
    """Time per frame of the chain and of each kernel, on a frame of 2167 × 2070 pixels; share of the roofline."""
    with exit_status("bench core"):
        from ..benchmarks import core, plots

        path = plot and plots.check(plot)
        with _progress() as progress:
            results = core.run(device, batches, batch_size, sweep=sweep, rounds=rounds, progress=progress)
        _show(results, as_json, core.table, path, plots.plot_core)


@app.command()
def live(
    as_json: AsJson = False,
    plot: Plot = None,
    seconds: Annotated[float, typer.Option(help="About how long frames are sent.")] = 60.0,
    rate: Annotated[float, typer.Option(help="Frames per second; 0 = as fast as they are taken.")] = 0.0,
    hits: Annotated[
        float, typer.Option(help="Share of frames with a crystal, per cent; the others are vetoed.")
    ] = 50.0,
    distinct: Annotated[int, typer.Option(help="Frames that are made beforehand and sent in a cycle.")] = 16,
    dtype: Annotated[str, typer.Option(help="uint8, uint16, uint32 or int32.")] = "uint16",
    shape: Shape = (2167, 2070),
    output: Output = None,
    device: Device = "auto",
) -> None:
    """Frames per second of the whole system, from the wire to the disk, and where the time goes, thread by thread."""
    with exit_status("bench live", stopped=FAILED), stop_on_signals() as check_stop:
        from ..benchmarks import live, plots

        path = plot and plots.check(plot)
        load = live.Load(seconds, rate, hits, distinct, shape, dtype)
        with _progress() as progress:
            results = live.run(load, output=output, device=device, progress=progress, check_stop=check_stop)
        _show(results, as_json, live.table, path, plots.plot_live)


@app.command()
def clients(
    as_json: AsJson = False,
    plot: Plot = None,
    number: Annotated[int, typer.Option("--clients", help="Clients, each a process of its own.")] = 20,
    reads: Annotated[float, typer.Option(help="Attributes that each client reads per second.")] = 10.0,
    writes: Annotated[float, typer.Option(help="Settings that the first client writes per second.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Rounds, each with and without clients.")] = 3,
    seconds: Annotated[float, typer.Option(help="About how long frames are sent, twice in every round.")] = 15.0,
    rate: Annotated[float, typer.Option(help="Frames per second; 0 = as fast as they are taken.")] = 0.0,
    shape: Shape = (2167, 2070),
    output: Output = None,
    device: Device = "auto",
) -> None:
    """What clients that subscribe to everything and read it cost, and how fast they are served."""
    with exit_status("bench clients", stopped=FAILED), stop_on_signals() as check_stop:
        from ..benchmarks import clients, plots
        from ..benchmarks.live import Load

        path = plot and plots.check(plot)
        with _progress() as progress:
            results = clients.run(
                clients.Clients(number, reads, writes, rounds),
                Load(seconds, rate, shape=shape),
                output=output,
                device=device,
                progress=progress,
                check_stop=check_stop,
            )
        _show(results, as_json, clients.table, path, plots.plot_clients)


@app.command()
def sources(
    as_json: AsJson = False,
    plot: Plot = None,
    source: Annotated[list[str] | None, typer.Option(help="stream1, stream2, file … [default: all, in turn].")] = None,
    seconds: Annotated[float, typer.Option(help="How long a round lasts.")] = 2.0,
    rounds: Annotated[int, typer.Option(help="Rounds for each source and pixel type.", min=1)] = 3,
    shape: Shape = (2167, 2070),
    threads: Annotated[int, typer.Option(help="Frames that are decoded at once; 0 = as in a run.", min=0)] = 0,
    output: Output = None,
) -> None:
    """How fast each source alone takes frames: received, decoded by as many threads as in a run, handed over."""
    with exit_status("bench sources", stopped=FAILED), stop_on_signals() as check_stop:
        from ..benchmarks import plots, sources

        path = plot and plots.check(plot)
        with _progress() as progress:
            results = sources.run(
                source or (),
                seconds,
                rounds,
                shape=shape,
                threads=threads,
                output=output,
                progress=progress,
                check_stop=check_stop,
            )
        _show(results, as_json, sources.table, path, plots.plot_sources)


@app.command()
def panel(
    as_json: AsJson = False,
    seconds: Annotated[float, typer.Option(help="About how long frames are sent in each measurement.")] = 15.0,
    rounds: Annotated[int, typer.Option(help="Measurements with a panel, each with one without beside it.", min=1)] = 4,
    rate: Annotated[float, typer.Option(help="Frames per second; 0 = as fast as they are taken.")] = 0.0,
    nice: Annotated[
        int,
        typer.Option(help="Of the panel; 19: it takes what others leave, as if elsewhere.", min=0, max=19),
    ] = 19,
    shape: Shape = (2167, 2070),
    device: Device = "auto",
) -> None:
    """What an open panel costs the server: frames per second and processor time per frame, with and without one."""
    with exit_status("bench panel", stopped=FAILED), stop_on_signals() as check_stop:
        from ..benchmarks import panel_cost
        from .panel import check_installed

        check_installed()
        with _progress() as progress:
            results = panel_cost.run(
                seconds, rounds, rate=rate, nice=nice, shape=shape, device=device, progress=progress,
                check_stop=check_stop,
            )  # fmt: skip
        print(json.dumps(results) if as_json else panel_cost.table(results))


@app.command()
def peers(
    as_json: AsJson = False,
    plot: Plot = None,
    device: Device = "auto",
    pairs: Annotated[int, typer.Option(help="Measurements of each peer, each with one of ours beside it.", min=1)] = 9,
) -> None:
    """Other programs on the same frame with the same parameters, in turn with ours; those that are installed."""
    with exit_status("bench peers"):
        from ..benchmarks import peers, plots

        path = plot and plots.check(plot)
        with _progress() as progress:
            results = peers.run(device, pairs, progress=progress)
        _show(results, as_json, peers.table, path, plots.plot_peers)


@app.command()
def fuzz(
    as_json: AsJson = False,
    protocol: Annotated[list[str] | None, typer.Option(help="stream1, stream2 … [default: all, in turn].")] = None,
    messages: Annotated[int, typer.Option(help="Messages for each protocol.", min=1)] = 100_000,
    seed: Annotated[int, typer.Option(help="The same number gives the same messages.")] = 0,
) -> None:
    """Messages changed at random, into the sources: no crash, no hang, one error each at most, no growth of memory."""
    with exit_status("bench fuzz"), stop_on_signals() as check_stop:
        from ..benchmarks import fuzz

        with _progress() as progress:
            results = fuzz.run(protocol or (), messages, seed, progress=progress, check_stop=check_stop)
        print(json.dumps(results) if as_json else fuzz.table(results))
    if not results["good"]:
        raise typer.Exit(FAILED)


def _show(
    results: dict[str, Any],
    as_json: bool,
    table: Callable[[dict], str],
    path: Path | None,
    draw: Callable[[dict, Path], None],
) -> None:
    """On stdout; and the plot, where one is wanted."""
    print(json.dumps(results) if as_json else table(results))
    if path is not None:
        draw(results, path)
        print(f"plot: {path}", file=sys.stderr)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Tells on stderr what is being measured; on a terminal in one line that goes away."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield lambda what: print(what, file=sys.stderr, flush=True)
