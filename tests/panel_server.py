"""One server on a fake run for all tests of the panel, those without Qt too."""

from __future__ import annotations

import pytest
from devices_helpers import serve


@pytest.fixture(scope="session")
def server():
    with serve() as devices:
        yield devices


@pytest.fixture
def devices(server):
    """Clients of devices with a fake run behind them, as after their start."""
    server.clear()
    return server
