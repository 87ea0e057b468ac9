"""slsDetector: valid messages, changed at random. No crash, one error each at most, and no growth of memory."""

import json
import re
import tracemalloc

import numpy as np
from framesieve.processing.frames import BrokenFrame, Frame, SeriesStart
from framesieve.sources.sls_series import SlsSeries
from hypothesis import given, settings
from hypothesis import strategies as st
from sls_helpers import END, feed, frame_of, module, series

ORIGINALS = [
    module(0, 0),
    module(1, 0),
    module(0, 1, addJsonHeader={"monitor": "1.5", "position": "[1, 2]"}),
    module(1, 1, flipRows=1),
    module(0, 0, fileIndex=2),
    module(1, 0, first=900),
    END,
]
#: values that a number or a text may be mistaken for
ODD = [b"null", b"-1", b"1e999", b"NaN", b"true", b"[]", b"{}", b'""', b"9" * 400, b'"\\ud800"', str(1 << 63).encode()]

mutation = st.tuples(
    st.integers(0, len(ORIGINALS) - 1),
    st.sampled_from(["bytes", "value", "value", "number", "cut", "drop", "twice", "swap", "none"]),
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), min_size=1, max_size=4),
    st.sampled_from(ODD),
    st.integers(0, 1),
)


def mutate(which: int, how: str, place: int, changes: list[tuple[int, int]], odd: bytes) -> list[bytes]:
    parts = list(ORIGINALS[which])
    place %= len(parts)
    if how == "bytes":
        data = bytearray(parts[place])
        for position, value in changes:
            data[position % len(data)] = value
        parts[place] = bytes(data)
    elif how in ("value", "number"):
        values = list(re.finditer(rb"(?<=: )(\[[^]]*\]|[^,}]+)", parts[0]))
        chosen = values[changes[0][0] % len(values)]
        value = odd if how == "value" else str(changes[-1][1]).encode()
        parts[0] = parts[0][: chosen.start()] + value + parts[0][chosen.end() :]
    elif how == "cut":
        parts[place] = parts[place][: changes[0][0] % (len(parts[place]) + 1)]
    elif how == "drop":
        del parts[place]
    elif how == "twice":
        parts.insert(place, parts[place])
    elif how == "swap":
        parts.reverse()
    return parts or [b""]


def check(events: list, target: SlsSeries) -> None:
    """Whatever came, events are as their users expect them."""
    for event in events:
        if isinstance(event, SeriesStart):
            json.dumps(event.metadata, allow_nan=False)
            event.series_id.encode()
        if isinstance(event, Frame):
            assert event.number >= 0
            event.payload.read_into(np.empty(event.payload.shape, event.payload.dtype))


@settings(max_examples=400, deadline=None)
@given(st.lists(mutation, min_size=1, max_size=25))
def test_mutated_messages_never_crash_and_cost_one_error_each(mutations):
    target, n_broken, now = series(), 0, 0.0
    for *how, receiver in mutations:
        now += 0.1
        events = feed(target, (receiver, mutate(*how)), now=now) + target.expire(now, [True, True])
        check(events, target)
        n_broken += sum(isinstance(event, BrokenFrame) for event in events)
    rest = target.expire(now + 1, [True, True])
    check(rest, target)
    assert n_broken + sum(isinstance(event, BrokenFrame) for event in rest) <= len(mutations)
    # and after all that a series is read as ever
    last = {"fileIndex": (1 << 63) - 1, "fname": "other"}
    events = feed(target, *frame_of(0, **last), *frame_of(1, **last), (0, END), (1, END), now=now + 2)
    events += target.expire(now + 3, [True, True])
    ours = [event for event in events if event.series_id == f"other_{last['fileIndex']}"]
    assert [type(event).__name__ for event in ours] == ["SeriesStart", "Frame", "Frame", "SeriesEnd"]
    assert [(event.number, event.note) for event in ours[1:3]] == [(0, ""), (1, "")]


def test_many_mutated_messages_cost_no_memory():
    rng = np.random.default_rng(5)
    target = series()
    kinds, reasons = ["bytes", "value", "number", "cut", "drop", "twice", "swap", "none"], set()
    tracemalloc.start()
    for round_ in range(5000):
        changes = [(int(p), int(v)) for p, v in zip(rng.integers(0, 600, 3), rng.integers(0, 256, 3), strict=True)]
        odd = ODD[rng.integers(len(ODD))]
        parts = mutate(round_ % len(ORIGINALS), kinds[rng.integers(len(kinds))], int(rng.integers(3)), changes, odd)
        events = feed(target, (int(rng.integers(2)), parts), now=round_ * 0.01)
        events += target.expire(round_ * 0.01, [True, True])
        reasons |= {re.sub(r"\d+", "0", event.reason) for event in events if isinstance(event, BrokenFrame)}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert len(reasons) > 20
