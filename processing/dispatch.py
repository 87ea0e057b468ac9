"""Spreads batches over the OpenCL devices of a run, and lets another device do what one has failed on.

Every device has a thread, and the two input slots of its `Reducer`: one is filled while the other is reduced. A batch
goes to the device that had a slot free first, so the faster one gets more of them. Whoever asks for the results asks
in the order of the frames, and waits for the oldest batch even where younger ones are ready.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from .batch import Batch
from .device_times import DeviceTimes
from .errors import FrameError, HardwareError
from .flow import END, POLL, Flow
from .parameters import ParameterStore
from .reducer import Reducer

log = logging.getLogger(__name__)

ABORTED = "the run was aborted before it was reduced"
MAX_FAILED_BATCHES = 3  # in a row: then it is the device that fails, not a frame


class Worker:
    """One device of the run."""

    def __init__(self, reducer: Reducer) -> None:
        self.reducer = reducer
        self.tasks: queue.SimpleQueue = queue.SimpleQueue()
        self.is_left_out = False
        self.doubts = 0  # batches on which it failed, and of which nobody knows yet whose fault that was
        self.failures = 0  # batches in a row on which it failed and another device did not
        self.thread: threading.Thread | None = None


class Dispatcher:
    """The devices of a run.

    Parameters
    ----------
    flow
        Of the run.
    reducers
        One for each device.
    parameters
        Looked at when a device begins a batch, such that numbers of sets never go back from one frame to a later one.
    left_out
        Called by `finish` with the name of a device that is not used any more, the reason, and the names of the others.
    look
        Called with every batch that was reduced, by the thread of its device, while its slot still holds the pixels.
    """

    def __init__(
        self,
        flow: Flow,
        reducers: Sequence[Reducer],
        parameters: ParameterStore,
        *,
        keep_dense: bool = False,
        left_out: Callable[[str, str, list[str]], None] | None = None,
        look: Callable[[Batch], None] | None = None,
    ) -> None:
        self._flow = flow
        self._parameters = parameters
        self._keep_dense = keep_dense
        self._left_out = left_out
        self._look = look
        self.batch_size = min(reducer.batch_size for reducer in reducers)
        self._workers = [Worker(reducer) for reducer in reducers]
        # the first slot of every device before the second of any
        slots = range(len(reducers[0].inputs))
        self._free = deque((worker, slot) for slot in slots for worker in self._workers)
        self._freed = threading.Condition()
        self._without_set: deque[Batch] = deque()  # batches that no device has begun, in order
        self._choosing_set = threading.Lock()
        for k, worker in enumerate(self._workers):
            worker.thread = flow.start(f"reduce-{k}", self._work, worker)

    @property
    def reducer(self) -> Reducer:
        """The first one, where only what all have in common matters."""
        return self._workers[0].reducer

    # ---- before ----------------------------------------------------------------------------------------------

    def empty_batch(self) -> Batch | None:
        """A batch for the next free slot; waits for one. None where the run is broken."""
        place = self._take_slot(lambda worker: not worker.is_left_out and not worker.doubts)
        if place is None:
            return None
        worker, slot = place
        return Batch(worker.reducer, slot, is_last_try=len(self._in_use()) == 1)

    def submit(self, batch: Batch) -> None:
        """Have a filled batch reduced; batches are submitted in the order of their frames."""
        with self._choosing_set:
            self._without_set.append(batch)
        self._worker_of(batch).tasks.put(batch)

    def give_back(self, batch: Batch) -> None:
        """The slot of a batch is free again."""
        worker = self._worker_of(batch)
        with self._freed:
            worker.doubts += batch.error is not None  # no other batch until another device has tried this one
            self._free.append((worker, batch.slot))
            self._freed.notify_all()

    def _take_slot(self, suits: Callable[[Worker], bool]) -> tuple[Worker, int] | None:
        with self._freed:
            while True:
                for place in self._free:
                    if suits(place[0]):
                        self._free.remove(place)
                        return place
                if self._flow.broken.is_set():
                    return None
                self._freed.wait(POLL)

    def _worker_of(self, batch: Batch) -> Worker:
        return next(worker for worker in self._workers if worker.reducer is batch.reducer)

    def _in_use(self) -> list[Worker]:
        return [worker for worker in self._workers if not worker.is_left_out]

    # ---- on the device ---------------------------------------------------------------------------------------

    def _work(self, worker: Worker) -> None:
        """The thread of a device."""
        while (batch := self._flow.get(worker.tasks)) is not END:
            batch.error = None
            if self._flow.aborting.is_set():
                batch.drop(ABORTED)
            elif worker.is_left_out:
                batch.error = HardwareError(f"{worker.reducer.device.name} is not used any more")
            else:
                self._choose_set(batch)
                begin = time.perf_counter()
                batch.reduce(keep_dense=self._keep_dense)
                batch.times = batch.times.plus(DeviceTimes(time.perf_counter() - begin))
                if self._look and batch.error is None and batch.is_whole:
                    self._show(batch)
            self.give_back(batch)
            batch.is_done.set()

    def _show(self, batch: Batch) -> None:
        try:
            self._look(batch)
        except Exception:
            log.warning("no preview", exc_info=True)  # nice to have, and no reason to lose a frame

    def _choose_set(self, batch: Batch) -> None:
        """The parameters in force now hold for this batch, and for those before it that have not been begun."""
        with self._choosing_set:
            parameter_set = self._parameters.current
            while batch.parameter_set is None:
                self._without_set.popleft().parameter_set = parameter_set

    # ---- after -----------------------------------------------------------------------------------------------

    def finish(self, batch: Batch, meanwhile: Callable[[], None]) -> bool:
        """Wait for the result of a batch and call `meanwhile` now and then. A batch on which a device failed is tried
        on the others; a device that fails again and again where another does not is left out. False where no result
        will come because the run is broken."""
        failed: list[Worker] = []
        while True:
            if not self._wait(batch, meanwhile):
                return False
            if batch.error is None:
                break
            failed.append(self._worker_of(batch))
            log.warning("%s failed on a batch: %s", batch.reducer.device.name, batch.error)
            if not self._try_elsewhere(batch, failed):
                return False
        if batch.is_whole:
            self._worker_of(batch).failures = 0
        for worker in failed:
            self._settle(worker, is_its_fault=batch.is_whole)
        return True

    def _wait(self, batch: Batch, meanwhile: Callable[[], None]) -> bool:
        while not batch.is_done.wait(POLL):
            if self._flow.broken.is_set() and not self._worker_of(batch).thread.is_alive():
                return batch.is_done.is_set()
            meanwhile()
        return True

    def _try_elsewhere(self, batch: Batch, failed: list[Worker]) -> bool:
        if self._flow.aborting.is_set():
            batch.drop(ABORTED)
            return True
        workers = [worker for worker in self._in_use() if worker not in failed] or self._in_use()
        place = self._take_slot(workers.__contains__)
        if place is None:
            return False
        batch.is_done.clear()
        worker, batch.slot = place
        batch.reducer, batch.is_last_try = worker.reducer, len(workers) == 1
        try:
            for k, frame in enumerate(batch.frames):  # the slot in which they were may be full again
                batch.put_in(k, frame)
            if bad := batch.upload(len(batch.frames)):
                raise FrameError(next(iter(bad.values())))
        except Exception as error:  # a frame whose bytes the first device never came to look at
            batch.fault = error
            batch.is_last_try = batch.is_last_try or isinstance(error, FrameError)  # others would say the same
        worker.tasks.put(batch)
        return True

    def _settle(self, worker: Worker, is_its_fault: bool) -> None:
        """A device failed on a batch; now it is known whether another one could do it."""
        worker.failures += is_its_fault
        if worker.failures >= MAX_FAILED_BATCHES and not worker.is_left_out:
            self._leave_out(worker)
        with self._freed:
            worker.doubts -= 1
            self._freed.notify_all()

    def _leave_out(self, worker: Worker) -> None:
        worker.is_left_out = True
        others = [other.reducer.device.name for other in self._in_use()]
        name = worker.reducer.device.name
        reason = (
            f"{worker.failures} batches in a row failed on {name}: it is left out, "
            f"the run goes on with {'; '.join(others)}"
        )
        log.error("%s", reason)
        if self._left_out:
            self._left_out(name, reason, others)

    def close(self) -> None:
        """Nothing follows: let the threads end."""
        for worker in self._workers:
            worker.tasks.put(END)
