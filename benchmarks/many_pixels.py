"""A sparse file with more pixels than 32 bits count, written and read at its end: time and memory.

    python -m framesieve.benchmarks.many_pixels DIRECTORY [--pixels 5e9] [--frames-per-file N]

One frame again and again, every third pixel of an EIGER 16M. The file is deleted afterwards.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from ..formats.parted_writer import PartedSparseWriter
from ..formats.sparse_reader import SparseFile
from ..formats.sparse_writer import SparseWriter
from ..processing.frames import ReducedFrame, RunInfo, Verdict

SHAPE = (4371, 4150)
BINS = 100


def run_info() -> RunInfo:
    """A detector in the beam's centre, 0.1 m behind the sample."""
    y, x = np.indices(SHAPE, np.float32)
    pixel = 75e-6
    radius = np.hypot(y - SHAPE[0] / 2, x - SHAPE[1] / 2) * pixel
    centres = np.linspace(0, radius.max(), BINS).astype(np.float32)
    return RunInfo(
        shape=SHAPE, dtype=np.dtype(np.uint8), radius=centres, radius_image=radius, normalization=None,
        poni_text="", wavelength=1e-10, distance=0.1, pixel_size=(pixel, pixel),
        beam_center=(SHAPE[1] / 2, SHAPE[0] / 2), detector="many pixels", source="", configuration={},
    )  # fmt: skip


def frame(number: int, index: np.ndarray, intensity: np.ndarray) -> ReducedFrame:
    result = ReducedFrame(number, "s", 0.0, Verdict.KEPT, n_pixels=len(index))
    result.index, result.intensity = index, intensity
    result.background_mean = result.background_std = np.full(BINS, number % 100, np.float32)
    return result


def measure(directory: Path, pixels: int, frames_per_file: int = 0) -> dict[str, float]:
    """Write at least so many pixels, read the last frame."""
    index = np.arange(0, SHAPE[0] * SHAPE[1], 3, np.uint32)
    intensity = (index % 7).astype(np.uint8)
    count = -(-pixels // len(index))
    path = directory / "many.h5"
    begin = time.perf_counter()
    writer = PartedSparseWriter(path, frames_per_file) if frames_per_file else SparseWriter(path)
    writer.begin(run_info())
    for number in range(count):
        if number == count - 1:
            intensity = intensity[::-1].copy()  # the last one is another one
        writer.append([frame(number, index, intensity)])
    writer.close()
    written = time.perf_counter()
    with SparseFile(path) as file:
        assert file.n_pixels == count * len(index) > 2**32 or pixels <= 2**32
        last = file.frame(-1)
        assert np.array_equal(last.index, index) and np.array_equal(last.intensity, intensity)
        assert last.number == count - 1 and (last.background_mean == last.number % 100).all()
    return {
        "pixels": count * len(index),
        "frames": count,
        "write_s": written - begin,
        "read_last_s": time.perf_counter() - written,
        "size_mb": 1e-6 * sum(one.stat().st_size for one in directory.iterdir()),
        "peak_memory_mb": 1e-3 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--pixels", type=float, default=5e9)
    parser.add_argument("--frames-per-file", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        for name, value in measure(Path(folder), int(options.pixels), options.frames_per_file).items():
            print(f"{name:16} {value:.4g}" if isinstance(value, float) else f"{name:16} {value}")


if __name__ == "__main__":
    main()
