"""Chunks that are compressed in threads: what is read is what was appended, whatever the order of calls."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from formats_helpers import SHAPE, check, reduced_frame, run_info
from framesieve.formats import chunks, layout
from framesieve.formats.dense_writer import DenseWriter
from framesieve.formats.hdf5_writer import Hdf5Writer
from framesieve.formats.sparse_writer import PIXELS_PER_CHUNK, SparseWriter
from framesieve.processing import bitshuffle
from framesieve.processing.errors import HardwareError
from framesieve.processing.frames import ArrayPayload, Verdict
from hypothesis import given, settings
from hypothesis import strategies as st

PIXEL_DTYPES = ["uint8", "uint16", "uint32", "int16", "int32", "float32"]
WIDTH, WIDEST = 6, 18


class Tables(Hdf5Writer):
    """One dataset of every kind, in chunks of a few rows."""

    def __init__(self, path: Path, dtype: str, rows_per_chunk: int) -> None:
        self.kinds = {
            "list": ((), np.dtype(dtype), chunks.PIXELS),
            "rows": ((5,), np.dtype(dtype), chunks.PIXELS),
            "wide": ((WIDTH,), np.dtype(dtype), chunks.PIXELS),
            "plain": ((), np.dtype(dtype), None),
            "table": ((), layout.LEDGER_DTYPE, chunks.TABLE),
        }
        self.rows_per_chunk = rows_per_chunk
        self.width = WIDTH
        super().__init__(path)

    def _write_fixed(self, info) -> None:
        self.tables = {
            name: self._create_growing(
                self._h5, name, dtype, tail, self.rows_per_chunk, codec, WIDEST if name == "wide" else None
            )
            for name, (tail, dtype, codec) in self.kinds.items()
        }

    def new_rows(self, name: str, count: int, rng: np.random.Generator) -> np.ndarray:
        tail, dtype, _ = self.kinds[name]
        if name == "wide":
            tail = (self.width,)
        if name != "table":
            return rng.integers(0, 100, (count, *tail)).astype(dtype)
        rows = np.zeros(count, dtype)
        rows["frame"] = rng.integers(0, 1 << 40, count)
        rows["reason"] = b"because"
        return rows

    def append(self, name: str, rows: np.ndarray) -> None:
        with self._writing():
            self.tables[name].append(rows)
            self._pending = True


def assert_holds(path: Path, expected: dict[str, list[np.ndarray]]) -> None:
    with h5py.File(path) as file:
        for name, pieces in expected.items():
            data = file[name][()]
            start = 0
            for piece in pieces:
                read = data[start : start + len(piece)]
                if name == "wide":
                    assert not read[:, piece.shape[1] :].any()
                    read = read[:, : piece.shape[1]]
                assert np.array_equal(read, piece), name
                start += len(piece)
            assert start == len(data), name


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["list", "rows", "wide", "plain", "table"]), st.integers(0, 11)),
        st.sampled_from(["flush", "widen"]),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, dtype=st.sampled_from(PIXEL_DTYPES), rows_per_chunk=st.integers(1, 5), seed=st.integers(0, 99))
def test_any_order_of_calls(steps, dtype, rows_per_chunk, seed):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.h5"
        writer = Tables(path, dtype, rows_per_chunk)
        expected: dict[str, list[np.ndarray]] = {name: [] for name in writer.kinds}
        with writer:
            writer.begin(run_info())
            for step in steps:
                if step == "flush":
                    writer.flush()
                    assert_holds(path, expected)
                elif step == "widen":
                    writer.width = min(writer.width + WIDTH, WIDEST)
                else:
                    rows = writer.new_rows(*step, rng)
                    writer.append(step[0], rows)
                    if len(rows):
                        expected[step[0]].append(rows.copy())
                    rows[...] = np.ones((), rows.dtype)  # the caller may use its memory again
        assert_holds(path, expected)


@pytest.mark.parametrize("dtype", PIXEL_DTYPES)
def test_frames_around_the_edges_of_chunks(tmp_path, dtype):
    """Pixels of one chunk, one less, one more; committed after every frame or never."""
    shape = (400, 400)
    info = run_info(dtype)
    info.shape, info.radius_image = shape, np.full(shape, 0.001, np.float32)
    rng = np.random.default_rng(2)
    frames = []
    for number, size in enumerate([PIXELS_PER_CHUNK - 1, 1, PIXELS_PER_CHUNK, PIXELS_PER_CHUNK + 1, 0, 100_000, 1]):
        frame = reduced_frame(number, dtype="uint8")
        frame.index = np.sort(rng.choice(shape[0] * shape[1], size, replace=False)).astype(np.uint32)
        frame.intensity = rng.integers(0, 120, size).astype(dtype)
        frame.n_pixels = size
        frames.append(frame)
    for name in ("once", "often"):
        with SparseWriter(tmp_path / name) as writer:
            writer.begin(info)
            for frame in frames:
                writer.append([frame])
                if name == "often":
                    writer.flush()
        with h5py.File(tmp_path / name) as file:
            sparse = file["entry_0000/sparse_frames"]
            assert np.array_equal(sparse["index"], np.concatenate([frame.index for frame in frames]))
            assert np.array_equal(sparse["intensity"], np.concatenate([frame.intensity for frame in frames]))
            assert sparse["frame_ptr"][()].tolist() == np.cumsum([0, *(f.n_pixels for f in frames)]).tolist()


def test_chunks_are_written_in_order_and_few_are_in_flight():
    queue, written = chunks.ChunkQueue(), []
    for number in range(40):

        def encode(number: int = number) -> list[bytes]:
            time.sleep(0.02 if number % 7 == 0 else 0.0)
            return [bytes([number])]

        queue.put(encode, written.extend)
        assert number + 1 - len(written) <= chunks.IN_FLIGHT
    queue.drain()
    assert written == [bytes([number]) for number in range(40)]


def test_compression_runs_beside_the_caller():
    """Two chunks that wait for each other: done one after the other, they would never be."""
    if chunks.THREADS < 2:
        pytest.skip("one core")
    meeting = threading.Barrier(2, timeout=60)
    queue, written = chunks.ChunkQueue(), []
    for _ in range(2):
        queue.put(lambda: [bytes(meeting.wait() >= 0)], written.extend)
    queue.drain()
    assert len(written) == 2


def failing_encode(array):
    raise MemoryError("no room for a chunk")


@pytest.mark.parametrize("told_by", ["append", "flush", "close"])
def test_a_chunk_that_cannot_be_compressed(tmp_path, monkeypatch, told_by):
    path = tmp_path / "a.h5"
    writer = SparseWriter(path)
    writer.begin(run_info())
    writer.append([reduced_frame(i, Verdict(i % 6)) for i in range(100)])
    writer.flush()
    before = check(path)
    # another codec for a table that exists already: as if the library ran out of memory from now on
    monkeypatch.setattr(writer._index, "_codec", chunks.Codec({}, failing_encode))
    with pytest.raises(HardwareError, match=r"a\.h5: a chunk cannot be compressed: no room for a chunk"):
        for number in range(100, 1000 if told_by == "append" else 110):
            writer.append([reduced_frame(number)])
        getattr(writer, told_by)()
    if told_by != "close":
        with pytest.raises(HardwareError, match="no room"):
            writer.append([reduced_frame(110)])
    writer.close()
    assert check(path) == before


def test_a_whole_frame_that_cannot_be_compressed(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    frames = [reduced_frame(i) for i in range(4)]
    for frame in frames:
        frame.dense = ArrayPayload(np.full(SHAPE, frame.number, np.uint16))
    writer = DenseWriter(path)
    writer.begin(run_info())
    writer.append(frames[:2])
    writer.flush()

    class OutOfMemory:
        bshuf_default_block_size = staticmethod(lambda size: 4096)
        bshuf_compress_lz4_bound = staticmethod(lambda *_: 100)
        bshuf_compress_lz4 = staticmethod(lambda *_: -1)

    monkeypatch.setattr(bitshuffle, "_library", OutOfMemory)
    with pytest.raises(HardwareError, match="cannot be compressed"):
        writer.append(frames[2:])
        writer.flush()
    writer.close()
    with h5py.File(path) as file:
        assert file["entry/data/frame_number"][()].tolist() == [0, 1]
        assert (file["entry/data/data"][1] == 1).all()
