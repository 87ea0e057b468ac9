"""How the panel looks: one table of colours and one style sheet. Dark, and large enough to be read at two metres."""

from __future__ import annotations

import re

import numpy as np
import pyqtgraph
from taurus.external.qt import QtCore, QtGui

from .curves import log_ticks

SIZE = (1720, 1030)  # px, of the window at first, with the sizes below
SMALLEST, LARGEST = 0.7, 2.0  # how much smaller or larger they are in other windows
AXIS = 60  # px, width of a left axis

BACKGROUND, CARD, EDGE = "#0d1117", "#161c24", "#2b3440"
TEXT, DIM = "#e6edf3", "#8b98a8"
GOOD, WARN, BAD, CALM, LINE = "#3fbf7f", "#f2a93b", "#ff5d5d", "#5aa9e6", "#ffd84d"
INVALID = (38, 52, 72)  # gaps and masked pixels of the picture: a blue that no signal has

#: state → colour of the banner, of the text on it, and a sign
STATES = {
    "RUNNING": ("#12703a", "#f0fff6", "▶"),
    "ALARM": ("#b45309", "#fff8ec", "⚠"),
    "FAULT": ("#b91c1c", "#ffffff", "✖"),
    "ON": ("#1d4f7c", "#e3f2ff", "●"),
    "STANDBY": ("#263445", "#e6edf3", "■"),
    "INIT": ("#263445", "#e6edf3", "…"),
    "": ("#7a1f5c", "#ffffff", "?"),  # no connection
}

#: from no count to many: black, through violet and orange, to white
HEAT = np.array(
    [
        (6, 6, 10),
        (33, 17, 74),
        (90, 22, 110),
        (152, 45, 94),
        (210, 80, 55),
        (246, 141, 20),
        (250, 208, 90),
        (255, 255, 235),
    ],
    dtype=np.float64,
)

SHEET = f"""
* {{ font-family: "DejaVu Sans", "Noto Sans", sans-serif; color: {TEXT}; font-size: 15px; }}
QWidget#panel, QScrollArea, QScrollArea > QWidget > QWidget, QTabWidget::pane {{
    background: {BACKGROUND}; border: none; }}
QFrame#card {{ background: {CARD}; border: 1px solid {EDGE}; border-radius: 6px; }}
QFrame#card[old="true"] {{ border: 2px dashed #c05aa0; }}
QFrame#card QLabel {{ background: transparent; }}
QLabel#title {{ color: {DIM}; font-size: 19px; }}
QLabel#number {{ font-size: 46px; font-weight: 700; }}
QLabel#unit {{ color: {DIM}; font-size: 24px; font-weight: 600; }}
QLabel#small {{ color: {DIM}; font-size: 17px; }}
QLabel#losses {{ font-size: 22px; font-weight: 700; }}
QLabel#state {{ font-size: 54px; font-weight: 700; background: transparent; }}
QLabel#status {{ font-size: 18px; background: transparent; }}
QLabel#trouble {{ font-size: 28px; font-weight: 700; background: transparent; }}
QLabel#refused {{ color: {BAD}; font-size: 14px; }}
QLabel#group {{ color: {CALM}; font-size: 17px; font-weight: 600; padding-top: 6px; }}
QPushButton {{ background: #243041; border: 1px solid {EDGE}; border-radius: 5px; padding: 9px 4px; font-size: 18px;
    font-weight: 600; }}
QPushButton:hover {{ background: #31425a; }}
QPushButton:pressed {{ background: #1b2532; }}
QPushButton:disabled {{ color: #55606e; background: #171d26; }}
QPushButton#view {{ padding: 4px 7px; font-size: 16px; font-weight: 400; }}
QPushButton#view:checked {{ background: #2f6fb0; }}
QPushButton#Start:enabled {{ background: #17643a; }}
QPushButton#Stop:enabled {{ background: #1d4f7c; }}
QPushButton#Abort:enabled, QPushButton#Reset:enabled {{ background: #8a2323; }}
QLineEdit, QSpinBox, QDoubleSpinBox, QComboBox {{ background: #0a0e13; border: 1px solid {EDGE}; border-radius: 4px;
    padding: 3px 6px; min-height: 24px; font-size: 17px; selection-background-color: #2f5f8f; }}
QLineEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus, QComboBox:focus {{ border: 1px solid {CALM}; }}
*[changed="true"] {{ border: 2px solid {LINE}; }}
*[refused="true"] {{ border: 2px solid {BAD}; }}
QPushButton#step {{ padding: 0; font-size: 20px; min-width: 34px; max-width: 34px; min-height: 30px; }}
QAbstractItemView {{ background: #0a0e13; selection-background-color: #2f5f8f; }}
QCheckBox::indicator {{ width: 22px; height: 22px; border: 1px solid {DIM}; border-radius: 4px; background: #0a0e13; }}
QCheckBox::indicator:checked {{ background: {GOOD}; }}
QTabBar::tab {{ background: {CARD}; padding: 8px 20px; border: 1px solid {EDGE}; min-width: 130px; }}
QTabBar::tab:selected {{ background: #243041; }}
QToolTip {{ background: #243041; color: {TEXT}; border: 1px solid {CALM}; font-size: 15px; padding: 6px; }}
QScrollBar:vertical {{ background: {BACKGROUND}; width: 14px; }}
QScrollBar::handle:vertical {{ background: #31425a; min-height: 30px; border-radius: 6px; }}
QScrollBar::add-line, QScrollBar::sub-line {{ height: 0; }}
"""


