"""Stream v1 from the simulated detector over a real socket, into events and into a file."""

import h5py
import numpy as np
import pytest
from framesieve.acquisition.controller import RunController
from framesieve.acquisition.run_state import RunState
from framesieve.processing.errors import CommunicationError, FrameError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.simulators.frame_inputs import SimulatedInput
from framesieve.simulators.misbehaviour import Misbehaviour
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.raster import raster_scan
from framesieve.simulators.stream1_detector import Stream1Detector
from framesieve.simulators.stream2_detector import Stream2Detector
from framesieve.sources.registry import open_source
from framesieve.sources.stream1 import Stream1Source
from sources_helpers import pixels_of, read_until

SHAPE = (96, 80)
PATIENCE = 60.0
DETECTORS = {"stream1": Stream1Detector, "stream2": Stream2Detector}


def frames(count: int = 12) -> SimulatedInput:
    return SimulatedInput(PlantedSimulator(SHAPE, n_peaks=8, snr=(15, 60), background=20.0, pool=3), count)


@pytest.mark.parametrize("detail", ["all", "basic", "none"])
@pytest.mark.parametrize("encoding", ["bslz4", "lz4", "none"])
def test_series_with_lost_and_broken_images(encoding, detail):
    sent = frames()
    wrong = Misbehaviour.parse("lost=2,5 corrupt=4")
    options = {"encoding": encoding, "header_detail": detail, "series": 2, "misbehaviour": wrong}
    with Stream1Detector(sent, port=0, **options) as detector:
        source = open_source(f"stream1://127.0.0.1:{detector.port}")
        assert source.open() is None
        assert source.live and source.sends_bslz4
        events = read_until(source, SeriesEnd, 2)
        source.close()
        for series in ("1", "2"):
            begin, *images, over = [event for event in events if event.series_id == series]
            assert isinstance(begin, SeriesStart) and isinstance(over, SeriesEnd)
            assert (begin.pixel_mask is not None) == (detail == "all")
            assert begin.number_of_frames == (None if detail == "none" else 12)
            assert [one.number for one in images] == [0, 1, 3, 4, 6, 7, 8, 9, 10, 11]
            for one in images:
                if one.number == 4:
                    # half of the bytes is told at once, or when it is decoded
                    with pytest.raises(FrameError):
                        if isinstance(one, BrokenFrame):
                            raise FrameError(one.reason)
                        pixels_of(one.payload)
                else:
                    np.testing.assert_array_equal(pixels_of(one.payload), sent.simulator.frame(one.number))
        with pytest.raises(CommunicationError, match="not open"):
            source.read(0)


def test_a_series_is_aborted_and_the_detector_restarted():
    first = Stream1Detector(frames(), port=0, n_frames=10**6)
    first.start()
    source = Stream1Source("127.0.0.1", first.port)
    source.open()
    events = read_until(source, Frame, 20)
    first.stop()
    with Stream1Detector(frames(), port=first.port):
        # first what had been on its way, then the series that has number 1 again
        events += read_until(source, SeriesEnd, 2)
        source.close()
    starts = [i for i, event in enumerate(events) if isinstance(event, SeriesStart)]
    assert len(starts) == 2
    assert isinstance(events[starts[1] - 1], SeriesEnd)
    old, new = events[1 : starts[1] - 1], events[starts[1] + 1 : -1]
    assert [event.number for event in old] == list(range(len(old))) and len(old) >= 20
    assert [event.number for event in new] == list(range(12))
    assert source.stray_messages == 0


def test_joined_in_the_middle_of_a_series():
    with Stream1Detector(frames(), port=0, n_frames=400, rate=200) as detector:
        other = Stream1Source("127.0.0.1", detector.port)
        other.open()
        read_until(other, Frame, 10)
        other.close()
        source = Stream1Source("127.0.0.1", detector.port)
        source.open()
        begin, *images, over = read_until(source, SeriesEnd)
        source.close()
    assert begin.joined_late and isinstance(over, SeriesEnd)
    assert begin.shape == SHAPE
    numbers = [frame.number for frame in images]
    # until the detector has noticed, it sends some to the connection that is gone
    assert numbers[0] >= 10 and numbers[-1] == 399 and numbers == sorted(set(numbers))


def test_a_detector_that_sends_stream2_is_told_so():
    with Stream2Detector(frames(2), port=0) as detector:
        source = Stream1Source("127.0.0.1", detector.port)
        source.open()
        events = read_until(source, BrokenFrame, 4)
        source.close()
    assert len(events) == 4
    assert all("is CBOR and not JSON: read it as stream2://" in event.reason for event in events)


