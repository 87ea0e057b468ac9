"""The simulated stream-v1 detector: messages taken apart here with independent decoders, bit for bit."""

import json
import subprocess
import sys

import numpy as np
import pytest
import zmq
from framesieve.processing.errors import ConfigurationError, OutOfRangeError
from framesieve.simulators.compression import compress
from framesieve.simulators.diffraction import StillSimulator
from framesieve.simulators.frame_inputs import SimulatedInput
from framesieve.simulators.misbehaviour import Misbehaviour
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.recorded import read_stream1
from framesieve.simulators.stream1_detector import Stream1Detector
from measured_data import data_file
from sources_helpers import decode

SHAPE = (120, 150)


def make_input(dtype: str = "uint16", n_frames: int = 5) -> SimulatedInput:
    return SimulatedInput(PlantedSimulator(SHAPE, n_peaks=10, background=2.0, dtype=dtype, pool=2), n_frames)


def receive(port: int) -> list[list[bytes]]:
    """The messages of one series."""
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        pull.linger = 0
        pull.connect(f"tcp://127.0.0.1:{port}")
        messages = []
        while not messages or b"dseries_end" not in messages[-1][0]:
            assert pull.poll(10_000), "no message arrived"
            messages.append(pull.recv_multipart())
        return messages


@pytest.mark.parametrize("encoding", ["bslz4", "lz4", "none"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_frames_arrive_to_the_bit(encoding, dtype):
    frames = make_input(dtype, 3)
    with Stream1Detector(frames, port=0, encoding=encoding) as detector:
        header, *images, _ = receive(detector.port)
    bits = int(dtype[4:])
    assert json.loads(header[1])["bit_depth_image"] == bits
    for i, (first, told, blob, _) in enumerate(images):
        assert json.loads(first)["frame"] == i
        told = json.loads(told)
        assert told["encoding"] == {"bslz4": f"bs{bits}-lz4<", "lz4": "lz4<", "none": "<"}[encoding]
        assert (told["shape"], told["type"], told["size"]) == ([150, 120], dtype, len(blob))
        pixels = decode(blob, "lz4block" if encoding == "lz4" else encoding, SHAPE, np.dtype(dtype))
        np.testing.assert_array_equal(pixels, frames.simulator.frame(i))


@pytest.mark.parametrize("shape", [(1, 3), (1, 15), (1, 16), (1, 269), (1, 270), (1, 271), (100, 100)])
def test_bare_lz4_of_what_cannot_be_made_smaller(shape):
    noise = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    packed = compress(noise, "lz4block")
    assert len(packed) > noise.nbytes
    np.testing.assert_array_equal(decode(packed, "lz4block", shape, noise.dtype), noise)


@pytest.mark.parametrize(("detail", "parts"), [("none", 1), ("basic", 2), ("all", 8)])
@pytest.mark.parametrize("user_data", [None, {"run": 5}])
def test_messages_are_those_of_the_documentation(detail, parts, user_data):
    simulator = StillSimulator(SHAPE, pool=1, hit_share=0, n_frames=2)
    frames = SimulatedInput(simulator, 2)
    options = {"header_detail": detail, "user_data": user_data, "series": 2}
    with Stream1Detector(frames, port=0, rate=100, n_frames=3, **options) as detector:
        header, *images, end = receive(detector.port)
    assert json.loads(header[0]) == {"htype": "dheader-1.0", "series": 1, "header_detail": detail}
    assert json.loads(end[0]) == {"htype": "dseries_end-1.0", "series": 1}
    appendix = [] if user_data is None else [json.dumps(user_data).encode()]
    assert header[parts:] == appendix
    assert [message[4:] for message in images] == [appendix] * 3
    if detail != "none":
        config = json.loads(header[1])
        assert (config["x_pixels_in_detector"], config["y_pixels_in_detector"]) == (150, 120)
        assert config["nimages"] * config["ntrigger"] == 3
        assert config["photon_energy"] * config["wavelength"] == pytest.approx(12398.42)
        assert config["beam_center_x"] == pytest.approx(simulator.experiment.beam_center[0] + 0.5)
    if detail == "all":
        assert json.loads(header[4]) == {"htype": "dpixelmask-1.0", "shape": [150, 120], "type": "uint32"}
        np.testing.assert_array_equal(np.frombuffer(header[5], "<u4").reshape(SHAPE), simulator.pixel_mask)
        np.testing.assert_array_equal(np.frombuffer(header[3], "<f4").reshape(SHAPE), 1)
    times = [json.loads(message[3]) for message in images]
    assert np.diff([time["start_time"] for time in times]) == pytest.approx([10_000_000, 10_000_000], abs=2)
    assert {time["stop_time"] - time["start_time"] for time in times} == {10_000_000}


def test_keys_are_those_of_a_recorded_stream():
    with Stream1Detector(make_input(n_frames=1), port=0) as detector:
        header, image, _ = receive(detector.port)
    theirs = read_stream1(data_file("dectris_stream1/image000044"))
    assert len(theirs) == len(image)
    for place in (1, 3):
        assert set(json.loads(theirs[place])) == set(json.loads(image[place]))
    assert set(json.loads(theirs[0])) - {"acqID"} == set(json.loads(image[0]))
    theirs = read_stream1(data_file("dectris_stream1/header"))
    assert len(theirs) == len(header)
    assert set(json.loads(header[1])) <= set(json.loads(theirs[1]))
    for place in (2, 4, 6):
        assert set(json.loads(theirs[place])) == set(json.loads(header[place]))


def test_lost_and_broken_images():
    with Stream1Detector(make_input(), port=0, misbehaviour=Misbehaviour.parse("lost=1,3 corrupt=2")) as detector:
        _, *images, _ = receive(detector.port)
    assert [json.loads(image[0])["frame"] for image in images] == [0, 2, 4]
    assert len(images[1][2]) < 0.6 * len(images[0][2])


def test_bad_values():
    with pytest.raises(ConfigurationError, match=r"uint8, uint16 or uint32, the pixels are int32"):
        Stream1Detector(make_input("int32"), port=0)
    with pytest.raises(OutOfRangeError, match="all or basic or none is expected"):
        Stream1Detector(make_input(), port=0, header_detail="some")


def test_the_command_sends_a_series():
    command = [sys.executable, "-c", "from framesieve.cli.simulate import app; app()", "stream1", "--port", "0"]
    options = ["--shape", "100", "110", "--frames", "3", "--encoding", "lz4", "--header-detail", "basic"]
    with subprocess.Popen(
        [*command, *options, "--rate", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("stream1://127.0.0.1:")
            header, *images, _ = receive(int(address.rsplit(":", 1)[1]))
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0 and "Traceback" not in errors
    assert (len(header), len(images)) == (2, 3)
    assert json.loads(images[0][1])["encoding"] == "lz4<"
