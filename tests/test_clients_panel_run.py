"""The panel during a simulated run, and when its server is killed and started again."""

from __future__ import annotations

import numpy as np
import pytest
from framesieve.clients.panel.figures import grouped
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.experiment import Experiment
from framesieve.simulators.raster import STEP, raster_scan
from integration_helpers import SHAPE, Beamline, small_detector
from panel_helpers import drag, is_complete, open_panel, wait_until

pytest_plugins = ["panel_server", "panel_fixtures"]

COLUMNS = 10  # of the scan
MASKED_ROW = 77
PATIENCE = 120.0  # s: kernels may have to be compiled, and Tango needs up to 20 s to find a server again


@pytest.fixture(scope="module")
def beamline(lost, tmp_path_factory):
    directory = tmp_path_factory.mktemp("panel")
    mask = np.zeros(SHAPE, np.uint8)
    mask[MASKED_ROW] = 1
    np.save(directory / "mask.npy", mask)
    poni = directory / "small.poni"
    poni.write_text(Experiment(SHAPE).poni_text())
    with Beamline() as beamline:
        beamline.reset_settings()
        beamline.set(
            "acquisition", geometry=str(poni), mask=str(directory / "mask.npy"), saving_directory=str(directory)
        )
        beamline.set("veto", min_peaks=10)
        yield beamline


@pytest.fixture(scope="module")
def panel(beamline):
    panel = open_panel(f"tango://{beamline.database.host}/demo")
    wait_until(lambda: is_complete(panel), "the panel", PATIENCE)
    yield panel
    panel.close()


def test_the_loss_of_a_server_is_seen(lost):
    """What begins here ends with the last test of this module: Tango takes long to find a server again."""
    beamline, panel = lost
    wait_until(lambda: panel.banner.state.text() == "NO CONNECTION", "the loss is seen", PATIENCE)
    assert not panel.settings.fields["veto/min_peaks"].widget.isEnabled()
    assert panel.banner.trouble.text().startswith("demo/framesieve/acquisition does not answer.")
    wait_until(lambda: panel.history.property("old"), "what is shown is marked as old")
    assert panel.history.line.threshold == 23 and panel.history.line.isVisible(), "and stays"
    assert not any(button.isEnabled() for button in panel.controls.buttons.values())
    panel.pipeline.write("veto/min_peaks", 50)
    wait_until(lambda: panel.pipeline.refusal("veto/min_peaks"), "a write without a server is refused", PATIENCE)
    beamline.server.start()


def test_a_run_from_start_to_end(beamline, panel):
    from framesieve.clients.panel import style

    with small_detector(9000, n_peaks=(0, 0, 30), rate=30.0, user_data=raster_scan(COLUMNS)) as detector:
        field = panel.settings.fields["acquisition/source"]
        field.editor.setText(detector.url)
        field.editor.editingFinished.emit()
        wait_until(lambda: beamline.acquisition.source == detector.url, "the source is written")
        wait_until(panel.controls.buttons["Start"].isEnabled, "Start can be pressed")
        panel.controls.buttons["Start"].click()
        wait_until(lambda: panel.pipeline.get("acquisition/frame_count", 0) > 15, "frames", PATIENCE)
        wait_until(lambda: len(panel.history.hits.data) > 3, "hits")
        drag(panel.history.widget, (-20, 9.5), (-20, 14.5))
        wait_until(lambda: panel.pipeline.get("veto/min_peaks") == 15, "the threshold that was dragged")
        acquisition = beamline.acquisition
        wait_until(lambda: acquisition.parameter_set == acquisition.parameter_set_in_force, "a frame reduced with it")
        check_picture(panel.grab().toImage(), panel.banner.state.text())
        panel.controls.buttons["Stop"].click()
        wait_until(lambda: panel.banner.state.text() == "STANDBY", "the end of the run", PATIENCE)
    with SparseFile(beamline.output) as file:
        verdicts = file.ledger["verdict"]
        used = [row.parameter_set.values.veto_min_peaks for row in file.parameter_sets]
        kept_frames = [file.frame(row) for row in range(len(file))]
    assert used[-1] == 15
    tile = panel.tiles.tiles[0]
    kept, vetoed = (int((verdicts == verdict).sum()) for verdict in (Verdict.KEPT, Verdict.VETOED))
    frames = kept + vetoed
    assert frames == len(verdicts) > 15  # nothing was lost, and no control sample is taken in this run
    wait_until(lambda: tile.number.text() == grouped(frames), "the number of frames")
    assert tile.line.text() == f"{kept} kept (0 control)\n{vetoed} vetoed"
    for name in ("frame_rate", "input_rate", "buffer_occupancy"):  # zero when all is over
        wait_until(lambda name=name: panel.pipeline.get(f"acquisition/{name}") == 0, name)

    # what the histogram promises is what the device says
    for threshold in (0, 1, 15, 29, 200):
        beamline.veto.what_if_min_peaks = threshold
        said = beamline.veto.what_if_kept_fraction
        assert panel.histogram.kept_at(threshold) == pytest.approx(said)
    picture, counters = panel.pipeline.picture, beamline.read_counters()
    assert np.array_equal(picture.preview, beamline.acquisition.preview)
    assert len(picture.peaks) == counters["n_peaks"][counters["frame"].index(picture.number)]
    assert picture.step == 1
    assert np.all(picture.preview[MASKED_ROW] == 65535)
    assert np.all(panel.picture.image.image.image[MASKED_ROW] == style.INVALID)
    assert not np.all(picture.preview[MASKED_ROW + 1] == 65535)
    check_overview(panel, counters, kept_frames)


