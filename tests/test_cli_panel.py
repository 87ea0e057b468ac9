"""`framesieve panel` where Qt cannot work: it would end the process."""

from __future__ import annotations

import ctypes
import importlib

import pytest
from framesieve.cli.main import main

for needed in ("taurus", "taurus_pyqtgraph", "pyqtgraph", "PyQt5.QtWidgets"):
    pytest.importorskip(needed, reason=f"{needed} cannot be imported: pip install '.[gui]'", exc_type=ImportError)

ANOTHER = r"start it in a desktop session, or log in with ssh -X"


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)


def refused(capfd) -> str:
    assert main(["panel", "tango://127.0.0.1:1/demo"]) == 2
    [line] = capfd.readouterr().err.splitlines()
    return line


def test_without_display(capfd):
    assert refused(capfd) == f"framesieve panel: the panel needs a display, but DISPLAY is not set: {ANOTHER}"


def test_a_display_that_is_not_there(monkeypatch, capfd):
    monkeypatch.setenv("DISPLAY", "127.0.0.1:59000")  # port 65000
    assert "but DISPLAY=127.0.0.1:59000 cannot be reached" in refused(capfd)


def test_libraries_that_qt_loads_late(monkeypatch, capfd):
    def load(name: str) -> None:
        raise OSError("libxcb-icccm.so.4: cannot open shared object file")

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert "(libxcb-icccm.so.4: cannot open shared object file): on Debian apt install libqt5gui5" in refused(capfd)


def test_libraries_without_which_qt_cannot_be_imported(monkeypatch, capfd):
    def load(name: str) -> None:
        raise ImportError(f"libGL.so.1: cannot open shared object file, for {name}")

    monkeypatch.setattr(importlib, "import_module", load)
    assert "(libGL.so.1: cannot open shared object file, for PyQt5.QtWidgets): on Debian" in refused(capfd)


@pytest.mark.parametrize("place", ["offscreen", "wayland"])
def test_other_places_than_x11_are_left_to_qt(monkeypatch, capfd, place):
    monkeypatch.setenv(*(("QT_QPA_PLATFORM", place) if place == "offscreen" else ("WAYLAND_DISPLAY", "wayland-0")))
    assert main(["panel", "tango://127.0.0.1:1/demo"]) == 1
    assert "the Tango database does not answer" in capfd.readouterr().err
