"""Time things in turn, and say how much the times scatter.

A computer is shared, and its clock rate changes: two things timed one after the other may differ for no reason of
their own. So what is to be compared is timed in turn (A, B, B, A, A, B, …), a ratio is formed of each pair of
neighbours, and the median of these ratios is told with its quartiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..processing.errors import ConfigurationError
from ..processing.opencl import DeviceChoice, choose_devices

LEAST = 5  # times that a thing is repeated, however slow it is


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of `n` values."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Spread:
        low, median, high = np.percentile(values, [25, 50, 75])
        return cls(float(median), float(low), float(high), len(values))

    def quartiles(self, digits: int = 3) -> list[float]:
        return [round(self.low, digits), round(self.high, digits)]

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds of wall-clock time, and of processor time of all threads of this process."""

    wall: float
    processor: float


def timed(work: Callable[[], object]) -> Timed:
    processor, wall = time.process_time(), time.perf_counter()
    work()
    return Timed(time.perf_counter() - wall, time.process_time() - processor)


def up_to(times: int, seconds: float | None = None) -> Iterator[int]:
    """0, 1, 2 …: so many numbers; fewer, but not fewer than `LEAST`, where more than `seconds` pass between them."""
    begin = time.perf_counter() if seconds is not None else 0.0
    for number in range(times):
        if seconds is not None and number >= LEAST and time.perf_counter() - begin > seconds:
            return
        yield number


def in_turn(
    works: Mapping[str, Callable[[], object]], rounds: int, seconds: float | None = None
) -> dict[str, list[Timed]]:
    """Do all works in each of so many rounds (see `up_to`), in every second one in reverse order; the times of each,
    round by round."""
    times: dict[str, list[Timed]] = {name: [] for name in works}
    for number in up_to(rounds, seconds):
        for name in reversed(works) if number % 2 else works:
            times[name].append(timed(works[name]))
    return times


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The spread of above[i] / below[i], pairs that were measured one next to the other."""
    return Spread.of(np.asarray(above, float) / np.asarray(below, float))


def align(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of a table in plain text; the first `left` columns flush left, numbers flush right."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    return ["  ".join(_padded(row, widths, left)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    return [cell.ljust(widths[i]) if i < left else cell.rjust(widths[i]) for i, cell in enumerate(row)]


def one_device(choice: str) -> DeviceChoice:
    """The device of that name; a benchmark measures one at a time.

    Raises
    ------
    ConfigurationError
        It names several.
    """
    devices = choose_devices(choice)
    if len(devices) > 1:
        names = "; ".join(device.name for device in devices)
        raise ConfigurationError(f"device = {choice!r} means several, and one is measured at a time: {names}")
    return devices[0]
