"""`bench sources`: what is counted is what was decoded; and the command on small frames."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading

import numpy as np
import pytest
from framesieve.benchmarks import sources
from framesieve.benchmarks.sources import SOURCES, Load
from framesieve.processing.errors import CommunicationError, FrameError, OutOfRangeError
from framesieve.processing.frames import ArrayPayload, BrokenFrame, Frame
from framesieve.processing.threads import Crew
from framesieve.simulators.diffraction import StillSimulator
from framesieve.simulators.frame_inputs import SimulatedInput
from test_benchmarks import check_png

SHAPE = (256, 320)


class Counted(ArrayPayload):
    """Knows how often it was decoded."""

    decoded = 0

    def read_into(self, out) -> None:
        Counted.decoded += 1
        super().read_into(out)


def test_what_is_counted_is_decoded():
    ring: queue.Queue = queue.Queue(8)
    enough = threading.Event()
    pixels = np.ones((10, 20), np.uint16)

    def send() -> None:
        while not enough.is_set():
            with contextlib.suppress(queue.Full):
                ring.put(Frame(0, "a", Counted(pixels, 55)), timeout=0.05)

    sender, crew = threading.Thread(target=send), Crew(2, "decode")
    sender.start()
    try:
        Counted.decoded = 0
        count, raw, stored, seconds = sources._consume(ring, crew, 0.2, lambda: None)
    finally:
        enough.set()
        sender.join()
        crew.close()
    assert count == Counted.decoded > 8
    assert (raw, stored) == (count * 400, count * 55)
    assert seconds >= 0.2


def test_a_detector_that_has_ended_is_not_waited_for():
    def check() -> None:
        raise CommunicationError("the detector has ended")

    with pytest.raises(CommunicationError, match="the detector has ended"):
        sources._next(queue.Queue(), check)


def test_a_frame_that_is_broken_ends_it():
    class Source:
        live = True

        def read(self, timeout):
            return BrokenFrame(7, "a", "cut short")

    receiver, crew = sources._Receiver(Source()), Crew(1, "decode")
    with pytest.raises(Exception, match="frame 7: cut short"):
        sources._consume(receiver.ring, crew, 5.0, lambda: None)
    receiver.close()

    class Bad(ArrayPayload):
        def read_into(self, out):
            raise FrameError("cut short")

    ring: queue.Queue = queue.Queue()
    ring.put(Frame(0, "a", Bad(np.ones((2, 2), np.uint16))))
    with pytest.raises(FrameError):
        sources._consume(ring, crew, 5.0, lambda: None)


@pytest.mark.parametrize("change", [{"seconds": 0}, {"seconds": float("inf")}, {"rounds": 0}, {"sources": ["tape"]}])
def test_arguments_that_make_no_sense(change):
    with pytest.raises(OutOfRangeError):
        sources.run(**change)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    """Of the command itself, which prints one JSON object and nothing else."""
    folder, plot = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("plot") / "sources.png"
    command = [sys.executable, "-m", "framesieve.cli.main", "bench", "sources", "--json", "--seconds", "0.3"]
    command += ["--rounds", "2", "--shape", *map(str, SHAPE), "--output", str(folder), "--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []  # nothing is left behind
    check_png(plot)
    return json.loads(done.stdout)


def test_every_source_and_pixel_type_is_measured(results):
    rows = results["sources"]
    assert [(row["source"], row["dtype"]) for row in rows] == [(s, d) for s in SOURCES for d in ("uint16", "uint32")]
    for row in rows:
        low, high = row["gb_per_s_quartiles"]
        assert 0 < low <= row["gb_per_s"] <= high
        # two ways to say the same: frames of so many bytes each
        frame_bytes = SHAPE[0] * SHAPE[1] * np.dtype(row["dtype"]).itemsize
        assert row["gb_per_s"] == pytest.approx(row["frames_per_s"] * frame_bytes * 1e-9, rel=0.02, abs=1e-3)
        cost = row["cpu_ms_per_frame"]
        assert row["gb_per_cpu_s"] == pytest.approx(1e-6 * frame_bytes / sum(cost.values()), rel=0.1)
        assert cost["receive"] > 0 and cost["decode"] > 0
        assert (cost["sender"] > 0) == (row["source"] != "file")


def test_bytes_are_those_of_the_frames(results):
    """The frames are compressed as they would be beforehand."""
    for dtype in ("uint16", "uint32"):
        load = Load(dtype, SHAPE)
        simulator = StillSimulator(
            SHAPE, hit_share=load.hits / 100, n_frames=load.distinct, seed=load.seed, dtype=dtype
        )
        frames = SimulatedInput(simulator, load.distinct)
        mean = np.mean([len(frames.encoded(i, "bslz4")) for i in range(load.distinct)])
        ratio = SHAPE[0] * SHAPE[1] * np.dtype(dtype).itemsize / mean
        for row in results["sources"]:
            if row["dtype"] == dtype:
                expected = 1.0 if row["source"] == "sls" else ratio  # receivers do not compress
                assert row["ratio"] == pytest.approx(expected, rel=0.02), row["source"]


def test_the_table_has_the_numbers(results):
    lines = [" ".join(line.split()) for line in sources.table(results).splitlines()]
    for row in results["sources"]:
        wanted = results["wanted_gb_per_s"].get(row["source"])
        (line,) = [line for line in lines if line.startswith(f"{row['source']} {row['dtype']} {row['gb_per_s']:.2f} ")]
        assert line.endswith("yes" if row["gb_per_s"] >= wanted else "NO") if wanted else "wanted" not in line
