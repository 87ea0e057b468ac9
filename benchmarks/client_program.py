"""One client of `bench clients`, a process of its own: `python -m framesieve.benchmarks.client_program PREFIX READS
WRITES`.

It subscribes to every attribute of the devices `PREFIX/acquisition` … and, while a run is on, reads one attribute after
the other, `READS` of them per second; `WRITES` times per second it writes `snr_pick`. When the run is over it looks
whether the last event of each attribute has the value that can be read, and prints one JSON object.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from typing import Any

import numpy as np
import tango

MEMBERS = ("acquisition", "sparsifier", "peakfinder", "veto")
SUBSCRIBED = "subscribed to everything"  # it is ready
BASE = 3.0  # snr_pick is this and a thousandth for every write
_RUNNING = (tango.DevState.INIT, tango.DevState.RUNNING, tango.DevState.ALARM)
_PATIENCE = 120.0  # s for a run to begin
_SETTLING = 10.0  # s for the last events to come


def is_written(value: float) -> bool:
    """Whether a value of `snr_pick` was written by a client."""
    return BASE < value < BASE + 1


def number_of(value: float) -> int:
    """Number of the write that gave this value of `snr_pick`."""
    return round(1000 * (value - BASE))


class Client:
    """Subscriptions to everything, and what came of them."""

    def __init__(self, prefix: str) -> None:
        self.devices = {member: tango.DeviceProxy(f"{prefix}/{member}") for member in MEMBERS}
        self.last: dict[tuple[str, str], Any] = {}  # member, attribute → value of the newest event
        self.n_events = 0
        self.n_bytes = 0  # of arrays in events
        self.errors: list[str] = []
        self.arrived: dict[int, float] = {}  # number of a write → when its event came
        self.state = threading.Condition()
        self.is_running = self.has_run = False
        self.names = [(member, name) for member, d in self.devices.items() for name in d.get_attribute_list()]
        for member, name in self.names:
            self.devices[member].subscribe_event(name, tango.EventType.CHANGE_EVENT, self._listener(member, name))

    def _listener(self, member: str, name: str):
        def listen(event: tango.EventData) -> None:
            now = time.monotonic()
            self.n_events += 1
            if event.err:
                self.errors.append(f"{member}/{name}: {event.errors[0].desc}")
                return
            value = event.attr_value.value
            self.last[member, name] = value
            if isinstance(value, np.ndarray):
                self.n_bytes += value.nbytes
            elif name == "snr_pick" and is_written(value):
                self.arrived.setdefault(number_of(value), now)
            elif name == "State" and member == "acquisition":
                with self.state:
                    self.is_running = value in _RUNNING
                    self.has_run = self.has_run or value == tango.DevState.RUNNING
                    self.state.notify_all()

        return listen

    @property
    def is_over(self) -> bool:
        return self.has_run and not self.is_running

    def wait_for_run(self) -> None:
        with self.state:
            if not self.state.wait_for(lambda: self.has_run, _PATIENCE):
                sys.exit(f"no run has begun within {_PATIENCE:g} s")

    def differing(self) -> list[str]:
        """Attributes whose last event is not what is read, though there was time for one that was late. Those that
        change all the time are looked at until both are from the same moment."""
        waiting = list(self.names)
        deadline = time.monotonic() + _SETTLING
        while waiting and time.monotonic() < deadline:
            waiting = [
                (member, name)
                for member, name in waiting
                if not same(self.devices[member].read_attribute(name).value, self.last.get((member, name)))
            ]
            time.sleep(0.02 if waiting else 0.0)
        return [f"{member}/{name}" for member, name in waiting]


def same(left: Any, right: Any) -> bool:
    """Whether two values are the same to a client; NaN is the same as NaN."""
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.shape == right.shape and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
    if isinstance(left, np.ndarray) or isinstance(right, np.ndarray):
        return False
    return bool(left == right or (left != left and right != right))


def load(client: Client, reads_per_s: float, writes_per_s: float) -> tuple[dict[str, list[float]], list[dict]]:
    """Read and write until the run is over: ms of each read, by attribute; the writes."""
    names = client.names.copy()
    random.Random().shuffle(names)  # so that clients do not all ask the same at the same time
    reads: dict[str, list[float]] = {}
    writes: list[dict] = []
    began = time.monotonic()
    next_read = began + random.random() / reads_per_s
    next_write = began + 1 / writes_per_s if writes_per_s else float("inf")
    k = 0
    while not client.is_over:
        now = time.monotonic()
        if now >= next_write:
            next_write += 1 / writes_per_s
            if count := client.devices["acquisition"].read_attribute("frame_count").value:
                writes.append(write(client, len(writes) + 1, count))
        if now < next_read:
            with client.state:
                client.state.wait(min(next_read, next_write) - now)
            continue
        next_read = max(next_read + 1 / reads_per_s, now)  # what could not be done in time is not made up for
        member, name = names[k % len(names)]
        k += 1
        start = time.perf_counter()
        client.devices[member].read_attribute(name)
        reads.setdefault(f"{member}/{name}", []).append(round(1e3 * (time.perf_counter() - start), 3))
    return reads, writes


def write(client: Client, number: int, frame_count: int) -> dict:
    """Write a value that tells its number."""
    began = time.monotonic()
    client.devices["sparsifier"].write_attribute("snr_pick", BASE + number / 1000)
    ms = round(1e3 * (time.monotonic() - began), 3)
    return {"number": number, "frame_count": frame_count, "began": began, "ms": ms}


def main() -> None:
    prefix, reads_per_s, writes_per_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    client = Client(prefix)
    print(SUBSCRIBED, flush=True)
    client.wait_for_run()
    begin, used = time.monotonic(), time.process_time()
    reads, writes = load(client, reads_per_s, writes_per_s)
    seconds, used = time.monotonic() - begin, time.process_time() - used
    results = {
        "seconds": round(seconds, 3),
        "cpu_ms_per_s": round(1e3 * used / seconds, 2),
        "attributes": len(client.names),
        "reads": reads,
        "writes": writes,
        "n_events": client.n_events - len(client.names),  # without those that subscribing gives
        "event_bytes": client.n_bytes,
        "differing": client.differing(),
    }
    results |= {"arrived": client.arrived, "errors": client.errors}
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