def test_nobody_listens():
    with pytest.raises(CommunicationError, match=r"nothing answers at no\.such\.host\.invalid:9999.*format legacy"):
        Stream1Source("no.such.host.invalid", 9999).open()


def arrays_of(group: h5py.Group) -> dict[str, np.ndarray]:
    """All numbers of a file that are in arrays."""
    arrays = {}

    def take(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim:
            arrays[name] = item[()]

    group.visititems(take)
    return arrays


@pytest.mark.parametrize("detail", ["all", "none"])
def test_a_run_writes_the_same_as_with_stream2(tmp_path, detail):
    (tmp_path / "a.poni").write_text(
        'poni_version: 2\nDetector: Detector\nDetector_config: {"pixel1": 1e-4, "pixel2": 1e-4}\n'
        "Distance: 0.1\nPoni1: 0.0048\nPoni2: 0.004\n"
    )
    found, counters = {}, {}
    wrong = Misbehaviour.parse("lost=3,17,39 corrupt=8")
    for name, kind in DETECTORS.items():
        options = {"header_detail": detail} if name == "stream1" else {}
        with kind(frames(), port=0, n_frames=40, misbehaviour=wrong, **options) as detector:
            # all frames have room: kernels that are built meanwhile make none of them wait too long
            controller = RunController(batch_size=3, ring_size=64)
            try:
                controller.configure(
                    source=f"{name}://127.0.0.1:{detector.port}", geometry=str(tmp_path / "a.poni"), radial_bins=20,
                    saving_file=str(tmp_path / f"{name}.h5"),
                )  # fmt: skip
                controller.parameters.update(snr_pick=2.0, min_pixels=1, veto_min_peaks=0)
                controller.start()
                assert controller.wait(PATIENCE)
                assert (controller.state, controller.error) == (RunState.STANDBY, None)
                told = controller.snapshot()
            finally:
                controller.shutdown()
        counters[name] = (told.frame_count, told.frames_lost, told.frames_dropped, told.frames_failed)
        with h5py.File(tmp_path / f"{name}.h5") as file:
            found[name] = arrays_of(file["entry_0000"])
    # a header without details does not announce how many there will be, so that the last one is not missed
    assert counters["stream2"] == (36, 3, 0, 1)
    assert counters["stream1"] == ((36, 2, 0, 1) if detail == "none" else (36, 3, 0, 1))
    one, two = found["stream1"], found["stream2"]
    assert one.keys() == two.keys()
    assert one["sparse_frames/frame_ptr"].size == 37 and one["sparse_frames/frame_ptr"][-1] > 1000
    for key in one.keys() - {"ledger", "parameter_sets"}:  # these hold times
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    ledger = one["ledger"]
    same = [name for name in ledger.dtype.names if name not in ("series", "timestamp")]
    rows = slice(None) if detail == "all" else slice(39)
    for name in same:
        np.testing.assert_array_equal(ledger[name][rows], two["ledger"][name][rows], err_msg=name)
    arrived = (ledger["stored_bytes"] > 0)[:39]
    assert np.isfinite(ledger["timestamp"][:39][arrived]).all() == (detail == "all")
    simulator = frames().simulator
    for number, row in ledger[ledger["row"] >= 0][["frame", "row"]]:
        place = slice(*one["sparse_frames/frame_ptr"][row : row + 2].astype(int))
        truth = simulator.frame(number % 12).ravel()[one["sparse_frames/index"][place]]
        np.testing.assert_array_equal(one["sparse_frames/intensity"][place], truth)


@pytest.mark.parametrize("protocol", DETECTORS)
def test_monitor_and_position_of_a_scan_and_the_mask(protocol):
    sent = frames(5)
    with DETECTORS[protocol](sent, port=0, user_data=raster_scan(3)) as detector:
        source = open_source(f"{protocol}://127.0.0.1:{detector.port}")
        source.open()
        begin, *images, _ = read_until(source, SeriesEnd)
        source.close()
    assert [one.position for one in images] == [(0, 0), (0.002, 0), (0.004, 0), (0, 0.002), (0.002, 0.002)]
    assert [one.monitor for one in images] == [raster_scan(3)(place)["monitor"] for place in range(5)]
    np.testing.assert_array_equal(begin.pixel_mask, sent.simulator.pixel_mask)
    assert begin.flatfield is None and begin.problems == ()
