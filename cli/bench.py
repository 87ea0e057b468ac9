"""`framesieve bench`: how fast it is on this computer."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .common import exit_status

app = typer.Typer(help="Benchmarks.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Benchmarks; each measures medians on this computer."""


@app.command()
def core(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="OpenCL device: auto or PLATFORM:DEVICE.")] = "auto",
    batches: Annotated[int, typer.Option(help="Batches that are timed.", min=1)] = 30,
    batch_size: Annotated[int, typer.Option(help="Frames per batch.", min=1)] = 4,
) -> None:
    """Time per frame of the chain and of each kernel, on a frame of 2167 × 2070 pixels."""
    with exit_status("bench core"):
        from ..benchmarks.core import run, table

        results = run(device, batches, batch_size)
        print(json.dumps(results) if as_json else table(results))
