"""What DIALS finds in frames that were reduced and made dense again, against the frames themselves.

    python -m framesieve.benchmarks.fidelity [grid|eiger|stream1 …] [--json FILE]

needs DIALS (`dials.import`, `dials.find_spots`, `dials.python` in PATH), scipy, and the measured frames in
`FRAMESIEVE_DATA`. docs/fidelity.md has results and says what the references mean.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import fabio
import h5py
import numpy as np

from ..formats.sparse_reader import SparseFile
from ..processing import bitshuffle
from ..processing.errors import ConfigurationError

STRONG = 5.0  # I/σ
_SAME = 1.0  # px
_SPOTS_TO_ARRAYS = """
import sys, numpy
from dials.array_family import flex
table = flex.reflection_table.from_file(sys.argv[1])
x, y, _ = table["xyzobs.px.value"].parts()
box = numpy.array([list(one) for one in table["bbox"]], int).reshape(-1, 6)
numpy.savez(sys.argv[2], frame=numpy.array(table["id"]), x=numpy.array(x), y=numpy.array(y), box=box[:, :4],
            total=numpy.array(table["intensity.sum.value"]), pixels=numpy.array(table["n_signal"]))
"""


@dataclass(frozen=True, slots=True)
class DataSet:
    """Frames (n, rows, columns), bool mask of pixels that never count, and what `framesieve reduce` takes."""

    frames: np.ndarray
    mask: np.ndarray
    arguments: list[str]


@dataclass(frozen=True, slots=True)
class Spots:
    """What DIALS found. `total`: counts of its pixels; `net` and `sigma`: background subtracted, counting error."""

    frame: np.ndarray
    x: np.ndarray
    y: np.ndarray
    box: np.ndarray  # x from, to, y from, to
    total: np.ndarray
    pixels: np.ndarray
    net: np.ndarray
    sigma: np.ndarray


# ---- frames ----------------------------------------------------------------------------------------------------------


def grid(data: Path, work: Path) -> DataSet:
    source = data / "thaumatin_grid.h5"
    with h5py.File(source) as h5:
        group = h5["entry/data"]
        frames, mask = group["data"][()], group["mask"][()] != 0
        (work / "grid.poni").write_text(group["poni"].asstr()[()])
    mask |= (frames < 0).any(axis=0)
    np.save(work / "grid_mask.npy", mask.astype(np.uint8))
    arguments = [f"{source}::/entry/data/data", "--geometry", f"{work}/grid.poni", "--mask", f"{work}/grid_mask.npy"]
    return DataSet(frames, mask, arguments)


def eiger(data: Path, work: Path) -> DataSet:
    source = data / "eiger16m_thermolysin.cbf.gz"
    frame = fabio.open(str(source)).data
    mask = frame < 0
    np.save(work / "eiger_mask.npy", mask.astype(np.uint8))
    geometry = str(data / "eiger16m_thermolysin.poni")
    return DataSet(frame[None], mask, [str(source), "--geometry", geometry, "--mask", f"{work}/eiger_mask.npy"])


def stream1(data: Path, work: Path) -> DataSet:
    from ..sources.stream1_messages import parse_message
    from .fuzz_messages import read_stream1

    folder = data / "dectris_stream1"
    payload = parse_message([memoryview(part) for part in read_stream1(folder / "image000044")]).payload
    frame = np.empty(payload.shape, payload.dtype)
    payload.read_into(frame)
    with np.load(folder / "eiger2_0mq_mask.npz") as masks:
        mask = next(iter(masks.values())) != 0
    mask |= frame == np.iinfo(frame.dtype).max
    np.save(work / "stream1_mask.npy", mask.astype(np.uint8))
    with h5py.File(work / "stream1.h5", "w") as h5:
        h5["data"] = frame[None]
    geometry = str(folder / "eiger2_0mq_header.poni")
    arguments = [f"{work}/stream1.h5::/data", "--geometry", geometry, "--mask", f"{work}/stream1_mask.npy"]
    return DataSet(frame[None], mask, arguments)


DATA_SETS: dict[str, Callable[[Path, Path], DataSet]] = {"grid": grid, "eiger": eiger, "stream1": stream1}


# ---- programs --------------------------------------------------------------------------------------------------------


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise ConfigurationError(f"{' '.join(map(str, command))} failed ({done.returncode}): {said}")


def framesieve(*arguments: str | Path) -> None:
    run(sys.executable, "-c", "from framesieve.cli.main import main; main()", *arguments)


def find_spots(images: Path) -> Spots:
    """dials.import and dials.find_spots with the defaults of DIALS."""
    base = images.with_suffix("")
    run("dials.import", images, f"output.experiments={base}.expt", f"output.log={base}_import.log")
    run(
        "dials.find_spots",
        f"{base}.expt",
        f"output.reflections={base}.refl",
        f"output.log={base}_spots.log",
        "nproc=1",
    )
    run("dials.python", "-c", _SPOTS_TO_ARRAYS, f"{base}.refl", f"{base}.npz")
    with np.load(f"{base}.npz") as arrays, h5py.File(images) as h5:
        values = {name: arrays[name] for name in arrays.files}
        net, sigma = _background_subtracted(values, h5["entry/data/data"])
    return Spots(**values, net=net, sigma=sigma)


def _background_subtracted(spots: dict[str, np.ndarray], images: h5py.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Net counts and their error: the background is the mean of a frame 4 pixels wide around each spot's box, one
    pixel away from it, pixels 3 σ above it left out."""
    background, around = np.zeros(len(spots["x"])), np.ones(len(spots["x"]))
    for number in np.unique(spots["frame"]):
        image = images[number]
        for k in np.flatnonzero(spots["frame"] == number):
            x0, x1, y0, y1 = spots["box"][k]
            left, top = max(x0 - 5, 0), max(y0 - 5, 0)
            patch = image[top : y1 + 5, left : x1 + 5].astype(float)
            patch[max(y0 - 1 - top, 0) : y1 + 1 - top, max(x0 - 1 - left, 0) : x1 + 1 - left] = -1
            values = patch[patch >= 0]
            level = np.median(values) if values.size else 0.0
            for _ in range(3):
                values = values[values <= level + 3 * np.sqrt(max(level, 0.5)) + 0.5]
                level = values.mean() if values.size else 0.0
            background[k], around[k] = level, max(values.size, 1)
    net = spots["total"] - spots["pixels"] * background
    variance = np.maximum(spots["total"], 1) + spots["pixels"] ** 2 * background / around
    return net, np.sqrt(variance)


