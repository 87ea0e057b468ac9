"""The CBOR reader against cbor2, and against bytes that are no CBOR."""

import math

import cbor2
import pytest
from framesieve.sources import cbor
from hypothesis import given
from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**64), 2**64 - 1), st.floats(allow_nan=False), st.text(), st.binary()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(VALUES)
def test_reads_what_cbor2_writes(value):
    assert cbor.loads(cbor2.dumps(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_an_item_or_a_cbor_error(data):
    try:
        cbor.loads(data)
    except cbor.CborError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("hexadecimal", "value"),
    [
        ("f93c00", 1.0),  # half precision
        ("fa47c35000", 100000.0),
        ("f97c00", math.inf),
        ("9f0102ff", [1, 2]),  # indefinite length, as streaming encoders write
        ("bf616101ff", {"a": 1}),
        ("7f61616162ff", "ab"),
        ("5f42010243030405ff", bytes([1, 2, 3, 4, 5])),
        ("c11a514b67b0", cbor.Tagged(1, 1363896240)),
        ("f7", None),  # undefined
    ],
)
def test_less_usual_encodings(hexadecimal, value):
    assert cbor.loads(bytes.fromhex(hexadecimal)) == value


def test_byte_strings_are_views_into_the_message():
    message = cbor2.dumps({"pixels": bytes(1000)})
    pixels = cbor.loads(message)["pixels"]
    assert isinstance(pixels, memoryview)
    assert pixels.obj is message


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "truncated"),
        (b"\x82\x01", "truncated"),
        (b"\x5b\xff\xff\xff\xff\xff\xff\xff\xffab", "truncated"),  # 2**64 bytes announced
        (b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff\x01", "truncated"),  # 2**64 items announced
        (b"\x81" * 1000 + b"\x01", "nested deeper"),
        (b"\x9f" + b"\x01" * 70000 + b"\xff", "more than 65536 items"),
        (b"\x5f" + b"\x40" * 70000 + b"\xff", "more than 65536 items"),
        (b"\x01\x01", "left over"),
        (b"\xff", "break"),
        (b"\x81\xff", "break"),
        (b"\xa1\x61a\xff", "break"),
        (b"\xc1\xff", "break"),
        (b"\x61\xff", "UTF-8"),
        (b"\x1c", "reserved"),
        (b"\xf8\x20", "unknown simple value"),
        (b"\xa2\x61a\x01\x61a\x02", "twice"),
        (b"\xa1\x80\x01", "neither text nor integer"),
        (b"\x5f\x61aff", "something else"),
    ],
)
def test_what_is_wrong_is_said(data, text):
    with pytest.raises(cbor.CborError, match=text):
        cbor.loads(data)
