"""For tests of the pipeline: a scripted source, the real reducer on small frames, and a sink that remembers."""

import functools
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import oracles
import threads_before
from framesieve.processing.bins import make_bins
from framesieve.processing.errors import FrameError
from framesieve.processing.frames import ArrayPayload, Frame, SeriesEnd, SeriesStart, Verdict
from framesieve.processing.parameters import Parameters, ParameterStore
from framesieve.processing.pipeline import Pipeline
from framesieve.processing.reducer import Reducer

SHAPE = (40, 50)
DTYPE = np.dtype(np.uint16)
START = SeriesStart("a", SHAPE, DTYPE)
END = SeriesEnd("a")
PATIENCE = 20.0  # s; what takes longer hangs


@functools.cache
def bins():
    return make_bins(oracles.radius_image(SHAPE), 6)


def image(number: int) -> np.ndarray:
    """Every frame is another one; the odd ones have peaks."""
    rng = np.random.default_rng([7, number])
    frame = rng.poisson(20, SHAPE).astype(DTYPE)
    if number % 2:
        for y, x in np.argwhere(np.ones((5, 6))) * 7 + rng.integers(4, 7, 2):
            frame[y - 1 : y + 2, x - 1 : x + 2] += np.array([[40, 90, 40], [90, 400, 90], [40, 90, 40]], DTYPE)
    return frame


def frame(number: int, series: str = "a", pixels: np.ndarray | None = None) -> Frame:
    return Frame(number, series, ArrayPayload(image(number) if pixels is None else pixels), timestamp=100.0 + number)


def script(numbers, series: str = "a") -> list:
    return [SeriesStart(series, SHAPE, DTYPE), *(frame(n, series) for n in numbers), SeriesEnd(series)]


class Source:
    """Gives the events of a script. A function in it is called instead, before the next event; None means that nothing
    has come (yet); after the last one nothing comes any more."""

    def __init__(self, events, live: bool = True) -> None:
        self.live = live
        self._events = iter(events)

    def read(self, timeout: float):
        event = next(self._events, None)
        if callable(event):
            event()
            return self.read(timeout)
        if event is None:
            time.sleep(min(timeout, 0.01))
        return event


@dataclass
class Sink:
    """Remembers what it was told; `on_row` may raise or wait."""

    on_row: object = None
    rows: list = field(default_factory=list)
    told: list = field(default_factory=list)
    reducers: list = field(default_factory=list)
    idles: int = 0

    def begin(self, reducer) -> None:
        self.reducers.append(reducer)
        self.told.append("begin")

    def series(self, start) -> None:
        self.told.append(start)

    def problem(self, series_id, problem) -> None:
        self.told.append((series_id, problem))

    def deliver(self, rows, parameter_set, times) -> None:
        for row in rows:
            if self.on_row:
                self.on_row(row)
            if row.parameter_set:
                assert parameter_set.number == row.parameter_set and times.seconds > 0
            self.rows.append(row)
            self.told.append(row.number)

    def left_out(self, device, reason, others) -> None:
        self.told.append((device, reason, others))

    def idle(self) -> None:
        self.idles += 1

    def verdicts(self) -> dict[int, Verdict]:
        assert len({row.number for row in self.rows}) == len(self.rows), "one row per number"
        return {row.number: row.verdict for row in self.rows}


@functools.cache
def shared_reducer(batch_size: int = 4) -> Reducer:
    return Reducer(bins(), DTYPE, oracles.device(), batch_size=batch_size)


def make_reducers(start: SeriesStart) -> list[Reducer]:
    assert (start.shape, start.dtype) == (SHAPE, DTYPE)
    return [shared_reducer()]


def run(events, *, sink=None, store=None, live=True, make=make_reducers, expect_error=None, **options):
    """Run to the end; returns the sink. No thread may be left, and nothing may hang."""
    sink = sink or Sink()
    pipeline = Pipeline(Source(events, live), make, store or ParameterStore(), sink, **options)
    pipeline.start()
    ended = pipeline.join(PATIENCE)
    if not ended:
        pipeline.abort()
    assert ended, "the pipeline hangs"
    assert_no_threads()
    if expect_error is None:
        assert pipeline.error is None
    else:
        assert isinstance(pipeline.error, expect_error)
        sink.error = pipeline.error
    return sink


def assert_no_threads() -> None:
    """None that was not there before the test."""
    new = set(threading.enumerate()) - threads_before.BEFORE
    assert [thread.name for thread in new if thread.name.startswith("framesieve-")] == []


def reduced(number: int, parameters: Parameters | None = None):
    """What a second reducer makes of a frame."""
    reducer = second_reducer()
    reducer.inputs[0][0] = image(number)
    return reducer.reduce(0, 1, parameters or Parameters())[0]


@functools.cache
def second_reducer() -> Reducer:
    return Reducer(bins(), DTYPE, oracles.device(), batch_size=1)


def assert_result(row, expected) -> None:
    np.testing.assert_array_equal(row.index, expected.index)
    np.testing.assert_array_equal(row.intensity, expected.intensity)
    np.testing.assert_array_equal(row.background_mean, expected.mean)
    np.testing.assert_array_equal(row.background_std, expected.std)
    np.testing.assert_array_equal(row.peaks, expected.peaks)
    assert (row.n_pixels, row.n_peaks) == (expected.index.size, expected.n_peaks)


class Broken(ArrayPayload):
    """Pixels that cannot be decoded."""

    error: Exception = FrameError("the chunk is cut short")

    def read_into(self, out) -> None:
        raise self.error


class Moody:
    """A reducer that fails on frames which have `flag` as their first pixel, or always."""

    def __init__(self, flag: int | None, error: Exception) -> None:
        self._real, self._flag, self._error = shared_reducer(), flag, error
        self.bins, self.dtype, self.inputs = self._real.bins, self._real.dtype, self._real.inputs
        self.batch_size = self._real.batch_size
        self.put, self.upload, self.pixels = self._real.put, self._real.upload, self._real.pixels
        self.calls = 0

    @property
    def times(self):
        return self._real.times

    def reduce(self, slot, n, parameters):
        self.calls += 1
        if self._flag is None or (self.inputs[slot][:n, 0, 0] == self._flag).any():
            raise self._error
        return self._real.reduce(slot, n, parameters)


def started(events, sink=None, make=make_reducers, **options):
    sink = sink or Sink()
    live = options.pop("live", True)
    pipeline = Pipeline(Source(events, live), make, ParameterStore(), sink, **options)
    pipeline.start()
    return pipeline, sink


def wait_for(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
