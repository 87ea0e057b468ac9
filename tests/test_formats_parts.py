"""Files of so many frames and the master that joins them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fabio
import formats_helpers
import h5py
import numpy as np
import pytest
from formats_helpers import SHAPE, check, reduced_frame, run_info
from framesieve.formats import snapshot_file
from framesieve.formats.dense_writer import DenseWriter
from framesieve.formats.parted_writer import PartedDenseWriter, PartedSparseWriter, check_parts, part_path
from framesieve.formats.sparse_reader import SparseFile
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.errors import ConfigurationError, HardwareError
from framesieve.processing.frames import ArrayPayload, Verdict
from framesieve.processing.parameters import Parameters, ParameterSet
from test_formats_snapshot import Replay

KILLS = int(os.environ.get("FRAMESIEVE_KILLS", "5"))


def frames(first: int, count: int) -> list:
    """Two of six are saved."""
    return [reduced_frame(number, Verdict(number % 6)) for number in range(first, first + count)]


def write(writer, count: int, at_once: int = 7) -> None:
    writer.begin(run_info())
    for first in range(0, count, at_once):
        if first in (0, 10 * at_once):
            writer.add_parameter_set(ParameterSet(1 + first, Parameters(snr_pick=3.0 + first)), first, 1.7e9)
        writer.append(frames(first, min(at_once, count - first)))
        if first % 3 == 0:
            writer.flush()
    writer.close()


def saved_numbers(count: int) -> list[int]:
    return [number for number in range(count) if Verdict(number % 6).is_saved]


@pytest.mark.parametrize("frames_per_file, parts", [(3, 23), (66, 2), (67, 1), (1000, 1)])
def test_parts_and_master(tmp_path, frames_per_file, parts):
    master = tmp_path / "a.h5"
    write(PartedSparseWriter(master, frames_per_file), 200)
    write(SparseWriter(tmp_path / "whole.h5"), 200)
    names = [part_path(master, number).name for number in range(1, parts + 1)]
    assert sorted(path.name for path in tmp_path.glob("a*")) == ["a.h5", *names]
    assert names[0] == "a_000001.h5"
    assert check(master) == 67

    ledger = []
    expected = iter(saved_numbers(200))
    for number, name in enumerate(names):
        with SparseFile(tmp_path / name) as part:
            assert len(part) == min(frames_per_file, 67 - number * frames_per_file)
            for row in range(len(part)):
                frame, known = part.frame(row), reduced_frame(next(expected))
                assert frame.number == known.number
                assert np.array_equal(frame.index, known.index)
                assert np.array_equal(frame.intensity, known.intensity)
                assert np.array_equal(frame.peaks, known.peaks)
            ledger += part.ledger["frame"].tolist()
            used = set(part.ledger["parameter_set"]) - {0}
            assert used <= {1} and {one.parameter_set.number for one in part.parameter_sets} <= {1, 71}
            assert len(part.parameter_sets) >= 1
            assert part.h5["entry_0000/geometry/poni"][()]
    assert next(expected, None) is None
    assert ledger == list(range(200)), "every frame number in exactly one part, in order"

    with h5py.File(master) as joined, h5py.File(tmp_path / "whole.h5") as whole:
        assert joined["entry_0000/parts"]["file"].tolist() == [name.encode() for name in names]
        assert joined["entry_0000/parts"]["first_row"].tolist() == [k * frames_per_file for k in range(parts)]
        for path in ("entry_0000/ledger", "entry_0000/parameter_sets"):
            assert np.array_equal(joined[path][()], whole[path][()]) or path.endswith("ledger")
        for group in ("entry_0000/sparse_frames", "entry_1/result_1"):
            assert set(joined[group]) == set(whole[group])
            for name, dataset in whole[group].items():
                found = joined[group][name]
                assert found.dtype == dataset.dtype and found.shape == dataset.shape
                np.testing.assert_array_equal(found[()], dataset[()], err_msg=name)
        assert joined["entry_0000/sparse_frames/index"].attrs["long_name"].startswith("flat pixel index")
    with SparseFile(master) as joined, SparseFile(tmp_path / "whole.h5") as whole:
        for row in range(67):
            assert np.array_equal(joined.densify(row), whole.densify(row))


def test_other_programs_open_the_master(tmp_path):
    write(PartedSparseWriter(tmp_path / "a.h5", 10), 100)
    write(SparseWriter(tmp_path / "whole.h5"), 100)
    with fabio.open(str(tmp_path / "a.h5")) as master, fabio.open(str(tmp_path / "whole.h5")) as whole:
        assert master.nframes == whole.nframes == len(saved_numbers(100))
        for row in range(master.nframes):
            assert np.array_equal(master.get_frame(row).data, whole.get_frame(row).data)
    silx = pytest.importorskip("silx.io")
    with silx.open(str(tmp_path / "a.h5")) as master:
        last = reduced_frame(saved_numbers(100)[-1])
        assert np.array_equal(master["/entry_0000/sparse_frames/index"][-last.n_pixels :], last.index)


def test_the_files_can_be_moved_together(tmp_path, monkeypatch):
    (tmp_path / "before").mkdir()
    write(PartedSparseWriter(tmp_path / "before" / "50%b d%d.h5", 10), 100)  # HDF5 has a meaning for %b
    (tmp_path / "before").rename(tmp_path / "after")
    monkeypatch.chdir(tmp_path)
    assert check(Path("after", "50%b d%d.h5")) == len(saved_numbers(100))


def test_a_missing_part_is_told(tmp_path):
    write(PartedSparseWriter(tmp_path / "a.h5", 10), 100)
    (tmp_path / "a_000002.h5").rename(tmp_path / "b.h5")
    with pytest.raises(ConfigurationError, match=r"joins 4 files, of which 1 are missing beside it: a_000002\.h5"):
        SparseFile(tmp_path / "a.h5")


def test_frames_without_pixels(tmp_path):
    writer = PartedSparseWriter(tmp_path / "a.h5", 2)
    writer.begin(run_info())
    empty = [reduced_frame(number) for number in range(7)]
    for frame in empty[:5]:
        frame.index, frame.intensity, frame.n_pixels = frame.index[:0], frame.intensity[:0], 0
    writer.append(empty)
    writer.close()
    with SparseFile(tmp_path / "a.h5") as file:
        assert [len(file.frame(row).index) for row in range(7)] == [frame.n_pixels for frame in empty]
        assert np.array_equal(file.frame(6).index, empty[6].index)


def test_every_prefix_of_a_commit_is_a_valid_file(tmp_path, monkeypatch):
    """Also of one that goes on with the next part: the master is what it was before or after."""
    replay = Replay(tmp_path / "a.h5", monkeypatch)
    recording_write = snapshot_file._write_all
    plain_write = os.pwrite

    def write_all(fd, data, offset):
        """Only what goes into the master is played again."""
        if fd == writer._file._fd:
            recording_write(fd, data, offset)
        else:
            plain_write(fd, data, offset)

    with PartedSparseWriter(tmp_path / "a.h5", 8) as writer:
        monkeypatch.setattr(snapshot_file, "_write_all", write_all)
        writer.begin(run_info())
        opened = 0
        for first in (0, 72, 144, 216):  # one or two parts each
            writer.append(frames(first, 36))
            writer.flush()
            replay.start(writer)
            replay.copy.write_bytes((tmp_path / "a.h5").read_bytes())
            before = len(list(tmp_path.glob("a_*")))
            writer.append(frames(first + 36, 36))
            writer.flush()
            assert len(list(tmp_path.glob("a_*"))) > before
            rows = [check(copy) for copy in replay.prefixes()]
            assert rows == sorted(rows) and rows[-1] == (first + 72) / 3
            opened += len(rows)
    assert opened > 100


def test_existing_parts(tmp_path):
    master = tmp_path / "a.h5"
    precious = tmp_path / "a_000003.h5"
    precious.write_text("precious")
    (tmp_path / "a_0003.h5").touch()  # a run of its own: prefix a, number 3
    with pytest.raises(ConfigurationError, match=r"a_000003\.h5 exists.*overwrite"):
        check_parts(master, overwrite=False)
    check_parts(master, overwrite=True)
    check_parts(tmp_path / "b.h5", overwrite=False)
    with pytest.raises(ConfigurationError, match=r"a_000003\.h5 is read by this run"):
        check_parts(master, overwrite=True, inputs=[str(precious)])
    # one that appears only after the start: the run ends there, and everything before is good
    writer = PartedSparseWriter(master, 10)
    writer.begin(run_info())
    with pytest.raises(ConfigurationError, match="exists"):
        for first in range(0, 200, 5):
            writer.append(frames(first, 5))
    writer.close()
    assert precious.read_text() == "precious"
    assert check(master) == 20
    # replaced only where that is wanted
    write(PartedSparseWriter(master, 10, overwrite=True), 200)
    assert check(master) == 67 and check(tmp_path / "a_000001.h5") == 10
    with SparseFile(precious) as part:
        assert len(part) == 10


def test_nothing_is_left_of_a_run_that_never_began(tmp_path):
    PartedSparseWriter(tmp_path / "a.h5", 10).remove()
    PartedDenseWriter(tmp_path / "a.h5", 10).remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["first", "change", "later"])
def test_disk_full(tmp_path, monkeypatch, where):
    """In a part or at a change of parts: the master holds what it held at its last commit."""
    from test_formats_errors import FullDisk

    writer = PartedSparseWriter(tmp_path / "a.h5", 40)
    writer.begin(run_info())
    writer.append(frames(0, 90))  # 30 rows
    writer.flush()
    with monkeypatch.context() as patch:
        patch.setattr("os.pwrite", FullDisk({"first": 0, "change": 40, "later": 200}[where]))
        with pytest.raises(HardwareError, match=r"a(_00000.)?\.h5.*No space left"):
            for first in range(90, 2000, 45):
                writer.append(frames(first, 45))
                writer.flush()
    with pytest.raises(HardwareError):
        writer.append(frames(2000, 1))
    writer.close()
    rows = check(tmp_path / "a.h5")
    assert rows >= 30
    in_parts = 0
    for path in sorted(tmp_path.glob("a_*")):
        with SparseFile(path) as part:
            in_parts += len(part)
            for row in range(len(part)):
                known = reduced_frame(part.frame(row).number)
                assert np.array_equal(part.frame(row).index, known.index)
    assert in_parts >= rows


def test_directory_removed(tmp_path):
    (tmp_path / "d").mkdir()
    writer = PartedSparseWriter(tmp_path / "d" / "a.h5", 10)
    writer.begin(run_info())
    writer.append(frames(0, 20))
    shutil.rmtree(tmp_path / "d")
    with pytest.raises((HardwareError, ConfigurationError), match=r"removed|does not exist"):
        for first in range(20, 200, 20):
            writer.append(frames(first, 20))
    writer.close()


@pytest.mark.parametrize("frames_per_file", [1, 7, 100])
def test_whole_frames(tmp_path, frames_per_file):
    for writer in (PartedDenseWriter(tmp_path / "a.h5", frames_per_file), DenseWriter(tmp_path / "whole.h5")):
        writer.begin(run_info())
        for first in range(0, 30, 5):
            some = frames(first, 5)
            for frame in some:
                if frame.verdict.is_saved:
                    frame.dense = ArrayPayload(np.full(SHAPE, frame.number, np.uint16))
            writer.append(some)
        writer.close()
    expected = np.array(saved_numbers(30))
    with h5py.File(tmp_path / "a.h5") as master:
        assert master["entry/data/data"].shape == (len(expected), *SHAPE)
        assert (master["entry/data/data"][()] == expected[:, None, None]).all()
        assert master["entry/data/frame_number"][()].tolist() == expected.tolist()
    found = []
    for path in sorted(tmp_path.glob("a_*")):
        with h5py.File(path) as part:
            numbers = part["entry/data/frame_number"][()]
            assert 0 < len(numbers) <= frames_per_file
            assert (part["entry/data/data"][()] == numbers[:, None, None]).all()
            found += numbers.tolist()
    assert found == expected.tolist()
    with fabio.open(str(tmp_path / "a.h5")) as image, fabio.open(str(tmp_path / "whole.h5")) as whole:
        assert image.nframes == whole.nframes
        assert np.array_equal(image.get_frame(3).data, whole.get_frame(3).data)


def test_killed_at_any_moment(tmp_path):
    for number in range(KILLS):
        path = tmp_path / f"{number}.h5"
        writer = subprocess.Popen([sys.executable, formats_helpers.__file__, str(path), "6"], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"started\n"
        time.sleep(random.uniform(0, 0.3))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        rows, in_parts = check(path), 0
        for part in sorted(tmp_path.glob(f"{number}_*")):
            with SparseFile(part) as file:
                in_parts += len(file)
        assert in_parts >= rows
