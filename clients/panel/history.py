"""Peak counts of the last frames, and the veto threshold among them."""

from __future__ import annotations

import numpy as np
import pyqtgraph

from . import style
from .card import Card
from .figures import short
from .model import PanelModel
from .veto_line import KEY, VetoLine

COUNTS = "peakfinder/peak_count_history"
LIMIT = "veto/max_peaks"


class History(Card):
    """A point per frame, green where it would be kept with the threshold as it is drawn, grey where not."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__(
            "Peaks per frame",
            "A point for each of the last 1000 frames: green where it reaches the threshold as drawn, grey where not. "
            "Drag the yellow line; the new threshold is in force when you let it go.",
        )
        self._model = model
        self._counts = np.zeros(0, np.int64)
        self.widget = style.plot(bottom="frames ago")
        item = self.widget.getPlotItem()
        self.missed = pyqtgraph.ScatterPlotItem(size=5, pen=None, brush=style.faint(style.DIM, 110))
        self.hits = pyqtgraph.ScatterPlotItem(size=6, pen=None, brush=style.faint(style.GOOD, 230))
        self.line = VetoLine(model, angle=0)
        for part in (self.missed, self.hits, self.line):
            item.addItem(part)
        self.line.sigPositionChanged.connect(self._colour)
        self.content.addWidget(self.widget, 1)

    def rescale(self, scale: float) -> None:
        super().rescale(scale)
        self.line.rescale(scale)

    def refresh(self, changed: set[str]) -> None:
        if self._model.detail(KEY).error:  # without connection what was last seen stays
            return
        if not changed.isdisjoint({KEY, LIMIT}):
            self.line.follow()
            self._scale()
            self._colour()
        if COUNTS in changed:
            self._counts = np.asarray(self._model.get(COUNTS, self._counts), dtype=np.int64)
            self._scale()
            self._colour()

    def _scale(self) -> None:
        """The line is in sight whatever the counts are."""
        top = max(10.0, 1.1 * self._counts.max(initial=0), 1.3 * (self._model.get(KEY) or 0))
        self.widget.setRange(xRange=(-max(50, len(self._counts)), 0), yRange=(-0.02 * top, top), padding=0.01)

    def _colour(self) -> None:
        counts = self._counts
        ago = np.arange(-len(counts), 0)
        highest = int(self._model.get(LIMIT) or 0) or np.iinfo(np.int64).max
        kept = (counts >= self.line.threshold) & (counts <= highest)
        self.hits.setData(ago[kept], counts[kept])
        self.missed.setData(ago[~kept], counts[~kept])
        self.remark.setText(f"{short(100 * kept.mean())} % reach the line" if len(kept) else "")
