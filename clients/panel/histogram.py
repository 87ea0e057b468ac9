"""Frames by peak count, and what each veto threshold would have kept of this run."""

from __future__ import annotations

import numpy as np
import pyqtgraph
from taurus.external.qt import QtCore

from . import style
from .card import Card
from .curves import kept_fraction
from .figures import grouped, short
from .model import PanelModel
from .veto_line import KEY, VetoLine

COUNTS = "veto/peak_count_histogram"
LIMIT = "veto/max_peaks"
BARS = 90
FLOOR = np.log10(0.5)  # where bars begin: a single frame shows


class Histogram(Card):
    """Bars: frames by peak count, logarithmic. Line: the share of this run that a threshold there would have kept."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__(
            "What a threshold keeps",
            "Bars: frames of this run by their number of peaks (left axis, logarithmic). Orange: the share of them "
            "that a threshold at this place would have kept (right axis). Drag the yellow line into the valley between "
            "blank frames and hits.",
        )
        self._model = model
        self._kept = np.zeros(0)
        self.widget = style.plot(bottom="peaks", logarithmic=True)
        item = self.widget.getPlotItem()
        self.bars = item.plot(
            pen=style.pen(style.CALM, 1), stepMode="center", fillLevel=FLOOR, brush=style.faint(style.CALM, 130)
        )
        self.right = pyqtgraph.ViewBox()  # with an axis of its own, in %
        self.right.setMouseEnabled(x=False, y=False)
        item.showAxis("right")
        item.scene().addItem(self.right)
        axis = item.getAxis("right")
        axis.linkToView(self.right)
        axis.setTickFont(style.figures(16))
        axis.setTextPen(style.pen(style.WARN))
        axis.setPen(style.pen(style.EDGE))
        axis.setLabel("% kept", **{"color": style.WARN, "font-size": "16px"})
        self.right.setXLink(item)
        self.right.setYRange(0, 104, padding=0)
        self.curve = pyqtgraph.PlotCurveItem(pen=style.pen(style.WARN, 2.5))
        self.right.addItem(self.curve)
        item.vb.sigResized.connect(lambda: self.right.setGeometry(item.vb.sceneBoundingRect()))
        self.line = VetoLine(model, angle=90)
        item.addItem(self.line)
        self.line.sigPositionChanged.connect(self._tell)
        item.scene().sigMouseMoved.connect(self._pointed)
        self._pointed_at: int | None = None
        self.widget.installEventFilter(self)
        self.content.addWidget(self.widget, 1)

    def kept_at(self, threshold: int) -> float | None:
        """The share of frames, %, that a threshold would have kept; None without frames."""
        if not self._kept.any():
            return None
        return float(self._kept[threshold]) if threshold < len(self._kept) else 0.0

    def rescale(self, scale: float) -> None:
        super().rescale(scale)
        self.line.rescale(scale)

    def refresh(self, changed: set[str]) -> None:
        if KEY in changed:
            self.line.follow()
        if changed.isdisjoint({COUNTS, LIMIT, KEY}):
            return
        counts = self._model.get(COUNTS)
        if counts is None or not len(counts):
            return
        self._kept = kept_fraction(counts, int(self._model.get(LIMIT) or 0))
        filled = np.flatnonzero(counts)
        threshold = int(self._model.get(KEY) or 0)
        last = max(20, int(filled[-1]) if len(filled) else 0)
        if threshold < len(counts):  # there are no bins for as many peaks as a threshold may have
            last = max(last, int(1.3 * threshold))
        last = min(last, len(counts) - 1)
        edges, frames = rebinned(np.asarray(counts), last + 1)
        heights = np.log10(np.maximum(frames, 0.5))
        self.bars.setData(edges, heights)
        self.curve.setData(np.arange(len(self._kept)) - 0.5, self._kept)
        top = max(1.0, float(heights.max(initial=0)) + 0.15)
        self.widget.setRange(xRange=(-1, 1.04 * last + 1), yRange=(FLOOR, top), padding=0)
        self._tell()

    def eventFilter(self, watched: QtCore.QObject, event: QtCore.QEvent) -> bool:
        """A mouse that has left points at nothing; the scene does not tell."""
        if event.type() == QtCore.QEvent.Leave:
            self._pointed_at = None
            self._tell()
        return super().eventFilter(watched, event)

    def _pointed(self, position: QtCore.QPointF) -> None:
        item = self.widget.getPlotItem()
        inside = item.vb.sceneBoundingRect().contains(position)
        self._pointed_at = max(0, round(item.vb.mapSceneToView(position).x() + 0.5)) if inside else None
        self._tell()

    def _tell(self) -> None:
        threshold = self.line.threshold if self._pointed_at is None or self.line.moving else self._pointed_at
        kept = self.kept_at(threshold)
        frames = self._model.get("acquisition/frame_count", 0)
        self.remark.setText("" if kept is None else f"from {threshold} on: {short(kept)} % of {grouped(frames)}")


def rebinned(counts: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `length` bins of a histogram in at most `BARS` bars: their edges (n + 1,) and sums (n,)."""
    width = -(-length // BARS)
    starts = np.arange(0, length, width)
    return np.append(starts, starts[-1] + width) - 0.5, np.add.reduceat(counts[: starts[-1] + width], starts)
