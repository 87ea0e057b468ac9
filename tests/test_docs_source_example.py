"""The worked example of docs/sources.md is a source like any other."""

import importlib.util
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.formats.sparse_reader import SparseFile
from framesieve.processing.errors import CommunicationError, ConfigurationError
from framesieve.processing.frames import BrokenFrame, SeriesEnd, Verdict
from framesieve.sources import registry

PATH = Path(__file__).parents[1] / "docs/examples/tcp_source.py"
SHAPE, FRAMES = (60, 70), 12
PATIENCE = 120.0


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("tcp_source", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def url(example, monkeypatch):
    """As if a package had the entry point that docs/sources.md shows."""

    class Point:
        name = "rawtcp"

        def load(self):
            return example.TcpSource.from_url

    monkeypatch.setattr(registry, "entry_points", lambda group: [Point()] if group == "framesieve.sources" else [])
    registry._plugins.cache_clear()
    yield "rawtcp://127.0.0.1:{}".format
    registry._plugins.cache_clear()


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).poisson(30, SHAPE).astype("<u2")


def message(example, number: int, pixels: np.ndarray | None, series: int = 7) -> bytes:
    rows, columns = (0, 0) if pixels is None else pixels.shape
    return example.HEADER.pack(b"RAW1", series, number, rows, columns) + (b"" if pixels is None else pixels.tobytes())


class Sender:
    """Listens, and sends these bytes to whoever connects, in pieces that fit no message."""

    def __init__(self, data: bytes) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._send, args=(data,), daemon=True).start()

    def _send(self, data: bytes) -> None:
        connection, _ = self._listening.accept()
        with connection, self._listening:
            for i in range(0, len(data), 7001):
                connection.sendall(data[i : i + 7001])


def test_a_run(example, url, tmp_path):
    (tmp_path / "a.poni").write_text(
        'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
        "Distance: 0.1\nPoni1: 0.003\nPoni2: 0.004\n"
    )
    parts = [message(example, n, image(n)) for n in range(FRAMES) if n != 5]
    sender = Sender(b"".join([*parts, message(example, 0, None)]))
    controller = RunController(batch_size=2, ring_size=64)
    try:
        controller.configure(
            source=url(sender.port), geometry=str(tmp_path / "a.poni"), radial_bins=20,
            saving_file=str(tmp_path / "out.h5"),
        )  # fmt: skip
        controller.parameters.update(snr_pick=2.0, veto_min_peaks=0)
        controller.start()
        assert controller.wait(PATIENCE)
        assert (controller.state, controller.error) == (RunState.STANDBY, None)
    finally:
        controller.shutdown()
    with SparseFile(tmp_path / "out.h5") as file:
        verdicts = dict(zip(file.ledger["frame"].tolist(), file.ledger["verdict"].tolist(), strict=True))
        assert verdicts == {n: Verdict.LOST if n == 5 else Verdict.KEPT for n in range(FRAMES)}
        assert len(file) == FRAMES - 1
        for row in range(len(file)):
            frame = file.frame(row)
            assert frame.index.size > 20
            np.testing.assert_array_equal(frame.intensity, image(frame.number).ravel()[frame.index])


def test_events_one_by_one(example, url):
    odd = example.HEADER.pack(b"RAW1", 7, 3, 0, 5)
    sender = Sender(message(example, 2, image(2)) + odd + message(example, 0, None) + b"garbage that is long")
    source = registry.open_source(url(sender.port))
    assert source.open() is None
    events = []
    while not events or not isinstance(events[-1], SeriesEnd):
        event = source.read(0.2)
        events += [event] if event is not None else []
    start, frame, broken, _ = events
    assert start.joined_late and (start.series_id, start.shape) == ("7", SHAPE)
    np.testing.assert_array_equal(frame.payload.array, image(2))
    assert isinstance(broken, BrokenFrame) and broken.number == 3
    with pytest.raises(CommunicationError, match="not understood"):
        for _ in range(100):
            source.read(0.2)
    source.close()
    source.close()
    with pytest.raises(CommunicationError, match="nothing answers"):
        registry.open_source(url(1)).open()


def test_it_is_known_by_its_scheme(url):
    assert "rawtcp:…" in registry.accepted()
    with pytest.raises(ConfigurationError, match="must be written rawtcp://HOST:PORT"):
        registry.check_source("rawtcp://nowhere")


def test_a_plug_in_that_cannot_be_loaded(monkeypatch, url):
    def broken():
        raise ImportError("no module named numppy")

    monkeypatch.setattr(registry._plugins()["rawtcp"], "load", broken)
    with pytest.raises(ConfigurationError, match="the plug-in for rawtcp: cannot be loaded: no module named numppy"):
        registry.open_source(url(1))
