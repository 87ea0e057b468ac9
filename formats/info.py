"""What a file holds, in words: `framesieve info FILE`."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..processing.frames import Verdict
from .layout import DENSE_DATA, DENSE_PARTS, parts_of
from .recorded_sets import RecordedParameterSet
from .sparse_reader import SparseFile, open_hdf5

_RANGES_SHOWN = 10


def describe(path: str | os.PathLike[str]) -> str:
    """Several lines on a file of `SparseWriter`, from its ledger; a few on a file of `DenseWriter`. Of a master with
    parts, on all of them.

    Raises
    ------
    ConfigurationError
        The file is missing or of another kind.
    """
    dense = _dense(Path(path))
    if dense:
        return dense
    with SparseFile(path, incomplete=True) as file:
        lines = [
            f"{file.path}: {len(file)} sparse frames of {file.shape[0]} × {file.shape[1]} pixels, {file.dtype}",
            *_run(file),
            *_frames(file),
            *_parts(file.parts),
            *_sizes(file),
            *_parameter_sets(file.parameter_sets),
            "open it with",
            "  fabio.open(FILE)                                     each frame as an image",
            "  framesieve.formats.sparse_reader.SparseFile(FILE)    pixels, peaks, ledger",
        ]
    return "\n".join(lines)


def _dense(path: Path) -> str:
    """Of a file of `DenseWriter`; "" for any other."""
    with open_hdf5(path) as h5:
        if DENSE_DATA not in h5 or "frame_number" not in h5[DENSE_DATA].parent:
            return ""
        data, numbers = h5[DENSE_DATA], h5[DENSE_DATA].parent["frame_number"]
        parts = parts_of(h5.get(DENSE_PARTS), path)
        lines = [
            f"{path}: {len(numbers)} whole frames of {data.shape[1]} × {data.shape[2]} pixels, {data.dtype}",
            f"  frame numbers {ranges(numbers[()])}",
            *_parts(parts),
            f"  size {_bytes(_size(path, parts))}, uncompressed {_bytes(data.size * data.dtype.itemsize)}",
        ]
        return "\n".join(lines)


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as "3-7, 12, 20-21"; the first few only."""
    numbers = np.unique(np.asarray(numbers, dtype=np.int64))
    if not len(numbers):
        return ""
    breaks = np.flatnonzero(np.diff(numbers) > 1)
    firsts = numbers[np.concatenate([[0], breaks + 1])]
    lasts = numbers[np.concatenate([breaks, [-1]])]
    shown = [
        str(first) if first == last else f"{first}-{last}"
        for first, last in zip(firsts[:_RANGES_SHOWN], lasts[:_RANGES_SHOWN], strict=True)
    ]
    more = len(firsts) - len(shown)
    return ", ".join(shown) + (f", … ({more} more ranges)" if more else "")


def _run(file: SparseFile) -> list[str]:
    entry = file.h5[file.h5.attrs["default"]]
    lines = []
    for name, label in (("start_time", "started"), ("end_time", "last written")):
        if name in entry:
            lines.append(f"  {label:13}{entry[name][()].decode()}")
    if "geometry" in entry:
        geometry = entry["geometry"]
        wavelength = f", {geometry['wavelength'][()] * 1e10:.6g} Å" if "wavelength" in geometry else ""
        detector = geometry["detector"].asstr()[()]
        lines.append(f"  {'detector':13}{detector} at {geometry['distance'][()]:.6g} m{wavelength}")
        lines.append(f"  {'source':13}{geometry['source'].asstr()[()]}")
    return lines


def _frames(file: SparseFile) -> list[str]:
    ledger = file.ledger
    if not len(ledger):
        return ["  no ledger in this file: how many frames were vetoed or lost is not known"]
    lines = [f"frames: {len(ledger)}"]
    for verdict in Verdict:
        chosen = ledger[ledger["verdict"] == verdict]
        if not len(chosen):
            continue
        line = f"  {verdict.name.lower():13}{len(chosen):8d}  {len(chosen) / len(ledger):6.1%}"
        if verdict >= Verdict.LOST:  # these are worth looking at
            known = chosen["frame"][chosen["frame"] >= 0]
            line += f"  {ranges(known)}"
            unknown = len(chosen) - len(known)
            line += f" ({unknown} without a number)" if unknown else ""
        lines.append(line)
    saved = ledger[ledger["row"] >= 0]
    if len(saved):
        lines.append(f"  per saved frame: {saved['n_pixels'].mean():.0f} pixels, {saved['n_peaks'].mean():.1f} peaks")
    return lines


def _parts(parts: list[Path]) -> list[str]:
    """The files that hold the pixels of a master."""
    if not parts:
        return []
    missing = [part.name for part in parts if not part.is_file()]
    last = f" … {parts[-1].name}" if len(parts) > 1 else ""
    lines = [f"  {'parts':13}{len(parts)}: {parts[0].name}{last}"]
    if missing:
        more = f", … ({len(missing) - _RANGES_SHOWN} more)" if len(missing) > _RANGES_SHOWN else ""
        lines.append(f"  {'MISSING':13}{len(missing)} of them: {', '.join(missing[:_RANGES_SHOWN])}{more}")
        lines.append(f"  {'':13}bring them back beside this file; without them their pixels read as zeros")
    return lines


def _sizes(file: SparseFile) -> list[str]:
    size = _size(file.path, file.parts)
    lines = [f"size: {_bytes(size)}"]
    for name, label in (("stored_bytes", "input as received"), ("raw_bytes", "input uncompressed")):
        total = int(file.ledger[name].sum())
        if total:
            lines.append(f"  {label:20}{_bytes(total)}, {total / size:.1f} times as much")
    return lines


def _parameter_sets(sets: list[RecordedParameterSet]) -> list[str]:
    """The first in full, of the others what changed."""
    lines = [f"parameter sets: {len(sets)}"] if sets else []
    before: dict = {}
    for recorded in sets:
        values = recorded.parameter_set.values.to_dict()
        changed = ", ".join(f"{name} {value}" for name, value in values.items() if before.get(name) != value)
        moment = datetime.datetime.fromtimestamp(recorded.time).isoformat(" ", "seconds")
        lines.append(f"  {recorded.parameter_set.number} from frame {recorded.first_frame}, {moment}: {changed}")
        before = values
    return lines


def _size(path: Path, parts: list[Path]) -> int:
    """Bytes on disk, of the parts too; while a file is written it has a hole at its end, which does not count."""
    total = 0
    for place in (path, *parts):
        with contextlib.suppress(FileNotFoundError):
            status = place.stat()
            total += min(status.st_size, status.st_blocks * 512) or status.st_size
    return total


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
