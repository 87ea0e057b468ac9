"""The `framesieve` program: one sub-command per file of this folder."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from ..processing.revision import revision
from . import bench, demo, densify, geometry, panel, reduce, register, serve_crystfel, simulate
from .common import UNUSABLE, exit_status

# typer brings a click of its own along, or uses the one that is installed, and shows this class of it only by name
UsageError = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")

app = typer.Typer(
    name="framesieve",
    help="Reduce X-ray detector frames while they are taken.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # [PARTS] and the like in a text are meant as they are written
)
app.command()(demo.demo)
app.command()(reduce.reduce)
app.command()(densify.densify)
app.command()(serve_crystfel.serve_crystfel)
app.command()(geometry.geometry)
app.command()(register.register)
app.command()(panel.panel)
app.add_typer(simulate.app, name="simulate")
app.add_typer(bench.app, name="bench")


@app.command()
def info(files: Annotated[list[Path], typer.Argument(help="Files that framesieve wrote.")]) -> None:
    """Say what files hold, from their ledgers."""
    with exit_status("info"):
        from ..formats.info import describe

        for file in files:
            print(describe(file))


@app.callback(invoke_without_command=True)
def options(show_version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if show_version:
        commit = revision()
        print(f"framesieve {version('framesieve')}" + (f" (git {commit})" if commit else ""))
        raise typer.Exit


def main(arguments: list[str] | None = None) -> int:
    """Run the program; the exit status. Wrong usage is one line on stderr."""
    try:
        status = app(arguments, prog_name="framesieve", standalone_mode=False)
    except UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "framesieve"
        message = error.format_message()  # none where the help has been shown
        if type(error).__name__ == "NoArgsIsHelpError":  # the message is the help
            print(message, file=sys.stderr)
        elif message:
            print(f"{command}: {message} ({command} --help)", file=sys.stderr)
        return UNUSABLE
    except typer.Abort:
        return 1
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
