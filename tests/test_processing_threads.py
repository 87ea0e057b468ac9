"""Threads with a name that the operating system shows, and crews that share work."""

import os
import queue
import threading
import time
from pathlib import Path

import pytest
from framesieve.processing.threads import Crew, available_cores, inherited_name, start_thread, thread_pool

needs_linux = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads have no such names here")
PATIENCE = 20.0


def system_name(thread_id: int | None = None) -> str:
    return Path(f"/proc/self/task/{thread_id or threading.get_native_id()}/comm").read_text().rstrip("\n")


@needs_linux
@pytest.mark.parametrize(
    "name, shown", [("fill", "fs-fill"), ("a-name-that-is-long", "fs-a-name-that-"), ("µ", "fs-µ")]
)
def test_threads_have_a_name(name, shown):
    before = system_name()
    told = queue.SimpleQueue()
    thread = start_thread(lambda *given: told.put((given, system_name(), threading.current_thread())), name, 1, "two")
    given, inside, itself = told.get(timeout=PATIENCE)
    thread.join(PATIENCE)
    assert (given, inside, itself) == ((1, "two"), shown, thread)
    assert thread.name == f"framesieve-{name}" and thread.daemon
    assert system_name() == before


@needs_linux
def test_threads_of_a_pool_have_a_name():
    together = threading.Barrier(2)  # one thread alone would never get through

    def look() -> tuple[str, str]:
        together.wait(PATIENCE)
        return threading.current_thread().name, system_name()

    with thread_pool(2, "compress") as pool:
        told = [future.result(PATIENCE) for future in [pool.submit(look), pool.submit(look)]]
    assert sorted(told) == [("compress_0", "fs-compress"), ("compress_1", "fs-compress")]


@needs_linux
def test_threads_of_a_library_inherit_a_name():
    before, told = system_name(), queue.SimpleQueue()
    with inherited_name("library"):
        thread = threading.Thread(target=lambda: told.put(system_name()))
        thread.start()
        thread.join(PATIENCE)
    assert told.get(timeout=PATIENCE).startswith(("library", "Thread-"))  # CPython names its threads from 3.14 on
    assert system_name() == before


def test_available_cores():
    assert 1 <= available_cores() <= os.cpu_count()


# ---- crews ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2, 5])
def crew(request):
    crew = Crew(request.param, "crew")
    yield crew
    crew.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("framesieve-crew")]


def test_results_are_in_the_order_of_the_items(crew):
    assert crew.map(lambda k: (time.sleep(0.001 * (9 - k)), k * k)[1], range(9)) == [k * k for k in range(9)]
    assert crew.map(str, []) == []
    assert crew.map(str, [7]) == ["7"]


def test_an_exception_comes_back_when_all_are_through(crew):
    done = []

    def do(k):
        if k == 1:
            raise ValueError("the second")
        done.append(k)

    with pytest.raises(ValueError, match="the second"):
        crew.map(do, range(4))
    assert crew.map(str, range(3)) == ["0", "1", "2"]


def test_as_many_at_once_as_there_are_threads():
    """Each item waits for the others: fewer threads would never get through."""
    crew, barrier = Crew(4, "crew"), threading.Barrier(4)
    assert sorted(crew.map(lambda k: barrier.wait(PATIENCE), range(4))) == [0, 1, 2, 3]
    crew.close()


def test_one_item_is_done_by_whoever_asks():
    crew = Crew(4, "crew")
    assert crew.map(lambda _: threading.current_thread(), [0]) == [threading.current_thread()]
    crew.close()
