"""The panel during a simulated run, and when its server is killed and started again."""

from __future__ import annotations

import numpy as np
import panel_helpers
import pytest
from framesieve.clients.panel.card import grouped
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.frames import Verdict
from framesieve.simulators.experiment import Experiment
from integration_helpers import SHAPE, Beamline, small_detector
from panel_helpers import drag, wait_until

FRAMES = 120
MASKED_ROW = 77
PATIENCE = 120.0  # s: kernels may have to be compiled, and Tango needs up to 20 s to find a server again


@pytest.fixture(scope="module")
def display():
    panel_helpers.provide_display()


@pytest.fixture(scope="module")
def beamline(display, tmp_path_factory):
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


@pytest.fixture
def panel(beamline):
    from framesieve.clients.panel.window import Panel, application

    application()
    panel = Panel()
    panel.setModel(f"tango://{beamline.database.host}/demo")
    panel.resize(1720, 1030)
    panel.show()
    wait_until(lambda: not panel.pipeline.missing and "veto/min_peaks" in panel.settings.fields, "the panel", PATIENCE)
    yield panel
    panel.close()


def test_a_run_from_start_to_end(beamline, panel):
    from framesieve.clients.panel import style

    with small_detector(FRAMES, n_peaks=(0, 0, 30), rate=20.0) as detector:
        field = panel.settings.fields["acquisition/source"]
        field.editor.setText(detector.url)
        field.editor.editingFinished.emit()
        wait_until(lambda: beamline.acquisition.source == detector.url, "the source is written")
        wait_until(panel.controls.buttons["Start"].isEnabled, "Start can be pressed")
        panel.controls.buttons["Start"].click()
        wait_until(lambda: panel.pipeline.get("acquisition/frame_count", 0) > 20, "frames", PATIENCE)
        wait_until(lambda: len(panel.history.hits.data) > 5, "hits")
        drag(panel.history.widget, (-20, 9.5), (-20, 14.5))
        wait_until(lambda: panel.pipeline.get("veto/min_peaks") == 15, "the threshold that was dragged")
        wait_until(lambda: panel.banner.state.text() == "STANDBY", "the end of the run", PATIENCE)
    with SparseFile(beamline.output) as file:
        verdicts = file.ledger["verdict"]
        used = [row.parameter_set.values.veto_min_peaks for row in file.parameter_sets]
    assert used[-1] == 15
    tile = panel.tiles.tiles[0]
    kept, vetoed = (int((verdicts == verdict).sum()) for verdict in (Verdict.KEPT, Verdict.VETOED))
    assert kept + vetoed == FRAMES  # no control sample is taken in this run
    wait_until(lambda: tile.number.text() == grouped(FRAMES), "the number of frames")
    assert tile.line.text() == f"{kept} kept (0 control)\n{vetoed} vetoed"
    for name in ("frame_rate", "input_rate", "buffer_occupancy"):  # zero when all is over
        wait_until(lambda name=name: panel.pipeline.get(f"acquisition/{name}") == 0, name)

    # what the histogram promises is what the device says
    for threshold in (0, 1, 15, 29, 200):
        beamline.veto.what_if_min_peaks = threshold
        said = beamline.veto.what_if_kept_fraction
        assert panel.histogram.kept_at(threshold) == pytest.approx(said)
    preview = beamline.acquisition.preview
    assert np.array_equal(panel.pipeline.picture.preview, preview)
    picture = panel.pipeline.picture
    if picture.peaks is not None:  # a server that tells what belongs to the preview
        counters = beamline.read_counters()
        assert len(picture.peaks) == counters["n_peaks"][counters["frame"].index(picture.frame)]
        assert picture.step == 1
        assert np.all(picture.preview[MASKED_ROW] == 65535)
        assert np.all(panel.picture.image.image[MASKED_ROW] == style.INVALID)
        assert not np.all(picture.preview[MASKED_ROW + 1] == 65535)


def test_the_panel_comes_back_when_the_server_does(beamline, panel):
    beamline.set("veto", min_peaks=23)
    fields = panel.settings.fields
    wait_until(lambda: fields["veto/min_peaks"].editor.value() == 23, "the value before")
    beamline.server.kill()
    wait_until(lambda: panel.banner.state.text() == "NO CONNECTION", "the loss is seen", PATIENCE)
    assert not fields["veto/min_peaks"].widget.isEnabled()
    panel.pipeline.write("veto/min_peaks", 50)
    wait_until(lambda: panel.pipeline.refusal("veto/min_peaks"), "a write without a server is refused", PATIENCE)
    beamline.server.start()
    wait_until(lambda: panel.banner.state.text() == "STANDBY", "the panel is back", PATIENCE)
    beamline.connect()
    wait_until(lambda: fields["veto/min_peaks"].widget.isEnabled(), "its settings are back", PATIENCE)
    beamline.set("veto", min_peaks=24)
    wait_until(lambda: fields["veto/min_peaks"].editor.value() == 24, "and events come", PATIENCE)
    panel.pipeline.write("veto/min_peaks", 25)
    wait_until(lambda: beamline.veto.min_peaks == 25, "and writes go", PATIENCE)
