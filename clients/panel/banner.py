"""The band at the top: state, and whether the run is good."""

from __future__ import annotations

import time

from taurus.external.qt import QtCore, QtGui, QtWidgets

from . import style
from .card import ElidedLabel, label
from .model import PanelModel
from .verdict import dangers, praise, troubles

SIZES = (28, 22, 18, 15)  # px, of the large line: the largest in which it fits
HEIGHT = 124  # px
OLD = 5.0  # s without any event, after which the age of what is shown is told


class Banner(QtWidgets.QFrame):
    """Wide and coloured by the state, which has a sign as well: not everybody tells green from amber. The large line
    tells what is wrong, or that nothing is. Amber, too, where frames are reduced but beam time is wasted."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__()
        self._model = model
        self.sign, self.state = label("", "state"), label("", "state")
        self.status, self.trouble = ElidedLabel("", "status"), label("", "trouble")
        self.output = ElidedLabel("", "status", QtCore.Qt.ElideMiddle)
        self.output.setAlignment(QtCore.Qt.AlignRight | QtCore.Qt.AlignVCenter)
        for text in (self.status, self.output):  # long texts are cut, they do not widen the window
            text.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Preferred)
        self.trouble.setWordWrap(True)
        self.trouble.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Ignored)
        right = QtWidgets.QVBoxLayout()
        line = QtWidgets.QHBoxLayout()
        line.addWidget(self.status, 3)
        line.addWidget(self.output, 1)
        right.addWidget(self.trouble, 1)
        right.addLayout(line)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(16, 6, 16, 6)
        layout.setSpacing(20)
        layout.addWidget(self.sign)
        layout.addWidget(self.state)
        layout.addLayout(right, 1)
        self.setFixedHeight(HEIGHT)
        self._sheet = ""
        self._scale = 1.0
        self._fitted: tuple[str, QtCore.QSize, float] | None = None
        self.refresh(set())

    def rescale(self, scale: float) -> None:
        """Be so much larger than by default."""
        self._scale = scale
        self.setFixedHeight(round(HEIGHT * scale))
        self._fit()

    def refresh(self, changed: set[str]) -> None:
        """Also without any change: silence is told by the clock."""
        del changed
        model = self._model
        missing = model.missing
        state = "" if "acquisition" in missing else model.state
        colours, stands_out = state, False
        lines = str(model.get("acquisition/status", "")).splitlines() or [""]
        self.state.setText(state or "NO CONNECTION")
        if missing:
            self._tell_missing(*next(iter(missing.items())))
        else:
            at_once, others = dangers(model), troubles(model, lines[1:])
            if state == "FAULT":  # its reason is what one looks for; the last error is most often the same
                self.trouble.setText(lines[0])
                others = [text for text in others if text.removeprefix("Last error: ") not in lines[0]]
                self.status.setText("   ".join(others))
            else:
                self.trouble.setText("\n".join([*at_once, *others]) or praise(model))
                self.status.setText(lines[0])
            if at_once:
                colours = "ALARM"
            stands_out = bool(others) and colours in ("RUNNING", "ON", "STANDBY")
        self._fit()
        self.trouble.setToolTip(self.trouble.text())
        self.status.setToolTip("\n".join(lines))
        path = str(model.get("acquisition/output_file", ""))
        self.output.setText(path.rsplit("/", 1)[-1])
        self.output.setVisible(bool(path))
        self.output.setToolTip(path)
        background, text, sign = style.STATES.get(colours, style.STATES["STANDBY"])
        self.sign.setText(sign)
        sheet = f"Banner {{ background: {background}; border-radius: 6px; }} Banner QLabel {{ color: {text}; }}"
        sheet += f" QLabel#trouble {{ color: {style.LINE}; }}" if stands_out else ""
        if sheet != self._sheet:  # a new style sheet is costly
            self._sheet = sheet
            self.setStyleSheet(sheet)

    def _tell_missing(self, member: str, why: str) -> None:
        """That a device does not answer, since when, and what Tango says of it."""
        model = self._model
        name = model.devices[member].partition("#")[0]
        if name.startswith("tango://"):
            name = name.removeprefix("tango://").partition("/")[2]
        if why == "connecting":
            self.trouble.setText(f"Connecting to {name}.")
        else:
            text = f"{name} does not answer."
            age = time.monotonic() - model.last_news
            if model.state_was_seen and age > OLD:
                text += f" What is shown is {age:.0f} s old."
            self.trouble.setText(text)
        self.status.setText(f"{why.splitlines()[0].rstrip('.')}. The panel goes on trying.")

    def _fit(self) -> None:
        """Choose the size of the large line."""
        shown = (self.trouble.text(), self.trouble.size(), self._scale)
        if shown == self._fitted:
            return
        self._fitted = shown
        font = QtGui.QFont(self.trouble.font())
        font.setBold(True)
        for largest in SIZES:
            size = max(12, round(largest * self._scale))
            font.setPixelSize(size)
            needed = QtGui.QFontMetrics(font).boundingRect(self.trouble.rect(), QtCore.Qt.TextWordWrap, shown[0])
            if needed.height() <= self.trouble.height() and needed.width() <= self.trouble.width():
                break
        self.trouble.setStyleSheet(f"font-size: {size}px;")

    def resizeEvent(self, event: QtCore.QEvent) -> None:
        super().resizeEvent(event)
        self._fit()
