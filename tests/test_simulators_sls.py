"""The simulated slsReceivers: messages taken apart here, bit for bit."""

import json
import subprocess
import sys

import numpy as np
import pytest
import zmq
from framesieve.processing.errors import ConfigurationError, OutOfRangeError
from framesieve.simulators.frame_inputs import SimulatedInput
from framesieve.simulators.misbehaviour import Misbehaviour
from framesieve.simulators.planted import PlantedSimulator
from framesieve.simulators.sls_detector import SlsDetector
from sls_helpers import HEADER

SHAPE = (120, 150)


def make_input(dtype: str = "uint16", n_frames: int = 5) -> SimulatedInput:
    return SimulatedInput(PlantedSimulator(SHAPE, n_peaks=10, background=2.0, dtype=dtype, pool=2), n_frames)


def receive(port: int, modules: int, series: int = 1) -> list[list[list[bytes]]]:
    """The messages of each receiver, up to that many ends of series."""
    with zmq.Context() as context:
        sockets = [context.socket(zmq.SUB) for _ in range(modules)]
        for k, sub in enumerate(sockets):
            sub.linger = 0
            sub.subscribe(b"")
            sub.connect(f"tcp://127.0.0.1:{port + k}")
        received = [[] for _ in sockets]
        try:
            while any(sum(len(message) == 1 for message in messages) < series for messages in received):
                ready = zmq.select(sockets, [], [], 10)[0]
                assert ready, "no message arrived"
                for sub in ready:
                    received[sockets.index(sub)].append(sub.recv_multipart())
        finally:
            for sub in sockets:
                sub.close()
    return received


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize(("grid", "flipped"), [((1, 1), []), ((3, 1), [1]), ((2, 5), [0, 9])])
def test_modules_arrive_to_the_bit(dtype, grid, flipped):
    frames = make_input(dtype, 3)
    with SlsDetector(frames, port=0, grid=grid, flipped=flipped) as detector:
        received = receive(detector.port, detector.n_modules)
    rows, columns = SHAPE[0] // grid[0], SHAPE[1] // grid[1]
    for module, messages in enumerate(received):
        assert len(messages) == 4
        for i, (header, data) in enumerate(messages[:-1]):
            told = json.loads(header)
            row, column = module // grid[1], module % grid[1]
            assert (told["row"], told["column"], told["detshape"]) == (row, column, [grid[1], grid[0]])
            assert (told["shape"], told["size"]) == ([columns, rows], len(data))
            assert told["bitmode"] == 8 * np.dtype(dtype).itemsize
            assert (told["frameIndex"], told["frameNumber"], told["acqIndex"]) == (i, i + 1, i + 1)
            assert told["progress"] == pytest.approx(100 * (i + 1) / 3, rel=1e-5)
            pixels = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(rows, columns)
            part = frames.simulator.frame(i)[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            np.testing.assert_array_equal(pixels[::-1] if module in flipped else pixels, part)
            assert told["flipRows"] == (module in flipped)


def test_headers_have_the_fields_of_slsdetectorpackage():
    with SlsDetector(
        make_input(), port=0, n_frames=2, rate=100, added=lambda place: {"monitor": str(place)}
    ) as detector:
        (messages,) = receive(detector.port, 1)
    *images, (end,) = messages
    for header, _ in images:
        told = json.loads(header)
        assert told.pop("addJsonHeader") == {"monitor": str(told["frameIndex"])}
        assert told.keys() == HEADER.keys()
        assert {name: type(value) for name, value in told.items() if name != "progress"} == {
            name: type(value) for name, value in HEADER.items() if name != "progress"
        }
        assert (told["jsonversion"], told["data"], told["completeImage"], told["expLength"]) == (5, 1, 1, 100_000)
    first, second = (json.loads(header) for header, _ in images)
    assert second["timestamp"] - first["timestamp"] == 100_000
    told = json.loads(end)
    assert told.keys() == HEADER.keys() and told["jsonversion"] == 5
    assert not any(told[name] for name in ("data", "frameNumber", "fileIndex", "fname", "completeImage"))


def test_series_follow_one_another():
    with SlsDetector(make_input(), port=0, modules=2, n_frames=2, series=3, numbers_go_on=True) as detector:
        received = receive(detector.port, 2, 3)
        assert detector.wait(10) and detector.sent == 6
    for messages in received:
        told = [json.loads(message[0]) for message in messages]
        assert [one["data"] for one in told] == [1, 1, 0] * 3
        assert [one["fileIndex"] for one in told if one["data"]] == [1, 1, 2, 2, 3, 3]
        assert [one["frameNumber"] for one in told if one["data"]] == [1, 2, 3, 4, 5, 6]
        assert [one["frameIndex"] for one in told if one["data"]] == [0, 1] * 3


def test_what_goes_wrong_is_what_was_asked_for():
    options = {
        "lost_modules": {(1, 0)}, "late_modules": {(2, 1): 2}, "duplicated_modules": {(3, 0)},
        "corrupt_modules": {(4, 1)}, "corrupt_headers": {(5, 0)}, "incomplete_modules": {(6, 1)},
    }  # fmt: skip
    behaviour = Misbehaviour.parse("lost=0 corrupt=7")
    with SlsDetector(make_input(), port=0, modules=2, n_frames=8, misbehaviour=behaviour, **options) as detector:
        received = receive(detector.port, 2)
    full = SHAPE[0] // 2 * SHAPE[1] * 2
    found = []
    for messages in received:
        found.append([])
        for header, data in messages[:-1]:
            try:
                told = json.loads(header)
            except ValueError:
                found[-1].append("header")
                continue
            found[-1].append((told["frameIndex"], len(data) / full, told["completeImage"]))
    assert found[0] == [(2, 1, 1), (3, 1, 1), (3, 1, 1), (4, 1, 1), "header", (6, 1, 1), (7, 0.5, 1)]
    assert found[1] == [(1, 1, 1), (3, 1, 1), (4, 0.5, 1), (2, 1, 1), (5, 1, 1), (6, 1, 0), (7, 0.5, 1)]


def test_nothing_is_sent_before_every_receiver_has_a_subscriber():
    detector = SlsDetector(make_input(), port=0, modules=2)
    with detector, zmq.Context() as context, context.socket(zmq.SUB) as sub, context.socket(zmq.SUB) as other:
        for one in (sub, other):
            one.linger = 0
            one.subscribe(b"")
        sub.connect(f"tcp://127.0.0.1:{detector.port}")
        assert not sub.poll(500) and detector.sent == 0
        other.connect(f"tcp://127.0.0.1:{detector.port + 1}")
        assert sub.poll(30_000) and other.poll(30_000)


def test_ports_that_are_taken():
    with SlsDetector(make_input(), port=0, modules=3) as first:
        second = SlsDetector(make_input(), port=first.port, modules=3)
        with pytest.raises(ConfigurationError, match=r"cannot listen on 127\.0\.0\.1"):
            second.start()
        second.stop()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"modules": 7}, ConfigurationError),
        ({"modules": 0}, OutOfRangeError),
        ({"modules": 3, "grid": (2, 2)}, OutOfRangeError),
        ({"rate": -1.0}, OutOfRangeError),
        ({"port": 65535, "modules": 2}, OutOfRangeError),
        ({"detector": "pilatus"}, OutOfRangeError),
    ],
)
def test_bad_values(options, error):
    with pytest.raises(error):
        SlsDetector(make_input(), **options)
    with pytest.raises(ConfigurationError, match="uint8, uint16 or uint32, the pixels are int32"):
        SlsDetector(make_input("int32"))


def test_the_command_sends_a_series():
    command = [sys.executable, "-c", "from framesieve.cli.simulate import app; app()", "sls", "--port", "0"]
    options = ["--shape", "100", "110", "--frames", "4", "--grid", "2", "1", "--misbehave", "lost=2"]
    with subprocess.Popen(
        [*command, *options, "--rate", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("sls://127.0.0.1:") and address.endswith("?modules=2")
            received = receive(int(address.removesuffix("?modules=2").rsplit(":", 1)[1]), 2)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0 and "Traceback" not in errors
    for messages in received:
        assert [json.loads(message[0])["frameIndex"] for message in messages[:-1]] == [0, 1, 3]
