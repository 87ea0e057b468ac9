"""One setting: its label, its value, and why the last write was refused."""

from __future__ import annotations

from typing import Any

import tango
from taurus.external.qt import QtCore, QtWidgets

from .card import label
from .model import PanelModel
from .values import Description, name_of

FLOATS = (tango.CmdArgType.DevDouble, tango.CmdArgType.DevFloat)
TEXTS = (tango.CmdArgType.DevString,)
CHANGED_SHOWN = 6000  # ms for which a value stands out that was not entered in its field
WIDEST = 2**31 - 1  # the devices know the limits, and say them when they refuse


class Field(QtCore.QObject):
    """Writes what the user enters and shows what the device says. A refused value goes back to the old one.

    `caption`, `widget` (the editor, for numbers with two buttons) and `refused` are put into a layout by whoever
    makes it.
    """

    def __init__(self, model: PanelModel, key: str, description: Description) -> None:
        super().__init__()
        self._model, self.key = model, key
        self.description = description
        self.caption = QtWidgets.QLabel(description.label or name_of(key))
        self.refused = label("", "refused")
        self.refused.setWordWrap(True)
        self.refused.hide()
        self._last: Any = None  # what was shown last, and what was entered last
        self._entered_last: Any = None
        self._calm = QtCore.QTimer(self)
        self._calm.setSingleShot(True)
        self._calm.setInterval(CHANGED_SHOWN)
        self._calm.timeout.connect(lambda: self._mark("changed", False))
        self.editor = self._make_editor()
        self.editor.setObjectName(key)
        is_number = isinstance(self.editor, QtWidgets.QAbstractSpinBox)
        self.widget = with_buttons(self.editor) if is_number else self.editor
        unit = f" ({description.unit})" if description.unit else ""
        tip = f"{description.meaning}\n{key}{unit}"
        for widget in (self.caption, self.editor):
            widget.setToolTip(f"<qt>{_escaped(tip)}</qt>")
        self.show_value()

    # ---- what the device says

    def show_value(self) -> None:
        """Show the value in force, unless somebody is entering another one."""
        refusal = self._model.refusal(self.key)
        self.refused.setText(refusal.reason if refusal else "")
        self.refused.setVisible(refusal is not None)
        self._mark("refused", refusal is not None)
        value = self._model.get(self.key)
        self.widget.setEnabled(value is not None)
        self._notice(value)
        if value is None or self._model.is_pending(self.key) or self._is_being_edited():
            return
        self.editor.blockSignals(True)
        try:
            self._put(value)
        finally:
            self.editor.blockSignals(False)

    def _notice(self, value: Any) -> None:
        """A value that somebody else has changed, or another part of the panel, stands out for a while."""
        if value is not None and self._last is not None and value != self._last and value != self._entered_last:
            self._mark("changed", True)
            self._calm.start()
        self._last = value

    def _mark(self, what: str, is_so: bool) -> None:
        if bool(self.editor.property(what)) != is_so:
            self.editor.setProperty(what, is_so)
            self.editor.style().unpolish(self.editor)  # so that the style sheet looks at the property again
            self.editor.style().polish(self.editor)

    def _put(self, value: Any) -> None:
        editor = self.editor
        if isinstance(editor, QtWidgets.QCheckBox):
            editor.setChecked(bool(value))
        elif isinstance(editor, QtWidgets.QComboBox):
            editor.setCurrentIndex(int(value))
        elif isinstance(editor, QtWidgets.QSpinBox):
            editor.setValue(int(value))
        elif isinstance(editor, QtWidgets.QDoubleSpinBox):
            editor.setValue(float(value))
        elif editor.text() != str(value):
            editor.setText(str(value))
            editor.setCursorPosition(0)

    def _is_being_edited(self) -> bool:
        inner = (
            self.editor if isinstance(self.editor, QtWidgets.QLineEdit) else self.editor.findChild(QtWidgets.QLineEdit)
        )
        return inner is not None and inner.hasFocus() and inner.isModified()

    # ---- what the user enters

    def _make_editor(self) -> QtWidgets.QWidget:
        kind = self.description.data_type
        if self.description.choices:
            editor = QuietComboBox()
            editor.addItems(self.description.choices)
            editor.activated.connect(self._write)
        elif kind == tango.CmdArgType.DevBoolean:
            editor = QtWidgets.QCheckBox()
            editor.clicked.connect(self._write)
        elif kind in TEXTS:
            editor = QtWidgets.QLineEdit()
            editor.editingFinished.connect(self._entered)
            editor.returnPressed.connect(editor.clearFocus)
        else:
            editor = QuietDoubleSpinBox() if kind in FLOATS else QuietSpinBox()
            editor.setRange(-WIDEST, WIDEST)
            editor.setKeyboardTracking(False)  # a number is written when it is complete
            editor.valueChanged.connect(self._write)
        return editor

    def _entered(self) -> None:
        if self.editor.text() != str(self._model.get(self.key, "")):
            self._write(self.editor.text())
        self.editor.setModified(False)

    def _write(self, value: Any) -> None:
        inner = self.editor.findChild(QtWidgets.QLineEdit)
        if inner is not None:
            inner.setModified(False)
        self._entered_last = value
        self._model.write(self.key, value)


def with_buttons(editor: QtWidgets.QAbstractSpinBox) -> QtWidgets.QWidget:
    """A number between two buttons that are large enough to be hit in the dark."""
    editor.setButtonSymbols(QtWidgets.QAbstractSpinBox.NoButtons)
    row = QtWidgets.QWidget()
    layout = QtWidgets.QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(3)
    layout.addWidget(editor, 1)
    for sign, step in (("−", editor.stepDown), ("+", editor.stepUp)):
        button = QtWidgets.QPushButton(sign)
        button.setObjectName("step")
        button.setFocusPolicy(QtCore.Qt.NoFocus)
        button.setAutoRepeat(True)
        button.clicked.connect(step)
        layout.addWidget(button)
    return row


class QuietComboBox(QtWidgets.QComboBox):
    """The wheel scrolls the page and changes no setting by accident."""

    def wheelEvent(self, event: QtCore.QEvent) -> None:
        event.ignore()


class QuietSpinBox(QtWidgets.QSpinBox):
    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(QtCore.Qt.StrongFocus)

    def wheelEvent(self, event: QtCore.QEvent) -> None:
        event.ignore()


class QuietDoubleSpinBox(QtWidgets.QDoubleSpinBox):
    """Shows no more digits than there are, and steps by a tenth."""

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(QtCore.Qt.StrongFocus)
        self.setDecimals(6)
        self.setSingleStep(0.1)

    def textFromValue(self, value: float) -> str:
        return f"{value:.6f}".rstrip("0").rstrip(".") or "0"

    def wheelEvent(self, event: QtCore.QEvent) -> None:
        event.ignore()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")
