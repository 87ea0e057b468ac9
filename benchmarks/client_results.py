"""What `bench clients` makes of what its clients have told."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from ..formats.sparse_reader import SparseFile
from ..processing.frames import Verdict
from .client_program import is_written, number_of

IMAGE = "acquisition/preview"


def spread(values: Sequence[float]) -> dict[str, float]:
    """How many there are, the median, the 99th percentile and the largest; zeros where there are none."""
    if not len(values):
        return {"count": 0, "p50": 0.0, "p99": 0.0, "max": 0.0}
    p50, p99 = np.percentile(values, (50, 99))
    return {"count": len(values), "p50": round(p50, 3), "p99": round(p99, 3), "max": round(max(values), 3)}


def reads_of(clients: list[dict]) -> dict[str, dict[str, float]]:
    """ms of all reads, of those of the image, and of all others."""
    image = [ms for client in clients for ms in client["reads"].get(IMAGE, [])]
    others = [ms for client in clients for name, each in client["reads"].items() if name != IMAGE for ms in each]
    return {"all": spread(image + others), "preview": spread(image), "others": spread(others)}


def write_to_event(clients: list[dict]) -> dict[str, list[float]]:
    """ms from the beginning of every write until its event is at the client that wrote, and at the last of all. A write
    that came so soon before another that both were told in one event is left out."""
    own, last = [], []
    for writer in clients:
        for write in writer["writes"]:
            seen = [client["arrived"].get(str(write["number"])) for client in clients]
            if None not in seen:
                own.append(1e3 * (writer["arrived"][str(write["number"])] - write["began"]))
                last.append(1e3 * (max(seen) - write["began"]))
    return {"own": own, "all_clients": last}


def frames_until_in_force(file: SparseFile, writes: list[dict]) -> list[int]:
    """For every write the frames that were reduced with the value before, of those that were not counted yet when it
    was written. A value that no frame was reduced with is left out."""
    ledger = file.ledger
    reduced = ledger[np.isin(ledger["verdict"], (Verdict.KEPT, Verdict.VETOED, Verdict.CONTROL))]
    sets = {
        number_of(row.parameter_set.values.snr_pick): row.parameter_set.number
        for row in file.parameter_sets
        if is_written(row.parameter_set.values.snr_pick)
    }
    frames = []
    for write in writes:
        if write["number"] in sets:
            first = int(np.argmax(reduced["parameter_set"] >= sets[write["number"]]))
            frames.append(max(first - write["frame_count"], 0))
    return frames


def loss(rounds: list[dict]) -> dict[str, float]:
    """By how much the clients lower the frame rate, %: the median of the rounds, the least and the most."""
    each = [100 * (1 - row["with"]["frames_per_s"] / row["without"]["frames_per_s"]) for row in rounds]
    return {
        "median": round(statistics.median(each), 2),
        "least": round(min(each), 2),
        "most": round(max(each), 2),
    }
