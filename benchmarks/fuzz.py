"""Valid messages, changed at random, into the sources: `framesieve bench fuzz`.

Whatever a message holds, a source gives at most one frame or one error for it, raises nothing, takes its time and no
memory, and reads the next series as ever. A protocol is a row of `PROTOCOLS`.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..processing.errors import FrameError, OutOfRangeError
from ..processing.frames import ArrayPayload, BrokenFrame, Event, Frame, SeriesEnd, SeriesStart
from ..sources.data_array import parse_data_array
from ..sources.sls_series import SlsSeries
from ..sources.stream1 import Stream1Source
from ..sources.stream2 import Stream2Source
from . import fuzz_messages
from .fuzz_messages import SHAPE, Parts, mutate
from .measuring import align
from .process_times import resident_mb

#: processor time that a message may take, s
TIME_LIMIT = 2.0

#: a message that takes so much longer ends the program, with a traceback of where it hangs, s
HANG_LIMIT = 60.0

#: resident memory that may be added between a tenth of the messages and the end, MB
MEMORY_LIMIT = 16.0

#: share of messages made of recorded ones, which are large; and of those that are not changed at all
RECORDED_SHARE, WHOLE_SHARE = 0.002, 0.1

#: messages after which a source makes way for a new one, since after some nonsense (a series 10¹⁸, say) little else is
#: looked at; one message of `OLD_PERIOD` goes to a source that sees them all to the end
RENEWAL, OLD_PERIOD = 20, 10

#: messages between two looks at whether a good series is still read
CHECK_PERIOD = 5000

MAX_FAILURES = 10
MAX_REASONS = 10_000

LAST_SERIES = (1 << 62) - 1

Feed = Callable[[Parts], Iterable[Event]]


@dataclass(frozen=True)
class Protocol:
    """How a source is fuzzed.

    `valid` makes the messages that are changed, `recorded` those of real detectors, as far as they are at hand, and
    `series` a whole series of one image under a number that nothing else has, which gives the events `told`. `feeder`
    makes a function that hands a message to a source that has seen nothing yet, and gives its events.
    """

    valid: Callable[[], list[Parts]]
    series: Callable[[int], list[Parts]]
    feeder: Callable[[], Feed]
    recorded: Callable[[], list[Parts]] = list
    told: tuple[type, ...] = (SeriesStart, Frame, SeriesEnd)


def _feed_stream1() -> Feed:
    source = Stream1Source("localhost", 9999)
    return lambda parts: source.handle([memoryview(part) for part in parts])


def _feed_stream2() -> Feed:
    source = Stream2Source("localhost", 31001)
    return lambda parts: source.handle([memoryview(part) for part in parts])


def _feed_sls() -> Feed:
    series = SlsSeries(1, None, 0.5)
    return lambda parts: series.handle(0, [memoryview(part) for part in parts], time.monotonic())


def _feed_data_array() -> Feed:
    def feed(parts: Parts) -> list[Event]:
        try:
            answer = parse_data_array(parts[0][:40].decode("latin-1"), parts[1] if len(parts) > 1 else b"")
        except FrameError as error:
            return [BrokenFrame(-1, "", str(error))]
        pixels = np.ascontiguousarray(answer.pixels, answer.pixels.dtype.newbyteorder("="))
        return [Frame(0, "", ArrayPayload(pixels))]

    return feed


PROTOCOLS: dict[str, Protocol] = {
    "stream1": Protocol(
        fuzz_messages.stream1_valid, fuzz_messages.stream1_series, _feed_stream1, fuzz_messages.stream1_recorded
    ),
    "stream2": Protocol(
        fuzz_messages.stream2_valid, fuzz_messages.stream2_series, _feed_stream2, fuzz_messages.stream2_recorded
    ),
    "sls": Protocol(fuzz_messages.sls_valid, fuzz_messages.sls_series, _feed_sls),
    # what LImA and LImA2 answer through Tango
    "data_array": Protocol(
        fuzz_messages.data_array_valid, fuzz_messages.data_array_series, _feed_data_array, told=(Frame,)
    ),
}


@dataclass
class _Tally:
    """What came out so far."""

    events: Counter[str] = field(default_factory=Counter)
    reasons: set[str] = field(default_factory=set)
    slowest: float = 0.0
    failures: list[dict[str, Any]] = field(default_factory=list)
    n_failures: int = 0

    def fail(self, what: str, place: int, parts: Parts) -> None:
        self.n_failures += 1
        if len(self.failures) < MAX_FAILURES:
            message = [part[:300].hex() for part in parts]
            self.failures.append({"what": what[:300], "message": place, "first_bytes_of_parts": message})


def run(
    protocols: Sequence[str] = (),
    messages: int = 100_000,
    seed: int = 0,
    *,
    progress: Callable[[str], None] = lambda what: None,
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Feed so many changed messages to the source of each protocol (default: all): an object of plain values.

    Raises
    ------
    OutOfRangeError
        A protocol is not known, or there is no message.
    """
    for name in protocols:
        if name not in PROTOCOLS:
            raise OutOfRangeError(f"protocol {name!r}: accepted are {', '.join(PROTOCOLS)}")
    if messages < 1:
        raise OutOfRangeError(f"{messages} messages: at least 1 is accepted")
    logging.disable(logging.WARNING)  # each message may be worth one
    results = {
        name: fuzz(PROTOCOLS[name], messages, seed, lambda what, name=name: progress(f"{name}: {what}"), check_stop)
        for name in protocols or PROTOCOLS
    }
    logging.disable(logging.NOTSET)
    return {"seed": seed, "good": all(one["good"] for one in results.values()), "protocols": results}


