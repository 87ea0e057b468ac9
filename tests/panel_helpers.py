"""The panel in tests: a display, the mouse, waiting while Qt works."""

from __future__ import annotations

import functools
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

# Qt may be there and a library of the system, such as libGL, not
for needed in ("taurus", "PyQt5.QtWidgets", "pyqtgraph"):
    pytest.importorskip(needed, reason=f"{needed} cannot be imported: pip install '.[gui]'", exc_type=ImportError)

PATIENCE = 60.0  # s
QUICK = 20  # ms between two redrawings, in the tests
_TRIAL = "from PyQt5.QtWidgets import QApplication; QApplication(['trial'])"
_watched: list[subprocess.Popen] = []  # so that its pipe stays open


@functools.cache
def provide_display() -> None:
    """Have Qt draw on an Xvfb of our own; without Xvfb, or where Qt lacks a library for it, without any display.

    Once per process, since the application is bound to its display. The Xvfb ends when this process has ended.
    """
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
    if shutil.which("Xvfb") is None:
        return
    read, write = os.pipe()
    options = f"-displayfd {write} -screen 0 1800x1100x24 -nolisten tcp"
    # `cat` ends when our end of its pipe is closed, however this process ends
    watched = subprocess.Popen(
        ["sh", "-c", f"Xvfb {options} & cat > /dev/null; kill $!"],
        pass_fds=[write],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    os.close(write)
    ready, _, _ = select.select([read], [], [], PATIENCE)
    number = os.read(read, 16).decode().strip() if ready else ""
    display = {"DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb"}
    trial = [sys.executable, "-c", _TRIAL]
    if number and subprocess.run(trial, env=os.environ | display, capture_output=True, check=False).returncode == 0:
        os.environ.update(display)
        _watched.append(watched)
    else:
        watched.stdin.close()
        watched.wait()


def open_panel(where: str) -> Any:
    """A panel of the devices at a place, as the program has it."""
    from framesieve.clients.panel.window import Panel

    panel = Panel()
    panel.setModel(where)
    panel._timer.setInterval(QUICK)
    panel.resize(1720, 1030)
    panel.show()
    return panel


def is_complete(panel: Any) -> bool:
    """Whether every device has told its settings and their values."""
    fields = panel.settings.fields
    members = {key.partition("/")[0] for key in fields}
    return members == set(panel.pipeline.devices) and all(field.widget.isEnabled() for field in fields.values())


def wait_until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """What `condition` says once it is true; Qt goes on meanwhile."""
    from taurus.external.qt import QtWidgets

    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not happen in time: {what}"
        QtWidgets.QApplication.processEvents()
        time.sleep(0.01)
    return value


def drag(plot: Any, begin: tuple[float, float], end: tuple[float, float], *, let_go: bool = True) -> None:
    """Drag with the left button from one place of a plot to another, in its own coordinates."""
    from taurus.external.qt import QtCore, QtGui, QtWidgets

    def at(place: tuple[float, float]) -> QtCore.QPoint:
        scene = plot.getPlotItem().vb.mapViewToScene(QtCore.QPointF(*place))
        return plot.mapFromScene(scene)

    def send(kind: Any, point: QtCore.QPoint, button: Any, buttons: Any) -> None:
        where = plot.viewport().mapToGlobal(point)
        event = QtGui.QMouseEvent(kind, point, where, button, buttons, QtCore.Qt.NoModifier)
        QtWidgets.QApplication.sendEvent(plot.viewport(), event)
        time.sleep(0.05)  # pyqtgraph passes over moves that follow too soon
        QtWidgets.QApplication.processEvents()

    left, none = QtCore.Qt.LeftButton, QtCore.Qt.NoButton
    first, last = at(begin), at(end)
    send(QtCore.QEvent.MouseMove, first, none, none)
    send(QtCore.QEvent.MouseButtonPress, first, left, left)
    for k in range(1, 11):
        send(QtCore.QEvent.MouseMove, first + (last - first) * k / 10, none, left)
    if let_go:
        send(QtCore.QEvent.MouseButtonRelease, last, left, none)
