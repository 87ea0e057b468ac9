"""Judging the demo's result by its file and, for simulated frames, by the truth behind them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..formats.sparse_reader import SparseFile
from ..processing.frames import Verdict
from ..simulators.simulation_file import SimulationTruth
from ..simulators.spots import match_peaks

if TYPE_CHECKING:
    from ..clients import Applied

_MIN_SHARE = 0.98  # of hits, of strong spots, of peaks that are spots
_FIXED = ("entry_0000/sparse_frames/mask", "entry_0000/sparse_frames/normalization", "entry_0000/geometry/mask")
_STRONG = 8.0  # SNR above which a planted spot must be found


def judge_frames(
    file: SparseFile, path: Path, frame_rate: float, sent: set[int], changes: list[Applied], problems: list[str]
) -> list[str]:
    """What the ledger says of the run; adds to `problems`. `sent` are the numbers of the frames: chosen ones of a
    measurement have gaps between them, which count as lost like those of any detector. `changes` of thresholds must
    have come into force where they say."""
    ledger = file.ledger
    numbers = ledger["frame"]
    if len(np.unique(numbers)) != len(numbers):
        problems.append("a frame number stands in the ledger twice")
    sets = {row.parameter_set.number: row for row in file.parameter_sets}
    used = set(ledger["parameter_set"][ledger["parameter_set"] > 0].tolist())
    if not used <= sets.keys():
        problems.append(f"frames name parameter sets {sorted(used - sets.keys())} that the file does not hold")
    for verdict in (Verdict.LOST, Verdict.DROPPED, Verdict.FAILED):
        if count := len(sent.intersection(numbers[ledger["verdict"] == verdict].tolist())):
            problems.append(f"{count} frames {verdict.name.lower()}")
    if missing := len(sent.difference(numbers.tolist())):
        problems.append(f"{missing} frames do not stand in the ledger")
    for change in changes:  # without a first frame the run was over before
        row = sets.get(change.parameter_set)
        if change.first_frame is not None and (row is None or row.first_frame != change.first_frame):
            problems.append(f"the file does not have {change}")
    size = path.stat().st_size
    fixed = sum(file.h5[name].id.get_storage_size() for name in _FIXED if name in file.h5)
    by_verdict = {v.name.lower(): int(np.count_nonzero(ledger["verdict"] == v)) for v in Verdict}
    told = ", ".join(f"{count} {name}" for name, count in by_verdict.items() if count)
    return [
        f"frames              {len(ledger)}: {told}",
        f"frames per second   {frame_rate:.1f}",
        f"compression ratio   {ledger['stored_bytes'].sum() / size:.1f} against the compressed stream, "
        f"{ledger['raw_bytes'].sum() / size:.1f} against raw pixels ({size / 1e6:.1f} MB, of which the mask and the "
        f"radius of each pixel, once per file, take {fixed / 1e6:.1f} MB)",
        f"parameter sets      {len(used)} in force, one after the other",
    ]


def judge_peaks(file: SparseFile, truth_path: Path, problems: list[str]) -> list[str]:
    """Hits and peaks against what was planted; adds to `problems`."""
    truth = SimulationTruth.load(truth_path)
    ledger = file.ledger
    found_hit = ledger["verdict"] == Verdict.KEPT
    planted_hit = truth.hit[ledger["frame"]]
    n_planted, n_found = int(planted_hit.sum()), int((found_hit & planted_hit).sum())
    n_false = int((found_hit & ~planted_hit).sum())
    wanted = found = peaks = true = 0
    for row in ledger[found_hit & planted_hit]:
        spots = truth.spots_of(int(row["frame"]))
        strong = (spots["snr"] > _STRONG) & spots["clean"]
        positions = file.peaks(int(row["row"]))[:, :2]
        match = match_peaks(positions, np.column_stack([spots["x"], spots["y"]]), wanted=strong)
        wanted += int(strong.sum())
        found += round(match.recall * int(strong.sum())) if strong.any() else 0
        peaks += len(positions)
        true += len(match.found)
    recall, precision = found / max(wanted, 1), true / max(peaks, 1)
    if n_found < _MIN_SHARE * n_planted or n_false:
        problems.append(f"hits: {n_found} of {n_planted} found, {n_false} false")
    if n_planted and min(recall, precision) < _MIN_SHARE:
        problems.append(f"peaks: recall {recall:.3f}, precision {precision:.3f}, expected at least {_MIN_SHARE}")
    return [
        f"hits                {n_found} found of {n_planted} planted, {n_false} false",
        f"peaks               recall {recall:.3f} (planted spots with SNR > {_STRONG:g}), precision {precision:.3f}",
    ]