# ---- comparing -------------------------------------------------------------------------------------------------------


def compare(raw: Spots, other: Spots) -> dict[str, float]:
    """Shares in per cent. `new` and `new_strong` are relative to all, and to the strong spots of the raw frames."""
    from scipy.spatial import cKDTree

    places = [np.column_stack([s.x, s.y, s.frame * 1e6]) for s in (raw, other)]
    distance, partner = cKDTree(places[1]).query(places[0])
    back, _ = cKDTree(places[0]).query(places[1])
    strong, new = raw.net > STRONG * raw.sigma, back > _SAME
    very = raw.net > 2 * STRONG * raw.sigma
    same = np.flatnonzero(strong & (distance <= _SAME))
    pairs = partner[same]
    count = max(strong.sum(), 1)
    return {
        "spots": len(other.x),
        "strong_raw": int(strong.sum()),
        "found": 100 * len(same) / count,
        "found_above_10": 100 * float((distance[very] <= _SAME).mean()) if very.any() else float("nan"),
        "new": 100 * new.sum() / len(raw.x),
        "new_strong": 100 * (new & (other.net > STRONG * other.sigma)).sum() / count,
        "new_above_10": 100 * (new & (other.net > 2 * STRONG * other.sigma)).sum() / max(very.sum(), 1),
        "intensity": 100 * float(np.median(np.abs(other.total[pairs] / raw.total[same] - 1))),
        "net_intensity": 100 * float(np.median(np.abs(other.net[pairs] / raw.net[same] - 1))),
        "net_bias": 100 * float(np.median(other.net[pairs] / raw.net[same] - 1)),
    }


