"""Frames that go to the device as they came, compressed: the same results, and a broken one costs itself only."""

import functools
import sys
import threading

import numpy as np
import oracles
import pytest
from framesieve.acquisition import reducers as reducers_module
from framesieve.acquisition.collector import Collector
from framesieve.acquisition.reducers import Reducers
from framesieve.processing.bins import make_bins
from framesieve.processing.errors import FrameError, HardwareError
from framesieve.processing.frames import ArrayPayload, Frame, SeriesStart, Verdict
from framesieve.processing.parameters import Parameters
from framesieve.processing.reducer import Reducer
from framesieve.sources.decoder_choice import DecoderChoice, choose_decoder
from framesieve.sources.payload import EncodedPayload
from pipeline_helpers import DTYPE, END, SHAPE, START, assert_result, bins, image, reduced, run
from sources_helpers import encode

N = 4


@functools.cache
def device_decoder() -> Reducer:
    reducer = Reducer(bins(), DTYPE, oracles.device(), batch_size=N)
    reducer.decode_on_device()
    return reducer


def compressed(number: int, block: int = 8192) -> EncodedPayload:
    return EncodedPayload(SHAPE, DTYPE, "bslz4", encode(image(number), "bslz4", block))


def damaged(number: int) -> EncodedPayload:
    """Its LZ4 block ends early; the header and all lengths are right."""
    data = bytearray(encode(image(number), "bslz4"))
    data[16:] = bytes(len(data) - 16)
    return EncodedPayload(SHAPE, DTYPE, "bslz4", bytes(data))


def truncated(number: int) -> EncodedPayload:
    return EncodedPayload(SHAPE, DTYPE, "bslz4", encode(image(number), "bslz4")[:-5])


def fill(reducer: Reducer, slot: int, payloads) -> dict[int, str]:
    for i, payload in enumerate(payloads):
        reducer.put(slot, i, payload)
    return reducer.upload(slot, len(payloads))


@pytest.mark.parametrize("slot", [0, 1])
def test_results_and_pixels_are_those_of_decoded_frames(slot):
    reducer = device_decoder()
    assert reducer.decodes
    for numbers in ([0, 1, 2, 3], [5], [7, 6]):
        assert fill(reducer, slot, [compressed(n) for n in numbers]) == {}
        results = reducer.reduce(slot, len(numbers), Parameters())
        for i, number in enumerate(numbers):
            assert_result_is(results[i], number)
            np.testing.assert_array_equal(reducer.pixels(slot, i), image(number))


def assert_result_is(result, number: int) -> None:
    expected = reduced(number)
    assert result.n_peaks == expected.n_peaks
    for name in ("index", "intensity", "mean", "std", "peaks"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))


def test_a_batch_may_hold_all_kinds_of_frames():
    """Compressed ones, decoded ones, and one whose blocks are too large for the device."""
    reducer = device_decoder()
    large = EncodedPayload(SHAPE, DTYPE, "bslz4", encode(image(2), "bslz4", block=1 << 14))
    for payloads in ([compressed(0), ArrayPayload(image(1)), large, compressed(3)], [ArrayPayload(image(0))]):
        assert fill(reducer, 0, payloads) == {}
        for number, result in enumerate(reducer.reduce(0, len(payloads), Parameters())):
            assert_result_is(result, number)


def test_broken_chunks_are_told_and_can_be_replaced():
    reducer = device_decoder()
    bad = fill(reducer, 1, [compressed(0), damaged(1), truncated(2), compressed(3)])
    assert set(bad) == {1, 2}
    assert "cannot be decompressed" in bad[1] and "truncated" in bad[2]
    with pytest.raises(FrameError, match="corrupt bslz4 data"):
        reducer.reduce(1, N, Parameters())
    reducer.put(1, 1, compressed(3))
    assert reducer.upload(1, 2) == {}
    results = reducer.reduce(1, 2, Parameters())
    assert_result_is(results[0], 0)
    assert_result_is(results[1], 3)


def test_a_wrong_header_is_told_at_once():
    class Short(ArrayPayload):
        bslz4_chunk = b"too short"

    with pytest.raises(FrameError, match="corrupt bslz4 data of 9 bytes: truncated"):
        device_decoder().put(0, 0, Short(image(0)))


def frames(payloads) -> list:
    return [START, *(Frame(n, "a", payload) for n, payload in enumerate(payloads)), END]


