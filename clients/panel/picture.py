"""The newest picture with its peaks."""

from __future__ import annotations

import numpy as np
import pyqtgraph
from taurus.external.qt import QtCore

from . import style
from .card import Card, grouped
from .curves import INVALID, bright_level, colours, smallest_step
from .model import PanelModel

MAX_CIRCLES = 2000
PICTURE = "acquisition/preview"
WITH_PICTURE = "acquisition/preview_peaks"  # peaks of that very frame, where the server tells them
NEWEST = "peakfinder/last_peaks"


class Picture(Card):
    """The preview in a logarithmic scale, gaps and flagged pixels in blue, peaks circled. The wheel zooms."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__(
            "Newest frame, logarithmic",
            "The newest frame, decimated. Circles: peaks found. Blue: gaps between modules and pixels without a value. "
            "Wheel: zoom; right click: all of it.",
        )
        self._model = model
        self._level = 0.0
        self._table = colours(10.0, style.HEAT, style.INVALID)
        self._step = 1
        self._shape = (0, 0)
        self.widget = pyqtgraph.PlotWidget(background=style.CARD)
        item = self.widget.getPlotItem()
        item.hideAxis("left")
        item.hideAxis("bottom")
        item.hideButtons()
        item.setMenuEnabled(False)
        item.setAspectLocked(True)
        item.invertY(True)  # the first row on top, as detectors are shown
        self.image = pyqtgraph.ImageItem(axisOrder="row-major")
        self.peaks = pyqtgraph.ScatterPlotItem(size=17, symbol="o", pen=style.pen("#4be3ff", 1.6), brush=None)
        item.addItem(self.image)
        item.addItem(self.peaks)
        item.scene().sigMouseClicked.connect(self._clicked)
        self.content.addWidget(self.widget, 1)

    def refresh(self, changed: set[str]) -> None:
        if PICTURE in changed:
            self._show_image()
        if not changed.isdisjoint((PICTURE, WITH_PICTURE, NEWEST, "acquisition/preview_step")):
            self._show_peaks()

    def _show_image(self) -> None:
        preview = self._model.get(PICTURE)
        if preview is None or np.ndim(preview) != 2 or not preview.size:
            self.image.clear()
            self._shape = (0, 0)
            return
        level = bright_level(preview)
        if not 0.8 < self._level / level < 1.25:  # the colours do not flicker with every frame
            self._level = level
            self._table = colours(level, style.HEAT, style.INVALID)
        self.image.setImage(self._table[preview], levels=(0, 255), autoLevels=False)
        if preview.shape != self._shape:
            self._shape = preview.shape
            self._step = 1
            self._show_all()

    def _show_peaks(self) -> None:
        model = self._model
        peaks = model.get(WITH_PICTURE)
        belong = peaks is not None or WITH_PICTURE in model.descriptions
        if not belong:
            peaks = model.get(NEWEST)
        if peaks is None or np.ndim(peaks) != 2 or not len(peaks):
            peaks = np.zeros((0, 6), np.float32)
        # a server that does not tell the decimation: the smallest that has room for all peaks seen so far
        told = model.get("acquisition/preview_step", 0)
        self._step = int(told) or max(self._step, smallest_step(peaks[:, :2], self._shape))
        shown = peaks[:MAX_CIRCLES]
        # the centre of the first pixel is 0 in `peaks`, ½ in the picture
        self.peaks.setData(shown[:, 0] / self._step + 0.5, shown[:, 1] / self._step + 0.5)
        count = len(peaks) if belong else model.get("peakfinder/peak_count", 0)
        number = model.get("acquisition/preview_frame" if belong else "acquisition/last_frame_number", -1)
        frame = f"frame {grouped(number)}: " if number is not None and number >= 0 else ""
        self.remark.setText(f"{frame}{grouped(count)} peak{'s' * (count != 1)}")

    def _show_all(self) -> None:
        rows, columns = self._shape
        self.widget.getPlotItem().setRange(xRange=(0, columns), yRange=(0, rows), padding=0.01)

    def _clicked(self, event: object) -> None:
        if event.button() == QtCore.Qt.RightButton:
            self._show_all()

    @property
    def invalid_pixels(self) -> int:
        """Gaps and flagged pixels in the picture."""
        preview = self._model.get(PICTURE)
        return 0 if preview is None else int(np.count_nonzero(preview == INVALID))
