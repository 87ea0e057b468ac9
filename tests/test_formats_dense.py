"""Kept frames whole: lossless, one chunk per frame."""

from __future__ import annotations

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest
from downstream_rules import NXmx
from formats_helpers import SHAPE, reduced_frame, run_info
from framesieve.formats.dense_writer import DenseWriter
from framesieve.formats.info import describe
from framesieve.processing.frames import ArrayPayload
from framesieve.sources.payload import EncodedPayload


def dense_frames(count: int) -> list:
    rng = np.random.default_rng(3)
    frames = [reduced_frame(i) for i in range(count)]
    for frame in frames[::2]:
        frame.dense = ArrayPayload(rng.integers(0, 60_000, SHAPE).astype(np.uint16))
    return frames


def test_round_trip(tmp_path):
    frames = dense_frames(9)
    with DenseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append(frames[:4])
        writer.flush()
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["entry/data/frame_number"][()].tolist() == [0, 2]
        writer.append(frames[4:])
        assert writer.rows == 5
    with h5py.File(tmp_path / "a.h5") as file:
        data = file["entry/data/data"]
        assert data.shape == (5, *SHAPE)
        assert data.dtype == np.uint16
        assert data.chunks == (1, *SHAPE)
        assert list(data._filters) == ["32008"]
        assert file["entry/data/frame_number"][()].tolist() == [0, 2, 4, 6, 8]
        assert file["entry/data/timestamp"][1] == frames[2].timestamp
        for row, frame in enumerate(frames[::2]):
            assert np.array_equal(data[row], frame.dense.array)
        detector = file["entry/instrument/detector"]
        assert np.array_equal(detector["pixel_mask"], np.isnan(run_info().radius_image))
        assert detector["pixel_mask"].chunks is None
        assert file["entry/instrument/beam/incident_wavelength"][()] == pytest.approx(1.0)
    with fabio.open(str(tmp_path / "a.h5")) as image:
        assert np.array_equal(image.getframe(1).data, frames[2].dense.array)
    assert "5 whole frames of 90 × 110 pixels, uint16" in describe(tmp_path / "a.h5")


def test_other_shape_or_type_is_refused(tmp_path):
    frames = dense_frames(3)
    frames[2].dense = ArrayPayload(frames[2].dense.array[1:])
    with DenseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        with pytest.raises(ValueError, match="frame 2"):
            writer.append(frames)
        assert writer.rows == 0


def chunk_of(pixels: np.ndarray, **options) -> bytes:
    """As the HDF5 filters store it."""
    with h5py.File("filter", "w", driver="core", backing_store=False) as file:
        return file.create_dataset("x", data=pixels, chunks=pixels.shape, **options).id.read_direct_chunk((0, 0))[1]


def test_compressed_frames_are_stored_as_they_came(tmp_path):
    pixels = np.random.default_rng(4).poisson(3, SHAPE).astype(np.uint16)
    small_blocks, as_bytes = hdf5plugin.Bitshuffle(nelems=512, cname="lz4"), hdf5plugin.Bitshuffle(cname="lz4")
    as_received = chunk_of(pixels, **small_blocks)
    payloads = [
        (EncodedPayload(SHAPE, pixels.dtype, "bslz4", as_received), True),
        (EncodedPayload(SHAPE, pixels.dtype, "bslz4", memoryview(as_received), 2), True),
        # decoded and encoded anew: another byte order, other elements, another compression, none
        (EncodedPayload(SHAPE, np.dtype(">u2"), "bslz4", chunk_of(pixels.astype(">u2"), **small_blocks)), False),
        (EncodedPayload(SHAPE, pixels.dtype, "bslz4", chunk_of(pixels.view(np.uint8), **as_bytes), 1), False),
        (EncodedPayload(SHAPE, pixels.dtype, "lz4", chunk_of(pixels, **hdf5plugin.LZ4())), False),
        (EncodedPayload(SHAPE, pixels.dtype, "none", pixels.tobytes()), False),
        (ArrayPayload(pixels), False),
    ]
    frames = [reduced_frame(i) for i in range(len(payloads))]
    for frame, (payload, _) in zip(frames, payloads, strict=True):
        frame.dense = payload
    with DenseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append(frames)
    standard = chunk_of(pixels, **hdf5plugin.Bitshuffle(cname="lz4"))
    assert standard != as_received
    with h5py.File(tmp_path / "a.h5") as file:
        data = file["entry/data/data"]
        for row, (_, untouched) in enumerate(payloads):
            assert np.array_equal(data[row], pixels)
            stored = data.id.read_direct_chunk((row, 0, 0))[1]
            assert stored == (as_received if untouched else standard)


def test_it_is_nxmx(tmp_path):
    frames = dense_frames(3)
    with DenseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        writer.append(frames[:1])
        writer.flush()
        with h5py.File(tmp_path / "a.h5") as file:
            assert file["entry/instrument/detector/detectorSpecific/nimages"][()] == 1
        writer.append(frames[1:])
    reader = NXmx(tmp_path / "a.h5")
    assert len(reader.data) == 2 and reader.bits == 16 and reader.trusted == (0, 65534)
    np.testing.assert_allclose(reader.panels[0][0], [-4.5, -3, -100], atol=1e-9)
    assert np.array_equal(reader.image(1)[reader.good], frames[2].dense.array[reader.good])
    reader.close()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["entry/instrument/detector/detectorSpecific/nimages"][()] == 2
