"""What all commands share: exit status, progress, signals."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..processing.errors import ConfigurationError, FrameSieveError, OutOfRangeError

UNUSABLE = 2  # exit status for arguments or input that cannot be used
FAILED = 1  # exit status for a failure while running


@contextlib.contextmanager
def exit_status(command: str, *, stopped: int = 0) -> Iterator[None]:
    """One line on stderr and the exit status: `UNUSABLE` or `FAILED`, or `stopped` where the user stopped it: no
    failure for what runs until then, but one for what leaves an unfinished result."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        if stopped:
            raise typer.Exit(stopped) from None
    except (ConfigurationError, OutOfRangeError) as error:
        print(f"framesieve {command}: {error}", file=sys.stderr)
        raise typer.Exit(UNUSABLE) from error
    except (FrameSieveError, OSError) as error:
        print(f"framesieve {command}: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error


def progress_display() -> Progress:
    """A progress display on stderr, so that stdout has results only; none where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def program() -> str:
    """How `framesieve` is called in this shell: where it is not in PATH, with the path of this installation."""
    here, in_path = Path(sys.executable).with_name("framesieve"), shutil.which("framesieve")
    if not here.exists() or (in_path is not None and os.path.samefile(in_path, here)):
        return "framesieve"
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


@contextlib.contextmanager
def stop_on_signals(*, at_once: bool = True) -> Iterator[Callable[[], None]]:
    """SIGTERM ends the command as Ctrl-C does, and so does SIGINT where a shell started it in the background.

    Yields a function that raises `KeyboardInterrupt` once a signal has come; long loops must call it. With `at_once`
    the signal raises it too, wherever the program is; but Python drops what is raised while it finalizes an object.
    Without, threads can be started and ended with nothing coming in between. May be nested.
    """
    asked = False

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    def interrupt(*_: object) -> None:
        nonlocal asked
        asked = True
        if at_once:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    check()
