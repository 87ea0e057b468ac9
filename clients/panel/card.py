"""A titled frame with a plot or numbers in it, and labels."""

from __future__ import annotations

from taurus.external.qt import QtCore, QtGui, QtWidgets

from . import style


class Card(QtWidgets.QFrame):
    """A frame with a title on the left and a remark on the right, above its content."""

    def __init__(self, title: str, tip: str = "") -> None:
        super().__init__()
        self.setObjectName("card")
        self.title = ElidedLabel(title, "title")
        self.remark = ElidedLabel("", "title")
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

    def show_as_old(self, is_old: bool) -> None:
        """Say that what is shown is not what is."""
        self.setProperty("old", is_old)
        self.style().unpolish(self)  # so that the style sheet looks at the property again
        self.style().polish(self)

    def rescale(self, scale: float) -> None:
        """Have the figures of its plot so much larger than by default."""
        style.rescale(self.widget.getPlotItem(), scale)


class ElidedLabel(QtWidgets.QLabel):
    """Lines that end in … where there is no room for all of them, or have it in the middle.

    Parameters
    ----------
    text, name
        As for `label`.
    mode
        Where text is left out.
    """

    def __init__(self, text: str, name: str, mode: QtCore.Qt.TextElideMode = QtCore.Qt.ElideRight) -> None:
        super().__init__(text)
        self.setObjectName(name)
        self.setTextFormat(QtCore.Qt.PlainText)
        self._mode = mode

    def minimumSizeHint(self) -> QtCore.QSize:
        return QtCore.QSize(2 * self.fontMetrics().averageCharWidth(), super().minimumSizeHint().height())

    def paintEvent(self, event: QtCore.QEvent) -> None:
        del event
        width = self.contentsRect().width()
        shown = "\n".join(self.fontMetrics().elidedText(line, self._mode, width) for line in self.text().split("\n"))
        painter = QtGui.QPainter(self)
        where, enabled = int(self.alignment()), self.isEnabled()
        self.style().drawItemText(
            painter, self.contentsRect(), where, self.palette(), enabled, shown, QtGui.QPalette.WindowText
        )
        painter.end()


def label(text: str, name: str) -> QtWidgets.QLabel:
    """A label in one of the styles of `style.SHEET`; its text does not make a window wider."""
    made = QtWidgets.QLabel(text)
    made.setObjectName(name)
    made.setTextFormat(QtCore.Qt.PlainText)
    return made
