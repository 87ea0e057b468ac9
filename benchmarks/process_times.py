"""What a process and its threads cost, from Linux' /proc: processor time, time waiting for a core, memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

OTHERS = "main, Tango"  # the main thread and those without a name of their own: nearly all are Tango's
_PREFIX = "fs-"  # of the threads that `processing.threads` names

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ThreadTimes:
    """Seconds since the thread began; `waiting` for a core while it could have run, None where Linux does not tell."""

    name: str
    cpu: float
    waiting: float | None


def thread_times(pid: int) -> dict[int, ThreadTimes]:
    """Thread id → times, of the threads that live now."""
    times = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = (task / "comm").read_text().strip()
            stat = (task / "stat").read_text()
            scheduled = _scheduled(task)
        except OSError:  # it has ended meanwhile
            continue
        if scheduled is None:
            fields = stat.rpartition(")")[2].split()  # a name may hold blanks and brackets
            times[int(task.name)] = ThreadTimes(name, (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, None)
        else:
            times[int(task.name)] = ThreadTimes(name, *scheduled)
    return times


def _scheduled(task: Path) -> tuple[float, float] | None:
    """Times to the nanosecond, where the kernel keeps them."""
    try:
        running, waiting, _ = (task / "schedstat").read_text().split()
    except (OSError, ValueError):
        return None
    return (int(running) / 1e9, int(waiting) / 1e9) if int(running) else None


def process_seconds(pid: int) -> float:
    """Processor time that a process has used so far, s, threads that have ended included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def computer_seconds() -> float:
    """Processor time that everything on this computer has used so far, s; 0 where the system does not tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting_for_disk, irq, soft_irq, *_ = map(int, fields)
    return (user + nice + system + irq + soft_irq) / _TICKS_PER_S


def resident_mb(pid: int) -> float:
    """Resident memory of a process, MB (10⁶ bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


class ThreadClock:
    """Times of the threads of a process between two moments, those included that began or ended in between.

    Call `look` now and then: what a thread did between the last look and its end is not seen. Threads without a name
    of their own have that of the thread that started them; those that have the main thread's are called `OTHERS`.
    """

    def __init__(self, process: str, pid: int) -> None:
        self.process = process
        self._pid = pid
        self._name_of_main = (Path(f"/proc/{pid}/comm")).read_text().strip()
        self._begin = thread_times(pid)
        self._last = dict(self._begin)

    def look(self) -> None:
        self._last |= thread_times(self._pid)

    def rows(self, seconds: float) -> list[dict]:
        """One row per name: milliseconds per second, the busiest first; threads of the same name are summed."""
        rows: dict[str, dict] = {}
        for number, now in self._last.items():
            before = self._begin.get(number, ThreadTimes(now.name, 0.0, now.waiting and 0.0))
            name = OTHERS if now.name == self._name_of_main else now.name.removeprefix(_PREFIX)
            row = rows.setdefault(
                name,
                {"process": self.process, "thread": name, "count": 0, "cpu_ms_per_s": 0.0, "waiting_ms_per_s": 0.0},
            )
            row["count"] += 1
            row["cpu_ms_per_s"] += (now.cpu - before.cpu) * 1e3 / seconds
            if now.waiting is None or row["waiting_ms_per_s"] is None:
                row["waiting_ms_per_s"] = None
            else:
                row["waiting_ms_per_s"] += (now.waiting - (before.waiting or 0.0)) * 1e3 / seconds
        for row in rows.values():
            for name in ("cpu_ms_per_s", "waiting_ms_per_s"):
                row[name] = None if row[name] is None else round(row[name], 2)
        return sorted(rows.values(), key=lambda row: -row["cpu_ms_per_s"])
