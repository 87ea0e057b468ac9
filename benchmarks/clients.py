"""Many clients at once: `framesieve bench clients`.

Database, device server and a simulated detector as in `bench live`, once with clients that subscribe to every attribute
and read them in turn, and once without, several rounds. Each time with a server that was started anew: Tango goes on
pushing for ten minutes after its last client has gone. Every client is a process; all run on this computer and share it
with the server, and with the OpenCL device where that is a CPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from ..formats.sparse_reader import SparseFile
from ..processing.errors import OutOfRangeError
from ..tango_db.child import ChildProcess
from .client_program import SUBSCRIBED
from .client_results import frames_until_in_force, loss, reads_of, spread, write_to_event
from .live import Load, Watch, frame_rate, started
from .live_system import LiveSystem
from .measuring import align
from .process_times import OTHERS

AIMS = {"loss_percent": 3.0, "read_p99_ms": 20.0, "write_to_event_ms": 200.0}
_START = 120.0  # s in which a client must have subscribed
_END = 60.0  # s in which it must have told what it saw
_OF_TANGO = ("publisher", OTHERS)  # threads of the server
_SETTLED = 1.0  # s after the first frame: from then on processor times count


@dataclass
class Clients:
    """What reads and subscribes."""

    number: int = 20
    reads: float = 10.0  # per second and client
    writes: float = 2.0  # per second, by the first client
    rounds: int = 3

    def check(self) -> None:
        if self.number < 1:
            raise OutOfRangeError(f"--clients {self.number}: at least 1 is accepted")
        if not 0 < self.reads <= 1000:
            raise OutOfRangeError(f"--reads {self.reads:g}: accepted are numbers above 0, up to 1000 (per second)")
        if not 0 <= self.writes <= 10:
            raise OutOfRangeError(f"--writes {self.writes:g}: accepted is 0 to 10 (per second)")
        if self.rounds < 1:
            raise OutOfRangeError(f"--rounds {self.rounds}: at least 1 is accepted")


def run(
    clients: Clients,
    load: Load,
    *,
    output: Path | None = None,
    device: str = "auto",
    progress: Callable[[str], None] = lambda what: None,
    check_stop: Callable[[], None] = lambda: None,
) -> dict:
    """Run the system with and without clients, in turn: an object of plain values, see docs/performance.md.

    Parameters
    ----------
    clients
        What reads and subscribes.
    load
        What the detector sends; `seconds` is for each of the runs, two per round.
    output, device, progress, check_stop
        As for `live.run`.

    Raises
    ------
    OutOfRangeError, ConfigurationError
        The load makes no sense; the folder cannot be used.
    """
    clients.check()
    load_before = os.getloadavg()[0]
    rounds: list[dict] = []
    with started(load, output, device, progress) as system:
        n_frames = 0
        for k in range(clients.rounds):
            row = {}
            for which in ("without", "with") if k % 2 == 0 else ("with", "without"):
                if rounds or row:
                    system.server.restart()
                warm = Watch(system, load.warm_up, _SETTLED)
                system.run(load.warm_up, 0.0, warm.look, check_stop)
                n_frames = n_frames or max(round((load.rate or frame_rate(warm)) * load.seconds), 2)
                progress(f"round {k + 1} of {clients.rounds}: {n_frames} frames {which} clients")
                number = clients.number if which == "with" else 0
                row[which] = _one_run(system, load, n_frames, clients, number, check_stop)
            rounds.append(row)
        batch_size = int(system.acquisition.batch_size)
        device_name = str(system.acquisition.opencl_device_name)
    results = {
        "clients": asdict(clients) | {"attributes": rounds[0]["with"].pop("attributes")},
        "load": {"shape": list(load.shape), "dtype": load.dtype, "rate_asked": load.rate, "frames": n_frames},
        **_together(rounds),
        "batch_size": batch_size,
        "rounds": rounds,
        "aims": AIMS,
        "device": device_name,
        "cpus": os.cpu_count(),
        "load_before": round(load_before, 2),
    }
    return results


def _one_run(
    system: LiveSystem, load: Load, n_frames: int, clients: Clients, number: int, check_stop: Callable[[], None]
) -> dict:
    """One run with so many clients, and what they have told (`told`)."""
    with contextlib.ExitStack() as stack:
        programs = [_client(system.place, clients.reads, 0.0 if i else clients.writes) for i in range(number)]
        for program in programs:
            stack.callback(program.close)
        with ThreadPoolExecutor(max(number, 1)) as pool:
            list(pool.map(ChildProcess.start, programs))
        watch = Watch(system, n_frames, min(_SETTLED, load.seconds / 4), to_the_end=True)
        system.run(n_frames, load.rate, watch.look, check_stop)
        told = [json.loads(program.wait_for(r"^\{", _END)) for program in programs]
    threads = watch.threads()
    server = [row for row in threads if row["process"] == "server"]
    result = {
        "frames_per_s": round(frame_rate(watch), 2),
        "frames": int(system.acquisition.frame_count),
        "none_lost": int(system.acquisition.frame_count) == n_frames,
        "cpu_ms_per_s": {
            "server": round(sum(row["cpu_ms_per_s"] for row in server), 1),
            "of_it_tango": round(sum(row["cpu_ms_per_s"] for row in server if row["thread"] in _OF_TANGO), 1),
            "clients": round(sum(client["cpu_ms_per_s"] for client in told), 1),
        },
        "threads": threads,
    }
    path = Path(str(system.acquisition.output_file))
    if told:
        with SparseFile(path) as file:
            result["frames_until_in_force"] = frames_until_in_force(file, told[0]["writes"])
        result["attributes"] = told[0]["attributes"]
        result["told"] = told
    path.unlink(missing_ok=True)
    return result


def _client(prefix: str, reads: float, writes: float) -> ChildProcess:
    command = ["framesieve.benchmarks.client_program", prefix, str(reads), str(writes)]
    return ChildProcess("a client", command, SUBSCRIBED, timeout=_START)


def _together(rounds: list[dict]) -> dict:
    """The numbers of all rounds; what the single clients have told is taken out of them."""
    told = [row["with"].pop("told") for row in rounds]
    every = [client for clients in told for client in clients]
    differing = sorted({name for client in every for name in client["differing"]})
    events = [sum(c["n_events"] for c in clients) / clients[0]["seconds"] for clients in told]
    megabytes = [sum(c["event_bytes"] for c in clients) / clients[0]["seconds"] / 1e6 for clients in told]
    in_force = [frames for row in rounds for frames in row["with"]["frames_until_in_force"]]
    return {
        "frames_per_s": {
            which: round(statistics.median(row[which]["frames_per_s"] for row in rounds), 2)
            for which in ("without", "with")
        },
        "loss_percent": loss(rounds),
        "none_lost": all(row[which]["none_lost"] for row in rounds for which in row),
        "read_ms": reads_of(every),
        "write_ms": spread([write["ms"] for client in every for write in client["writes"]]),
        "write_to_event_ms": {
            which: spread([ms for clients in told for ms in write_to_event(clients)[which]])
            for which in ("own", "all_clients")
        },
        "frames_until_in_force": spread(in_force),
        "events": {
            "per_s": round(statistics.median(events), 1),
            "mb_per_s": round(statistics.median(megabytes), 2),
            "last_differs": differing,
            "errors": sorted({text for client in every for text in client["errors"]}),
        },
    }


def table(results: dict) -> str:
    """The same for people."""
    clients, load, aims = results["clients"], results["load"], results["aims"]
    rows, columns = load["shape"]
    asked = f"{load['rate_asked']:g} Hz asked" if load["rate_asked"] else "as fast as they were taken"
    rates, lost, reads, events = (results[name] for name in ("frames_per_s", "loss_percent", "read_ms", "events"))
    back, in_force = results["write_to_event_ms"], results["frames_until_in_force"]
    lines = [
        f"{results['device']}; {results['cpus']} CPUs, load {results['load_before']} before",
        f"{rows} × {columns} {load['dtype']}, {asked}; {clients['number']} clients with {clients['attributes']} "
        f"subscriptions and {clients['reads']:g} reads per second each",
        "",
        f"frames per second  {rates['without']:.1f} without clients, {rates['with']:.1f} with them: "
        f"{lost['median']:+.1f} % lost ({lost['least']:+.1f} to {lost['most']:+.1f} in {clients['rounds']} rounds; "
        f"aim below {aims['loss_percent']:g})",
        f"frames             {'none' if results['none_lost'] else 'SOME'} lost",
    ]
    for name, text in (("all", "reads"), ("preview", "  of the preview"), ("others", "  of all others")):
        aim = f"; aim of p99 below {aims['read_p99_ms']:g}" if name == "all" else ""
        lines.append(f"{text:19}{_milliseconds(reads[name])}{aim}")
    differing = ", ".join(events["last_differs"])
    lines += [
        f"{'writes':19}{_milliseconds(results['write_ms'])}",
        f"{'write → event':19}{_milliseconds(back['own'])} at the writer; aim below {aims['write_to_event_ms']:g}",
        f"{'':19}{_milliseconds(back['all_clients'])} at the last client",
        f"{'write → in force':19}{in_force['p50']:.0f} frames (median), {in_force['max']:.0f} at most, of those that "
        f"were not counted yet; batches have {results['batch_size']}",
        f"{'events':19}{events['per_s']:.0f} per second at all clients, {events['mb_per_s']:.1f} MB/s of arrays",
        f"{'':19}"
        + (f"THE LAST EVENT DIFFERS FROM THE VALUE: {differing}" if differing else "none lost: the last one of every ")
        + ("" if differing else "attribute has its value at every client"),
        *[f"{'':19}{text}" for text in events["errors"]],
        "",
        "ms of processor time per second",
    ]
    cells = [["round", "", "frames/s", "server", "of it Tango", "all clients"]]
    for k, row in enumerate(results["rounds"], 1):
        for which in row:
            cpu = row[which]["cpu_ms_per_s"]
            numbers = [row[which]["frames_per_s"], cpu["server"], cpu["of_it_tango"], cpu["clients"]]
            cells.append([str(k), which, *(f"{number:.1f}" for number in numbers)])
    return "\n".join([*lines, *align(cells, left=2)])


def _milliseconds(values: dict[str, float]) -> str:
    p50, p99, largest = (values[name] for name in ("p50", "p99", "max"))
    return f"{p50:.1f} ms (median), {p99:.1f} (p99), {largest:.1f} (largest) of {values['count']}"
