"""The simulated stream2 detector: messages decoded here from the documentation alone, bit for bit."""

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import cbor2
import h5py
import hdf5plugin
import numpy as np
import pytest
import zmq
from framesieve.processing.errors import ConfigurationError, OutOfRangeError
from framesieve.simulators.compression import compress
from framesieve.simulators.diffraction import StillSimulator
from framesieve.simulators.frame_inputs import SimulatedInput, geometry_of, open_input
from framesieve.simulators.misbehaviour import Misbehaviour
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.stream2_detector import Stream2Detector
from framesieve.simulators.stream2_messages import image_message, multi_dim_array

DATA = Path(os.environ.get("FRAMESIEVE_DATA", Path(__file__).parents[2] / "shared" / "data"))
SHAPE = (120, 150)
TYPED_ARRAY = {64: "u1", 69: "<u2", 70: "<u4", 77: "<i2", 78: "<i4", 85: "<f4"}


def make_input(dtype="uint16", n_frames=5):
    return SimulatedInput(PlantedSimulator(SHAPE, n_peaks=10, background=2.0, dtype=dtype, pool=2), n_frames)


def decode_array(tag):
    """A multi-dimensional array by RFC 8746 and DECTRIS' compression tag, with independent decoders."""
    assert tag.tag == 40
    shape, typed = tag.value
    dtype, content = np.dtype(TYPED_ARRAY[typed.tag]), typed.value
    if isinstance(content, cbor2.CBORTag):
        assert content.tag == 56500
        algorithm, element, data = content.value
        raw_size, block = struct.unpack(">QI", data[:12])
        assert raw_size == np.prod(shape) * dtype.itemsize
        if algorithm == "bslz4":
            bitshuffle = pytest.importorskip("bitshuffle")
            assert element == dtype.itemsize
            blocks = np.frombuffer(data[12:], np.uint8)
            return bitshuffle.decompress_lz4(blocks, tuple(shape), dtype, block // element)
        assert algorithm == "lz4" and element == 0
        content = decode_lz4(data[12:], raw_size, block)
    return np.frombuffer(content, dtype).reshape(shape)


def decode_lz4(data, raw_size, block):
    lz4 = pytest.importorskip("lz4.block")
    out, place = b"", 0
    while len(out) < raw_size:
        (size,) = struct.unpack_from(">I", data, place)
        length = min(block, raw_size - len(out))
        piece = data[place + 4 : place + 4 + size]
        out += piece if size == length else lz4.decompress(piece, uncompressed_size=length)
        place += 4 + size
    return out


class Receiver:
    """Takes messages as a file writer would."""

    def __init__(self, port):
        self.context = zmq.Context()
        self.pull = self.context.socket(zmq.PULL)
        self.pull.rcvhwm = 2
        self.pull.connect(f"tcp://127.0.0.1:{port}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.destroy(linger=0)

    def message(self, timeout=10):
        assert self.pull.poll(1000 * timeout), "no message arrived"
        return cbor2.loads(self.pull.recv())

    def series(self):
        messages = [self.message()]
        while messages[-1]["type"] != "end":
            messages.append(self.message())
        return messages


@pytest.mark.parametrize("encoding", ["bslz4", "lz4", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32"])
def test_frames_arrive_to_the_bit(encoding, dtype):
    frames = make_input(dtype, 3)
    with Stream2Detector(frames, port=0, encoding=encoding) as detector, Receiver(detector.port) as receiver:
        start, *images, _ = receiver.series()
    assert start["image_dtype"] == dtype
    assert [m["image_id"] for m in images] == [0, 1, 2]
    for i, message in enumerate(images):
        np.testing.assert_array_equal(decode_array(message["data"]["threshold_1"]), frames.simulator.frame(i))


def test_messages_are_those_of_the_documentation():
    simulator = StillSimulator(SHAPE, pool=1, hit_share=0, n_frames=2)
    frames = SimulatedInput(simulator, 2)
    detector = Stream2Detector(frames, port=0, rate=100, channels=("a", "b"), user_data={"run": 5}, n_frames=3)
    with detector, Receiver(detector.port) as receiver:
        start, *images, end = receiver.series()
    assert next(iter(start)) == next(iter(images[0])) == next(iter(end)) == "type"
    assert (start["type"] == "start" and start["channels"] == ["a", "b"]) or start["channels"] == ("a", "b")
    assert (start["image_size_x"], start["image_size_y"]) == (150, 120)
    assert start["number_of_images"] == 3 and start["frame_time"] == pytest.approx(0.01)
    assert start["incident_energy"] * start["incident_wavelength"] == pytest.approx(12398.42)
    assert start["beam_center_x"] == pytest.approx(simulator.experiment.beam_center[0] + 0.5)
    assert start["saturation_value"] == 65534 and start["pixel_size_x"] == 75e-6
    np.testing.assert_array_equal(decode_array(start["pixel_mask"]["a"]), simulator.pixel_mask)
    assert decode_array(start["flatfield"]["b"]).dtype == np.float32
    assert isinstance(start["arm_date"], datetime) and set(start["threshold_energy"]) == {"a", "b"}
    for i, message in enumerate(images):
        assert message["image_id"] == i and dict(message["user_data"]) == {"run": 5}
        assert message["series_date"] == start["arm_date"]
        numerator, denominator = message["start_time"]
        assert numerator / denominator == pytest.approx(0.01 * i)
        assert (message["stop_time"][0] - numerator) / denominator == pytest.approx(0.01)
        first, second = (decode_array(message["data"][channel]) for channel in "ab")
        np.testing.assert_array_equal(first, simulator.frame(i % 2))
        flagged = simulator.pixel_mask != 0
        np.testing.assert_array_equal(second, np.where(flagged, 65535, first // 2))
    assert len(start["series_unique_id"]) == 26
    for key in ("series_id", "series_unique_id"):
        assert start[key] == images[1][key] == end[key]
    assert set(end) == {"type", "series_id", "series_unique_id"}


def test_message_keys_are_those_of_a_recorded_stream():
    recorded = DATA / "dectris_stream2" / "r500k_bm_bslz4_16bit" / "000001.cbor"
    if not recorded.exists():
        pytest.skip(f"{recorded} is not there")
    reference = recorded.read_bytes()
    with Stream2Detector(make_input(), port=0) as detector, Receiver(detector.port) as receiver:
        receiver.pull.poll(5000)
        receiver.pull.recv()
        receiver.pull.poll(5000)
        ours = receiver.pull.recv()
    assert ours[:12] == reference[:12]  # self-described tag, a map of ten, "type"
    assert list(cbor2.loads(ours)) == list(cbor2.loads(reference))


def test_series_follow_each_other_and_repeat_the_frames():
    with Stream2Detector(make_input(n_frames=2), port=0, n_frames=5, series=2) as detector:
        with Receiver(detector.port) as receiver:
            first, second = receiver.series(), receiver.series()
        assert detector.wait(5) and detector.done.images == 10
    assert [m.get("image_id") for m in first] == [None, 0, 1, 2, 3, 4, None]
    assert first[0]["series_id"] == 1 and second[0]["series_id"] == 2
    assert first[0]["series_unique_id"] != second[0]["series_unique_id"]


def test_lost_and_broken_images():
    with (
        Stream2Detector(make_input(), port=0, misbehaviour=Misbehaviour.parse("lost=1,3 corrupt=2")) as detector,
        Receiver(detector.port) as receiver,
    ):
        _, *images, _ = receiver.series()
    assert [m["image_id"] for m in images] == [0, 2, 4]
    sizes = [len(m["data"]["threshold_1"].value[1].value.value[2]) for m in images]
    assert sizes[1] < 0.6 * sizes[0]


def test_rate_is_kept():
    with Stream2Detector(make_input(), port=0, n_frames=40, rate=50) as detector, Receiver(detector.port) as receiver:
        arrivals = []
        while (message := receiver.message())["type"] != "end":
            if message["type"] == "image":
                arrivals.append(time.monotonic())
    # 39 intervals of 20 ms; a busy computer may make it longer, nothing shorter
    assert arrivals[-1] - arrivals[0] > 0.8 * 39 / 50
    assert arrivals[-1] - arrivals[0] < 5 * 39 / 50


def test_without_a_receiver_the_detector_waits_and_stops():
    detector = Stream2Detector(make_input(), port=0)
    detector.start()
    assert not detector.wait(0.3) and detector.done.images == 0
    begin = time.monotonic()
    detector.stop()
    detector.stop()
    assert time.monotonic() - begin < 3


def test_stop_in_the_middle_of_a_series():
    detector = Stream2Detector(make_input(), port=0, n_frames=10**6, rate=0)
    detector.start()
    with Receiver(detector.port) as receiver:
        for _ in range(20):
            receiver.message()
        detector.stop()
    assert 19 <= detector.done.images < 10**6
    assert "stream2-detector" not in {thread.name for thread in threading.enumerate()}


def test_a_slow_receiver_holds_the_detector_back():
    frames = SimulatedInput(PlantedSimulator((1000, 1000), n_peaks=0, background=2.0, dtype="uint32", pool=1), 1)
    with (
        Stream2Detector(frames, port=0, n_frames=1000, encoding="none") as detector,
        Receiver(detector.port) as receiver,
    ):
        receiver.message()
        time.sleep(0.5)
        assert detector.done.images < 100  # 4 MB each: what fits into the two queues and the network buffers
        detector.stop()


def test_address_in_use_and_bad_values():
    with Stream2Detector(make_input(), port=0) as first, pytest.raises(ConfigurationError, match=str(first.port)):
        Stream2Detector(make_input(), port=first.port).start()
    for options in ({"encoding": "zip"}, {"rate": -1}, {"port": 10**6}, {"n_frames": 0}, {"channels": ()}):
        with pytest.raises(OutOfRangeError):
            Stream2Detector(make_input(), **options)


def test_hdf5_input_with_other_storage_is_encoded_anew(tmp_path):
    images = np.random.default_rng(1).poisson(3, (4, *SHAPE))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x/gzip", data=images.astype("<i4"), chunks=(1, *SHAPE), compression="gzip")
        file.create_dataset("x/wide", data=images.astype("<i4"), chunks=(2, *SHAPE), **hdf5plugin.Bitshuffle())
        file.create_dataset("x/big", data=images.astype(">u2"), chunks=(1, *SHAPE), **hdf5plugin.Bitshuffle())
        file.create_dataset("x/lz4", data=images.astype("<u4"), chunks=(1, *SHAPE), **hdf5plugin.LZ4())
        file["x/frame_number"] = [3, 5, 6, 9]
        file["x/float"] = images.astype("f4")
    for name in ("gzip", "wide", "big", "lz4"):
        frames = open_input(f"{tmp_path}/a.h5::/x/{name}")
        assert [frames.number(i) for i in range(5)] == [3, 5, 6, 9, 13]
        for encoding in ("bslz4", "lz4", "none"):
            assert frames.encoded(1, encoding) == compress(images[1].astype(frames.info.dtype), encoding)
        frames.close()
    for name, told in (("float", "float32"), ("frame_number", "shape"), ("none", "no dataset")):
        with pytest.raises(ConfigurationError, match=told):
            open_input(f"{tmp_path}/a.h5::/x/{name}")


def test_recorded_frames_are_sent_with_their_numbers():
    path = DATA / "thaumatin_grid.h5"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with Stream2Detector(open_input(str(path)), port=0) as detector, Receiver(detector.port) as receiver:
        start, *images, _ = receiver.series()
    with h5py.File(path) as file:
        assert [m["image_id"] for m in images] == file["entry/data/frame_number"][...].tolist()
        for row in (0, 8):
            received = decode_array(images[row]["data"]["threshold_1"])
            np.testing.assert_array_equal(received, file["entry/data/data"][row])
        np.testing.assert_array_equal(decode_array(start["pixel_mask"]["threshold_1"]), file["entry/data/mask"][...])
    assert start["beam_center_x"] == pytest.approx(1261.61) and start["beam_center_y"] == pytest.approx(1306.96)


def test_cbf_input():
    path = DATA / "pilatus6m_x06sa.cbf.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    frames = open_input(str(path))
    assert frames.info.shape == (2527, 2463) and frames.info.dtype == np.int32 and frames.n_frames == 1
    assert frames.image(0).min() == -2


def test_geometry_of_a_tilted_detector_is_that_of_pyfai():
    pyfai = pytest.importorskip("pyFAI")
    reference = pyfai.load({"dist": 0.2, "poni1": 0.08, "poni2": 0.07, "rot1": 0.1, "rot2": -0.05, "rot3": 0.3,
                            "detector": "Detector", "detector_config": {"pixel1": 1e-4, "pixel2": 2e-4},
                            "wavelength": 1.2e-10, "poni_version": 2})  # fmt: skip
    text = (
        'poni_version: 2\nDetector_config: {"pixel1": 1e-4, "pixel2": 2e-4}\nDistance: 0.2\nPoni1: 0.08\n'
        "Poni2: 0.07\nRot1: 0.1\nRot2: -0.05\nRot3: 0.3\nWavelength: 1.2e-10\n"
    )
    geometry, fit2d = geometry_of(text), reference.getFit2D()
    assert geometry["beam_center"] == pytest.approx((fit2d["centerX"], fit2d["centerY"]))
    assert 1000 * geometry["distance"] == pytest.approx(fit2d["directDist"])
    assert geometry["wavelength"] == pytest.approx(1.2)
    assert geometry_of("Distance: near") == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_stops_cleanly_on_a_signal(number):
    command = [sys.executable, "-c", "from framesieve.cli.simulate import app; app()", "stream2", "--port", "0"]
    options = ["--shape", "100", "100", "--series-repeat", "0", "--distinct", "2"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            with Receiver(int(address.rsplit(":", 1)[1])) as receiver:
                assert receiver.message()["type"] == "start"
                process.send_signal(number)
                _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 0 and "Traceback" not in errors


@pytest.mark.parametrize("size", [1, 23, 24, 255, 256, 65_535, 65_536, 1 << 20])
@pytest.mark.parametrize("encoding", ["none", "bslz4"])
def test_image_messages_are_the_cbor_of_their_fields(size, encoding):
    pixels = os.urandom(size)
    arrays = {channel: multi_dim_array(pixels, (1, size), np.dtype("uint8"), encoding) for channel in ("low", "höher")}
    date = datetime(2026, 1, 2, 3, 4, 5).astimezone()
    message = image_message(
        arrays, image_id=7, series_id=3, series_unique_id="x", date=date, start=1.5, exposure=0.25, user_data={"a": 1}
    )
    assert message == cbor2.dumps(
        cbor2.CBORTag(
            55799,
            {
                "type": "image",
                "series_id": 3,
                "series_unique_id": "x",
                "image_id": 7,
                "real_time": [12_500_000, 50_000_000],
                "series_date": date,
                "start_time": [75_000_000, 50_000_000],
                "stop_time": [87_500_000, 50_000_000],
                "user_data": {"a": 1},
                "data": arrays,
            },
        )
    )
