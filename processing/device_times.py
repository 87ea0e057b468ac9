"""How long a device takes for frames, by its own clock.

A driver writes down when a command began and ended only in a queue that is made for it, and there every command may
cost a little more. So batches go through such queues now and then only, and each of them stands for those before it
that did not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import NamedTuple

import pyopencl as cl

SAMPLE_PERIOD = 0.1  # s between two batches that are timed


class DeviceTimes(NamedTuple):
    """Times of frames, in seconds for all of them; several can be added up.

    `seconds` is the time from handing frames to the device until their results are there. The others are by the clock
    of the device, for `timed` frames: `upload` of what the host sends, `kernels`, `download` of the results. `untold`
    frames should have been timed, but the driver did not tell.
    """

    seconds: float = 0.0
    timed: float = 0.0
    upload: float = 0.0
    kernels: float = 0.0
    download: float = 0.0
    untold: float = 0.0

    def plus(self, other: DeviceTimes) -> DeviceTimes:
        """The times of both."""
        return DeviceTimes(*(a + b for a, b in zip(self, other, strict=True)))


class Sampler:
    """Says which batches are timed: the first one, then one in `SAMPLE_PERIOD`."""

    def __init__(self) -> None:
        self._next = 0.0  # of time.monotonic
        self._unseen = 0  # frames since the last batch that was timed

    def restart(self) -> None:
        """What comes now is new: the next batch is timed, and stands for itself."""
        self._next, self._unseen = 0.0, 0

    def is_due(self) -> bool:
        """Whether the batch that begins now is to be timed."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + SAMPLE_PERIOD
        return True

    def postpone(self) -> None:
        """The batch that was to be timed comes again: time the next one instead."""
        self._next = 0.0

    def skip(self, n: int) -> None:
        """A batch of `n` frames was not timed."""
        self._unseen += n

    def taken(
        self, n: int, upload: Iterable[cl.Event], kernels: Iterable[cl.Event], download: Iterable[cl.Event]
    ) -> DeviceTimes:
        """The times of a batch of `n` frames, from its commands, and of those that were skipped before it."""
        share = (n + self._unseen) / n
        self._unseen = 0
        times = [share * sum(map(duration, events)) for events in (upload, kernels, download)]
        if any(map(math.isnan, times)):
            return DeviceTimes(untold=share * n)
        return DeviceTimes(0.0, share * n, *times)


def duration(event: cl.Event) -> float:
    """Seconds from the begin to the end of a command that is complete; NaN where the driver does not tell."""
    info = cl.profiling_info
    try:
        return 1e-9 * (event.get_profiling_info(info.END) - event.get_profiling_info(info.START))
    except cl.Error:
        return float("nan")