def test_a_run_with_frames_decoded_on_the_device():
    """Broken ones fail, alone, and are told in their place; those behind them are reduced."""
    broken = {0: damaged, 5: truncated, 6: damaged, 11: damaged}
    sink = run(frames(broken.get(n, compressed)(n) for n in range(12)), make=lambda *_: [device_decoder()], live=False)
    verdicts = sink.verdicts()
    assert [n for n in verdicts if verdicts[n] is Verdict.FAILED] == list(broken)
    assert sorted(verdicts) == list(range(12))
    for row in sink.rows:
        if row.number in broken:
            assert "corrupt bslz4 data" in row.reason
        else:
            assert_result(row, reduced(row.number))


def test_many_broken_frames_are_not_a_broken_device():
    sink = run(frames(damaged(n) for n in range(20)), make=lambda *_: [device_decoder()], live=False)
    assert set(sink.verdicts().values()) == {Verdict.FAILED} and len(sink.rows) == 20


def test_a_device_that_fails_while_it_decodes(monkeypatch):
    """Its frames fail, with what the device said, and none is reduced from what lay in its memory before."""
    reducer = device_decoder()

    def fails(slot, n):
        raise HardwareError("it fell off the bus")

    monkeypatch.setattr(reducer, "upload", fails)
    sink = run(
        frames(compressed(n) for n in range(12)),
        make=lambda *_: [reducer],
        live=False,
        expect_error=HardwareError,
    )
    assert all(row.verdict in (Verdict.FAILED, Verdict.DROPPED) for row in sink.rows)
    assert any("it fell off the bus" in row.reason for row in sink.rows)


def test_frames_of_a_series_of_another_kind_are_refused_before_they_are_decoded():
    small = EncodedPayload((8, 8), DTYPE, "bslz4", encode(np.zeros((8, 8), DTYPE), "bslz4"))
    events = [SeriesStart("a", SHAPE, DTYPE), Frame(0, "a", compressed(0)), Frame(1, "a", small), END]
    sink = run(events, make=lambda *_: [device_decoder()], live=False)
    reasons = {row.number: row.reason for row in sink.rows if row.verdict is Verdict.FAILED}
    assert set(reasons) == {1} and "8 × 8" in reasons[1]


def test_the_choice_is_made_once_and_says_why():
    options = {"n_threads": 2, "batch_size": 2}
    choice = choose_decoder(oracles.device(), (64, 128), np.dtype(np.uint16), **options)
    assert choice.where == ("device" if choice.device_ms < choice.host_ms else "host")
    assert f"{choice.device_ms:.2f} ms" in choice.reason and f"{choice.host_ms:.2f} ms" in choice.reason
    assert choose_decoder(oracles.device(), (64, 128), np.dtype(np.uint16), **options) is choice


def test_both_slots_may_be_uploaded_at_the_same_time():
    """Two threads, a slot each, frames of many blocks: nobody decodes with the places of the other."""
    shape = (300, 401)
    reducer = Reducer(make_bins(oracles.radius_image(shape), 50), DTYPE, oracles.device(), batch_size=2)
    reducer.decode_on_device()
    rng = np.random.default_rng(1)
    images = [[rng.poisson(2 + 10 * slot + 3 * i, shape).astype(DTYPE) for i in range(2)] for slot in range(2)]
    wrong: list[str] = []

    def work(slot: int) -> None:
        payloads = [EncodedPayload(shape, DTYPE, "bslz4", encode(image, "bslz4")) for image in images[slot]]
        for _ in range(100):
            wrong.extend(fill(reducer, slot, payloads).values())
            if not all(np.array_equal(reducer.pixels(slot, i), images[slot][i]) for i in range(2)):
                wrong.append("other pixels")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(slot,)) for slot in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
        reducer.close()
    assert wrong == []


def test_a_decoder_that_does_not_fit_means_the_host(monkeypatch):
    """The trial is smaller than the run."""

    def fails(self):
        raise HardwareError("not enough memory")

    monkeypatch.setattr(Reducer, "decode_on_device", fails)
    monkeypatch.setattr(reducers_module, "choose_decoder", lambda *_, **__: DecoderChoice("device", 2.0, 1.0, "x"))
    collector = Collector()
    reducers = Reducers([oracles.device()], lambda *_: bins(), None, 2, collector, decode_threads=2)
    reducers.are_compressed = True
    (reducer,) = reducers.make(SeriesStart("a", SHAPE, DTYPE))
    assert not reducer.decodes and collector.decoding == "host: not enough memory"
    reducers.close()