def scale_of(width: int, height: int) -> float:
    """How much larger than by default everything is in a window of this size, in steps of a twentieth."""
    wanted = min(width / SIZE[0], height / SIZE[1])
    return round(20 * min(max(wanted, SMALLEST), LARGEST)) / 20


def sheet(scale: float = 1.0) -> str:
    """The style sheet, with all lengths from 10 px on so much larger."""
    return re.sub(r"\b(\d{2,})px", lambda match: f"{round(int(match[1]) * scale)}px", SHEET)


def rescale(item: pyqtgraph.PlotItem, scale: float, axis: int = AXIS) -> None:
    """Figures and labels of the axes so much larger than by default."""
    item.getAxis("left").setWidth(round(axis * scale))
    for side in ("left", "bottom", "right"):
        shown = item.getAxis(side)
        shown.setTickFont(figures(round(16 * scale)))
        if shown.labelText:
            shown.setLabel(shown.labelText, **{**shown.labelStyle, "font-size": f"{round(16 * scale)}px"})


def pen(colour: str, width: float = 1.5, dashed: bool = False) -> QtGui.QPen:
    return pyqtgraph.mkPen(colour, width=width, style=QtCore.Qt.DashLine if dashed else QtCore.Qt.SolidLine)


def faint(colour: str, alpha: int) -> QtGui.QBrush:
    brush = pyqtgraph.mkColor(colour)
    brush.setAlpha(alpha)
    return pyqtgraph.mkBrush(brush)


def plot(bottom: str = "", *, logarithmic: bool = False) -> pyqtgraph.PlotWidget:
    """An empty plot in the colours of the panel: no menu, no buttons, nothing to be moved, large figures on its axes.

    `logarithmic`: what is drawn are decadic logarithms, the left axis shows the numbers themselves.
    """
    widget = pyqtgraph.PlotWidget(background=CARD)
    item = widget.getPlotItem()
    dress(item, bottom=bottom)
    item.setMouseEnabled(x=False, y=False)
    if logarithmic:
        axis = item.getAxis("left")
        item.vb.sigYRangeChanged.connect(lambda _, limits: axis.setTicks([log_ticks(*_inside(*limits))]))
    return widget


def _inside(low: float, high: float) -> tuple[float, float]:
    """What of an axis has room for figures: at its ends they would be left out."""
    rim = 0.06 * (high - low)
    return low + rim, high - rim


def dress(item: pyqtgraph.PlotItem, bottom: str = "", left: str = "") -> None:
    """The colours of the panel and large figures on the axes; no menu, no buttons."""
    item.setMenuEnabled(False)
    item.hideButtons()
    item.showGrid(x=True, y=True, alpha=0.12)
    item.getAxis("left").setWidth(AXIS)
    for side, text in (("bottom", bottom), ("left", left)):
        axis = item.getAxis(side)
        axis.setTickFont(figures(16))
        axis.setPen(pen(EDGE))
        axis.setTextPen(pen(TEXT))
        if text:
            axis.setLabel(text, **{"color": DIM, "font-size": "16px"})
        else:
            axis.showLabel(False)


def figures(pixels: int) -> QtGui.QFont:
    """The font of what is written inside plots."""
    font = QtGui.QFont("DejaVu Sans")
    font.setPixelSize(pixels)
    return font
