"""The panel as a Taurus widget, and the program around it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping

import taurus
from taurus.external.qt import QtCore, QtWidgets
from taurus.qt.qtgui.application import TaurusApplication
from taurus.qt.qtgui.container import TaurusWidget

from . import style
from .background import Background
from .banner import Banner
from .card import Card
from .controls import Controls
from .histogram import Histogram
from .history import History
from .model import PanelModel
from .picture import Picture
from .places import find_devices
from .settings import Settings
from .tiles import Tiles

log = logging.getLogger(__name__)

PERIOD = 200  # ms: nothing is redrawn more than five times a second


class Panel(TaurusWidget):
    """Everything of one pipeline. In a TaurusGUI its model is the domain of the devices.

    Parameters
    ----------
    parent
        As for every widget.
    devices
        Member → device name, see `find_devices`; None: until `setModel` is called.
    """

    def __init__(self, parent: QtWidgets.QWidget | None = None, devices: Mapping[str, str] | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("panel")
        self.setAttribute(QtCore.Qt.WA_StyledBackground)
        self.setStyleSheet(style.sheet())
        self.pipeline: PanelModel | None = None
        self._domain = ""
        self._scale, self._is_old = 1.0, False
        self._timer = QtCore.QTimer(self)
        self._timer.timeout.connect(self.refresh)
        QtWidgets.QVBoxLayout(self).setContentsMargins(8, 8, 8, 8)
        if devices is not None:
            self.show_devices(devices)

    def setModel(self, model: str, **_: object) -> None:
        """A place as `find_devices` takes it; raises what that raises."""
        self._domain = model or ""
        if model:
            self.show_devices(find_devices(model))
        else:
            self.end()

    def getModel(self, *_: object) -> str:
        return self._domain

    def show_devices(self, devices: Mapping[str, str]) -> None:
        """Connect to devices and show them."""
        self.end()
        self.pipeline = model = PanelModel(devices)
        self.banner, self.tiles, self.picture = Banner(model), Tiles(model), Picture(model)
        self.background, self.history, self.histogram = Background(model), History(model), Histogram(model)
        self.controls, self.settings = Controls(model), Settings(model)
        self._parts = [self.banner, self.tiles, self.picture, self.background]
        self._parts += [self.history, self.histogram, self.controls, self.settings]
        self._failed: list[QtWidgets.QWidget] = []
        # while one line is dragged the other goes along
        self.history.line.tried.connect(lambda threshold: self.histogram.line.setValue(threshold - 0.5))
        self.histogram.line.tried.connect(lambda threshold: self.history.line.setValue(threshold - 0.5))
        self._arrange()
        self._is_old, self._scale = False, 0.0
        self._rescale()
        model.start()
        self._timer.start(PERIOD)

    def refresh(self) -> None:
        """Redraw what has changed."""
        changed = self.pipeline.take_changed()
        for part in self._parts:
            try:
                part.refresh(changed)
            except Exception:  # one part that fails must not stop the others
                if part not in self._failed:
                    log.exception("a part of the panel cannot be drawn")
                    self._failed.append(part)
                if isinstance(part, Card):  # what it shows is old
                    part.remark.setText("cannot be drawn, see the log")
        if self._is_old != bool(self.pipeline.missing):
            self._is_old = not self._is_old
            for card in self.findChildren(Card):
                card.show_as_old(self._is_old)

    def end(self) -> None:
        """Unsubscribe and show nothing more; never takes longer than two seconds."""
        self._timer.stop()
        if self.pipeline is not None:
            self.pipeline.close()
            self.pipeline = None

    def resizeEvent(self, event: QtCore.QEvent) -> None:
        super().resizeEvent(event)
        self._rescale()

    def _rescale(self) -> None:
        """Have text and figures fit into the window."""
        scale = style.scale_of(self.width(), self.height())
        if scale == self._scale or self.pipeline is None:
            return
        self._scale = scale
        self.setStyleSheet(style.sheet(scale))
        for part in (self.banner, *self.tiles.tiles, self.background, self.history, self.histogram):
            part.rescale(scale)

    def closeEvent(self, event: QtCore.QEvent) -> None:
        self.end()
        super().closeEvent(event)

    def _arrange(self) -> None:
        content = QtWidgets.QWidget()
        grid = QtWidgets.QGridLayout(content)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(8)
        grid.addWidget(self.banner, 0, 0, 1, 3)
        grid.addWidget(self.tiles, 1, 0, 1, 3)
        grid.addWidget(self.picture, 2, 0, 2, 1)
        grid.addWidget(self.background, 4, 0)
        grid.addWidget(self.history, 2, 1)
        grid.addWidget(self.histogram, 3, 1, 2, 1)
        side = QtWidgets.QVBoxLayout()
        side.addWidget(self.controls)
        side.addWidget(self.settings, 1)
        grid.addLayout(side, 2, 2, 3, 1)
        for column, share in enumerate((40, 34, 26)):
            grid.setColumnStretch(column, share)
        for row, share in ((2, 5), (3, 2), (4, 3)):
            grid.setRowStretch(row, share)
        for part in (self.picture, self.background, self.history, self.histogram):
            part.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Ignored)
            part.widget.setMinimumSize(120, 90)
        layout = self.layout()
        while layout.count():
            layout.takeAt(0).widget().deleteLater()
        layout.addWidget(content)


def application() -> QtWidgets.QApplication:
    """The Taurus application of this process, made if there is none."""
    taurus.setLogLevel(taurus.Error)  # what it could not load concerns nobody here
    return QtWidgets.QApplication.instance() or TaurusApplication(
        ["framesieve panel"], cmd_line_parser=None, app_name="framesieve panel"
    )


def run(devices: Mapping[str, str]) -> int:
    """Show the panel until its window is closed; the exit status."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
        signal.siginterrupt(number, False)  # Tango's threads do not bear it while they subscribe
    app = application()
    panel = Panel(devices=devices)
    panel.setWindowTitle(f"framesieve – {devices['acquisition']}")
    panel.resize(*style.SIZE)
    panel.show()
    listening = QtCore.QTimer()
    listening.timeout.connect(lambda: panel.close() if told.is_set() else None)
    listening.start(PERIOD)
    status = app.exec_()
    panel.end()
    sys.stdout.flush()
    sys.stderr.flush()
    # A device that does not answer may hold a thread of Tango, for which the interpreter would wait at its end
    os._exit(status)
