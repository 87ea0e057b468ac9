"""Monitor and position of a frame, out of whatever the user sends."""

import json
import math

import pytest
from framesieve.sources.frame_facts import MAX_TEXT, facts_of

NAN = math.nan
CASES = [
    ({"monitor": 5, "position": [1, 2.5]}, (5, 1, 2.5)),
    ({"i0": 7.5}, (7.5, NAN, NAN)),
    ({"i0": 7.5, "monitor": 8}, (8, NAN, NAN)),
    ({"i0": 7.5, "monitor": "8"}, (8, NAN, NAN)),
    ({"position": (3, -4), "else": {"monitor": 1}}, (NAN, 3, -4)),
    ({"monitor": True, "position": [False, 1]}, (NAN, NAN, 1)),
    ({"monitor": math.inf, "position": [math.nan, -math.inf]}, (NAN, NAN, NAN)),
    ({"monitor": 10**400, "position": [1, 10**400]}, (NAN, 1, NAN)),
    ({"monitor": 0}, (0, NAN, NAN)),
    ({"position": [1]}, (NAN, NAN, NAN)),
    ({"position": [1, 2, 3]}, (NAN, NAN, NAN)),
    ({"position": "12"}, (NAN, NAN, NAN)),
    ({"position": {"x": 1, "y": 2}}, (NAN, NAN, NAN)),
    ({1: 2}, (NAN, NAN, NAN)),
    ([1, 2], (NAN, NAN, NAN)),
    (None, (NAN, NAN, NAN)),
    (5, (NAN, NAN, NAN)),
    ("", (NAN, NAN, NAN)),
    ("grün", (NAN, NAN, NAN)),
    (b"\xff\xfe", (NAN, NAN, NAN)),
    ("[" * 60_000, (NAN, NAN, NAN)),
    ('{"monitor": 1e999}', (NAN, NAN, NAN)),
    ('{"monitor": NaN, "position": [1, 2]}', (NAN, 1, 2)),
    ('{"monitor": 5}' + " " * MAX_TEXT, (NAN, NAN, NAN)),
]


def same(found, expected) -> bool:
    monitor, (x, y) = found
    return all(type(one) is float for one in (monitor, x, y)) and all(
        (math.isnan(one) and math.isnan(two)) or one == two for one, two in zip((monitor, x, y), expected, strict=True)
    )


@pytest.mark.parametrize("case", range(len(CASES)))
def test_facts(case):
    user_data, expected = CASES[case]
    assert same(facts_of(user_data), expected)


@pytest.mark.parametrize("kind", [str, str.encode, lambda text: memoryview(text.encode())])
def test_json_as_text_and_as_bytes(kind):
    text = json.dumps({"monitor": 5, "position": [1, 2.5]})
    assert same(facts_of(kind(text)), (5, 1, 2.5))
