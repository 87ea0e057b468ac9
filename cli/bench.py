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

from .common import exit_status

app = typer.Typer(help="Benchmarks.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Plot = Annotated[Path | None, typer.Option(help="Write a plot: FILE.png, .svg or .pdf.")]
Device = Annotated[str, typer.Option(help="OpenCL device: auto or PLATFORM:DEVICE.")]


@app.callback()
def bench() -> None:
    """Benchmarks; each measures medians on this computer."""


@app.command()
def core(
    as_json: AsJson = False,
    plot: Plot = None,
    device: Device = "auto",
    batches: Annotated[int, typer.Option(help="Batches that are timed.", min=1)] = 30,
    batch_size: Annotated[int, typer.Option(help="Frames per batch.", min=1)] = 4,
    sweep: Annotated[
        bool, typer.Option(help="Vary sizes, bins, cycles, peaks, pixel types and batches; else only their extremes.")
    ] = False,
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
