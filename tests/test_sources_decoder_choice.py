"""The choice between host and device: made by the times, and safe where the device cannot."""

import math

import numpy as np
import oracles
import pyopencl as cl
import pytest
from framesieve.processing.chunk_decoder import ChunkDecoder
from framesieve.processing.errors import HardwareError
from framesieve.processing.frames import PIXEL_DTYPES
from framesieve.sources import decoder_choice
from framesieve.sources.decoder_choice import choose_decoder


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    decoder_choice._known.clear()
    yield
    decoder_choice._known.clear()


def choose(dtype: str = "uint16", shape: tuple[int, int] = (61, 53)) -> decoder_choice.DecoderChoice:
    return choose_decoder(oracles.device(), shape, np.dtype(dtype), n_threads=2, batch_size=3)


@pytest.mark.parametrize("dtype", [dtype.name for dtype in PIXEL_DTYPES])
def test_both_ways_are_tried(dtype):
    choice = choose(dtype)
    assert choice.host_ms > 0
    assert choice.device_ms > 0
    assert choice.where == ("device" if choice.device_ms < choice.host_ms else "host")
    assert f"{choice.device_ms:.2f} ms per frame on the device" in choice.reason
    assert f"{choice.host_ms:.2f} ms with 2 threads" in choice.reason


@pytest.mark.parametrize(("host", "device", "where"), [(1.0, 2.0, "host"), (2.0, 1.0, "device")])
def test_the_faster_one_is_chosen(monkeypatch, host, device, where):
    monkeypatch.setattr(decoder_choice, "_time_host", lambda *_: host)
    monkeypatch.setattr(decoder_choice, "_time_device", lambda *_: device)
    choice = choose()  # three frames in so many seconds
    assert choice.where == where
    assert choice.host_ms == pytest.approx(host * 1000 / 3)
    assert choice.device_ms == pytest.approx(device * 1000 / 3)


def test_a_large_frame_is_tried_in_part(monkeypatch):
    tried = []
    monkeypatch.setattr(
        decoder_choice, "_time_host", lambda _pool, _chunk, _frames, pixels, _up: tried.append(pixels) or 1
    )
    monkeypatch.setattr(decoder_choice, "_time_device", lambda *_: 2)
    choice = choose("uint8", (5000, 4000))
    assert tried[0].size == decoder_choice.MAX_TRIAL_PIXELS
    assert choice.host_ms == pytest.approx(1000 / 3 * 20e6 / 2**22)


@pytest.mark.parametrize("error", [HardwareError("the kernels cannot be built\nlong log"), cl.RuntimeError("lost")])
def test_a_device_that_fails_is_a_reason_for_the_host(monkeypatch, error):
    def fail(self):
        raise error

    monkeypatch.setattr(ChunkDecoder, "_build", fail)
    choice = choose()
    assert choice.where == "host"
    assert choice.host_ms > 0
    assert math.isnan(choice.device_ms)
    assert str(error).splitlines()[0] in choice.reason
    assert "long log" not in choice.reason


def test_a_device_that_decodes_wrongly_is_not_chosen(monkeypatch):
    monkeypatch.setattr(ChunkDecoder, "decode", lambda self, slot, n, out: None)
    monkeypatch.setattr(ChunkDecoder, "failures", lambda self, slot, n: {})
    choice = choose()
    assert choice.where == "host"
    assert "wrongly" in choice.reason
