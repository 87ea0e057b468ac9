"""Files that cannot be created or written: what the user is told, and what is left."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys

import h5py
import pytest
from formats_helpers import check, reduced_frame, run_info
from framesieve.formats.dense_writer import DenseWriter
from framesieve.formats.disk import Disk
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.errors import ConfigurationError, HardwareError
from framesieve.processing.frames import Verdict

WRITERS = [SparseWriter, DenseWriter]


@pytest.mark.parametrize("writer", WRITERS)
def test_existing_file(tmp_path, writer):
    path = tmp_path / "a.h5"
    path.write_text("precious")
    with pytest.raises(ConfigurationError, match=r"exists.*overwrite"):
        writer(path)
    assert path.read_text() == "precious"
    with writer(path, overwrite=True) as never_begun:
        assert path.read_text() == "precious"  # nothing has come yet that could take its place
    assert never_begun.closed
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert path.read_text() == "precious"
    with open(path) as reader:
        with writer(path, overwrite=True) as begun:
            begun.begin(run_info())
        assert reader.read() == "precious"  # who has it open keeps it
    with h5py.File(path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("writer", WRITERS)
def test_places_that_cannot_be_used(tmp_path, writer):
    with pytest.raises(ConfigurationError, match=f"{tmp_path}/missing does not exist"):
        writer(tmp_path / "missing" / "a.h5")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="is not a directory"):
        writer(tmp_path / "file" / "a.h5")
    with pytest.raises(ConfigurationError, match="is a directory"):
        writer(tmp_path, overwrite=True)
    with pytest.raises(ConfigurationError, match=r"/proc/self/a\.h5 cannot be created"):
        writer("/proc/self/a.h5")


def test_directory_removed(tmp_path):
    directory = tmp_path / "d"
    directory.mkdir()
    writer = SparseWriter(directory / "a.h5")
    writer.begin(run_info())
    shutil.rmtree(directory)
    writer.append([reduced_frame(0)])
    with pytest.raises(HardwareError, match=r"d/a\.h5.*removed"):
        writer.flush()
    with pytest.raises(HardwareError):
        writer.append([reduced_frame(1)])
    writer.close()


class FullDisk:
    """`os.pwrite` that refuses from the n-th call on."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def __call__(self, fd, data, offset):
        self.calls -= 1
        if self.calls < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.write(fd, data, offset)

    write = staticmethod(os.pwrite)


@pytest.mark.parametrize("calls", [*range(0, 40, 3), 60, 100, 150])
def test_disk_full_anywhere(tmp_path, monkeypatch, calls):
    path = tmp_path / "a.h5"
    writer = SparseWriter(path)
    writer.begin(run_info())
    writer.append([reduced_frame(i, Verdict(i % 6)) for i in range(200)])
    writer.flush()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(calls))
        with pytest.raises(HardwareError, match=r"a\.h5: No space left on device \(errno 28\)"):
            for i in range(200, 2000, 100):
                writer.append([reduced_frame(j, Verdict(j % 6)) for j in range(i, i + 100)])
                writer.flush()
    with pytest.raises(HardwareError, match="errno 28"):
        writer.flush()
    writer.close()
    writer.close()
    assert check(path) >= 67


def test_disk_full_while_closing(tmp_path, monkeypatch):
    writer = SparseWriter(tmp_path / "a.h5")
    writer.begin(run_info())
    writer.append([reduced_frame(0)])
    writer.flush()
    writer.append([reduced_frame(i) for i in range(1, 100)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(0))
        with pytest.raises(HardwareError, match="No space left"):
            writer.close()
    writer.close()
    assert check(tmp_path / "a.h5") == 1


def test_disk_full_at_once(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(0))
        with pytest.raises(HardwareError, match="No space left"):
            SparseWriter(tmp_path / "a.h5")


@pytest.mark.parametrize("writer", WRITERS)
def test_disk_full_when_a_run_begins_in_the_place_of_another(tmp_path, monkeypatch, writer):
    path = tmp_path / "a.h5"
    path.write_text("precious")
    new = writer(path, overwrite=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(0))
        with pytest.raises(HardwareError, match="No space left"):
            new.begin(run_info())
    new.close()
    assert path.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_disk_full_and_nobody_has_noticed_yet(tmp_path, monkeypatch):
    """What is handed over is written later: an error of that is told at the end, if not before."""
    writer = SparseWriter(tmp_path / "a.h5")
    writer.begin(run_info())
    writer.append([reduced_frame(0)])
    writer.flush()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(0))
        writer._file.seek(0, 2)
        writer._file.write(b"behind the end")
        writer._file._hand_over()
        writer._disk.call(lambda: None)
    with pytest.raises(HardwareError, match="No space left"):
        writer.close()
    assert check(tmp_path / "a.h5") == 1


def test_interrupted_while_writing(tmp_path, monkeypatch):
    writer = SparseWriter(tmp_path / "a.h5")
    writer.begin(run_info())
    writer.append([reduced_frame(0)])
    writer.flush()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Disk, "submit", interrupt)
        with pytest.raises((KeyboardInterrupt, OSError, RuntimeError)):
            writer.append([reduced_frame(i) for i in range(1, 500)])
            writer.flush()
    with pytest.raises(HardwareError, match="interrupted"):
        writer.append([reduced_frame(1)])
    writer.close()
    assert check(tmp_path / "a.h5") == 1


LIMITED = """
import resource, sys
from formats_helpers import reduced_frame, run_info
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.errors import HardwareError
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
writer = SparseWriter(sys.argv[1])
writer.begin(run_info())
try:
    for number in range(10_000):
        writer.append([reduced_frame(number)])
        writer.flush()
except HardwareError as error:
    print(error)
writer.close()
"""


def test_limit_on_the_length_of_files(tmp_path):
    path = tmp_path / "a.h5"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in done.stdout
    assert check(path) > 5


def test_a_forgotten_writer_is_closed_at_exit(tmp_path):
    program = (
        "import sys; from formats_helpers import *; w = SparseWriter(sys.argv[1]);"
        "w.begin(run_info()); w.append([reduced_frame(0)])"
    )
    path = tmp_path / "a.h5"
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=os.path.dirname(__file__), check=True)
    assert check(path) == 1


def test_frames_that_come_while_python_ends(tmp_path):
    program = (
        "import atexit, sys; from formats_helpers import *; w = SparseWriter(sys.argv[1]); w.begin(run_info());"
        "atexit.register(lambda: [w.append([reduced_frame(i)]) for i in range(200)])"
    )
    path = tmp_path / "a.h5"
    subprocess.run([sys.executable, "-c", program, str(path)], cwd=os.path.dirname(__file__), check=True)
    assert check(path) == 200
