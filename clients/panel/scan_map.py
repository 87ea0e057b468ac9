"""Where in a scan the hits are."""

from __future__ import annotations

import numpy as np
import pyqtgraph
from taurus.external.qt import QtCore

from . import style
from .curves import pitch

LEVELS = 32  # colours of hits
MISS = "#2b3a4f"
ABOUT_A_POINT = 0.75  # of the pitch: within it the mouse points at it


class ScanMap(pyqtgraph.PlotWidget):
    """A square for each frame whose position is known: dark where it is no hit, from orange to white where it is."""

    pointed = QtCore.pyqtSignal()

    def __init__(self) -> None:
        super().__init__(background=style.CARD)
        item = self.getPlotItem()
        style.dress(item, bottom="x, as the source tells it", left="y")
        item.setAspectLocked(True)
        item.setMouseEnabled(x=True, y=True)
        self.misses = pyqtgraph.ScatterPlotItem(symbol="s", pen=None, brush=pyqtgraph.mkBrush(MISS))
        self.hits = pyqtgraph.ScatterPlotItem(symbol="s", pen=None)
        item.addItem(self.misses)
        item.addItem(self.hits)
        hot = style.HEAT[len(style.HEAT) // 2 :]
        places = np.linspace(0, len(hot) - 1, LEVELS)
        table = [np.interp(places, np.arange(len(hot)), channel) for channel in hot.T]
        self._brushes = [pyqtgraph.mkBrush(*(int(part) for part in colour)) for colour in zip(*table, strict=True)]
        self._frames = np.zeros((0, 3))
        self._pitch = 1.0
        self._extent: tuple[float, ...] = ()
        self._mouse: QtCore.QPointF | None = None
        item.vb.sigTransformChanged.connect(self._scale)
        item.scene().sigMouseMoved.connect(self._moved)
        item.scene().sigMouseClicked.connect(self._clicked)

    def show_frames(self, frames: np.ndarray, least: int, most: int) -> None:
        """`frames` (n, 3): x, y, number of peaks; a hit has `least` to `most` peaks, `most` 0 = no limit. Of several
        frames at one place the newest is on top."""
        self._frames = frames
        places, counts = frames[:, :2], frames[:, 2]
        is_hit = (counts >= least) & ((counts <= most) if most else True)
        self.misses.setData(pos=places[~is_hit])
        found = counts[is_hit]
        top = max(float(np.percentile(found, 98)), least + 1.0) if len(found) else 1.0
        shares = np.clip((found - least) / (top - least), 0, 1)
        brushes = [self._brushes[level] for level in (shares * (LEVELS - 1)).astype(int)]
        self.hits.setData(pos=places[is_hit], brush=brushes)
        self._pitch = pitch(places)
        if len(frames):
            extent = (*places.min(axis=0), *places.max(axis=0))
            if extent != self._extent:
                self._extent = extent
                self.show_all()
        self._scale()

    def remark(self, least: int, most: int) -> str:
        """What the mouse points at, or how many are hits."""
        if not len(self._frames):
            return "the source tells no scan positions"
        if (at := self._pointed_at()) is not None:
            x, y, count = self._frames[at]
            return f"({x:g}, {y:g}): {count:.0f} peaks"
        counts = self._frames[:, 2]
        hits = int(((counts >= least) & ((counts <= most) if most else True)).sum())
        return f"{hits} hit{'s' * (hits != 1)} at {len(counts)} places"

    def _pointed_at(self) -> int | None:
        if self._mouse is None:
            return None
        place = self.getPlotItem().vb.mapSceneToView(self._mouse)
        distances = np.hypot(*(self._frames[:, :2] - (place.x(), place.y())).T)
        nearest = len(distances) - 1 - int(np.argmin(distances[::-1]))  # the newest of several at one place
        return nearest if distances[nearest] < ABOUT_A_POINT * self._pitch else None

    def show_all(self) -> None:
        left, bottom, right, top = self._extent
        half = 0.5 * self._pitch
        self.getPlotItem().setRange(
            xRange=(left - half, right + half), yRange=(bottom - half, top + half), padding=0.02
        )

    def _scale(self, *_: object) -> None:
        """Squares fill the distance between neighbours, whatever the zoom."""
        size = max(4.0, 0.97 * self._pitch / max(1e-300, self.getPlotItem().vb.viewPixelSize()[0]))
        for part in (self.misses, self.hits):
            if abs(part.opts["size"] - size) > 0.01 * size:
                part.setSize(size)

    def _moved(self, position: QtCore.QPointF) -> None:
        inside = self.getPlotItem().vb.sceneBoundingRect().contains(position)
        self._mouse = position if inside else None
        self.pointed.emit()

    def leaveEvent(self, event: QtCore.QEvent) -> None:
        """The scene does not tell that the mouse has left."""
        self._mouse = None
        self.pointed.emit()
        super().leaveEvent(event)

    def _clicked(self, event: object) -> None:
        if event.button() == QtCore.Qt.RightButton and self._extent:
            self.show_all()
