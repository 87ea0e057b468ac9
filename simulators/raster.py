"""What a beamline adds to the frames of a scan: the monitor and where the sample was."""

from __future__ import annotations

import math
from collections.abc import Callable

#: counts of the monitor, and by how much the beam goes up and down
MONITOR, SWING = 1e6, 0.05

#: frames in which it does so once
SWING_PERIOD = 50

#: distance of neighbouring points, in whatever the motors are moved in
STEP = 0.002


def raster_scan(columns: int) -> Callable[[int], dict[str, object]]:
    """The user data of each image of a scan, line by line, of so many points in a line: `monitor` and `position`
    (x, y), as sources read them. A function of the place of the image, from 0 on."""

    def user_data(place: int) -> dict[str, object]:
        line, point = divmod(place, columns)
        monitor = MONITOR * (1 + SWING * math.sin(2 * math.pi * place / SWING_PERIOD))
        return {"monitor": round(monitor), "position": [round(point * STEP, 9), round(line * STEP, 9)]}

    return user_data
