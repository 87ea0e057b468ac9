"""An image with circles: frames as they come, and virtual powders."""

from __future__ import annotations

import numpy as np
import pyqtgraph
from taurus.external.qt import QtCore

from . import style
from .curves import INVALID, blocks, bright_level, colours, shade, spots
from .values import Picture

MAX_CIRCLES = 2000
CIRCLE, LEAST_CIRCLE = 14, 5  # px
FEW = 150  # peaks that have large circles
LONGEST = 800  # pixels of a powder on the screen


class ImageView(pyqtgraph.PlotWidget):
    """In a logarithmic scale, gaps and flagged pixels in blue. The wheel zooms, a right click shows all of it."""

    def __init__(self) -> None:
        super().__init__(background=style.CARD)
        self._level = 0.0
        self._table = colours(10.0, style.HEAT, style.INVALID)
        self._shape = (0, 0)
        item = self.getPlotItem()
        item.hideAxis("left")
        item.hideAxis("bottom")
        item.hideButtons()
        item.setMenuEnabled(False)
        item.setAspectLocked(True)
        item.invertY(True)  # the first row on top, as detectors are shown
        self.image = pyqtgraph.ImageItem(axisOrder="row-major")
        self.peaks = pyqtgraph.ScatterPlotItem(symbol="o", brush=None)
        item.addItem(self.image)
        item.addItem(self.peaks)
        item.scene().sigMouseClicked.connect(self._clicked)

    def show_frame(self, picture: Picture) -> None:
        """A frame with its peaks."""
        level = bright_level(picture.preview)
        if not 0.8 < self._level / level < 1.25:  # the colours do not flicker with every frame
            self._level = level
            self._table = colours(level, style.HEAT, style.INVALID)
        self._draw(self._table[picture.preview], picture.preview.shape)
        shown = picture.peaks[:MAX_CIRCLES]
        # many circles are small ones, or nothing else would be seen
        share = min(1.0, (FEW / max(1, len(shown))) ** 0.5)
        self.peaks.setSize(max(LEAST_CIRCLE, CIRCLE * share))
        self.peaks.setPen(style.pen("#4be3ff", max(1.0, 1.8 * share)))
        # the centre of the first pixel is 0 in `peaks`, ½ in the picture
        self.peaks.setData(shown[:, 0] / picture.step + 0.5, shown[:, 1] / picture.step + 0.5)

    def show_powder(self, powder: np.ndarray, preview: np.ndarray | None) -> None:
        """Spots without circles. Gaps are those of a preview, if it has the same shape."""
        shown = spots(powder, LONGEST)
        image = shade(shown, style.HEAT)
        if preview is not None and preview.shape == powder.shape:
            gaps = blocks(preview == INVALID, -(-max(powder.shape) // LONGEST)).all(axis=(1, 3))
            image[gaps & (shown == 0)] = style.INVALID
        self._draw(image, powder.shape)
        self.peaks.clear()

    def clear_picture(self) -> None:
        self.image.clear()
        self.peaks.clear()

    def _draw(self, image: np.ndarray, shape: tuple[int, int]) -> None:
        self.image.setImage(image, levels=(0, 255), autoLevels=False)
        self.image.setRect(QtCore.QRectF(0, 0, shape[1], shape[0]))
        if shape != self._shape:
            self._shape = shape
            self.show_all()

    def show_all(self) -> None:
        rows, columns = self._shape
        self.getPlotItem().setRange(xRange=(0, columns), yRange=(0, rows), padding=0.01)

    def _clicked(self, event: object) -> None:
        if event.button() == QtCore.Qt.RightButton and all(self._shape):
            self.show_all()
