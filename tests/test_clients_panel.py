"""The widgets of the panel, on devices with a fake run behind them."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from framesieve.cli.main import main
from panel_helpers import PATIENCE, drag, wait_until
from taurus.external.qt import QtCore

pytest_plugins = ["panel_server", "panel_fixtures"]

COUNTS = np.array([0] * 60 + [30] * 25 + [70] * 15, np.uint32)  # of 100 frames
PEAKS = np.array([[0, 0, 100, 5, 20, 4], [59, 29, 50, 5, 10, 4]], np.float32)


@pytest.fixture(scope="module", autouse=True)
def waits(lost):
    """It takes long until the loss of a server is seen: see test_clients_panel_run."""


def leave(plot) -> None:
    """Take the mouse away."""
    QtCore.QCoreApplication.sendEvent(plot, QtCore.QEvent(QtCore.QEvent.Leave))


def feed_a_run(devices) -> None:
    histogram = np.bincount(COUNTS, minlength=1001).astype(np.uint32)
    preview = np.arange(600, dtype=np.uint16).reshape(20, 30)
    preview[5] = 65535
    devices.feed(
        frame_count=100, peak_count=2, peak_count_history=COUNTS, peak_count_histogram=histogram, preview=preview,
        last_peaks=PEAKS, hit_rate=40.0, frame_rate=12.5, kept_count=41, vetoed_count=59, control_count=1,
        radius=np.arange(1.0, 6.0), background_mean=np.full(5, 100.0), background_std=np.full(5, 10.0),
        preview_step=2, preview_frame=98, preview_peaks=PEAKS,
    )  # fmt: skip


def test_the_numbers_shown_are_those_of_the_devices(devices, panel):
    feed_a_run(devices)
    numbers = [tile.number for tile in panel.tiles.tiles]
    wait_until(lambda: [n.text() for n in numbers[:3]] == ["100", "12.5", "40.0"], "the tiles show the run")
    assert panel.tiles.tiles[0].line.text() == "41 kept (1 control)\n59 vetoed"
    assert [tile.unit.text() for tile in panel.tiles.tiles[:3]] == ["", "Hz", "%"]
    assert panel.tiles.losses.text() == "nothing lost"
    assert panel.banner.state.text() == "STANDBY"
    assert panel.banner.trouble.text() == "The last run: 100 frames, 41 kept, none lost."
    assert panel.history.remark.text() == "40.0 % reach the line"


def test_the_picture_has_the_peaks_where_they_are_and_gaps_as_such(devices, panel):
    from framesieve.clients.panel import style

    feed_a_run(devices)
    view = panel.picture.image
    wait_until(lambda: view.image.image is not None and len(view.peaks.data) == 2, "the picture")
    shown = view.image.image
    assert shown.shape == (20, 30, 3)
    assert np.all(shown[5] == style.INVALID)
    assert not np.any(np.all(shown[6:] == style.INVALID, axis=-1))
    # every second pixel is in the picture, where the centre of the first one is at ½
    assert view.peaks.getData()[0] == pytest.approx([0.5, 30.0])
    assert view.peaks.getData()[1] == pytest.approx([0.5, 15.0])


def test_the_last_hit_is_shown_while_others_come(devices, panel):
    panel.picture.show_only("Last hit")
    assert panel.picture.remark.text() == "no hit yet"
    devices.veto.min_peaks = 2
    devices.evaluate("controller.plant(98, [(4, 2, 10), (29, 19, 7)])")
    devices.evaluate("controller.plant(99, [(4, 2, 10)])")  # none
    wait_until(lambda: panel.picture.remark.text() == "frame 98: 2 peaks", "the hit")
    expected = np.full((20, 30), 3)
    expected[2, 4] = expected[19, 29] = 100
    assert np.array_equal(panel.pipeline.hit.preview, expected)
    assert np.array_equal(panel.picture.image.peaks.getData(), [[4.5, 29.5], [2.5, 19.5]])
    light = panel.picture.image.image.image.astype(int).sum(axis=2)
    assert np.argwhere(light == light.max()).tolist() == [[2, 4], [19, 29]]


def test_the_virtual_powder_has_every_peak_where_it_was(devices, panel):
    from framesieve.clients.panel import style

    devices.evaluate("controller.plant(1, [(4, 2, 10), (20, 15, 7)])")
    devices.evaluate("controller.plant(2, [(4, 2, 30)])")
    gaps = np.zeros((20, 30), np.uint16)
    gaps[8] = 65535
    devices.feed(preview=gaps, preview_frame=2)
    wait_until(lambda: np.size(panel.pipeline.get("acquisition/preview")), "gaps")
    near = np.zeros((20, 30), bool)
    near[1:4, 3:6] = near[14:17, 19:22] = True  # every spot is drawn three pixels wide
    for view, key in (("Powder", "virtual_powder_max"), ("Powder Σ", "virtual_powder_sum")):
        panel.picture.show_only(view)
        wait_until(lambda: panel.picture.remark.text() == "peaks of 2 frames", view)
        image = panel.picture.image.image.image
        assert np.array_equal(image.astype(int).sum(axis=2) > 100, near | (gaps > 0))
        assert np.all(image[8] == style.INVALID)
        powder = panel.pipeline.get(f"peakfinder/{key}")
        assert (powder[2, 4], powder[15, 20], np.count_nonzero(powder)) == (30 if "max" in key else 40, 7, 2)


def test_the_map_has_hits_where_they_were_and_follows_the_threshold(devices, panel):
    devices.veto.min_peaks = 2
    panel.picture.show_only("Map")
    assert panel.picture.remark.text() == "the source tells no scan positions"
    for number, count in enumerate((0, 3, 1, 2)):
        peaks = [(k, k, 10) for k in range(count)]
        devices.evaluate(f"controller.plant({number}, {peaks}, ({number % 2} * 0.5, {number // 2} * 0.5))")
    wait_until(lambda: panel.picture.remark.text() == "2 hits at 4 places", "the map")
    view = panel.picture.map
    assert np.array_equal(view.hits.getData(), [[0.5, 0.5], [0, 0.5]])
    assert np.array_equal(view.misses.getData(), [[0, 0], [0, 0.5]])
    view._moved(view.getPlotItem().vb.mapViewToScene(QtCore.QPointF(0.45, 0.02)))
    assert panel.picture.remark.text() == "(0.5, 0): 3 peaks"
    leave(view)
    devices.veto.min_peaks = 3
    wait_until(lambda: panel.picture.remark.text() == "1 hit at 4 places", "the new threshold")


def test_only_what_is_shown_is_subscribed_to(devices, panel):
    """Making a powder costs the server something: nobody pays for what nobody sees."""
    model = panel.pipeline
    panel.picture.show_only("Powder")
    wait_until(lambda: "peakfinder/virtual_powder_max" in model._watched, "the powder")
    panel.picture.show_only("Newest")
    wait_until(lambda: not model._watched, "nothing but the newest frame")
    devices.evaluate("controller.plant(1, [(4, 2, 10)])")
    devices.feed(last_error="pushed after it")
    wait_until(lambda: model.get("acquisition/last_error") == "pushed after it", "events")
    assert not np.any(model.get("peakfinder/virtual_powder_max"))


def test_no_hit_for_long_is_told(devices, panel):
    devices.acquisition.Start()
    counts = np.zeros(250, np.uint32)
    devices.feed(peak_count_history=counts, hit_rate=0.0)
    wait_until(lambda: "No hit among the last 250 frames" in panel.banner.trouble.text(), "it is told")
    assert (panel.banner.state.text(), panel.banner.sign.text()) == ("RUNNING", "⚠")
    devices.feed(peak_count_history=np.append(counts, 30).astype(np.uint32), hit_rate=0.4)
    wait_until(
        lambda: panel.banner.trouble.text() == "0.40 % hits, the others vetoed, none lost.", "until there is one"
    )
    assert panel.banner.sign.text() == "▶"


def test_a_long_trouble_is_written_smaller_and_not_cut(devices, panel):
    from taurus.external.qt import QtGui

    long = "frame 7: " + "a word and another one and one more " * 8
    devices.feed(last_error=long)
    label = panel.banner.trouble
    wait_until(lambda: long in label.text(), "the error")
    panel.refresh()
    label.ensurePolished()
    needed = QtGui.QFontMetrics(label.font()).boundingRect(label.rect(), QtCore.Qt.TextWordWrap, label.text())
    assert needed.height() <= label.height()
    small = label.font().pixelSize()
    devices.feed(last_error="short")
    wait_until(lambda: label.text() == "Last error: short", "a short one")
    panel.refresh()
    assert label.font().pixelSize() == 28 > small


def test_the_background_is_drawn_with_its_spread_and_the_threshold(devices, panel):
    feed_a_run(devices)
    curves = panel.background
    wait_until(lambda: curves.mean.getData()[0] is not None and len(curves.mean.getData()[0]) == 5, "the background")
    for curve, value in ((curves.low, 90), (curves.high, 110), (curves.mean, 100)):
        assert curve.getData()[1] == pytest.approx(np.full(5, np.log10(value)))
    assert curves.threshold.getData()[1] == pytest.approx(np.full(5, np.log10(100 + 3 * np.sqrt(101))))
    panel.pipeline.write("sparsifier/snr_pick", 5.0)
    expected = np.full(5, np.log10(100 + 5 * np.sqrt(101)))
    wait_until(lambda: np.allclose(curves.threshold.getData()[1], expected), "the new threshold")


def test_dragging_the_line_writes_min_peaks_when_it_is_let_go(devices, panel):
    feed_a_run(devices)
    wait_until(lambda: len(panel.history.hits.data) == 40, "hits above the line")
    drag(panel.history.widget, (-50, 19.5), (-50, 49.5), let_go=False)
    assert panel.history.line.threshold == panel.histogram.line.threshold == 50
    assert panel.history.remark.text() == "15.0 % reach the line"
    assert panel.histogram.remark.text() == "from 50 on: 15.0 % of 100"
    assert devices.veto.min_peaks == 20  # not yet
    drag(panel.history.widget, (-50, 49.5), (-50, 59.5))
    wait_until(lambda: devices.veto.min_peaks == 60, "min_peaks is written")
    wait_until(lambda: panel.settings.fields["veto/min_peaks"].editor.value() == 60, "and shown")


def test_the_line_of_the_histogram_can_be_dragged_too(devices, panel):
    feed_a_run(devices)
    wait_until(lambda: panel.histogram.kept_at(20) == 40, "the what-if curve")
    drag(panel.histogram.widget, (19.5, 0.5), (30.5, 0.5))
    wait_until(lambda: devices.veto.min_peaks == 31, "min_peaks is written")


def test_a_threshold_beyond_all_counts_leaves_the_plots_alive(devices, panel):
    leave(panel.histogram.widget)  # from here on it tells of the threshold in force
    devices.veto.min_peaks = 5000
    wait_until(lambda: panel.history.line.threshold == 5000, "the line goes along")
    feed_a_run(devices)
    wait_until(lambda: len(panel.history.missed.data) == 100, "the frames come all the same")
    wait_until(lambda: panel.histogram.kept_at(0) == 100, "and their histogram")
    wait_until(lambda: panel.histogram.remark.text() == "from 5000 on: 0 % of 100", "the share")
    _, heights = panel.histogram.bars.getData()
    frames = np.where(heights > np.log10(0.5), 10**heights, 0)
    assert frames.sum() == pytest.approx(100)
    assert panel.histogram.widget.getPlotItem().vb.viewRange()[0][1] < 100  # what is there fills the plot
    assert not panel._failed


def test_in_a_small_window_nothing_is_cut(devices, panel):
    from taurus.external.qt import QtWidgets

    feed_a_run(devices)
    wait_until(lambda: panel.tiles.tiles[0].number.text() == "100", "the tiles show the run")
    try:
        for size in ((1280, 800), (2560, 1440), (1720, 1030)):
            panel.resize(*size)
            wait_until(lambda size=size: (panel.width(), panel.height()) == size, "the window has its size")
            QtWidgets.QApplication.processEvents()
            panel.refresh()
            buttons = [*panel.picture.buttons.values(), *panel.controls.buttons.values()]
            lines = [label for tile in panel.tiles.tiles for label in (tile.title, tile.number, tile.line)]
            lines += [panel.history.remark, panel.histogram.remark, panel.histogram.title, panel.banner.state]
            for widget in (*buttons, *lines):
                widest = max(widget.fontMetrics().horizontalAdvance(line) for line in widget.text().split("\n"))
                assert widest <= widget.width(), (size, widget.text())
            for tile in panel.tiles.tiles[1:]:
                assert tile.contentsRect().contains(tile.widget.geometry()), size
    finally:
        panel.resize(1720, 1030)


def test_a_line_that_is_too_long_ends_in_dots(devices, panel):
    from framesieve.clients.panel.card import ElidedLabel

    made = ElidedLabel("a long line\nshort", "small")
    made.resize(60, 50)
    cut = made.grab().toImage()
    expected = "\n".join(
        made.fontMetrics().elidedText(text, QtCore.Qt.ElideRight, 60) for text in made.text().split("\n")
    )
    assert "…" in expected and expected.endswith("short")
    made.setText(expected)
    assert made.grab().toImage() == cut


def test_what_others_write_is_shown(devices, panel):
    fields = panel.settings.fields
    fields["veto/max_peaks"].editor.setValue(900)
    wait_until(lambda: devices.veto.max_peaks == 900, "what is entered here is written")
    wait_until(lambda: not panel.pipeline.is_pending("veto/max_peaks"), "and known")
    devices.veto.min_peaks = 44
    devices.sparsifier.error_model = 2
    wait_until(lambda: fields["veto/min_peaks"].editor.value() == 44, "min_peaks")
    wait_until(lambda: fields["sparsifier/error_model"].editor.currentText() == "hybrid", "error_model")
    assert panel.history.line.threshold == 44
    assert fields["veto/min_peaks"].editor.property("changed")  # it stands out for a while
    assert not fields["veto/max_peaks"].editor.property("changed")
    fields["veto/min_peaks"]._calm.timeout.emit()
    assert not fields["veto/min_peaks"].editor.property("changed")


def test_a_refused_value_says_why_and_the_old_one_comes_back(devices, panel):
    from taurus.external.qt import QtWidgets

    field = panel.settings.fields["veto/min_peaks"]
    field.editor.setValue(99_999)
    wait_until(lambda: "99999" in field.refused.text(), "the reason beneath the field")
    assert "accepted is 0 to 10000" in field.refused.text()
    assert field.refused.isVisible()
    wait_until(lambda: field.editor.value() == 20, "the old value")
    wait_until(lambda: "99999" in panel.banner.trouble.text(), "the reason in the banner")
    assert devices.veto.min_peaks == 20
    assert QtWidgets.QApplication.activeModalWidget() is None
    field.editor.stepUp()
    wait_until(lambda: devices.veto.min_peaks == 21, "the next value is taken")
    wait_until(lambda: not field.refused.isVisible(), "the reason goes")


def test_texts_are_written_when_they_are_entered(devices, panel):
    field = panel.settings.fields["acquisition/saving_prefix"]
    field.editor.setText("lyso")
    field.editor.returnPressed.emit()
    field.editor.editingFinished.emit()
    wait_until(lambda: devices.acquisition.saving_prefix == "lyso", "the prefix")


def test_every_setting_has_its_meaning_in_a_tooltip(devices, panel):
    writable = {
        f"{member}/{info.name}"
        for member in ("acquisition", "sparsifier", "peakfinder", "veto")
        for info in devices[member].attribute_list_query()
        if info.writable.name == "READ_WRITE"
    }
    fields = panel.settings.fields
    assert set(fields) == writable - {"veto/what_if_min_peaks"}
    for key, field in fields.items():
        member, _, name = key.partition("/")
        first = devices[member].get_attribute_config(name).description.split()[0]
        assert first in field.caption.toolTip(), key


def test_buttons_run_and_only_those_that_make_sense_can_be_pressed(devices, panel):
    buttons = panel.controls.buttons

    def possible() -> set[str]:
        return {name for name, button in buttons.items() if button.isEnabled()}

    wait_until(lambda: possible() == {"Prepare", "Start"}, "the buttons of STANDBY")
    buttons["Start"].click()
    wait_until(lambda: possible() == {"Stop", "Abort"}, "the buttons of RUNNING")
    assert panel.banner.state.text() == "RUNNING"
    buttons["Stop"].click()
    wait_until(lambda: possible() == {"Prepare", "Start"}, "the end")
    devices.evaluate("controller.fail('the cable is out')")
    wait_until(lambda: possible() == {"Reset"}, "FAULT")
    assert "the cable is out" in panel.banner.trouble.text()
    buttons["Reset"].click()
    wait_until(lambda: possible() == {"Prepare", "Start"}, "after Reset")


def test_losses_and_errors_stand_in_the_banner(devices, panel):
    devices.feed(frames_lost=1, frames_failed=1234, last_error="frame 7: half of it is missing")
    wait_until(lambda: "half of it is missing" in panel.banner.trouble.text(), "the error")
    assert "1 frame lost." in panel.banner.trouble.text()
    assert "1\u2009234 frames failed." in panel.banner.trouble.text()
    wait_until(lambda: panel.tiles.losses.text() == "1 lost · 1\u2009234 failed", "the tile")


def test_two_panels_show_the_same(devices, panel, make_panel):
    one, two = make_panel(), panel
    one.settings.fields["veto/min_peaks"].editor.setValue(37)
    wait_until(lambda: two.settings.fields["veto/min_peaks"].editor.value() == 37, "the other panel follows")
    one.close()
    devices.veto.min_peaks = 38
    wait_until(lambda: two.settings.fields["veto/min_peaks"].editor.value() == 38, "and works alone")


# ---- the program --------------------------------------------------------------------------------------------------


def test_the_program_ends_when_it_is_told_to(display, devices):
    where = f"tango://127.0.0.1:{devices.acquisition.get_dev_port()}/test#dbase=no"
    program = subprocess.Popen(
        [sys.executable, "-m", "framesieve.cli.main", "panel", where], env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    try:
        wait_until(lambda: takes(program.pid, signal.SIGTERM) or program.poll() is not None, "the panel is shown")
        assert program.poll() is None
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE) == 0
    finally:
        program.kill()


def takes(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal: without one it would be ended by it."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_without_the_extra_there_is_one_clear_line(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "taurus" else found(name))
    assert main(["panel", "demo"]) == 2
    error = capsys.readouterr().err
    assert "needs taurus" in error
    assert "pip install" in error
    assert len(error.splitlines()) == 1
