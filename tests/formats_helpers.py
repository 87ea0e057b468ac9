"""Frames with known content for the tests of the formats. Run as a program it writes until it is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import h5py
import numpy as np
from framesieve.formats.parted_writer import PartedSparseWriter
from framesieve.formats.sparse_writer import SparseWriter
from framesieve.processing.frames import ReducedFrame, RunInfo, Verdict
from framesieve.processing.parameters import Parameters, ParameterSet

SHAPE = (90, 110)
BINS = 25
PIXEL = 75e-6
MASKED = [*range(7 * SHAPE[1], 8 * SHAPE[1]), 40 * SHAPE[1] + 61]  # one row and one pixel, flat index

PONI = """# a comment
poni_version: 2
Detector: Detector
Detector_config: {"pixel1": 7.5e-05, "pixel2": 7.5e-05, "max_shape": [90, 110], "orientation": 3}
Distance: 0.1
Poni1: 0.003
Poni2: 0.0045
Rot1: 0.0
Rot2: 0.0
Rot3: 0.0
Wavelength: 1e-10
"""


def run_info(dtype: str = "uint16", *, normalization: bool = False) -> RunInfo:
    """A small detector; the beam hits at (60, 40) px."""
    y, x = np.indices(SHAPE)
    radius_image = (np.hypot(y + 0.5 - 40, x + 0.5 - 60) * PIXEL).astype(np.float32)
    radius_image.ravel()[MASKED] = np.nan
    edges = np.linspace(0, np.nanmax(radius_image) * 1.0001, BINS + 1)
    return RunInfo(
        shape=SHAPE,
        dtype=np.dtype(dtype),
        radius=((edges[1:] + edges[:-1]) / 2).astype(np.float32),
        radius_image=radius_image,
        normalization=(1 - 0.2 * x / SHAPE[1]).astype(np.float32) if normalization else None,
        poni_text=PONI,
        wavelength=1e-10,
        distance=0.1,
        pixel_size=(PIXEL, PIXEL),
        beam_center=(60.0, 40.0),
        detector="Test detector",
        source="test",
        configuration={"radial_bins": BINS},
    )


def reduced_frame(number: int, verdict: Verdict = Verdict.KEPT, dtype: str = "uint16", peaks: int = 5) -> ReducedFrame:
    """A frame whose content follows from its number."""
    rng = np.random.default_rng(abs(number))
    frame = ReducedFrame(
        number,
        "series-7",
        timestamp=1.7e9 + number * 1e-3,
        verdict=verdict,
        reason="" if verdict is Verdict.KEPT else f"because of {verdict.name.lower()} №{number}",
        parameter_set=1,
        stored_bytes=5000 + number,
        raw_bytes=SHAPE[0] * SHAPE[1] * 2,
        monitor=1e5 + number,
        position=(0.5 * number, -3.0),
    )
    if verdict > Verdict.CONTROL:
        return frame
    frame.n_pixels = int(rng.integers(0, 600))
    valid = np.flatnonzero(~np.isin(np.arange(SHAPE[0] * SHAPE[1]), MASKED))
    frame.index = np.sort(rng.choice(valid, frame.n_pixels, replace=False)).astype(np.uint32)
    frame.intensity = rng.integers(0, 60_000, frame.n_pixels).astype(dtype)
    frame.background_mean = rng.uniform(1, 100, BINS).astype(np.float32)
    frame.background_std = rng.uniform(0, 5, BINS).astype(np.float32)
    frame.peaks = rng.uniform(1, 90, (peaks, 7)).astype(np.float32)
    frame.n_peaks = peaks
    return frame


def check(path: Path) -> int:
    """Everything that frame_ptr and the ledger promise is there and right; returns the number of saved frames."""
    with h5py.File(path, "r") as file:
        frames, peaks = file["entry_0000/sparse_frames"], file["entry_1/result_1"]
        ledger = file["entry_0000/ledger"][()]
        frame_ptr = frames["frame_ptr"][()]
        index, intensity = frames["index"][()], frames["intensity"][()]
        rows = len(frame_ptr) - 1
        assert frame_ptr[-1] <= min(len(index), len(intensity))
        assert all(len(dataset) >= rows for dataset in peaks.values())
        assert min(len(frames["background_avg"]), len(frames["background_std"])) >= rows
        saved = ledger[ledger["row"] >= 0]
        assert np.array_equal(saved["row"], np.arange(len(saved)))
        assert len(saved) <= rows
        assert np.array_equal(ledger["frame"], np.arange(len(ledger)))
        last = saved[-1]
        expected = reduced_frame(int(last["frame"]))
        row = slice(*frame_ptr[last["row"] : last["row"] + 2].astype(int))
        assert np.array_equal(index[row], expected.index)
        assert np.array_equal(intensity[row], expected.intensity)
        assert np.array_equal(frames["background_avg"][last["row"]], expected.background_mean)
        assert np.array_equal(peaks["peakXPosRaw"][last["row"], :5], expected.peaks[:, 0])
    import fabio  # here, because the program that is killed should start fast

    with fabio.open(str(path)) as image:
        assert image.nframes >= rows
        assert image.data.shape == SHAPE
    return rows


def write_forever(path: str, frames_per_file: str = "") -> None:
    with PartedSparseWriter(path, int(frames_per_file)) if frames_per_file else SparseWriter(path) as writer:
        writer.begin(run_info())
        writer.add_parameter_set(ParameterSet(1, Parameters()), 0, 1.7e9)
        writer.append([reduced_frame(0)])
        writer.flush()
        print("started", flush=True)
        number, last = 1, time.monotonic()
        while True:
            writer.append([reduced_frame(number + i, Verdict((number + i) % 6)) for i in range(7)])
            number += 7
            if time.monotonic() - last > 0.002:  # far more often than in earnest, so that kills hit commits
                writer.flush()
                last = time.monotonic()


if __name__ == "__main__":
    write_forever(*sys.argv[1:])
