"""`framesieve panel`: the control panel of one pipeline."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path
from typing import Annotated

import typer

from ..processing.errors import ConfigurationError
from .common import exit_status

NEEDED = ("taurus", "taurus_pyqtgraph", "pyqtgraph", "PyQt5")

_REMEDY = "start it in a desktop session, or log in with ssh -X"


def panel(
    domain: Annotated[
        str,
        typer.Argument(help="Domain of the devices, or the name of one of them; may begin with tango://HOST:PORT/."),
    ] = "",
) -> None:
    """Show what a pipeline does, and turn its thresholds."""
    with exit_status("panel"):
        check_installed()
        check_display()
        from ..clients.panel.places import find_devices

        devices = find_devices(domain)
        quiet_taurus()
        from ..clients.panel.window import run

        raise typer.Exit(run(devices))


def check_installed() -> None:
    """Raises `ConfigurationError` where the extra `gui`, or a library of the system that Qt needs, is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the panel needs {', '.join(missing)}: install them with pip install 'PATH_OF_THE_CHECKOUT[gui]'"
        )
    try:
        importlib.import_module("PyQt5.QtWidgets")
    except ImportError as error:
        raise _lacks_library(error) from None


def quiet_taurus() -> None:
    """Before the rest of Taurus is imported: what it could not load concerns nobody here."""
    import taurus

    taurus.setLogLevel(taurus.Error)


def check_display() -> None:
    """Raises `ConfigurationError` where Qt would end the process: without a display, or a library to reach it."""
    display = os.environ.get("DISPLAY")
    if os.environ.get("QT_QPA_PLATFORM") or (os.environ.get("WAYLAND_DISPLAY") and not display):
        return
    if not display:
        raise ConfigurationError(f"the panel needs a display, but DISPLAY is not set: {_REMEDY}")
    plugin = Path(importlib.import_module("PyQt5").__file__).with_name("Qt5") / "plugins/platforms/libqxcb.so"
    try:
        if plugin.exists():  # with the Qt of a distribution come the libraries that it needs
            ctypes.CDLL(str(plugin))
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError as error:
        raise _lacks_library(error) from None
    xcb.xcb_connect.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xcb.xcb_connect(None, None))
    failed = xcb.xcb_connection_has_error(connection)
    xcb.xcb_disconnect(connection)
    if failed:
        raise ConfigurationError(f"the panel needs a display, but DISPLAY={display} cannot be reached: {_REMEDY}")


def _lacks_library(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the panel needs libraries of the system that Qt uses ({error}): on Debian apt install libqt5gui5"
    )