def box_mean(image: np.ndarray, valid: np.ndarray, size: int) -> np.ndarray:
    """Mean over the valid ones of size × size pixels around each; 0 where there is none. size is odd."""
    sums = []
    for values in (np.where(valid, image, 0).astype(np.float64), valid.astype(np.float64)):
        padded = np.pad(values, size // 2 + 1)[:-1, :-1].cumsum(axis=0).cumsum(axis=1)
        lower, upper = padded[:-size, :], padded[size:, :]
        rows = upper - lower
        sums.append(rows[:, size:] - rows[:, :-size])
    return sums[0] / np.maximum(sums[1], 1e-9) * (sums[1] > 0.5)


def redrawn(data: DataSet, spots: Spots, rng: np.random.Generator) -> np.ndarray:
    """The frames with all pixels but those in and next to DIALS' spots drawn from Poisson's law with the mean of
    31 × 31 pixels: a background that is known everywhere, and nothing of a spot touched."""
    result = []
    for number, frame in enumerate(data.frames):
        near = np.zeros(frame.shape, bool)
        for x0, x1, y0, y1 in spots.box[spots.frame == number]:
            near[max(y0 - 3, 0) : y1 + 3, max(x0 - 3, 0) : x1 + 3] = True
        mean = box_mean(frame, ~near & ~data.mask, 31)
        result.append(np.where(near, frame, rng.poisson(mean)))
    return np.array(result)


def permuted(data: DataSet, kept: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The frames with the pixels that were not kept exchanged at random within 16 × 16 pixels: each has the right law,
    that of this very place and frame, but knows nothing of its neighbours."""
    y, x = np.indices(data.mask.shape) // 16
    block = (y * 100_000 + x).ravel()
    result = []
    for frame, index in zip(data.frames, kept, strict=True):
        rest = ~data.mask.ravel()
        rest[index] = False
        pixels = np.flatnonzero(rest)
        image = frame.ravel().copy()
        to = pixels[np.argsort(block[pixels], kind="stable")]
        image[to] = image[pixels[np.lexsort((rng.random(pixels.size), block[pixels]))]]
        result.append(image.reshape(frame.shape))
    return np.array(result)


# ---- the benchmark ---------------------------------------------------------------------------------------------------


def with_images(model: Path, place: Path, frames: np.ndarray, mask: np.ndarray) -> Path:
    """A copy of a dense file with other images: the same geometry, mask and pixel type for DIALS."""
    shutil.copy(model, place)
    with h5py.File(place, "r+") as h5:
        images = h5["entry/data/data"]
        for number, frame in enumerate(frames):
            image = np.minimum(frame.astype(np.int64), np.iinfo(np.int32).max).astype(np.int32)
            image[mask] = -1
            images[number] = image
    return place


def sparse_bytes(sparse: Path) -> tuple[int, int]:
    """Of all that there is of each frame, and of the file."""
    per_frame = 0

    def add(name: str, item: object) -> None:
        nonlocal per_frame
        if isinstance(item, h5py.Dataset) and not name.endswith(("/mask", "/normalization", "/radius")):
            per_frame += item.id.get_storage_size()

    with h5py.File(sparse) as h5:
        h5.visititems(add)
    return per_frame, sparse.stat().st_size


def measure(
    name: str, data: Path, work: Path, models: list[str], snr: list[float], surroundings: list[int]
) -> Iterator[dict]:
    one = DATA_SETS[name](data, work)
    stored = sum(len(bitshuffle.encode(frame)) for frame in one.frames)
    raw: Spots | None = None
    for model, snr_pick, edge in itertools.product(models, snr, surroundings):
        base = work / f"{name}_{model}_{snr_pick:g}_{edge}"
        sparse, dense = base.with_name(base.name + ".h5"), base.with_name(base.name + "_dense.h5")
        options = ["--min-peaks", "0", "--snr-pick", str(snr_pick), "--error-model", model, "--overwrite"]
        framesieve("reduce", *one.arguments, "-o", sparse, *options, "--surroundings", str(edge))
        framesieve("densify", sparse, "-o", dense, "--overwrite")
        if raw is None:
            raw = find_spots(with_images(dense, work / f"{name}_raw.h5", one.frames, one.mask))
        row = {"data": name, "model": model, "snr_pick": snr_pick, "surroundings": edge, "what": "densified"}
        with SparseFile(sparse) as file:
            kept = [frame.index for frame in file]
        row["kept"] = 100 * sum(map(len, kept)) / (~one.mask).sum() / len(one.frames)
        per_frame, whole = sparse_bytes(sparse)
        row |= {"ratio": stored / per_frame, "ratio_of_file": stored / whole, "spots_raw": len(raw.x)}
        yield row | compare(raw, find_spots(dense))
        if snr_pick == 2 and model == models[0] and edge == 0:
            rng = np.random.default_rng(1)
            for what, frames in (("redrawn", redrawn(one, raw, rng)), ("permuted", permuted(one, kept, rng))):
                place = with_images(dense, work / f"{base.name}_{what}.h5", frames, one.mask)
                yield row | {"what": what} | compare(raw, find_spots(place))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_sets", nargs="*", default=[], choices=[*DATA_SETS, []], help="default: all")
    parser.add_argument("--models", default="", help="error models, with commas; default: depends on the frames")
    parser.add_argument("--snr", default="1,1.4,2,3")
    parser.add_argument("--surroundings", default="0,7,9")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("FRAMESIEVE_DATA", "../shared/data")))
    parser.add_argument("--work", type=Path, help="folder for files, kept; default: a temporary one")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    snr, edges = list(map(float, chosen.snr.split(","))), list(map(int, chosen.surroundings.split(",")))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for name in chosen.data_sets or DATA_SETS:
            models = chosen.models.split(",") if chosen.models else ["poisson" if name == "grid" else "exact"]
            for row in measure(name, chosen.data, work, models, snr, edges):
                rows.append(row)
                print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
                sys.stdout.flush()
                if chosen.json:
                    chosen.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
