"""The numbers of a run, large, each with its past."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from taurus.external.qt import QtCore, QtWidgets

from . import style
from .card import Card, ElidedLabel, label
from .figures import grouped, short
from .model import TREND_LENGTH, PanelModel

HITS, RATIO = "veto/hit_rate", "sparsifier/compression_ratio"
TREND, AXIS = 74, 46  # px, height of a trend, and width of its axis
LEAST_SHOWN, MOST_SHOWN = 60.0, TREND_LENGTH  # s of the past


def usual_top(values: np.ndarray) -> float:
    """The largest value, but for the few that would make all others small: rates jump when a run begins."""
    values = values[np.isfinite(values)]
    some = values[values > 0]
    return float(min(values.max(), 3 * np.median(some))) if len(some) else 0.0


def _verdicts(model: PanelModel) -> str:
    if model.get("veto/kept_count") is None:
        return "\n"
    kept, vetoed, control = (model.get(f"veto/{name}_count", 0) for name in ("kept", "vetoed", "control"))
    return f"{grouped(kept)} kept ({grouped(control)} control)\n{grouped(vetoed)} vetoed"


def _number(text: str, key: str) -> Callable[[PanelModel], str]:
    def told(model: PanelModel) -> str:
        value = model.get(key)
        # nothing of a run that has no frame
        return text.format(short(value)) if value or (value == 0 and model.get("acquisition/frame_count")) else ""

    return told


_MINUTES = f"Trend: up to {MOST_SHOWN / 60:.0f} minutes."

#: title, attribute, unit, line beneath, trends, tooltip
ROWS: tuple[tuple[str, str, str, Callable[[PanelModel], str], dict[str, str], str], ...] = (
    (
        "Frames reduced",
        "acquisition/frame_count",
        "",
        _verdicts,
        {},
        "Frames reduced in this run, what became of them, and those that could not be reduced.",
    ),
    (
        "Frame rate",
        "acquisition/frame_rate",
        "Hz",
        _number("{} ms on the device", "acquisition/processing_time"),
        {"acquisition/frame_rate": style.GOOD},
        f"Frames reduced per second. {_MINUTES}",
    ),
    (
        "Hit rate, last 1000",
        HITS,
        "%",
        _number("veto saves {} % of bytes", "veto/saved_fraction"),
        {HITS: style.GOOD},
        f"Share of hits among the last 1000 frames. {_MINUTES}",
    ),
    (
        "Compression",
        RATIO,
        "×",
        _number("{} × against raw", "sparsifier/compression_ratio_raw"),
        {RATIO: style.GOOD},
        f"Bytes in over bytes out, both as stored. {_MINUTES}",
    ),
    (
        "Data in",
        "acquisition/input_rate",
        "MB/s",
        _number("out {} MB/s", "acquisition/output_rate"),
        {"acquisition/input_rate": style.CALM, "acquisition/output_rate": style.GOOD},
        f"What arrives (blue) and what is written (green). {_MINUTES}",
    ),
    (
        "Buffer",
        "acquisition/buffer_occupancy",
        "%",
        lambda model: "" if model.get("acquisition/buffer_occupancy") is None else "of the ring is waiting",
        {"acquisition/buffer_occupancy": style.CALM},
        f"Share of the ring of frames that waits; at 100 % frames of a live source are dropped. {_MINUTES}",
    ),
)


class Tile(Card):
    """One number with its unit, a line beneath, and a trend of the last minutes.

    Parameters
    ----------
    key
        The attribute in large figures; red or amber where it is past its limits.
    beneath
        Makes the line beneath.
    trends
        Attributes whose past is drawn, with their colours.
    """

    def __init__(
        self,
        model: PanelModel,
        title: str,
        key: str,
        unit: str,
        beneath: Callable[[PanelModel], str],
        trends: dict[str, str],
        tip: str,
    ) -> None:
        super().__init__(title, tip)
        self._model, self._key, self._unit, self._beneath = model, key, unit, beneath
        self.number, self.unit, self.line = label("", "number"), label("", "unit"), ElidedLabel("", "small")
        figures = QtWidgets.QHBoxLayout()
        figures.setSpacing(8)
        figures.addWidget(self.number, 0, QtCore.Qt.AlignBaseline)
        figures.addWidget(self.unit, 1, QtCore.Qt.AlignBaseline)
        self.content.addLayout(figures)
        self.content.addWidget(self.line)
        self._curves = {}
        if trends:
            self.widget = style.plot()
            self.widget.setFixedHeight(TREND)
            item = self.widget.getPlotItem()
            item.hideAxis("bottom")
            item.showGrid(x=False, y=False)
            self._curves = {
                key: item.plot(pen=style.pen(colour, 2), connect="finite") for key, colour in trends.items()
            }
            self.content.addWidget(self.widget)
        else:
            self.content.addStretch(1)
        self._colour = ""

    def rescale(self, scale: float) -> None:
        if self._curves:
            self.widget.setFixedHeight(round(TREND * scale))
            style.rescale(self.widget.getPlotItem(), scale, AXIS)

    def refresh(self, changed: set[str]) -> None:
        model = self._model
        detail = model.detail(self._key)
        value = model.get(self._key)
        if not value and (self._key == RATIO or (self._key == HITS and not model.get("acquisition/frame_count"))):
            value = None  # there is none yet
        exact = value is None or isinstance(value, int | np.integer)
        text = "–" if value is None else grouped(value) if exact else short(float(value))
        self.number.setText(text)
        self.unit.setText("" if value is None else self._unit)
        self.line.setText(self._beneath(model))
        colour = style.WARN if detail.is_past_limit else style.DIM if value is None else style.TEXT
        if colour != self._colour:
            self._colour = colour
            self.number.setStyleSheet(f"color: {colour};")
        self._draw()

    def _draw(self) -> None:
        now, tops = time.monotonic(), [0.0]
        begin = now - MOST_SHOWN
        for key, curve in self._curves.items():
            times, values = self._model.trend(key)
            if len(times):  # a value that does not change sends no events: it lasts until now
                times, values = np.append(np.repeat(times, 2)[1:], now), np.repeat(values, 2)
                begin = max(begin, min(times[0], now - LEAST_SHOWN))
                tops.append(usual_top(values[times >= begin]))
            curve.setData(times - now, values)
        top = max(tops)
        if self._curves:
            self.widget.setRange(xRange=(begin - now, 0), yRange=(-0.16 * (top or 1), 1.16 * (top or 1)), padding=0)
            self.widget.getPlotItem().getAxis("left").setTicks([[(0, "0"), (top, short(top))] if top else [(0, "0")]])


class Tiles(QtWidgets.QWidget):
    """All of them in a row."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__()
        self._model = model
        self._last_trends = 0.0
        self.losses = label("", "losses")
        self.losses.setWordWrap(True)
        self.losses.setToolTip("Frames that never arrived, could not be taken in, or arrived broken.")
        self.tiles = [Tile(model, *row) for row in ROWS]
        self.tiles[0].content.addWidget(self.losses)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for tile in self.tiles:
            tile.setSizePolicy(QtWidgets.QSizePolicy.Ignored, QtWidgets.QSizePolicy.Preferred)
            layout.addWidget(tile, 1)
        self._losses_are_bad: bool | None = None

    def refresh(self, changed: set[str]) -> None:
        """Twice a second is enough for numbers to be read and for trends to move."""
        del changed
        now = time.monotonic()
        if now - self._last_trends < 0.4:
            return
        self._last_trends = now
        for tile in self.tiles:
            tile.refresh(set())
        self._show_losses()

    def _show_losses(self) -> None:
        counts = {what: self._model.get(f"acquisition/frames_{what}") for what in ("lost", "dropped", "failed")}
        known = {what: count for what, count in counts.items() if count is not None}
        bad = any(known.values())
        none = "nothing lost" if known and self._model.get("acquisition/frame_count") else ""
        told = [f"{grouped(count)} {what}" for what, count in known.items() if count]
        self.losses.setText(" · ".join(told) if bad else none)
        if bad != self._losses_are_bad:
            self._losses_are_bad = bad
            self.losses.setStyleSheet(f"color: {style.BAD if bad else style.GOOD};")
