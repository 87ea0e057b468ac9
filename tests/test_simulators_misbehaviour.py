"""What a misbehaving detector sends, in which order, and whether it really does."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import zmq
from framesieve.processing.errors import ConfigurationError, OutOfRangeError
from framesieve.simulators.compression import compress
from framesieve.simulators.frame_inputs import DetectorInfo
from framesieve.simulators.misbehaviour import Misbehaviour, Step
from framesieve.simulators.raster import raster_scan
from framesieve.simulators.sending import Done
from framesieve.simulators.stream1_detector import Stream1Detector

START, END = Step("start"), Step("end")


def images(*places: int) -> list[Step]:
    return [Step("image", place) for place in places]


STEPS = {
    # words: (images, series, steps)
    "": (3, 1, [START, *images(0, 1, 2), END]),
    "lost=0,2": (4, 3, [START, *images(1, 3), END]),
    "corrupt=1": (2, 1, [START, Step("image", 0), Step("image", 1, corrupt=True), END]),
    "duplicated=1": (2, 1, [START, *images(0, 1), Step("image", 1, again=True), END]),
    "duplicated=0 corrupt=0": (
        1, 1, [START, Step("image", 0, corrupt=True), Step("image", 0, corrupt=True, again=True), END],
    ),
    "late=1:2": (5, 1, [START, *images(0, 2, 3, 1, 4), END]),
    "late=1:2 lost=2": (5, 1, [START, *images(0, 3, 4, 1), END]),
    "late=3:100": (5, 1, [START, *images(0, 1, 2, 4, 3), END]),
    "stall=1:2.5": (2, 1, [START, *images(0), Step("pause", seconds=2.5), *images(1), END]),
    "no-start": (2, 2, [*images(0, 1), END]),
    "no-end": (2, 1, [START, *images(0, 1)]),
    "no-start;no-end": (1, 1, images(0)),
    "killed=1:0.5": (2, 1, [START, *images(0), Step("die", 1, seconds=0.5), *images(1), END]),
    "killed=1:0.5 ": (2, 2, [START, *images(0, 1), END]),
    "killed=1:1 stall=1:2": (2, 1, [START, *images(0), Step("pause", seconds=2.0), Step("die", 1, seconds=1.0),
                                    *images(1), END]),
    "aborted=3": (9, 1, [START, *images(0, 1, 2)]),
    "aborted=3 ": (3, 2, [START, *images(0, 1, 2), END]),
    "aborted=0": (3, 1, [START]),
    "aborted=4 stray=2": (9, 1, [START, *images(0, 1)]),
    "aborted=4 stray=2 ": (4, 2, [START, *images(0, 1), Step("image", 2, stray=True), *images(2, 3),
                                  Step("image", 3, stray=True), END]),
    "aborted=3 stray=2 lost=1": (5, 2, [START, *images(0, 2), Step("image", 2, stray=True), *images(3, 4),
                                        Step("image", 3, stray=True), END]),
    "aborted=2 stray=5": (2, 2, [START, *images(0, 1), Step("image", 0, stray=True), Step("image", 1, stray=True),
                                 END]),
    "stray=5": (2, 2, [START, *images(0, 1), END]),
}  # fmt: skip


@pytest.mark.parametrize("words", STEPS)
def test_steps(words):
    n_frames, series, steps = STEPS[words]
    assert list(Misbehaviour.parse(words).steps(n_frames, series)) == steps


def test_shuffled_images_stay_within_their_group():
    misbehaviour = Misbehaviour.parse("shuffled=8 lost=3")
    orders = [[step.place for step in misbehaviour.steps(50, series) if step.kind == "image"] for series in (1, 2)]
    assert orders[0] != orders[1]
    assert orders[0] == [step.place for step in misbehaviour.steps(50, 1) if step.kind == "image"], "the same again"
    for order in orders:
        assert order != sorted(order)
        assert sorted(order) == [place for place in range(50) if place != 3]
        sent = sorted(order)
        for i in range(0, 49, 8):
            assert sorted(order[i : i + 8]) == sent[i : i + 8]


@pytest.mark.parametrize(
    "word",
    ["los=3", "lost", "lost=", "lost=a", "lost=-1", "lost=1:2", "late=3", "late=3:x", "late=3:-1", "stall=3:nan",
     "stall=3:-1", "stall=3:inf", "no-start=1", "no-start=", "aborted=", "shuffled=1.5", "killed=5", "=", "late=1:2:3"],
)  # fmt: skip
def test_words_that_are_not_understood(word):
    with pytest.raises(ConfigurationError) as error:
        Misbehaviour.parse(f"corrupt=4 {word}")
    assert repr(word) in str(error.value) and "late=6:10" in str(error.value)


def test_a_word_twice():
    with pytest.raises(ConfigurationError, match="'lost=4': lost is said twice"):
        Misbehaviour.parse("lost=3 lost=4")


# ---- what a detector makes of it -------------------------------------------------------------------------------------


class Frames:
    """A few small frames; each pixel has the number of the frame."""

    def __init__(self, count: int = 6, shape: tuple[int, int] = (8, 9)) -> None:
        self.n_frames, self.info, self.closed = count, DetectorInfo(shape, np.dtype("uint16")), 0

    def number(self, i: int) -> int:
        return i

    def image(self, i: int) -> np.ndarray:
        return np.full(self.info.shape, i, self.info.dtype)

    def encoded(self, i: int, encoding: str) -> bytes:
        return compress(self.image(i), encoding)

    def close(self) -> None:
        self.closed += 1


class Client:
    """Receives what a detector sends, as (series, frame) of images, else as the type of the message."""

    def __init__(self, port: int) -> None:
        self._context = zmq.Context()
        self._pull = self._context.socket(zmq.PULL)
        self._pull.connect(f"tcp://127.0.0.1:{port}")
        self.parts: list[list[bytes]] = []

    def next(self) -> tuple[int, int] | str:
        assert self._pull.poll(60_000), "no message arrived"
        self.parts.append(self._pull.recv_multipart())
        told = json.loads(self.parts[-1][0])
        return (told["series"], told["frame"]) if "frame" in told else told["htype"]

    def take(self, count: int) -> list:
        return [self.next() for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self._context.destroy(linger=0)


HEADER, OVER = "dheader-1.0", "dseries_end-1.0"


def sent(words: str, messages: int, frames=None, **options) -> tuple[list, Done]:
    """The messages of a detector, and what it says of them."""
    detector = Stream1Detector(
        frames or Frames(), port=0, misbehaviour=Misbehaviour.parse(words), header_detail="basic", **options
    )
    with detector, Client(detector.port) as client:
        found = client.take(messages)
        assert detector.wait(60)
        return found, detector.done


def test_a_detector_obeys():
    found, done = sent("lost=0 duplicated=2 late=3:1", 8)
    assert found == [HEADER, (1, 1), (1, 2), (1, 2), (1, 4), (1, 3), (1, 5), OVER]
    assert done == Done(images=6, lost=1, duplicated=1)


def test_an_aborted_series_and_its_strays():
    found, done = sent("aborted=4 stray=1", 12, series=2)
    assert found == [HEADER, (1, 0), (1, 1), (1, 2), HEADER, (2, 0), (2, 1), (1, 3), (2, 2), (2, 3), (2, 4), (2, 5)]
    assert done == Done(images=10, strays=1)


def test_what_an_aborted_series_would_have_lost_later_does_not_count():
    assert sent("aborted=3 lost=1,5", 1 + 3 + 1 + 4 + 1, series=2)[1] == Done(images=7, lost=1 + 2)


def test_start_and_end_that_are_not_sent():
    found, done = sent("no-start no-end", 12, series=2)
    assert found == [(series, frame) for series in (1, 2) for frame in range(6)]
    assert done == Done(images=12)


def test_a_detector_that_dies_is_back_on_its_port():
    """A client that has taken everything loses nothing; what waits for one that does not look is gone."""
    detector = Stream1Detector(
        Frames(), port=0, header_detail="none", misbehaviour=Misbehaviour.parse("stall=3:1.5 killed=3:0.2")
    )
    with detector:
        port = detector.port
        with Client(port) as client:
            assert client.take(8) == [HEADER, *((1, i) for i in range(6)), OVER]
            assert detector.wait(60) and detector.port == port
    assert detector.done == Done(images=6, died=[3])


def test_a_stall_is_not_caught_up():
    begin = time.monotonic()
    _, done = sent("stall=2:0.4", 8, rate=100)
    assert done == Done(images=6)
    assert time.monotonic() - begin > 0.45  # 0.05 s for the six frames


def test_one_input_for_each_series():
    inputs = [Frames(2), Frames(3, (5, 6))]
    detector = Stream1Detector(inputs, port=0, series=3, header_detail="basic")
    assert detector.total == 7
    with detector, Client(detector.port) as client:
        found = client.take(13)
        assert detector.wait(60)
    assert found == [HEADER, (1, 0), (1, 1), OVER, HEADER, (2, 0), (2, 1), (2, 2), OVER, HEADER, (3, 0), (3, 1), OVER]
    shapes = [json.loads(parts[1])["shape"] for parts in client.parts if len(parts) == 4]
    assert shapes == [[9, 8]] * 2 + [[6, 5]] * 3 + [[9, 8]] * 2
    assert all(one.closed for one in inputs)
    with pytest.raises(OutOfRangeError, match="at least one input"):
        Stream1Detector([])


def test_user_data_of_each_image():
    detector = Stream1Detector(Frames(), port=0, header_detail="none", user_data=raster_scan(4))
    with detector, Client(detector.port) as client:
        client.take(8)
    header, *parts, _ = client.parts
    assert len(header) == 1, "nothing is told with the header"
    told = [json.loads(each[4]) for each in parts]
    assert [one["position"] for one in told] == [[0, 0], [0.002, 0], [0.004, 0], [0.006, 0], [0, 0.002], [0.002, 0.002]]
    assert told[0]["monitor"] == 1_000_000 and min(one["monitor"] for one in told) > 950_000
    assert len({one["monitor"] for one in told}) == 6


# ---- the command -----------------------------------------------------------------------------------------------------


def simulate(protocol: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "framesieve.cli.main", "simulate", protocol, "--port", "0", "--rate", "0"]
    options = ["--shape", "64", "64", "--frames", "4", *arguments]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_misbehaves():
    with simulate("stream1", "--misbehave", "lost=1 duplicated=3", "--scan", "2") as process:
        address = process.stdout.readline().strip()
        with Client(int(address.rpartition(":")[2])) as client:
            assert client.take(6) == [HEADER, (1, 0), (1, 2), (1, 3), (1, 3), OVER]
            positions = [json.loads(parts[4])["position"] for parts in client.parts if len(parts) == 5]
        assert positions == [[0, 0], [0, 0.002], [0.002, 0.002], [0.002, 0.002]]
        assert process.wait(60) == 0


@pytest.mark.parametrize("protocol", ["stream1", "stream2"])
def test_a_word_that_the_command_does_not_know(protocol):
    with simulate(protocol, "--misbehave", "help") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and out == ""
    assert "'help': accepted are lost=3,7" in err and "Traceback" not in err
