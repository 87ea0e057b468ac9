"""The newest frame, the last hit, the virtual powder, the map of the scan: one of them at a time."""

from __future__ import annotations

import numpy as np
from taurus.external.qt import QtWidgets

from .card import Card
from .figures import grouped
from .image_view import ImageView
from .model import PanelModel
from .names import HIGHEST, LAST_HIT, MAP, NEWEST, ON_DEMAND, TOTAL
from .scan_map import ScanMap
from .values import Picture as Frame

LIMITS = ("veto/min_peaks", "veto/max_peaks")
#: view → the attribute that is seen, what it is drawn anew for
SHOWN = {NEWEST: "acquisition/preview"} | {view: keys[-1] for view, keys in ON_DEMAND.items() if keys}
NEEDED = {view: {key} for view, key in SHOWN.items()} | {MAP: {SHOWN[MAP], *LIMITS}}
VIEWS = {
    NEWEST: "The newest frame.",
    LAST_HIT: "The last frame that was a hit, as its sparse data give it back: the background without its noise, and "
    "the pixels that are kept.",
    HIGHEST: "Virtual powder: the strongest peak that there has been in each pixel, of all frames of this run.",
    TOTAL: "Virtual powder: the sum of the intensities of all peaks of this run in each pixel.",
    MAP: "The scan: a square for each frame whose position the source tells, of the last 10 000. Dark: no hit; from "
    "orange to white: hits, the more peaks the brighter. Point at one to read its number of peaks.",
}


class Picture(Card):
    """A switch, and what it chooses. Only what is shown is subscribed to."""

    def __init__(self, model: PanelModel) -> None:
        super().__init__(
            "",
            "Logarithmic and decimated. Circles: peaks. Blue: gaps between modules and pixels without a value. "
            "Wheel: zoom; right click: all of it.",
        )
        self._model = model
        self.view = NEWEST
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
        self.image, self.map = ImageView(), ScanMap()
        self.map.pointed.connect(self._tell_map)
        self.widget = QtWidgets.QStackedWidget()
        self.widget.addWidget(self.image)
        self.widget.addWidget(self.map)
        self.content.addWidget(self.widget, 1)

    def refresh(self, changed: set[str]) -> None:
        if not changed.isdisjoint(self._model.devices):  # descriptions came: an older server lacks some
            for name, keys in ON_DEMAND.items():
                self.buttons[name].setEnabled(all(key in self._model.descriptions for key in keys))
        if not changed.isdisjoint(NEEDED[self.view]) and not self._is_cut_off():
            self._show()

    def show_only(self, what: str) -> None:
        """One of `VIEWS`."""
        self.view = what
        for name, button in self.buttons.items():
            button.setChecked(name == what)
        self._model.watch(ON_DEMAND[what])
        self.widget.setCurrentWidget(self.map if what == MAP else self.image)
        self._show()

    def _is_cut_off(self) -> bool:
        """Without connection what was last seen stays."""
        return bool(self._model.detail(SHOWN[self.view]).error)

    def _show(self) -> None:
        if self.view == MAP:
            self._show_map()
        elif self.view in (HIGHEST, TOTAL):
            self._show_powder()
        else:
            self._show_frame(self._model.hit if self.view == LAST_HIT else self._model.picture)

    def _show_frame(self, frame: Frame | None) -> None:
        if frame is None or not frame.preview.size:
            self._show_nothing("no hit yet" if self.view == LAST_HIT else "")
            return
        peaks = frame.peaks
        self.image.show_frame(frame)
        count = f"{grouped(len(peaks))} peak{'s' * (len(peaks) != 1)}"
        self.remark.setText(f"frame {grouped(frame.number)}: {count}")

    def _show_powder(self) -> None:
        powder = self._model.get(SHOWN[self.view])
        if powder is None or np.ndim(powder) != 2 or not np.size(powder):
            self._show_nothing("no frame yet")
            return
        newest = self._model.picture
        self.image.show_powder(powder, None if newest is None else newest.preview)
        frames = int(self._model.get("peakfinder/virtual_powder_frames", 0))
        self.remark.setText(f"peaks of {grouped(frames)} frames")

    def _show_map(self) -> None:
        frames = self._model.get(SHOWN[MAP])
        if frames is None or np.ndim(frames) != 2 or not np.size(frames):
            frames = np.zeros((0, 3))
        self.map.show_frames(frames, *self._limits())
        self._tell_map()

    def _tell_map(self) -> None:
        self.remark.setText(self.map.remark(*self._limits()))

    def _limits(self) -> tuple[int, int]:
        return tuple(int(self._model.get(key) or 0) for key in LIMITS)

    def _show_nothing(self, why: str) -> None:
        self.image.clear_picture()
        self.remark.setText(why)
