"""The veto threshold as a line that can be dragged."""

from __future__ import annotations

import pyqtgraph
from taurus.external.qt import QtCore

from . import style
from .model import PanelModel

KEY = "veto/min_peaks"


class VetoLine(pyqtgraph.InfiniteLine):
    """Follows `min_peaks`; dragging it writes `min_peaks` once, when it is let go.

    Drawn half a peak below the threshold, between the last count that is vetoed and the first that is kept.

    Parameters
    ----------
    angle
        0: across a plot of counts against frames; 90: across a histogram of counts.
    """

    tried = QtCore.pyqtSignal(int)  # while it is dragged: the threshold that it stands for

    def __init__(self, model: PanelModel, angle: int) -> None:
        text = {"color": style.LINE, "fill": style.faint(style.CARD, 220)}
        # a horizontal one has its text at the left end, above it
        text |= {"position": 0.93} if angle else {"position": 0.01, "anchors": [(0, 1), (0, 1)]}
        super().__init__(
            movable=True,
            angle=angle,
            pen=style.pen(style.LINE, 3),
            hoverPen=style.pen("#ffffff", 5),
            label="",
            labelOpts=text,
        )
        self._model = model
        self._is_dragged = False
        self.setBounds((-0.5, None))
        self.setZValue(20)
        self.label.textItem.setFont(style.figures(15))
        self.hide()  # until its place is known
        self.sigDragged.connect(self._dragged)
        self.sigPositionChangeFinished.connect(self._let_go)

    @property
    def threshold(self) -> int:
        """Least peaks of a hit where the line is now."""
        return max(0, round(self.value() + 0.5))

    def rescale(self, scale: float) -> None:
        self.label.textItem.setFont(style.figures(round(15 * scale)))

    def follow(self) -> None:
        """Go to where `min_peaks` is, unless somebody holds the line."""
        value = self._model.get(KEY)
        if value is None or self._is_dragged or self._model.is_pending(KEY):
            return
        self.setValue(int(value) - 0.5)
        self.show()
        self._tell()

    def _dragged(self) -> None:
        self._is_dragged = True
        self._tell()
        self.tried.emit(self.threshold)

    def _let_go(self) -> None:
        if self._is_dragged:
            self._is_dragged = False
            self._model.write(KEY, self.threshold)

    def _tell(self) -> None:
        self.label.setText(f"kept from {self.threshold} peaks on")
