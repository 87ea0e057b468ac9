"""A sparse file opens at every moment: while it is written, and after its writer was killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import formats_helpers
from formats_helpers import check

KILLS = int(os.environ.get("FRAMESIEVE_KILLS", "20"))


def start_writer(path: Path) -> subprocess.Popen:
    writer = subprocess.Popen([sys.executable, formats_helpers.__file__, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"started\n"
    return writer


def test_killed_at_any_moment(tmp_path):
    # two at a time: starting Python takes longer than writing
    pending = [start_writer(tmp_path / "0.h5")]
    rows = []
    for number in range(KILLS):
        if number + 1 < KILLS:
            pending.append(start_writer(tmp_path / f"{number + 1}.h5"))
        writer = pending.pop(0)
        time.sleep(random.uniform(0, 0.05))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        rows.append(check(tmp_path / f"{number}.h5"))
    assert len(set(rows)) > 1


def check_while_written(path) -> int:
    """HDF5 has no protection against reading a block while it is replaced (here 500 times a second) but its
    checksum: then the file must be whole when it is opened again."""
    try:
        return check(path)
    except (KeyError, OSError) as error:
        if "checksum" not in str(error):
            raise
    return check(path)


def test_readable_while_written(tmp_path):
    path = tmp_path / "live.h5"
    writer = start_writer(path)
    try:
        rows = [check_while_written(path) for _ in range(100)]
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    assert rows == sorted(rows)
    assert rows[-1] > rows[0]