def check_overview(panel, counters, kept_frames) -> None:
    """Powder, map and last hit are those of the file and the ledger."""
    get = panel.pipeline.get
    panel.picture.show_only("Powder")
    wait_until(lambda: panel.picture.remark.text() == f"peaks of {len(counters['frame'])} frames", "the powder")
    highest = np.zeros(SHAPE, np.float32)
    for frame in kept_frames:
        x, y = np.rint(frame.peaks[:, :2]).astype(int).T
        np.maximum.at(highest, (y, x), frame.peaks[:, 2])
    shown = get("peakfinder/virtual_powder_max")
    assert np.count_nonzero(highest) > 20
    # frames that were vetoed have a few peaks of chance beside those of the frames that were kept
    assert np.all(shown >= highest)
    vetoed = [n for n, verdict in zip(counters["n_peaks"], counters["verdict"], strict=True) if verdict == "vetoed"]
    assert np.count_nonzero(shown != highest) <= sum(vetoed)
    panel.picture.show_only("Map")
    wait_until(lambda: len(panel.picture.map._frames) == len(counters["frame"]), "the map")
    expected = [
        (k % COLUMNS * STEP, k // COLUMNS * STEP, n)
        for k, n in zip(counters["frame"], counters["n_peaks"], strict=True)
    ]
    assert np.allclose(get("peakfinder/hit_map"), expected)
    panel.picture.show_only("Last hit")
    last = max(number for number, n in zip(counters["frame"], counters["n_peaks"], strict=True) if n >= 15)
    wait_until(lambda: panel.pipeline.hit is not None and panel.pipeline.hit.number == last, "the last hit")
    hit, frame = panel.pipeline.hit, next(frame for frame in kept_frames if frame.number == last)
    assert np.array_equal(hit.peaks, frame.peaks[:, :6])
    assert np.all(hit.preview.reshape(-1)[frame.index] >= frame.intensity)


def check_picture(image, state: str) -> None:
    """The banner has the colour of the state, and the window is no empty surface."""
    from framesieve.clients.panel import style
    from taurus.external.qt import QtGui

    assert QtGui.QColor(image.pixel(image.width() // 2, 14)) == QtGui.QColor(style.STATES[state][0])
    small = image.scaled(200, 120).convertToFormat(QtGui.QImage.Format_RGB32)
    assert len({small.pixel(x, y) for x in range(200) for y in range(120)}) > 200


def test_the_panel_comes_back_when_the_server_does(lost):
    beamline, panel = lost
    fields = panel.settings.fields
    wait_until(lambda: panel.banner.state.text() == "STANDBY", "the panel is back", PATIENCE)
    beamline.connect()
    wait_until(lambda: fields["veto/min_peaks"].widget.isEnabled(), "its settings are back", PATIENCE)
    assert fields["veto/min_peaks"].editor.value() == 23
    wait_until(lambda: not panel.history.property("old"), "nothing is old any more")
    beamline.set("veto", min_peaks=24)
    wait_until(lambda: fields["veto/min_peaks"].editor.value() == 24, "and events come", PATIENCE)
    panel.pipeline.write("veto/min_peaks", 25)
    wait_until(lambda: beamline.veto.min_peaks == 25, "and writes go", PATIENCE)
