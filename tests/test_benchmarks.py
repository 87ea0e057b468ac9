"""The benchmarks' arithmetic against made-up numbers, and `bench core` on small frames."""

from __future__ import annotations

import itertools
import json
import os
import struct
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyopencl as cl
import pytest
from framesieve.benchmarks import core, measuring, plots, roofline, stream, sweeps
from framesieve.benchmarks.measuring import LEAST, Spread, align, in_turn, ratio, timed, up_to
from framesieve.benchmarks.process_times import OTHERS, ThreadClock, resident_mb
from framesieve.benchmarks.standard import PARAMETERS, SHAPES, standard_bins, standard_frame
from framesieve.benchmarks.stream import stream_times
from framesieve.benchmarks.sweeps import Sizes
from framesieve.cli.main import main
from framesieve.processing.errors import ConfigurationError
from framesieve.processing.opencl import choose_device
from framesieve.processing.reducer import Reducer
from framesieve.processing.threads import inherited_name, start_thread

SMALL = Sizes(
    standard=(256, 250),
    standard_bins=60,
    shapes={"1": (128, 125), "4": (256, 250), "16": (512, 500)},
    bins=(20, 60, 200),
    cycles=(1, 2, 5),
    peaks=(0, 30),
    batches=(1, 2),
    copy=(1 << 16,),
)


# ---- arithmetic ----------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_pairs_not_the_ratio_of_the_medians():
    spread = ratio([10, 20, 30, 80, 5], [1, 2, 3, 4, 5])  # 10, 10, 10, 20, 1
    assert (spread.median, spread.low, spread.high, spread.n) == (10, 10, 10, 5)
    assert ratio([10, 40], [10, 10]) == Spread(2.5, 1.75, 3.25, 2)


def test_works_are_done_in_turn_every_second_round_in_reverse():
    calls = []
    times = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert "".join(calls) == "abbaab"
    assert len(times["a"]) == len(times["b"]) == 3


def test_what_takes_long_is_done_less_often_but_a_few_times(monkeypatch):
    every_second(monkeypatch, measuring)  # the numbers below: seconds, one of which passes before each look
    assert list(up_to(20)) == list(range(20))
    assert list(up_to(3, 0.5)) == [0, 1, 2]
    assert list(up_to(20, 0.5)) == list(range(LEAST))
    assert list(up_to(20, 3.5)) == list(range(LEAST + 3))
    assert len(in_turn({"a": lambda: None}, 20, 0.5)["a"]) == LEAST


def test_sleeping_takes_time_but_no_processor():
    sleeping = timed(lambda: time.sleep(0.2))
    assert sleeping.wall >= 0.2
    assert sleeping.processor < 0.2


def test_columns_of_numbers_end_below_each_other():
    assert align([["name", "ms"], ["a", "10.25"], ["longer", "1.5"]]) == [
        "name       ms",
        "a       10.25",
        "longer    1.5",
    ]


# ---- roofline ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item_size", "has_norm", "has_dark", "bytes_per_pixel"),
    [(2, False, False, 6), (4, False, False, 8), (4, True, False, 12), (2, True, True, 14)],
)
def test_the_bytes_that_must_be_moved(item_size, has_norm, has_dark, bytes_per_pixel):
    assert roofline.necessary_bytes(1000, item_size, has_norm=has_norm, has_dark=has_dark) == 1000 * bytes_per_pixel


def test_the_share_of_the_roofline():
    # 36 MB at 18 GB/s take 2 ms
    assert roofline.share(36_000_000, 18e9, 2e-3) == pytest.approx(1)
    assert roofline.share(36_000_000, 18e9, 8e-3) == pytest.approx(0.25)


