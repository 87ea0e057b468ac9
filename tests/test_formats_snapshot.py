"""The file on disk goes from one complete state to the next, also if a commit is cut short anywhere."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from formats_helpers import SHAPE, check, reduced_frame, run_info
from framesieve.formats import snapshot_file
from framesieve.formats.dense_writer import DenseWriter
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.frames import ArrayPayload, Verdict
from framesieve.processing.parameters import Parameters, ParameterSet


def test_superblock_checksum_is_that_of_hdf5(tmp_path):
    for size in (1, 1000, 123_457):
        with h5py.File(tmp_path / "a.h5", "w", libver=("v110", "v110")) as file:
            file["x"] = np.zeros(size, np.uint8)
            file.flush()
            being_written = (tmp_path / "a.h5").read_bytes()[:48]
        finished = (tmp_path / "a.h5").read_bytes()[:48]
        length = (tmp_path / "a.h5").stat().st_size
        assert being_written[11] != 0
        assert snapshot_file.published_superblock(being_written, length) == finished
    with pytest.raises(ValueError, match="version 3"):
        snapshot_file.published_superblock(bytes(48), 1)


def append(writer: SparseWriter, number: int, count: int) -> int:
    """`count` frames of all verdicts; returns the next number."""
    writer.append([reduced_frame(i, Verdict(i % 6)) for i in range(number, number + count)])
    return number + count


class Replay:
    """Plays the writes of the last calls into a copy of the file, one by one."""

    def __init__(self, path, monkeypatch) -> None:
        self.path, self.copy = path, path.with_name("copy.h5")
        self.writes: list[tuple[int, bytes]] = []
        plain_write = snapshot_file._write_all

        def recording_write(fd, data, offset):
            self.writes.append((offset, bytes(data)))
            plain_write(fd, data, offset)

        monkeypatch.setattr(snapshot_file, "_write_all", recording_write)

    def start(self, writer) -> None:
        with open(self.path, "rb") as file, open(self.copy, "wb") as out:
            out.write(file.read(writer.bytes_written))
            out.truncate(self.path.stat().st_size)
        self.writes.clear()

    def prefixes(self):
        """The copy after each write."""
        with open(self.copy, "r+b", buffering=0) as out:
            out.truncate(self.path.stat().st_size)
            for offset, data in self.writes:
                out.seek(offset)
                out.write(data)
                yield self.copy


def test_every_prefix_of_a_commit_is_a_valid_file(tmp_path, monkeypatch):
    replay = Replay(tmp_path / "a.h5", monkeypatch)
    with SparseWriter(tmp_path / "a.h5") as writer:
        replay.start(writer)
        writer.begin(run_info())
        for copy in replay.prefixes():
            with h5py.File(copy) as file:
                file.visit(lambda name: None)
        number = append(writer, 0, 3)
        writer.add_parameter_set(ParameterSet(1, Parameters()), 0, 0.0)
        writer.flush()
        opened = 0
        # up to several blocks of chunk addresses; commits in between are not looked at
        for count in (1, 5, 40, 1, 300, 2, 500, 2):
            number = append(writer, number, 400)
            writer.flush()
            replay.start(writer)
            number = append(writer, number, count)
            writer.add_parameter_set(ParameterSet(count, Parameters()), number, 0.0)
            writer.flush()
            rows = [check(copy) for copy in replay.prefixes()]
            assert len(set(rows)) <= 2  # before and after, nothing in between
            opened += len(rows)
    assert opened > 100


def test_every_prefix_of_a_commit_of_whole_frames_is_a_valid_file(tmp_path, monkeypatch):
    replay = Replay(tmp_path / "a.h5", monkeypatch)
    with DenseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        for start in range(0, 60, 6):
            replay.start(writer)
            frames = [reduced_frame(i) for i in range(start, start + 6)]
            for frame in frames:
                frame.dense = ArrayPayload(np.full(SHAPE, frame.number, np.uint16))
            writer.append(frames)
            writer.flush()
            for copy in replay.prefixes():
                with h5py.File(copy) as file:
                    numbers = file["entry/data/frame_number"][()]
                    if len(numbers):
                        assert len(numbers) in (start, start + 6)
                        data = file["entry/data/data"]
                        assert (data[: len(numbers)] == numbers[:, None, None]).all()


def test_what_readers_may_be_reading_is_never_overwritten(tmp_path):
    path = tmp_path / "a.h5"
    names = ("index", "intensity", "background_avg", "background_std")

    def chunks() -> dict[tuple[int, int], bytes]:
        """Place → content of every compressed chunk that the file refers to."""
        with h5py.File(path) as file, open(path, "rb") as raw:
            places = []
            for dataset in [file["entry_0000/sparse_frames"][name] for name in names] + [file["entry_0000/ledger"]]:
                infos = [dataset.id.get_chunk_info(i) for i in range(dataset.id.get_num_chunks())]
                places += [(info.byte_offset, info.size) for info in infos]
            found = {}
            for place, size in places:
                raw.seek(place)
                found[place, size] = raw.read(size)
            return found

    with SparseWriter(path) as writer:
        writer.begin(run_info())
        number, before = 0, {}
        for _ in range(200):
            number = append(writer, number, 3)
            writer.flush()
            after = chunks()
            with open(path, "rb") as raw:
                for (place, size), content in before.items():
                    raw.seek(place)
                    assert raw.read(size) == content
            before = after


def test_a_reader_that_opened_the_file_early_can_go_on(tmp_path):
    with SparseWriter(tmp_path / "a.h5") as writer:
        writer.begin(run_info())
        number = append(writer, 0, 50)
        writer.flush()
        with h5py.File(tmp_path / "a.h5") as reader:
            number = append(writer, number, 1000)
            writer.flush()
            assert len(reader["entry_0000/ledger"][()]) >= 50
            assert len(reader["entry_0000/sparse_frames/index"][()]) > 0


def test_length_is_true_after_closing(tmp_path):
    path = tmp_path / "a.h5"
    with SparseWriter(path) as writer:
        writer.begin(run_info())
        append(writer, 0, 50)
        writer.flush()
        assert path.stat().st_size > 2 * writer.bytes_written
        assert path.stat().st_blocks * 512 < 2 * writer.bytes_written  # a hole
    assert path.stat().st_size == writer.bytes_written
    superblock = path.read_bytes()[:48]
    assert snapshot_file.published_superblock(superblock, writer.bytes_written) == superblock
    with h5py.File(path, "r+") as file:  # and can be added to
        file["note"] = "x"
    check(path)


def test_file_object_reads_what_is_held(tmp_path):
    with open(tmp_path / "x", "w+b", buffering=0) as raw:
        file = snapshot_file.SnapshotFile(raw.fileno())
        file.write(b"\x89HDF\r\n\x1a\n\x03" + bytes(39))
        file.write(b"abcdef")
        file.commit()
        file.seek(50)
        file.write(b"XY")
        file.seek(49)
        file.write(b"123")
        file.seek(-6, 2)
        assert file.read(10) == b"a123ef\0\0\0\0"
        raw.seek(48)
        assert raw.read(6) == b"abcdef"
        file.commit()
        raw.seek(48)
        assert raw.read(6) == b"a123ef"
