"""Fixtures of the integration tests, as a plugin of pytest: `pytest_plugins = ["integration_fixtures"]`.

`beamline` gives devices with default settings, and looks after every test whether they are still at work. Database and
server are started once for all tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from framesieve.simulators.experiment import Experiment
from integration_helpers import SHAPE, Beamline


@pytest.fixture(scope="session")
def house() -> Iterator[Beamline]:
    with Beamline() as house:
        yield house


@pytest.fixture
def beamline(house: Beamline) -> Iterator[Beamline]:
    """Devices in STANDBY with the settings of `DEFAULTS`. After the test the server must be alive still."""
    if not house.server.running:  # a test before has failed with it
        house.server.start()
        house.connect()
    pid = house.server.pid
    house.make_idle()
    house.reset_settings()
    yield house
    assert house.server.running and house.server.pid == pid, "\n".join(house.server.lines[-20:])
    house.make_idle()


@pytest.fixture(scope="session")
def poni(tmp_path_factory) -> Path:
    """Geometry of the small detector."""
    path = tmp_path_factory.mktemp("geometry") / "small.poni"
    path.write_text(Experiment(SHAPE).poni_text())
    return path


@pytest.fixture
def recovering(beamline, poni, tmp_path) -> Iterator[Beamline]:
    """All is set but the source; whatever the test does, a good run must be possible afterwards."""
    output = tmp_path / "output"
    output.mkdir()
    beamline.set(geometry=str(poni), saving_directory=str(output), saving_prefix="run")
    yield beamline
    beamline.make_idle()
    beamline.good_run(output, poni)
