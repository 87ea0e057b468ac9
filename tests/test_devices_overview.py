"""Virtual powder, map of the scan, last hit and newest frame over Tango: read at any time, pushed where somebody is
subscribed."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tango
from devices_helpers import serve, wait_until
from smx_reader import read_smx

PATIENCE = 30.0
PICTURES = ("virtual_powder_max", "virtual_powder_sum", "last_hit_preview")


@pytest.fixture(scope="module")
def server():
    with serve() as devices:
        yield devices


@pytest.fixture
def devices(server):
    server.clear()
    server.veto.min_peaks = 2
    return server


def test_what_is_read_is_of_this_moment(devices):
    powder = devices.peakfinder
    assert all(np.size(powder.read_attribute(name).value) == 0 for name in (*PICTURES, "hit_map", "last_hit_peaks"))
    assert (powder.last_hit_number, powder.virtual_powder_frames) == (-1, 0)
    devices.evaluate("controller.plant(5, [(4, 2, 10), (29, 19, 7)], (0.5, -1))")
    devices.evaluate("controller.plant(6, [(4, 2, 4)], (1.5, -1))")
    highest, total, picture = np.zeros((20, 30)), np.zeros((20, 30)), np.full((20, 30), 3)
    highest[2, 4], highest[19, 29] = 10, 7
    total[2, 4], total[19, 29] = 14, 7
    picture[2, 4] = picture[19, 29] = 100
    assert np.array_equal(powder.virtual_powder_max, highest)
    assert np.array_equal(powder.virtual_powder_sum, total)
    assert np.array_equal(powder.last_hit_preview, picture)
    assert powder.last_hit_peaks[:, :3].tolist() == [[4, 2, 10], [29, 19, 7]]
    assert powder.hit_map.tolist() == [[0.5, -1, 2], [1.5, -1, 1]]
    assert (powder.last_hit_number, powder.virtual_powder_frames, powder.virtual_powder_step) == (5, 2, 1)
    powder.ResetVirtualPowder()
    assert not np.any(powder.virtual_powder_max) and powder.virtual_powder_frames == 0
    assert powder.last_hit_number == 5


def test_pictures_are_made_for_those_who_are_subscribed_and_once_a_second(devices):
    devices.evaluate("controller.plant(1, [(4, 2, 10), (5, 2, 10)])")
    devices.evaluate("setattr(controller, 'made', 0)")
    devices.evaluate(  # count how often it is made
        "setattr(controller.overview, 'view', lambda *a, f=controller.overview.view: "
        "(setattr(controller, 'made', controller.made + 1), f(*a))[1])"
    )
    time.sleep(1.2)  # longer than it takes until the next one would be pushed
    assert devices.evaluate("controller.made") == 0
    pictures = []

    def take(event: tango.EventData) -> None:
        if event.attr_value is not None:
            pictures.append(event.attr_value.value)

    begin = time.monotonic()
    subscription = devices.peakfinder.subscribe_event("last_hit_preview", tango.EventType.CHANGE_EVENT, take)
    try:
        for number in range(2, 80):
            devices.evaluate(f"controller.plant({number}, [(4, 2, 10), ({number % 30}, 3, 10)])")
            time.sleep(0.02)
        last = devices.peakfinder.last_hit_preview
        assert last[3, 79 % 30] == 100
        wait_until(lambda: np.array_equal(pictures[-1], last), PATIENCE)  # the last one is not left out
        assert 2 <= len(pictures) <= 2 + (time.monotonic() - begin)
    finally:
        devices.peakfinder.unsubscribe_event(subscription)


def test_the_newest_frame_in_one_piece(devices):
    """Read before the first frame, read then, and pushed to who is subscribed, at most once a second."""
    sparsifier, begin = devices.sparsifier, time.monotonic()
    assert read_smx(sparsifier.last_sparse_frame)["width"] == 0
    devices.evaluate("controller.plant(41, [(4, 2, 10), (29, 19, 7)])")
    found = read_smx(sparsifier.last_sparse_frame)
    assert (found["width"], found["height"], found["frame"]) == (30, 20, 41)
    assert (found["index"], found["intensity"]) == ([2 * 30 + 4, 19 * 30 + 29], [100, 100])
    assert (found["mean"], found["std"]) == ([3] * 10, [3] * 10)
    pushed = []

    def take(event: tango.EventData) -> None:
        if event.attr_value is not None:
            pushed.append(read_smx(event.attr_value.value)["frame"])

    subscription = sparsifier.subscribe_event("last_sparse_frame", tango.EventType.CHANGE_EVENT, take)
    try:
        for number in range(42, 90):
            devices.evaluate(f"controller.plant({number}, [(4, 2, 10)])")
            time.sleep(0.02)
        wait_until(lambda: pushed[-1] == 89, PATIENCE)  # the last one is not left out
        assert 2 <= len(pushed) <= 2 + (time.monotonic() - begin)
    finally:
        sparsifier.unsubscribe_event(subscription)
