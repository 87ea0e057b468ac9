"""The band at the top: state, and whether the run is good."""

from __future__ import annotations

import time

import numpy as np
from taurus.external.qt import QtCore, QtGui, QtWidgets

from . import style
from .card import grouped, label, short
from .model import PanelModel
from .values import Refusal, name_of

SILENCE = 5.0  # s without an event, in a run, after which it is said
REFUSAL_SHOWN = 15.0  # s
ABOUT_LOSSES = ("Frames are being lost", "frames_lost", "frames_dropped", "frames_failed")  # told by their numbers
SIZES = (28, 22, 18, 15)  # px, of the large line: the largest in which it fits
MANY = 200  # frames without a hit, after which it is said


class Banner(QtWidgets.QFrame):
    """Wide and coloured by the state, which has a sign as well: not everybody tells green from amber. The large line
    tells what is wrong, or that nothing is."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__()
        self._model = model
        self.sign, self.state = label("", "state"), label("", "state")
        self.status, self.trouble = label("", "status"), label("", "trouble")
        self.output = label("", "status")
        self.output.setAlignment(QtCore.Qt.AlignRight | QtCore.Qt.AlignVCenter)
        for text in (self.status, self.trouble, self.output):  # long texts are cut, they do not widen the window
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
        self.setFixedHeight(124)
        self._sheet = ""
        self._fitted: tuple[str, QtCore.QSize] | None = None
        self.refresh(set())

    def refresh(self, changed: set[str]) -> None:
        """Also without any change: silence is told by the clock."""
        del changed
        model = self._model
        missing = model.missing
        stands_out = False
        state = "" if "acquisition" in missing else model.state
        lines = str(model.get("acquisition/status", "")).splitlines() or [""]
        self.state.setText(state or "NO CONNECTION")
        if missing:
            member, why = next(iter(missing.items()))
            self.status.setText(f"{model.devices[member]} does not answer; the panel goes on trying")
            self.trouble.setText(why.splitlines()[0])
        else:
            troubles = self._troubles(state, lines[1:])
            if state == "FAULT":  # its reason is what one looks for
                self.trouble.setText(lines[0])
                self.status.setText("   ".join(troubles))
            else:
                self.trouble.setText("\n".join(troubles) or self._praise(state))
                self.status.setText(lines[0])
            stands_out = bool(troubles) and state in ("RUNNING", "ON", "STANDBY")
        self._fit()
        self.trouble.setToolTip(self.trouble.text())
        self.status.setToolTip("\n".join(lines))
        path = str(model.get("acquisition/output_file", ""))
        self.output.setText(path.rsplit("/", 1)[-1])
        self.output.setVisible(bool(path))
        self.output.setToolTip(path)
        background, text, sign = style.STATES.get(state, style.STATES["STANDBY"])
        self.sign.setText(sign)
        sheet = f"Banner {{ background: {background}; border-radius: 6px; }} Banner QLabel {{ color: {text}; }}"
        sheet += f" QLabel#trouble {{ color: {style.LINE}; }}" if stands_out else ""
        if sheet != self._sheet:  # a new style sheet is costly
            self._sheet = sheet
            self.setStyleSheet(sheet)

    def _fit(self) -> None:
        """Choose the size of the large line."""
        shown = (self.trouble.text(), self.trouble.size())
        if shown == self._fitted:
            return
        self._fitted = shown
        font = QtGui.QFont(self.trouble.font())
        font.setBold(True)
        for size in SIZES:
            font.setPixelSize(size)
            needed = QtGui.QFontMetrics(font).boundingRect(self.trouble.rect(), QtCore.Qt.TextWordWrap, shown[0])
            if needed.height() <= self.trouble.height() and needed.width() <= self.trouble.width():
                break
        self.trouble.setStyleSheet(f"font-size: {size}px;")

    def resizeEvent(self, event: QtCore.QEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _praise(self, state: str) -> str:
        """What is said where nothing is wrong."""
        frames = self._model.get("acquisition/frame_count", 0)
        if not frames:
            return {"RUNNING": "Waiting for the first frame.", "ON": "Ready: Start begins the run."}.get(state, "")
        hits = f"{short(float(self._model.get('veto/hit_rate', 0)))} % hits"
        return f"{'' if state == 'RUNNING' else 'The last run: '}{hits}, no frame lost."

    def _troubles(self, state: str, more: list[str]) -> list[str]:
        """What is wrong, the most recent first."""
        model = self._model
        found = []
        refusal = model.newest_refusal
        if refusal is not None and time.monotonic() - refusal.time < REFUSAL_SHOWN:
            found.append(text_of(refusal, model))
        silent = time.monotonic() - model.last_news
        if state in ("RUNNING", "ALARM") and silent > SILENCE:
            found.append(f"Nothing new for {silent:.0f} s: no frames come.")
        history = model.get("peakfinder/peak_count_history")
        if state in ("RUNNING", "ALARM") and np.size(history) >= MANY and model.get("veto/hit_rate", 1) == 0:
            found.append(f"No hit among the last {grouped(np.size(history))} frames.")
        for what in ("lost", "dropped", "failed"):
            if count := model.get(f"acquisition/frames_{what}", 0):
                found.append(f"{grouped(count)} {'frame' if count == 1 else 'frames'} {what}.")
        if error := model.get("acquisition/last_error", ""):
            found.append(f"Last error: {error}")
        return found + [line for line in more if not line.startswith(ABOUT_LOSSES)]


def text_of(refusal: Refusal, model: PanelModel) -> str:
    description = model.descriptions.get(refusal.key)
    what = description.label if description else name_of(refusal.key)
    return f"{what} refused: {refusal.reason}"
