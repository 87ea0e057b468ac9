"""A titled frame with a plot or numbers in it; and how numbers are written."""

from __future__ import annotations

from taurus.external.qt import QtCore, QtWidgets


class Card(QtWidgets.QFrame):
    """A frame with a title on the left and a remark on the right, above its content."""

    def __init__(self, title: str, tip: str = "") -> None:
        super().__init__()
        self.setObjectName("card")
        self.title = label(title, "title")
        self.remark = label("", "title")
        self.remark.setAlignment(QtCore.Qt.AlignRight | QtCore.Qt.AlignVCenter)
        if tip:
            self.setToolTip(tip)
        self.head = QtWidgets.QHBoxLayout()
        self.head.addWidget(self.title)
        self.head.addWidget(self.remark, 1)
        self.content = QtWidgets.QVBoxLayout(self)
        self.content.setContentsMargins(8, 5, 8, 6)
        self.content.setSpacing(3)
        self.content.addLayout(self.head)


def label(text: str, name: str) -> QtWidgets.QLabel:
    """A label in one of the styles of `style.SHEET`; its text does not make a window wider."""
    made = QtWidgets.QLabel(text)
    made.setObjectName(name)
    made.setTextFormat(QtCore.Qt.PlainText)
    return made


def grouped(number: int) -> str:
    """12345678 as 12 345 678, with narrow spaces."""
    return f"{int(number):,}".replace(",", "\u2009")


def short(number: float) -> str:
    """Three digits that mean something."""
    size = abs(number)
    return f"{number:.0f}" if size >= 100 else f"{number:.1f}" if size >= 10 else f"{number:.2f}" if size else "0"