def fuzz(
    protocol: Protocol,
    messages: int,
    seed: int,
    progress: Callable[[str], None] = lambda what: None,
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """One protocol; the same seed gives the same messages."""
    rng = random.Random(seed)
    valid, recorded = protocol.valid(), protocol.recorded()
    old, new, tally, out = protocol.feeder(), protocol.feeder(), _Tally(), np.empty(0, np.uint8)
    memory_at = max(messages // 10, 1)
    memory = [resident_mb(os.getpid())] * 2
    begin = time.perf_counter()
    for place in range(messages):
        if place % 1000 == 0:
            check_stop()
            faulthandler.dump_traceback_later(HANG_LIMIT, exit=True, file=sys.__stderr__)
        if place % CHECK_PERIOD == 0:
            progress(f"{place} of {messages} messages")
            _check_alive(protocol, old, tally, place)
        if place % RENEWAL == 0:
            new = protocol.feeder()
        parts = rng.choice(recorded if recorded and rng.random() < RECORDED_SHARE else valid)
        if rng.random() >= WHOLE_SHARE:
            parts = mutate(parts, valid, rng)
        out = _take(parts, new if place % OLD_PERIOD else old, tally, place, out)
        if place == memory_at:
            memory[0] = resident_mb(os.getpid())
    faulthandler.cancel_dump_traceback_later()
    seconds = time.perf_counter() - begin
    _check_alive(protocol, old, tally, messages)
    memory[1] = resident_mb(os.getpid())
    growth = memory[1] - memory[0]
    return {
        "messages": messages,
        "recorded": len(recorded),
        "seconds": round(seconds, 1),
        "messages_per_s": round(messages / seconds),
        "events": dict(sorted(tally.events.items())),
        "different_errors": len(tally.reasons),
        "slowest_ms": round(1e3 * tally.slowest, 2),
        "memory_mb": {"at_10_percent": round(memory[0], 1), "at_end": round(memory[1], 1)},
        "failures": tally.failures,
        "n_failures": tally.n_failures,
        "good": tally.n_failures == 0 and growth <= MEMORY_LIMIT,
    }


def _take(parts: Parts, feed: Feed, tally: _Tally, place: int, out: np.ndarray) -> np.ndarray:
    """Feed one message and look at what comes. Returns the buffer for pixels."""
    before = time.thread_time()  # not what other programs make it wait
    errors = 0
    try:
        events = list(feed(parts))
        for event in events:
            tally.events[type(event).__name__] += 1
            if isinstance(event, SeriesStart):
                json.dumps(event.metadata, allow_nan=False)
                if len(event.problems) > 2:
                    tally.fail(f"{len(event.problems)} problems of one start", place, parts)
            elif isinstance(event, BrokenFrame):
                errors += 1
                if len(tally.reasons) < MAX_REASONS:
                    tally.reasons.add(event.reason)
            elif isinstance(event, Frame):
                errors += 1
                if event.payload.shape == SHAPE:
                    out = _decode(event, tally, out)
        if not events:
            tally.events["nothing"] += 1
        if errors > 1:
            tally.fail(f"{errors} frames and errors of one message", place, parts)
    except Exception as error:
        tally.fail(f"{type(error).__name__}: {error}", place, parts)
    taken = time.thread_time() - before
    tally.slowest = max(tally.slowest, taken)
    if taken > TIME_LIMIT:
        tally.fail(f"took {taken:.1f} s", place, parts)
    return out


def _decode(frame: Frame, tally: _Tally, out: np.ndarray) -> np.ndarray:
    if (out.shape, out.dtype) != (frame.payload.shape, frame.payload.dtype):
        out = np.empty(frame.payload.shape, frame.payload.dtype)
    try:
        frame.payload.read_into(out)
        tally.events["decoded"] += 1
    except FrameError:
        tally.events["not decoded"] += 1
    return out


def _check_alive(protocol: Protocol, feed: Feed, tally: _Tally, place: int) -> None:
    """After all that, a series is read as ever."""
    series = protocol.series(LAST_SERIES - place)
    kinds = [type(event) for parts in series for event in feed(parts)]
    if tuple(kinds[-len(protocol.told) :]) != protocol.told:
        tally.fail(f"a good series gave {[kind.__name__ for kind in kinds]}", place, series[0])


def table(results: dict[str, Any]) -> str:
    """The same for people."""
    rows = [
        ["protocol", "messages", "per s", "frames", "decoded", "errors", "kinds", "slowest ms", "MB, 10 %", "MB, end"]
    ]
    for name, one in results["protocols"].items():
        events, memory = one["events"], one["memory_mb"]
        rows.append([
            name, str(one["messages"]), str(one["messages_per_s"]), str(events.get("Frame", 0)),
            str(events.get("decoded", 0)), str(events.get("BrokenFrame", 0)), str(one["different_errors"]),
            f"{one['slowest_ms']:.1f}", f"{memory['at_10_percent']:.0f}", f"{memory['at_end']:.0f}",
        ])  # fmt: skip
    lines = align(rows)
    for name, one in results["protocols"].items():
        lines += [f"{name}: {failure['what']} (message {failure['message']})" for failure in one["failures"]]
        growth = one["memory_mb"]["at_end"] - one["memory_mb"]["at_10_percent"]
        lines.append(f"{name}: {one['n_failures']} failures, memory {growth:+.1f} MB: {_verdict(one['good'])}")
    return "\n".join(lines)


def _verdict(good: bool) -> str:
    return "good" if good else "NOT GOOD"
