"""All settings, in groups, on two pages."""

from __future__ import annotations

from taurus.external.qt import QtCore, QtWidgets

from .card import label
from .field import Field
from .model import PanelModel
from .names import GROUPS, page_of


class Settings(QtWidgets.QTabWidget):
    """Made anew when the devices have told what they have."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__()
        self._model = model
        self.fields: dict[str, Field] = {}
        self._shown: dict[str, object] = {}
        self._forms = {}
        for page in GROUPS:
            area = QtWidgets.QScrollArea()
            area.setWidgetResizable(True)
            area.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarAlwaysOff)
            self._forms[page] = area
            self.addTab(area, page)

    def refresh(self, changed: set[str]) -> None:
        model = self._model
        if not changed.isdisjoint(model.devices):
            writable = {key: info for key, info in list(model.descriptions.items()) if info.is_writable}
            if writable != self._shown:
                self._shown = writable
                self._build()
        for key in changed & self.fields.keys():
            self.fields[key].show_value()

    def _build(self) -> None:
        self.fields = {}
        for page, groups in page_of(set(self._shown)).items():
            content = QtWidgets.QWidget()
            grid = QtWidgets.QGridLayout(content)
            grid.setColumnStretch(0, 3)
            grid.setColumnStretch(1, 2 if page == next(iter(GROUPS)) else 5)
            grid.setVerticalSpacing(4)
            for title, keys in groups.items():
                grid.addWidget(label(title, "group"), grid.rowCount(), 0, 1, 2)
                for key in keys:
                    field = Field(self._model, key, self._shown[key])
                    field.caption.setWordWrap(True)
                    row = grid.rowCount()
                    grid.addWidget(field.caption, row, 0)
                    grid.addWidget(field.widget, row, 1)
                    grid.addWidget(field.refused, row + 1, 0, 1, 2)
                    self.fields[key] = field
            grid.setRowStretch(grid.rowCount(), 1)
            self._forms[page].setWidget(content)  # deletes the one before
