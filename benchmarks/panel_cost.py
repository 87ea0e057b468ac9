"""What an open panel costs the server: `framesieve bench panel`.

Two servers on this computer, one of them with a panel that shows everything it can, the virtual powder too. The same
frames are sent to the one and the other in turn, so that what else the computer does meets both.
"""

from __future__ import annotations

import contextlib
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..processing.errors import CommunicationError, OutOfRangeError
from ..simulators.diffraction import StillSimulator
from .live_system import LiveSystem
from .process_times import process_seconds, thread_times

_WARM_UP = 60  # frames
_DISTINCT = 16
_PATIENCE = 120.0  # s
_CONNECTED = "connected"
WITH, WITHOUT = "with", "without"
MEASURED = ("frames_per_s", "server_ms_per_frame", "events_ms_per_s")
SENDER = "fs-publisher"  # the thread that makes events and sends them


def run(
    seconds: float = 15.0,
    rounds: int = 4,
    *,
    rate: float = 0.0,
    nice: int = 19,
    shape: tuple[int, int] = (2167, 2070),
    device: str = "auto",
    warm_up: int = _WARM_UP,
    progress: Callable[[str], None] = lambda what: None,
    check_stop: Callable[[], None] = lambda: None,
) -> dict:
    """Measure with and without a panel in turn: an object of plain values.

    Parameters
    ----------
    seconds
        About how long frames are sent in each measurement.
    rounds
        Measurements of each kind.
    rate
        Frames per second, 0 = as fast as they are taken.
    nice
        Of the panel's process; 19: it takes the processor time that nobody else wants.
    """
    if not 0 < seconds < float("inf") or not 0 <= rate < float("inf"):
        raise OutOfRangeError(f"{seconds:g} s at {rate:g} Hz: accepted are times above 0 and rates from 0 on")
    simulator = StillSimulator(shape, hit_share=0.5, n_frames=_DISTINCT, seed=1, dtype="uint16")
    measured: dict[str, list[dict[str, float]]] = {WITH: [], WITHOUT: []}
    with contextlib.ExitStack() as stack:
        systems = {}
        for kind in (WITHOUT, WITH):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="framesieve-bench-")))
            system = LiveSystem(simulator, _DISTINCT, folder, opencl_device=device, progress=progress)
            systems[kind] = stack.enter_context(system)
            progress("warming up")
            fastest = _measure(system, warm_up, rate, check_stop)["frames_per_s"]
        n_frames = max(20, round((rate or fastest) * seconds))
        progress("opening the panel")
        panel = stack.enter_context(_panel(systems[WITH].place, nice))
        panel_begin, begin = process_seconds(panel.pid), time.monotonic()
        for k in range(rounds):
            for kind in (WITHOUT, WITH) if k % 2 else (WITH, WITHOUT):
                progress(f"round {k + 1} of {rounds}, {kind} a panel: {n_frames} frames")
                measured[kind].append(_measure(systems[kind], n_frames, rate, check_stop))
                if panel.poll() is not None:
                    raise CommunicationError(f"the panel has ended with status {panel.returncode}")
        panel_ms_per_s = 1e3 * (process_seconds(panel.pid) - panel_begin) / (time.monotonic() - begin)
    return {
        "frames": n_frames,
        "rate_asked": rate,
        "nice": nice,
        "shape": list(shape),
        "cpus": os.cpu_count(),
        "panel_ms_per_s": round(panel_ms_per_s, 1),
        **{kind: measured[kind] for kind in (WITHOUT, WITH)},
        **{name: ratio(measured, name) for name in MEASURED},
    }


def ratio(measured: dict[str, list[dict[str, float]]], name: str) -> dict[str, float]:
    """Medians with and without a panel; `ratio` is the median of the ratios of each round."""
    pairs = [
        (one[name], other[name]) for one, other in zip(measured[WITH], measured[WITHOUT], strict=True) if other[name]
    ]
    ratios = [one / other for one, other in pairs] or [0.0]
    return {
        WITHOUT: round(statistics.median(row[name] for row in measured[WITHOUT]), 3),
        WITH: round(statistics.median(row[name] for row in measured[WITH]), 3),
        "ratio": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
    }


def _measure(system: LiveSystem, n_frames: int, rate: float, check_stop: Callable[[], None]) -> dict[str, float]:
    # seconds, frames, processor time of the server, and of its thread that sends events
    seen: list[tuple[float, int, float, float]] = []
    pid = system.server.pid

    def look(seconds: float, reduced: int, _: object) -> None:
        if reduced and (not seen or reduced != seen[-1][1]):
            sending = sum(thread.cpu for thread in thread_times(pid).values() if thread.name == SENDER)
            seen.append((seconds, reduced, process_seconds(pid), sending))

    system.run(n_frames, rate, look, check_stop)
    if len(seen) < 2:
        return dict.fromkeys(MEASURED, 0.0)
    duration, frames, used, sending = (last - first for first, last in zip(seen[0], seen[-1], strict=True))
    return {
        "frames_per_s": round(frames / duration, 3),
        "server_ms_per_frame": round(1e3 * used / frames, 3),
        "events_ms_per_s": round(1e3 * sending / duration, 3),
    }


@contextlib.contextmanager
def _panel(place: str, nice: int) -> Iterator[subprocess.Popen]:
    """A panel in a process of its own, once it is connected."""
    code = f"from {__name__} import show; show({place!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"QT_QPA_PLATFORM": "" if os.environ.get("DISPLAY") else "offscreen"},
    )
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))
            line = process.stdout.readline() if ready else ""
            if not line:
                raise CommunicationError("the panel does not connect to the server")
            if line.strip() == _CONNECTED:
                break
        # not before: connecting would take for ever
        os.setpriority(os.PRIO_PROCESS, process.pid, nice)
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), nice)
        yield process
    finally:
        process.kill()
        process.communicate()


def show(place: str) -> None:
    """The panel's process: the window, and a word once it is connected."""
    from taurus.external.qt import QtCore

    from ..clients.panel.names import HIGHEST
    from ..clients.panel.window import Panel, application

    app = application()
    panel = Panel()
    panel.setModel(place)
    panel.resize(1720, 1030)
    panel.show()
    panel.picture.show_only(HIGHEST)  # the dearest of its pictures
    waiting = QtCore.QTimer()

    def look() -> None:
        if not panel.pipeline.missing and panel.pipeline.get("peakfinder/virtual_powder_frames") is not None:
            waiting.stop()
            print(_CONNECTED, flush=True)

    waiting.timeout.connect(look)
    waiting.start(100)
    app.exec_()


def table(results: dict) -> str:
    """The same for people."""
    rows, columns = results["shape"]
    asked = f"{results['rate_asked']:g} Hz asked" if results["rate_asked"] else "as fast as they were taken"
    lines = [
        f"{rows} × {columns}, {asked}; {len(results[WITH])} × {results['frames']} frames of each kind; "
        f"{results['cpus']} CPUs, shared with the detector and the panel (nice {results['nice']})",
        "",
        "                        without   with a panel   ratio (lowest to highest)",
    ]
    for name, text in zip(MEASURED, ("frames per second", "server, ms per frame", "events, ms per s"), strict=True):
        row = results[name]
        lines.append(
            f"{text:22} {row[WITHOUT]:8.2f}   {row[WITH]:12.2f}   "
            f"{row['ratio']:.3f} ({row['lowest']:.3f} to {row['highest']:.3f})"
        )
    lines.append(f"the panel itself       {results['panel_ms_per_s']:.0f} ms of processor time per second")
    return "\n".join(lines)
