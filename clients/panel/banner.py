"""The band at the top: state, status, and what is wrong."""

from __future__ import annotations

import time

from taurus.external.qt import QtCore, QtWidgets

from . import style
from .card import grouped, label
from .model import PanelModel
from .values import Refusal, name_of

SILENCE = 5.0  # s without an event, in a run, after which it is said
REFUSAL_SHOWN = 15.0  # s


class Banner(QtWidgets.QFrame):
    """Wide and coloured by the state. The second line tells what is wrong, or that nothing is."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__()
        self._model = model
        self.state, self.status, self.trouble = label("", "state"), label("", "status"), label("", "trouble")
        self.output = label("", "status")
        self.output.setAlignment(QtCore.Qt.AlignRight | QtCore.Qt.AlignVCenter)
        for text in (self.status, self.trouble, self.output):  # long texts are cut, they do not widen the window
            text.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Preferred)
        self.trouble.setWordWrap(True)
        right = QtWidgets.QVBoxLayout()
        line = QtWidgets.QHBoxLayout()
        line.addWidget(self.status, 3)
        line.addWidget(self.output, 1)
        right.addLayout(line)
        right.addWidget(self.trouble)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(16, 6, 16, 6)
        layout.setSpacing(24)
        layout.addWidget(self.state)
        layout.addLayout(right, 1)
        self.setFixedHeight(110)
        self._sheet = ""
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
            self.status.setText(lines[0])
            troubles = self._troubles(state, lines[1:])
            self.trouble.setText("   ".join(troubles) or "No frame lost, nothing refused.")
            stands_out = bool(troubles) and state in ("RUNNING", "ON", "STANDBY")
        self.status.setToolTip("\n".join(lines))
        path = str(model.get("acquisition/output_file", ""))
        self.output.setText(path.rsplit("/", 1)[-1])
        self.output.setVisible(bool(path))
        self.output.setToolTip(path)
        background, text = style.STATES.get(state, style.STATES["STANDBY"])
        sheet = f"Banner {{ background: {background}; border-radius: 6px; }} Banner QLabel {{ color: {text}; }}"
        sheet += f" QLabel#trouble {{ color: {style.LINE}; font-weight: 600; }}" if stands_out else ""
        if sheet != self._sheet:  # a new style sheet is costly
            self._sheet = sheet
            self.setStyleSheet(sheet)

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
        for what in ("lost", "dropped", "failed"):
            if count := model.get(f"acquisition/frames_{what}", 0):
                found.append(f"{grouped(count)} {'frame' if count == 1 else 'frames'} {what}.")
        if error := model.get("acquisition/last_error", ""):
            found.append(f"Last error: {error}")
        return found + more


def text_of(refusal: Refusal, model: PanelModel) -> str:
    description = model.descriptions.get(refusal.key)
    what = description.label if description else name_of(refusal.key)
    return f"{what} refused: {refusal.reason}"
