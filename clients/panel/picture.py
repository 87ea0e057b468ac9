"""The newest picture with its peaks."""

from __future__ import annotations

import numpy as np
import pyqtgraph
from taurus.external.qt import QtCore, QtWidgets

from . import style
from .card import Card, grouped
from .curves import bright_level, colours, smallest_step
from .model import PanelModel

MAX_CIRCLES = 2000
EMPTY = np.zeros((0, 6), np.float32)
PICTURE = "acquisition/preview"
WITH_PICTURE = "acquisition/preview_peaks"  # peaks of that very frame, where the server tells them
NEWEST = "peakfinder/last_peaks"
STEP = "acquisition/preview_step"
LAST = "acquisition/last_frame_number"
NEWEST_FRAME, LAST_HIT, HIGHEST = "Newest", "Last hit", "Highest"
VIEWS = {
    NEWEST_FRAME: "The newest frame.",
    LAST_HIT: "The last of the frames shown that has at least min_peaks peaks.",
    HIGHEST: "What every pixel has been at most, in all pictures of this run that the panel has got: a virtual powder.",
}


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
        self._hit: tuple[np.ndarray, np.ndarray, int] | None = None  # picture, peaks, frame
        self._highest: np.ndarray | None = None
        self._noted, self._noted_frame = 0, -1
        self.shown = NEWEST_FRAME
        self.buttons = {}
        choice = QtWidgets.QHBoxLayout()
        choice.setSpacing(4)
        for name, tip in VIEWS.items():
            button = QtWidgets.QPushButton(name)
            button.setObjectName("view")
            button.setCheckable(True)
            button.setChecked(name == self.shown)
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
        if changed.isdisjoint((PICTURE, WITH_PICTURE, NEWEST, STEP)):
            return
        preview = self._model.get(PICTURE)
        if preview is None or np.ndim(preview) != 2:  # no connection: the last one stays
            return
        if not preview.size:
            self._forget()
            return
        peaks = self._peaks()
        if PICTURE in changed:
            self._note(preview, peaks)
        # a frame and its peaks come in two events: the second one completes the picture
        elif self._hit is not None and self._hit[0] is preview:
            self._hit = (preview, peaks, self._frame())
        self._show(preview, peaks)

    def _peaks(self) -> np.ndarray:
        """Those of the frame in the picture; of the newest one where the server does not tell them."""
        peaks = self._model.get(WITH_PICTURE if self._tells_peaks else NEWEST)
        return EMPTY if peaks is None or not np.size(peaks) else peaks

    @property
    def _tells_peaks(self) -> bool:
        return WITH_PICTURE in self._model.descriptions

    def _frame(self) -> int:
        return int(self._model.get("acquisition/preview_frame" if self._tells_peaks else LAST, -1))

    def _note(self, preview: np.ndarray, peaks: np.ndarray) -> None:
        """Remember the last hit, and the brightest that every pixel has been."""
        if self._highest is None or self._highest.shape != preview.shape or self._frame() < self._noted_frame:
            self._forget()
            self._highest = preview.copy()
            self._show_all(preview.shape)
        else:
            # the value of pixels without one is the largest of all: once invalid, always invalid
            np.maximum(self._highest, preview, out=self._highest)
        self._noted, self._noted_frame = self._noted + 1, self._frame()
        if len(peaks) >= max(1, int(self._model.get("veto/min_peaks", 1))):
            self._hit = (preview, peaks, self._frame())

    def _forget(self) -> None:
        """A new run, or another detector."""
        self._hit = self._highest = None
        self._noted, self._noted_frame, self._step = 0, -1, 1
        self.image.clear()
        self.peaks.clear()
        self.remark.setText("")

    def _show(self, preview: np.ndarray, peaks: np.ndarray) -> None:
        # a server that does not tell the decimation: the smallest that has room for all peaks seen so far
        told = int(self._model.get(STEP, 0))
        self._step = told or max(self._step, smallest_step(peaks[:, :2], preview.shape))
        if self.shown == HIGHEST and self._highest is not None:
            self._draw(self._highest, EMPTY)
            self.remark.setText(f"highest of {grouped(self._noted)} pictures")
            return
        frame = self._frame()
        if self.shown == LAST_HIT:
            if self._hit is None:
                self.remark.setText("no hit among the pictures yet")
                return
            preview, peaks, frame = self._hit
        self._draw(preview, peaks)
        self.remark.setText(f"frame {grouped(frame)}: {grouped(len(peaks))} peak{'s' * (len(peaks) != 1)}")

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
        self.shown = what
        for name, button in self.buttons.items():
            button.setChecked(name == what)
        self.refresh({STEP})

    def _show_all(self, shape: tuple[int, ...]) -> None:
        rows, columns = shape
        self.widget.getPlotItem().setRange(xRange=(0, columns), yRange=(0, rows), padding=0.01)

    def _clicked(self, event: object) -> None:
        if event.button() == QtCore.Qt.RightButton and self._highest is not None:
            self._show_all(self._highest.shape)
