"""Other programs side by side with ours: `framesieve bench peers`.

All get the standard frame and the same parameters; each is measured in turn with our whole chain (correct, clip, pick,
peaks), also where it does a part of that only, or with ours of the same task where the chain has none. Those that are
not installed are left out, with the command that installs them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from ..processing.errors import FrameSieveError
from ..processing.reducer import Reducer
from .measuring import Spread, Timed, align, in_turn, one_device, ratio, timed
from .peer_programs import PROGRAMS, Missing, Peer, Scene
from .standard import BINS, PARAMETERS, PEAKS, SHAPE, standard_bins, standard_frame

BATCH_SIZE = 4  # of ours
_SLOW = 8.0  # s of processor time for the first frame: such a peer is measured twice only


def run(
    device: str = "auto",
    pairs: int = 9,
    *,
    shape: tuple[int, int] = SHAPE,
    bins: int = BINS,
    peaks: int = PEAKS,
    programs: Sequence[tuple[str, str, Callable[[Scene], Peer]]] = PROGRAMS,
    progress: Callable[[str], None] = lambda what: None,
) -> dict:
    """Measure all peers: an object of plain values. `peers` is a list of {peer, task, peer_ms, ours_ms, ratio, …},
    `skipped` tells of those that are missing.

    Parameters
    ----------
    device
        `auto` or PLATFORM:DEVICE; ours and the peers' OpenCL programs run on the same.
    pairs
        Measurements of each peer, each beside one of ours.
    shape, bins, peaks
        Of the frame.
    programs
        See `peer_programs.PROGRAMS`.
    progress
        Called with a word on what is being measured.
    """
    chosen = one_device(device)  # also makes old PoCLs know this processor, for pyFAI too
    load = os.getloadavg()[0]
    radial = standard_bins(shape, bins)
    frame = standard_frame(radial, "uint32", peaks)
    rows, skipped = [], []
    with contextlib.closing(Reducer(radial, frame.dtype, chosen, batch_size=BATCH_SIZE)) as reducer:
        reducer.inputs[0][:] = frame
        reduction = reducer.reduce(0, BATCH_SIZE, PARAMETERS)[0]
        scene = Scene(frame, radial, chosen, reduction)

        def ours() -> None:
            reducer.reduce(0, BATCH_SIZE, PARAMETERS)

        for name, task, make in programs:
            progress(f"{name} {task}")
            try:
                peer = make(scene)
                rows.append(_measure(peer, ours, pairs))
            except Missing as missing:
                skipped.append({"peer": name, "task": task, "reason": str(missing), "install": missing.command})
            except FrameSieveError:  # ours failed, not the peer
                raise
            except Exception as error:  # whatever another version of another program stumbles over
                reason = f"it failed: {type(error).__name__}: {error}"
                skipped.append({"peer": name, "task": task, "reason": reason, "install": ""})
    return {
        "peers": rows,
        "skipped": skipped,
        "device": chosen.name,
        "cpus": os.cpu_count(),
        "load_before": round(load, 2),
        "shape": list(shape),
        "dtype": frame.dtype.name,
        "bins": bins,
        "peaks_planted": peaks,
        "parameters": PARAMETERS.to_dict(),
    }


def _measure(peer: Peer, ours: Callable[[], None], pairs: int) -> dict:
    results = []
    first = timed(lambda: results.append(peer.work()))  # kernels are compiled, caches are filled
    found = {"peer_found": peer.found(results.pop()), "ours_found": peer.ours_found}
    if first.processor > _SLOW:
        pairs = min(pairs, 2)
    ours = peer.ours or ours
    ours()
    times = in_turn({"peer": peer.work, "ours": ours}, pairs)
    return compare(peer, times["peer"], times["ours"], peer.frames if peer.ours else BATCH_SIZE) | found


def compare(peer: Peer, theirs: Sequence[Timed], ours: Sequence[Timed], batch_size: int) -> dict:
    """The row of a peer from pairs of measurements; ours did `batch_size` frames each time.

    `peer_ms`, `ours_ms`: medians per frame, of wall-clock time or (`measure`) of processor time on all cores; `ratio`:
    the median of the pairs' ratios.
    """
    by = "core time" if peer.by_core_time else "wall-clock time"
    both = ((theirs, peer.frames), (ours, batch_size))
    peer_wall, ours_wall = ([t.wall * 1e3 / n for t in ts] for ts, n in both)
    peer_core, ours_core = ([t.processor * 1e3 / n for t in ts] for ts, n in both)
    above, below = (peer_core, ours_core) if peer.by_core_time else (peer_wall, ours_wall)
    spread, peer_spread, ours_spread = ratio(above, below), Spread.of(above), Spread.of(below)
    return {
        "peer": peer.name,
        "task": peer.task,
        "version": peer.version,
        "measure": by,
        "peer_ms": round(peer_spread.median, 3),
        "peer_quartiles_ms": peer_spread.quartiles(),
        "ours_ms": round(ours_spread.median, 3),
        "ours_quartiles_ms": ours_spread.quartiles(),
        "ratio": round(spread.median, 2),
        "quartiles": spread.quartiles(2),
        "pairs": spread.n,
        "wall_ms": [round(Spread.of(peer_wall).median, 3), round(Spread.of(ours_wall).median, 3)],
        "core_ms": [round(Spread.of(peer_core).median, 3), round(Spread.of(ours_core).median, 3)],
    }


def table(results: dict) -> str:
    """The same for people."""
    rows, columns = results["shape"]
    lines = [
        f"{results['device']}; {results['cpus']} CPUs, load {results['load_before']} before",
        f"{rows} × {columns} {results['dtype']}, {results['bins']} bins, {results['peaks_planted']} peaks; ours is the "
        "whole chain; ms per frame, medians; ratios of pairs (quartiles)",
        "",
    ]
    cells = [["peer", "task", "peer, ms", "ours, ms", "ratio", "quartiles", "found: peer", "ours", "pairs"]]
    for row in results["peers"]:
        low, high = row["quartiles"]
        task = row["task"] + (", core time" if row["measure"] == "core time" else "")
        cells.append(
            [
                f"{row['peer']} {row['version']}",
                task,
                f"{row['peer_ms']:.1f}",
                f"{row['ours_ms']:.2f}",
                f"{row['ratio']:.1f}",
                f"{low:.1f} to {high:.1f}",
                _found(row["peer_found"]),
                _found(row["ours_found"]),
                str(row["pairs"]),
            ]
        )
    lines += align(cells, left=2)
    for row in results["skipped"]:
        how = f"; {row['install']}" if row["install"] else ""
        lines.append(f"left out: {row['peer']} {row['task']}: {row['reason']}{how}")
    return "\n".join(lines)


def _found(found: dict) -> str:
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in found.items())
