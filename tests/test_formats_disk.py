"""The thread that does what a disk may not answer."""

from __future__ import annotations

import errno
import threading

import pytest
from framesieve.formats import disk as disk_module
from framesieve.formats.disk import Disk

PATIENCE = 60.0


@pytest.fixture
def disk():
    made = Disk()
    yield made
    made.close()


def test_order_and_results(disk):
    done = []
    for number in range(100):
        disk.submit(lambda number=number: done.append(number))
    assert disk.call(lambda a, b: (a + b, len(done)), 1, 2) == (3, 100)
    assert done == list(range(100))
    with pytest.raises(FileNotFoundError, match="nothing"):
        disk.call(open, "/nothing/here")
    assert disk.call(threading.current_thread) is not threading.current_thread()


def test_memory_is_bounded(disk, monkeypatch):
    monkeypatch.setattr(disk_module, "WAITING_LIMIT", 100)
    gate, handed_over = threading.Event(), []

    def hand_over():
        for number in range(10):
            disk.submit(gate.wait, 40)
            handed_over.append(number)

    thread = threading.Thread(target=hand_over)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive() and len(handed_over) == 3
    gate.set()
    thread.join(PATIENCE)
    assert len(handed_over) == 10


def test_give_up(disk):
    gate, begun, ended = threading.Event(), threading.Event(), []

    def hang():
        begun.set()
        gate.wait()

    errors = []

    def wait():
        try:
            disk.call(hang)
        except OSError as error:
            errors.append(error.errno)

    assert disk.stalled == 0.0
    thread = threading.Thread(target=wait)
    thread.start()
    assert begun.wait(PATIENCE)
    before = disk.stalled
    thread.join(0.05)
    assert disk.stalled > before > 0 and not errors
    disk.give_up()
    thread.join(PATIENCE)
    assert errors == [errno.ETIMEDOUT]
    with pytest.raises(OSError, match="does not answer"):
        disk.call(int)
    disk.submit(lambda: ended.append(1))  # is still done once the disk answers
    disk.close()  # does not wait
    assert not ended
    worker = disk._thread
    gate.set()
    worker.join(PATIENCE)
    assert ended == [1]


def test_without_threads(disk, monkeypatch):
    """At the end of Python no thread can be started."""

    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(disk_module, "start_thread", refuse)
    assert disk.call(threading.current_thread) is threading.current_thread()
