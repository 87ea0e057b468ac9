"""The buttons of a run."""

from __future__ import annotations

from taurus.external.qt import QtCore, QtWidgets

from .card import Card, ElidedLabel, label
from .model import PanelModel

#: command → what it does, the states in which it makes sense
BUTTONS = {
    "Prepare": ("Load geometry, mask and calibration, build the kernels, open the output.", ("STANDBY",)),
    "Start": ("Reduce frames; prepares first if needed.", ("STANDBY", "ON")),
    "Stop": ("Finish what has arrived and close the files.", ("ON", "RUNNING", "ALARM", "INIT")),
    "Abort": ("Stop at once; what was written stays valid.", ("ON", "RUNNING", "ALARM", "INIT")),
    "Reset": ("Leave FAULT, once its cause has been removed.", ("FAULT",)),
}


class Controls(Card):
    """Prepare, Start, Stop, Abort, Reset; where frames come from and go to; why a command was refused."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__("Run")
        self._model = model
        self.buttons = {}
        row = QtWidgets.QHBoxLayout()
        for name, (tip, states) in BUTTONS.items():
            button = QtWidgets.QPushButton(name)
            button.setObjectName(name)
            button.setToolTip(f"{tip}\nPossible in {', '.join(states)}.")
            button.clicked.connect(lambda _, name=name: self._model.command(name))
            self.buttons[name] = button
            row.addWidget(button, 1)
        self.content.addLayout(row)
        self.source, self.file = (ElidedLabel("", "small", QtCore.Qt.ElideMiddle) for _ in range(2))
        self.refused = label("", "refused")
        for text in (self.source, self.file, self.refused):
            text.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Preferred)
            self.content.addWidget(text)
        self.refused.setWordWrap(True)
        self.refused.hide()
        self.refresh({"acquisition/state"})

    def refresh(self, changed: set[str]) -> None:
        if not any(key.startswith("acquisition/") for key in changed):
            return
        model = self._model
        state = "" if "acquisition" in model.missing else model.state
        for name, button in self.buttons.items():
            button.setEnabled(state in BUTTONS[name][1])
        if state:
            self._tell_where()
        reasons = [refusal.reason for name in BUTTONS if (refusal := model.refusal(f"acquisition/{name}"))]
        self.refused.setText("\n".join(reasons))
        self.refused.setVisible(bool(reasons))

    def _tell_where(self) -> None:
        model = self._model
        self.source.setText(f"from  {model.get('acquisition/source', '') or 'no source is set'}")
        self.file.setText(f"to  {model.get('acquisition/output_file', '') or self._next_file()}")
        for text in (self.source, self.file):
            text.setToolTip(text.text())

    def _next_file(self) -> str:
        directory, prefix = (self._model.get(f"acquisition/saving_{name}", "") for name in ("directory", "prefix"))
        return f"{directory}/{prefix}_…" if directory else "no saving_directory is set"
