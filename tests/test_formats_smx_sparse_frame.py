"""The newest frame in one piece: every value where LImA2's clients look for it."""

import math
import struct

import numpy as np
import pytest
from framesieve.acquisition.overview import Overview
from framesieve.formats.smx_sparse_frame import encode
from framesieve.processing.bins import make_bins
from framesieve.processing.errors import OutOfRangeError
from framesieve.processing.frames import ReducedFrame, Verdict
from framesieve.processing.parameters import Parameters, ParameterSet
from smx_reader import read_smx

SHAPE = (3, 5)  # rows, columns
EMPTY = {"width": 0, "height": 0, "frame": 0, "index": [], "intensity": [], "mean": [], "std": []}


def frame(number=7, pixels=((1, 9), (4, 2**24), (14, 65535)), dtype=np.uint32, verdict=Verdict.KEPT):
    """`pixels`: (flat index, value) each; the last pixel of the last row has index 14."""
    index, intensity = np.array(pixels, np.int64).reshape(-1, 2).T
    mean, std = np.array([[1.5, math.nan, 3], [0.5, math.nan, 2]], np.float32)
    return ReducedFrame(
        number, "s", 0.0, verdict, index=index.astype(np.uint32), intensity=intensity.astype(dtype),
        background_mean=mean, background_std=std,
    )  # fmt: skip


def test_every_byte():
    """Written down by hand: 16 of the header, 2 × 4 per pixel, 2 × 4 per bin."""
    data = encode(frame(0x01020304, [(14, 1)]), SHAPE)
    nan = struct.pack("<f", math.nan)
    assert data == (
        b"\x05\x00" b"\x03\x00" b"\x03\x00\x00\x00" b"\x01\x00\x00\x00" b"\x04\x03\x02\x01"
        b"\x0e\x00\x00\x00" b"\x00\x00\x80\x3f"
        b"\x00\x00\xc0\x3f" + nan + b"\x00\x00\x40\x40" b"\x00\x00\x00\x3f" + nan + b"\x00\x00\x00\x40"
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint32", "int32", "float32"])
def test_known_pixels_come_back(dtype):
    found = read_smx(("SMX_SPARSE_FRAME", encode(frame(dtype=dtype), SHAPE)))
    assert (found["width"], found["height"], found["frame"]) == (5, 3, 7)
    assert (found["index"], found["intensity"]) == ([1, 4, 14], [9, 2**24, 65535])
    assert found["mean"][::2] == [1.5, 3] and found["std"][::2] == [0.5, 2]
    assert math.isnan(found["mean"][1]) and math.isnan(found["std"][1])


def test_a_frame_without_pixels_and_one_with_a_number_beyond_32_bits():
    found = read_smx(("SMX_SPARSE_FRAME", encode(frame(2**32 + 5, []), SHAPE)))
    assert (found["index"], found["intensity"], found["frame"], len(found["mean"])) == ([], [], 5, 3)


def test_a_detector_that_is_too_large_is_refused():
    encode(frame(), (65535, 65535))
    with pytest.raises(OutOfRangeError, match="65536"):
        encode(frame(), (3, 65536))


def test_the_newest_frame_is_encoded_once_and_only_when_somebody_asks(monkeypatch):
    made = []
    monkeypatch.setattr(
        "framesieve.formats.smx_sparse_frame.encode", lambda f, shape: (made.append(f.number), encode(f, shape))[1]
    )
    overview, parameters = Overview(), ParameterSet(1, Parameters())
    assert read_smx(overview.last_sparse_frame) == EMPTY
    overview.begin(make_bins(np.ones(SHAPE), 3), np.uint32)
    overview.add([], None)
    assert read_smx(overview.last_sparse_frame) == EMPTY
    for number in range(3):
        overview.add([frame(2 * number), frame(2 * number + 1, [(3, number)], verdict=Verdict.VETOED)], parameters)
    assert made == []
    for _ in range(3):
        found = read_smx(overview.last_sparse_frame)
        assert (found["frame"], found["index"], found["intensity"]) == (5, [3], [2])  # though it was vetoed
    overview.add([frame(6)], parameters)
    assert read_smx(overview.last_sparse_frame)["frame"] == 6 and made == [5, 6]
