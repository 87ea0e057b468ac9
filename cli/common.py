"""What all commands share: exit status, progress, signals."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..processing.errors import ConfigurationError, FrameSieveError, OutOfRangeError

UNUSABLE = 2  # exit status for arguments or input that cannot be used
FAILED = 1  # exit status for a failure while running


@contextlib.contextmanager
def exit_status(command: str) -> Iterator[None]:
    """One line on stderr and the exit status: `UNUSABLE` or `FAILED`. Being stopped is no failure."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except (ConfigurationError, OutOfRangeError) as error:
        print(f"framesieve {command}: {error}", file=sys.stderr)
        raise typer.Exit(UNUSABLE) from error
    except (FrameSieveError, OSError) as error:
        print(f"framesieve {command}: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error


def progress_display() -> Progress:
    """A progress display on stderr, so that stdout has results only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, and so does SIGINT where a shell started it in the background."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
