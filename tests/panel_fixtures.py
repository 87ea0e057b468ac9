"""Fixtures of the tests of the panel: one display and one panel for all of them, on the server of `panel_server`.

Each costs a second or more, and a lost server takes Tango twenty: that wait goes on while other tests run.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import panel_helpers
import pytest
from framesieve.processing.parameters import Parameters
from integration_helpers import Beamline
from panel_helpers import is_complete, open_panel, wait_until

ARRAYS = ("acquisition/preview", "sparsifier/radius", "sparsifier/background_mean", "peakfinder/peak_count_history")


@pytest.fixture(scope="session")
def display():
    panel_helpers.provide_display()
    from framesieve.clients.panel.window import application

    return application()


@pytest.fixture(scope="session")
def make_panel(display, server):
    panels = []

    def make():
        panel = open_panel(f"tango://127.0.0.1:{server.acquisition.get_dev_port()}/test#dbase=no")
        panels.append(panel)
        wait_until(lambda: is_complete(panel), "the panel is connected")
        return panel

    yield make
    for panel in panels:
        panel.close()
        assert not panel.isVisible()


@pytest.fixture(scope="session")
def only_panel(make_panel):
    return make_panel()


@pytest.fixture
def panel(only_panel, devices):
    """The panel of `devices`, once it shows that they are as after their start."""
    panel, default = only_panel, Parameters()
    panel.picture.show_only("Newest")
    panel.pipeline._refusals.clear()
    expected = asdict(default) | {"min_peaks": default.veto_min_peaks, "enabled": default.veto_enabled}

    def is_default() -> bool:
        get = panel.pipeline.get
        names = {key.partition("/")[2]: get(key) for key in panel.settings.fields}
        return (
            all(names[name] == value for name, value in expected.items() if name in names)
            and (panel.pipeline.state, get("acquisition/frame_count")) == ("STANDBY", 0)
            and not get("acquisition/last_error")
            and not any(np.size(get(name, ())) for name in ARRAYS)
            and panel.settings.fields["veto/min_peaks"].editor.value() == default.veto_min_peaks
        )

    wait_until(is_default, "the panel shows the devices as they are")
    panel.refresh()
    return panel


@pytest.fixture(scope="session")
def lost(display):
    """A beamline whose server has been killed, and a panel that was connected to it."""
    with Beamline() as beamline:
        beamline.reset_settings()
        beamline.set("veto", min_peaks=23)
        panel = open_panel(f"tango://{beamline.database.host}/demo")
        wait_until(lambda: is_complete(panel), "the panel")
        wait_until(lambda: panel.settings.fields["veto/min_peaks"].editor.value() == 23, "the value before")
        beamline.server.kill()
        yield beamline, panel
        panel.close()