def test_both_copy_kernels_copy_everything():
    device = choose_device("auto").device
    context = cl.Context([device])
    queue = cl.CommandQueue(context)
    numbers = np.random.default_rng(0).integers(0, 2**32, 4 * 6400, dtype=np.uint32)
    source = cl.Buffer(context, cl.mem_flags.COPY_HOST_PTR | cl.mem_flags.READ_ONLY, hostbuf=numbers)
    for kernel in cl.Program(context, roofline._COPY).build().all_kernels():
        items = 6400 if kernel.function_name == "copy_items" else roofline._RUNS
        out = np.zeros_like(numbers)
        target = cl.Buffer(context, cl.mem_flags.COPY_HOST_PTR | cl.mem_flags.READ_WRITE, hostbuf=out)
        kernel(queue, (items,), None, source, target, np.uint64(6400 // items))
        cl.enqueue_copy(queue, out, target)
        np.testing.assert_array_equal(out, numbers, err_msg=kernel.function_name)


def test_copy_speed_names_the_buffer_it_was_seen_with():
    speed = roofline.copy_speed(choose_device("auto"), (100_000, 300_000), repeats=2)
    assert speed.bytes_per_s > 0
    assert speed.size in (99_328, 299_008)  # whole vectors for every run: multiples of 16 × 64 bytes
    assert speed.kernel in ("copy_items", "copy_runs")


def every_second(monkeypatch, *modules) -> None:
    """Clocks that go on by one second whenever somebody looks at them."""
    clock = SimpleNamespace(perf_counter=itertools.count().__next__, process_time=itertools.count().__next__)
    for module in modules:
        monkeypatch.setattr(module, "time", clock)


def test_a_copy_counts_what_is_read_and_what_is_written(monkeypatch):
    every_second(monkeypatch, roofline)
    assert roofline.copy_speed(choose_device("auto"), (102_400,), repeats=2).bytes_per_s == 2 * 102_400


def test_on_a_processor_the_buffers_exceed_its_caches():
    device = choose_device("portable:")
    assert min(roofline._sizes(device)) >= 2 * roofline.last_cache(device) >= 16 << 20


# ---- the frame -----------------------------------------------------------------------------------------------


def test_the_standard_frame_holds_what_it_says():
    bins = standard_bins((400, 380), 100)
    empty, full = (standard_frame(bins, "uint32", peaks).astype(np.int64) for peaks in (0, 30))
    assert full.sum() - empty.sum() == 30 * (200 + 4 * 100)
    # air scatter far from the ring (0.184 of the standard's edges: at 92 pixels, 18 wide), ring on top of it
    radius = bins.radius_image / 75e-6
    assert empty[radius > 170].mean() == pytest.approx(20, abs=0.2)
    assert empty[np.abs(radius - 92.04) < 0.5].mean() == pytest.approx(120, rel=0.02)


def test_the_four_sizes_have_the_megapixels_of_their_names():
    for name, (rows, columns) in SHAPES.items():
        assert int(name) <= rows * columns / 1e6 < 1.2 * int(name)


# ---- core ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results() -> dict:
    return core.run("portable:", batches=3, batch_size=2, sweep=True, rounds=2, sizes=SMALL)


def test_core_fulfils_the_contract(results):
    assert isinstance(results["chain_ms"], float)
    assert results["chain_ms"] == results["frames"]["uint32"]["chain_ms"] > 0
    assert set(results["frames"]) == {"uint32", "uint16"}
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_core_tells_of_every_kernel_that_was_launched(results):
    reducer = Reducer(standard_bins((64, 64), 10), "uint32", choose_device("portable:"))
    try:
        known = set(reducer._chain._kernels)
    finally:
        reducer.close()
    for frame in results["frames"].values():
        assert frame["batches"] == 3
        assert set(frame["kernels_ms"]) <= known
        assert frame["kernels_sum_ms"] > 0
        assert frame["kernels_sum_ms"] == pytest.approx(sum(frame["kernels_ms"].values()), abs=0.01)


def test_the_stream_is_no_faster_than_the_kernels_allow(results):
    for frame in results["frames"].values():
        low, high = frame["stream_quartiles_ms"]
        assert 0 < low <= frame["stream_ms"] <= high
        assert frame["stream_frames_per_s"] == pytest.approx(1e3 / frame["stream_ms"], rel=0.01)


class TwoSlots:
    """Stands for a reducer: reads its input, clears it, and goes on when the other slot has been filled."""

    def __init__(self, batch_size: int) -> None:
        self.inputs = [np.zeros((batch_size, 8, 9), np.uint16) for _ in range(2)]
        self.reduced: list[tuple[int, list[int]]] = []  # slot, first pixel of each frame

    def put(self, slot: int, i: int, payload) -> None:
        payload.read_into(self.inputs[slot][i])

    def upload(self, slot: int, n: int) -> dict[int, str]:
        return {}

    def reduce(self, slot: int, n: int, parameters) -> None:
        inputs = self.inputs[slot]
        assert (inputs == inputs[:, :1, :1]).all()  # whole frames: nothing is being copied into it
        self.reduced.append((slot, inputs[:n, 0, 0].tolist()))
        deadline = time.monotonic() + 20
        while not self.inputs[1 - slot].all():
            assert time.monotonic() < deadline, "the other slot is not filled meanwhile"
            time.sleep(0.001)
        inputs[:] = 0


def test_one_slot_is_filled_while_the_other_is_reduced(monkeypatch):
    every_second(monkeypatch, stream)
    frames = np.empty((3, 8, 9), np.uint16)
    frames[:] = np.array([5, 6, 7])[:, None, None]
    reducer = TwoSlots(3)
    times = stream_times(reducer, frames, PARAMETERS, 4)
    assert reducer.reduced == [(slot, [5, 6, 7]) for _ in range(5) for slot in (0, 1)]
    assert times == [1 / 6] * 4  # each round took a second, for two batches of three frames


def test_a_stream_that_fails_says_so_and_leaves_no_thread():
    with pytest.raises(ValueError, match="broadcast"):
        stream_times(TwoSlots(2), np.ones((2, 3, 3), np.uint16), PARAMETERS, 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("fill", "framesieve-decode"))]


def test_times_of_a_sweep_are_those_of_one_frame(monkeypatch):
    every_second(monkeypatch, measuring)
    sweep = next(sweep for sweep in sweeps.sweeps(SMALL, 4) if sweep.name == "batch_size")
    times, _ = sweeps._measure(sweep, choose_device("auto"), 3)
    assert times == {"1": [1000.0] * 3, "2": [500.0] * 3}  # ms; every batch took a second


def test_the_roofline_of_core_is_that_of_its_numbers(results):
    for dtype, bytes_per_pixel in (("uint32", 8), ("uint16", 6)):
        frame = results["frames"][dtype]
        roof = frame["roofline"]
        assert roof["necessary_mb"] == pytest.approx(256 * 250 * bytes_per_pixel / 1e6, abs=0.05)
        milliseconds = 256 * 250 * bytes_per_pixel / results["copy"]["gb_per_s"] / 1e6
        assert roof["ms_at_copy_speed"] == pytest.approx(milliseconds, rel=0.02, abs=0.001)
        assert roof["share_of_chain"] == pytest.approx(milliseconds / frame["chain_ms"], rel=0.02, abs=1e-3)


def test_core_sweeps_over_everything(results):
    labels = {name: [case["label"] for case in sweep["cases"]] for name, sweep in results["sweeps"].items()}
    assert labels == {
        "cycles": ["1", "2", "5"],
        "bins": ["20", "60", "200"],
        "megapixels": ["1", "4", "16"],
        "dtype": ["uint16", "uint32"],
        "peaks": ["0", "30"],
        "surroundings": ["0", "9"],
        "batch_size": ["1", "2"],
    }
    assert {name: (r["above"], r["below"], r["limit"]) for name, r in results["ratios"].items()} == {
        "cycles": ("5", "1", 1.3),
        "bins": ("200", "20", 1.3),
        "megapixels": ("16", "4", 4.4),
    }
    none, some = (case["peaks"] for case in results["sweeps"]["peaks"]["cases"])
    assert none == 0 < some <= 30
    first, second = (case["pixels"] for case in results["sweeps"]["dtype"]["cases"])
    assert first == second > 0
    without, around = (case["pixels"] for case in results["sweeps"]["surroundings"]["cases"])
    assert 0 < without < around


def test_unless_told_only_the_ratios_are_measured():
    short = core.run("portable:", batches=1, batch_size=1, rounds=1, sizes=SMALL)
    labels = {name: [case["label"] for case in sweep["cases"]] for name, sweep in short["sweeps"].items()}
    assert labels == {"cycles": ["1", "5"], "bins": ["20", "200"], "megapixels": ["4", "16"]}
    for name, sweep in short["sweeps"].items():  # one round: the ratio is that of the two times
        below, above = (case["chain_ms"] for case in sweep["cases"])
        assert short["ratios"][name]["ratio"] == pytest.approx(above / below, rel=0.05)


def test_no_sweep_is_the_chain_alone(tmp_path):
    short = core.run("portable:", batches=1, batch_size=1, sweep=False, sizes=SMALL)
    assert short["sweeps"] == short["ratios"] == {} and short["chain_ms"] > 0
    plots.plot_core(short, tmp_path / "core.png")
    check_png(tmp_path / "core.png")


def test_the_table_of_core_has_the_numbers(results):
    text = core.table(results)
    assert f"stream: {results['frames']['uint16']['stream_ms']:.2f} ms" in text
    assert f"uint32: chain {results['chain_ms']:.2f} ms" in text
    assert "5 / 1: " in text and "GB/s" in text
    for name in results["frames"]["uint16"]["kernels_ms"]:
        assert name in text


def test_upload_is_measured():
    reducer = Reducer(standard_bins((64, 64), 10), "uint16", choose_device("portable:"), batch_size=2)
    try:
        upload = core.upload_times(reducer, 3)
    finally:
        reducer.close()
    assert upload["ms"] > 0 and upload["gb_per_s"] > 0


# ---- plots ---------------------------------------------------------------------------------------------------


def check_png(path: Path) -> None:
    """A PNG of sensible size with something on it."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert 800 <= width <= 2000 and 200 <= height <= 2000
    image = pytest.importorskip("matplotlib.image").imread(path)
    assert len(np.unique(image.reshape(-1, image.shape[-1]), axis=0)) > 10


def test_core_is_plotted(results, tmp_path):
    plots.plot_core(results, tmp_path / "core.png")
    check_png(tmp_path / "core.png")


def test_a_plot_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"plot\.txt.*\.png"):
        plots.check(tmp_path / "plot.txt")
    with pytest.raises(ConfigurationError, match=r"there is no folder .*nowhere"):
        plots.check(tmp_path / "nowhere" / "plot.png")
    assert plots.check(tmp_path / "plot.png") == tmp_path / "plot.png"
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ConfigurationError, match="pip install matplotlib"):
        plots.check(tmp_path / "plot.png")


# ---- threads -------------------------------------------------------------------------------------------------


def test_the_clock_counts_what_each_thread_used():
    used = {}

    def spin(seconds: float) -> None:
        begin = time.thread_time()
        while time.thread_time() - begin < seconds:
            pass
        used[seconds] = time.thread_time()
        waiting.wait(2)
        end.wait()

    waiting, end = threading.Barrier(3), threading.Event()
    clock = ThreadClock("this", threading.main_thread().native_id)
    threads = [start_thread(spin, "spinner", seconds) for seconds in (0.1, 0.3)]
    waiting.wait(60)
    clock.look()
    end.set()
    rows = {row["thread"]: row for row in clock.rows(2.0)}
    for thread in threads:
        thread.join()
    row = rows["spinner"]
    assert row["process"] == "this" and row["count"] == 2
    assert 2 * row["cpu_ms_per_s"] == pytest.approx(1e3 * sum(used.values()), abs=60)  # the system counts in 10 ms
    assert rows[OTHERS]["count"] >= 1  # the main thread


def test_threads_without_a_name_are_told_apart_from_those_with_one():
    end = threading.Event()
    clock = ThreadClock("this", os.getpid())

    def counts() -> dict[str, int]:
        clock.look()
        return {row["thread"]: row["count"] for row in clock.rows(1.0)}

    before = counts()
    with inherited_name("library"):
        inheriting = threading.Thread(target=end.wait, name="")
        inheriting.start()
    plain = threading.Thread(target=end.wait, name="")
    plain.start()
    after = counts()
    end.set()
    for thread in (inheriting, plain):
        thread.join()
    assert after["library"] == 1 and "library" not in before
    assert after[OTHERS] == before[OTHERS] + 1


def test_memory_of_this_process_grows_with_what_it_holds():
    before = resident_mb(threading.main_thread().native_id)
    held = np.ones(100_000_000, np.uint8)
    assert resident_mb(threading.main_thread().native_id) - before == pytest.approx(100, abs=20)
    del held


# ---- the command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["core", "--device", "9:9"], "9:9"),
        (["core", "--plot", "core.gif"], ".png"),
        (["core", "--batches", "0"], "--batches"),
        (["live", "--seconds", "0"], "--seconds 0"),
        (["live", "--rate", "-1"], "--rate -1"),
        (["live", "--hits", "101"], "--hits 101"),
        (["live", "--dtype", "complex1"], "--dtype complex1"),
        (["live", "--dtype", "float32"], "float32"),
        (["live", "--distinct", "0"], "--distinct 0"),
        (["live", "--output", "/nowhere/at/all"], "/nowhere/at/all"),
        (["peers", "--device", "nothing"], "PLATFORM:DEVICE"),
        (["peers", "--pairs", "0"], "--pairs"),
        (["sources", "--source", "tape"], "'tape'"),
        (["sources", "--seconds", "0"], "of 0 s"),
        (["fuzz", "--protocol", "stream3"], "'stream3'"),
        (["nothing"], "nothing"),
    ],
)
def test_unusable_arguments_are_one_line_and_status_2(arguments, expected, capfd):
    assert main(["bench", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("framesieve")]
    assert len(lines) == 1 and expected in lines[0]
    assert "Traceback" not in err
