"""Stream v1: valid messages, changed at random. No crash, one event each at most, and no growth of memory."""

import contextlib
import json
import re
import tracemalloc

import numpy as np
from framesieve.processing.errors import FrameError
from framesieve.processing.frames import BrokenFrame, Frame, SeriesEnd, SeriesStart
from framesieve.sources.stream1 import Stream1Source
from hypothesis import given, settings
from hypothesis import strategies as st
from sources_helpers import random_pixels
from stream1_helpers import end, feed, header, image

PIXELS = random_pixels("uint16")
GOOD = image(3, PIXELS, encoding="bs16-lz4<")
ORIGINALS = [
    header(1),
    header(2, "all", b"appendix"),
    GOOD,
    image(4, PIXELS, encoding="lz4<", appendix=b"{}"),
    image(5, PIXELS, 2),
    end(),
]
#: values that a number or a text may be mistaken for
ODD = [b"null", b"-1", b"1e999", b"NaN", b"true", b"[]", b"{}", b'""', b"9" * 400, b'"\\ud800"', str(1 << 63).encode()]

mutation = st.tuples(
    st.integers(0, len(ORIGINALS) - 1),
    st.sampled_from(["bytes", "value", "cut", "drop", "twice", "swap"]),
    st.integers(0, 8),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from(ODD),
)


def mutate(which: int, how: str, place: int, changes: list[tuple[int, int]], odd: bytes) -> list[bytes]:
    parts = list(ORIGINALS[which])
    place %= len(parts)
    if how == "bytes":
        data = bytearray(parts[place])
        for position, value in changes:
            data[position % len(data)] = value
        parts[place] = bytes(data)
    elif how == "value":
        values = list(re.finditer(rb"(?<=: )[^,}]+", parts[place]))
        if values:
            chosen = values[changes[0][0] % len(values)]
            parts[place] = parts[place][: chosen.start()] + odd + parts[place][chosen.end() :]
    elif how == "cut":
        parts[place] = parts[place][: changes[0][0] % (len(parts[place]) + 1)]
    elif how == "drop":
        del parts[place]
    elif how == "twice":
        parts.insert(place, parts[place])
    else:
        other = changes[0][0] % len(parts)
        parts[place], parts[other] = parts[other], parts[place]
    return parts or [b""]


@settings(max_examples=300, deadline=None)
@given(st.lists(mutation, min_size=1, max_size=10))
def test_mutated_messages_never_crash_and_cost_one_event_each(mutations):
    source = Stream1Source("localhost", 9999)
    out = np.empty(PIXELS.shape, PIXELS.dtype)
    for one in mutations:
        events = feed(source, mutate(*one))
        assert sum(isinstance(event, Frame | BrokenFrame) for event in events) <= 1
        for event in events:
            if isinstance(event, SeriesStart):
                json.dumps(event.metadata, allow_nan=False)
                for name in ("pixel_mask", "flatfield"):
                    with contextlib.suppress(FrameError):
                        getattr(source, name)
            if isinstance(event, Frame) and (event.payload.shape, event.payload.dtype) == (out.shape, out.dtype):
                with contextlib.suppress(FrameError):
                    event.payload.read_into(out)
    # and after all that a series is read as ever
    last = (1 << 63) - 1
    events = feed(source, header(last), image(0, PIXELS, last), end(last))
    assert [type(event) for event in events[-3:]] == [SeriesStart, Frame, SeriesEnd]


def test_many_mutated_messages_cost_no_memory():
    rng = np.random.default_rng(5)
    source = Stream1Source("localhost", 9999)
    kinds, reasons = ["bytes", "value", "cut", "drop", "twice", "swap"], set()
    tracemalloc.start()
    for round_ in range(3000):
        changes = [(int(p), int(v)) for p, v in zip(rng.integers(0, 600, 3), rng.integers(0, 256, 3), strict=True)]
        odd = ODD[rng.integers(len(ODD))]
        parts = mutate(round_ % len(ORIGINALS), kinds[rng.integers(6)], int(rng.integers(9)), changes, odd)
        reasons |= {event.reason for event in feed(source, parts) if isinstance(event, BrokenFrame)}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert len(reasons) > 50
