"""The newest picture with its peaks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyqtgraph
from taurus.external.qt import QtCore, QtWidgets

from . import style
from .card import Card, grouped
from .curves import bright_level, colours, smallest_step
from .model import PanelModel

MAX_CIRCLES = 2000
EMPTY = np.zeros((0, 6), np.float32)
PREVIEW = "acquisition/preview"
NEWEST = "peakfinder/last_peaks"
NEWEST_FRAME, LAST_HIT, HIGHEST = "Newest", "Last hit", "Highest"
VIEWS = {
    NEWEST_FRAME: "The newest frame.",
    LAST_HIT: "The last of the frames shown that has at least min_peaks peaks.",
    HIGHEST: "What every pixel has been at most, in all pictures of this run that the panel has got: a virtual powder.",
}


class Shown(NamedTuple):
    preview: np.ndarray
    peaks: np.ndarray  # (n, 6)
    frame: int | None


class Picture(Card):
    """The preview in a logarithmic scale, gaps and flagged pixels in blue, peaks circled. The wheel zooms."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__(
            "",
            "Logarithmic and decimated. Circles: peaks. Blue: gaps between modules and pixels without a value. "
            "Wheel: zoom; right click: all of it.",
        )
        self._model = model
        self._level = 0.0
        self._table = colours(10.0, style.HEAT, style.INVALID)
        self._step = 1
        self._newest: Shown | None = None
        self._hit: Shown | None = None
        self._highest: np.ndarray | None = None
        self._noted = 0  # pictures
        self.view = NEWEST_FRAME
        self.buttons = {}
        choice = QtWidgets.QHBoxLayout()
        choice.setSpacing(4)
        for name, tip in VIEWS.items():
            button = QtWidgets.QPushButton(name)
            button.setObjectName("view")
            button.setCheckable(True)
            button.setChecked(name == self.view)
            button.setToolTip(tip)
            button.clicked.connect(lambda _, name=name: self.show_only(name))
            self.buttons[name] = button
            choice.addWidget(button)
        self.head.insertLayout(0, choice)
        self.widget = pyqtgraph.PlotWidget(background=style.CARD)
        item = self.widget.getPlotItem()
        item.hideAxis("left")
        item.hideAxis("bottom")
        item.hideButtons()
        item.setMenuEnabled(False)
        item.setAspectLocked(True)
        item.invertY(True)  # the first row on top, as detectors are shown
        self.image = pyqtgraph.ImageItem(axisOrder="row-major")
        self.peaks = pyqtgraph.ScatterPlotItem(size=13, symbol="o", pen=style.pen("#4be3ff", 1.6), brush=None)
        item.addItem(self.image)
        item.addItem(self.peaks)
        item.scene().sigMouseClicked.connect(self._clicked)
        self.content.addWidget(self.widget, 1)

    def refresh(self, changed: set[str]) -> None:
        picture = self._model.picture
        if changed.isdisjoint((PREVIEW, NEWEST)) or picture is None:
            return
        if not picture.preview.size:
            self._forget()
            return
        peaks = picture.peaks
        if peaks is None:  # a server that does not tell them: those of the newest frame are all there is
            newest = self._model.get(NEWEST)
            peaks = EMPTY if newest is None or not np.size(newest) else newest
        shown = Shown(picture.preview, peaks, picture.frame)
        # … and the decimation is the smallest that has room for all peaks seen so far
        self._step = picture.step or max(self._step, smallest_step(peaks[:, :2], picture.preview.shape))
        if PREVIEW in changed:
            self._note(shown)
        self._newest = shown
        self._show()

    def _note(self, shown: Shown) -> None:
        """Remember the last hit, and the brightest that every pixel has been."""
        preview = shown.preview
        is_new_run = self._newest is not None and (shown.frame or 0) < (self._newest.frame or 0)
        if self._highest is None or self._highest.shape != preview.shape or is_new_run:
            self._hit, self._noted = None, 0
            self._highest = preview.copy()
            self._show_all()
        else:
            # the value of pixels without one is the largest of all: once invalid, always invalid
            np.maximum(self._highest, preview, out=self._highest)
        self._noted += 1
        if len(shown.peaks) >= max(1, int(self._model.get("veto/min_peaks", 1))):
            self._hit = shown

    def _forget(self) -> None:
        """A new run that has no frame yet."""
        self._newest = self._hit = self._highest = None
        self._noted, self._step = 0, 1
        self.image.clear()
        self.peaks.clear()
        self.remark.setText("")

    def _show(self) -> None:
        shown = self._hit if self.view == LAST_HIT else self._newest
        if self.view == HIGHEST and self._highest is not None:
            self._draw(self._highest, EMPTY)
            self.remark.setText(f"highest of {grouped(self._noted)} pictures")
        elif shown is not None:
            self._draw(shown.preview, shown.peaks)
            count = f"{grouped(len(shown.peaks))} peak{'s' * (len(shown.peaks) != 1)}"
            self.remark.setText(count if shown.frame is None else f"frame {grouped(shown.frame)}: {count}")
        elif self.view == LAST_HIT:
            self.remark.setText("no hit among the pictures yet")

    def _draw(self, preview: np.ndarray, peaks: np.ndarray) -> None:
        level = bright_level(preview)
        if not 0.8 < self._level / level < 1.25:  # the colours do not flicker with every frame
            self._level = level
            self._table = colours(level, style.HEAT, style.INVALID)
        self.image.setImage(self._table[preview], levels=(0, 255), autoLevels=False)
        shown = peaks[:MAX_CIRCLES]
        # the centre of the first pixel is 0 in `peaks`, ½ in the picture
        self.peaks.setData(shown[:, 0] / self._step + 0.5, shown[:, 1] / self._step + 0.5)

    def show_only(self, what: str) -> None:
        """`NEWEST_FRAME`, `LAST_HIT` or `HIGHEST`."""
        self.view = what
        for name, button in self.buttons.items():
            button.setChecked(name == what)
        self._show()

    def _show_all(self) -> None:
        rows, columns = self._highest.shape
        self.widget.getPlotItem().setRange(xRange=(0, columns), yRange=(0, rows), padding=0.01)

    def _clicked(self, event: object) -> None:
        if event.button() == QtCore.Qt.RightButton and self._highest is not None:
            self._show_all()
