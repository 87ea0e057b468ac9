"""Places where no file can be written, through Tango: one clear error, and a good run afterwards."""

from __future__ import annotations

import os
import resource
import subprocess

import pytest
from framesieve.formats.sparse_reader import SparseFile
from integration_helpers import (
    FAULT,
    Beamline,
    Sender,
    refused,
    small_detector,
    wait_until,
)

pytest_plugins = ["integration_fixtures"]


# ---- where files go ------------------------------------------------------------------------------------------


def test_directory_is_missing(recovering, tmp_path):
    with Sender() as sender:
        recovering.set(source=sender.url, saving_directory=str(tmp_path / "missing"))
        status = recovering.fault()
    assert str(tmp_path / "missing") in status and "does not exist" in status
    assert not (tmp_path / "missing").exists()


def test_directory_is_not_set(recovering):
    with Sender() as sender:
        recovering.set(source=sender.url, saving_directory="")
        assert "saving_directory is not set" in recovering.fault()


def test_directory_is_read_only(recovering, tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):  # root may write everywhere but there
        folder = "/proc"
    with Sender() as sender:
        recovering.set(source=sender.url, saving_directory=str(folder))
        status = recovering.fault()
    assert str(folder) in status and "cannot be created" in status


def test_file_exists_already(recovering, tmp_path):
    (tmp_path / "output" / "run_0000.h5").write_text("precious")
    with small_detector(3) as detector:
        recovering.set(source=detector.url)
        status = recovering.fault()
        assert "run_0000.h5 exists" in status and "overwrite" in status
        assert (tmp_path / "output" / "run_0000.h5").read_text() == "precious"
        recovering.acquisition.Reset()
        path = recovering.run(detector.url, saving_overwrite_policy="overwrite")
    with SparseFile(path) as file:
        assert len(file) == 3


def check_full_disk(beamline: Beamline) -> None:
    """The run has ended in FAULT; the file holds a part of the frames."""
    wait_until(lambda: beamline.state == FAULT, "FAULT")
    status = beamline.acquisition.status()
    assert "errno" in status and "Make room" in status and str(beamline.output) in status
    with SparseFile(beamline.output) as file:
        assert 0 < len(file) < beamline.acquisition.frame_count + 64
        for row in range(len(file)):
            file.frame(row)
    beamline.acquisition.Reset()


def test_disk_is_full(recovering, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with small_detector(100_000, rate=150) as detector:
            recovering.set(source=detector.url, saving_directory=str(disk))
            recovering.acquisition.Start()
            check_full_disk(recovering)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_file_may_not_grow(recovering):
    """As with a quota: the limit is set on the process of the server, and taken back afterwards."""
    pid = recovering.server.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    try:
        with small_detector(100_000, rate=150) as detector:
            recovering.set(source=detector.url)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (2_000_000, before[1]))
            recovering.acquisition.Start()
            check_full_disk(recovering)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_directory_outside_of_the_saving_root(poni, tmp_path):
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    with Beamline({"SavingRoot": str(root)}) as beamline:
        for outside in (str(tmp_path), str(root / ".." / "elsewhere"), "/"):
            with refused("CONFIGURATION_ERROR", "saving_directory", outside, str(root)):
                beamline.set(saving_directory=outside)
        beamline.reset_settings()
        beamline.good_run(root / "inside", poni)
