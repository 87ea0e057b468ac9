"""`framesieve panel`: the control panel of one pipeline."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from ..processing.errors import ConfigurationError
from .common import exit_status

NEEDED = ("taurus", "taurus_pyqtgraph", "pyqtgraph", "PyQt5")


def panel(
    domain: Annotated[
        str,
        typer.Argument(help="Domain of the devices, or the name of one of them; may begin with tango://HOST:PORT/."),
    ] = "",
) -> None:
    """Show what a pipeline does, and turn its thresholds."""
    with exit_status("panel"):
        check_installed()
        from ..clients.panel.places import find_devices

        devices = find_devices(domain)
        from ..clients.panel.window import run

        raise typer.Exit(run(devices))


def check_installed() -> None:
    """Raises `ConfigurationError` where the extra `gui` is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the panel needs {', '.join(missing)}: install them with pip install 'PATH_OF_THE_CHECKOUT[gui]'"
        )
