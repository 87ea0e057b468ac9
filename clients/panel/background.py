"""The background of the newest frame, and where pixels are picked above it."""

from __future__ import annotations

import numpy as np
import pyqtgraph

from . import style
from .card import Card
from .curves import picking_threshold
from .model import PanelModel

CURVES = {"sparsifier/radius", "sparsifier/background_mean", "sparsifier/background_std"}
SETTINGS = {"sparsifier/noise", "sparsifier/snr_pick", "sparsifier/error_model"}
RADII = {"peakfinder/radius_min", "peakfinder/radius_max"}
LEAST = 0.01  # counts; below it a logarithm says nothing


class Background(Card):
    """Mean of the background against the radius, its spread as a band, the picking threshold as a line."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__(
            "Background, counts",
            "Mean of the background of the newest frame in each radial bin (blue), the band of one standard deviation "
            "around it, and the threshold above which pixels are kept (yellow). Dashed: where peaks are looked for.",
        )
        self._model = model
        self.widget = style.plot(bottom="radius, mm", logarithmic=True)
        item = self.widget.getPlotItem()
        self.low, self.high = (pyqtgraph.PlotCurveItem(pen=style.pen(style.CALM, 0.5)) for _ in range(2))
        item.addItem(pyqtgraph.FillBetweenItem(self.low, self.high, brush=style.faint(style.CALM, 80)))
        self.mean = item.plot(pen=style.pen(style.CALM, 2.5), connect="finite")
        self.threshold = item.plot(pen=style.pen(style.LINE, 2.5), connect="finite")
        self.radii = [pyqtgraph.InfiniteLine(angle=90, pen=style.pen(style.DIM, 1.5, dashed=True)) for _ in RADII]
        for line in self.radii:
            line.hide()
            item.addItem(line)
        self.content.addWidget(self.widget, 1)

    def refresh(self, changed: set[str]) -> None:
        if changed.isdisjoint(CURVES | SETTINGS | RADII):
            return
        model = self._model
        radius, mean, std = (
            model.get(f"sparsifier/{name}") for name in ("radius", "background_mean", "background_std")
        )
        # the three come one after the other: wait until they belong together
        if radius is None or mean is None or std is None or not len(radius) == len(mean) == len(std):
            return
        noise, snr_pick = float(model.get("sparsifier/noise", 0)), float(model.get("sparsifier/snr_pick", 0))
        threshold = picking_threshold(mean, std, noise, snr_pick, self._error_model())
        for curve, values in (
            (self.low, mean - std),
            (self.high, mean + std),
            (self.mean, mean),
            (self.threshold, threshold),
        ):
            curve.setData(radius, np.log10(np.fmax(values, LEAST)))
        self.remark.setText(f"yellow: kept above, {snr_pick:g} σ")
        self._limit(mean, threshold)
        for line, name in zip(self.radii, ("radius_min", "radius_max"), strict=True):
            place = float(model.get(f"peakfinder/{name}", 0) or 0)
            line.setValue(place)
            line.setVisible(place > 0)

    def _error_model(self) -> str:
        description = self._model.descriptions.get("sparsifier/error_model")
        value = self._model.get("sparsifier/error_model")
        return description.choices[int(value)] if description and value is not None else ""

    def _limit(self, mean: np.ndarray, threshold: np.ndarray) -> None:
        """Leave out the few bins at the rim that would make all others small."""
        low = mean[np.isfinite(mean) & (mean > 0)]
        high = threshold[np.isfinite(threshold)]
        if len(low) and len(high):
            bottom, top = np.log10(max(LEAST, np.percentile(low, 1))), np.log10(max(0.1, high.max()))
            self.widget.getPlotItem().setYRange(bottom - 0.3, max(top, bottom + 0.5) + 0.1, padding=0)
