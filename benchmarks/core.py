"""Time of the core on the standard frame: `framesieve bench core [--json]`.

The standard frame has 2167 × 2070 pixels, a solvent ring with Poisson statistics and 300 peaks; 800 bins, snr_pick 2,
the other parameters at their defaults. The chain is what `processing_time` measures: from a batch in host memory to
its results in host memory, decoding and writing left out.
"""

from __future__ import annotations

import os
import platform
import time

import numpy as np
import pyopencl as cl

from ..processing.bins import RadialBins, make_bins
from ..processing.opencl import DeviceChoice, choose_device
from ..processing.parameters import Parameters
from ..processing.reducer import Reducer

SHAPE = (2167, 2070)
BINS = 800
PIXEL_TYPES = ("uint32", "uint16")
PARAMETERS = Parameters(snr_pick=2)


def standard_bins() -> RadialBins:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return make_bins(np.hypot(y - 1080.3, x - 1040.7) * 75e-6, BINS)


def standard_frame(bins: RadialBins, dtype: str) -> np.ndarray:
    """Air scatter, a ring of 120 counts at 500 pixels, 300 peaks of five pixels."""
    radius = bins.radius_image / 75e-6
    frame = np.random.default_rng(0).poisson(20 + 100 * np.exp(-(((radius - 500) / 100) ** 2)))
    peaks = np.random.default_rng(1).integers(5000, frame.size - 5000, 300)
    for offset, counts in ((0, 200), (1, 100), (-1, 100), (SHAPE[1], 100), (-SHAPE[1], 100)):
        np.add.at(frame.ravel(), peaks + offset, counts)
    return frame.astype(dtype)


def measure(dtype: str, device: DeviceChoice, batches: int, batch_size: int) -> dict:
    """Median and quartiles of the chain, and the time of each kernel, in ms per frame."""
    bins = standard_bins()
    reducer = Reducer(bins, dtype, device, batch_size=batch_size)
    try:
        reducer.inputs[0][:] = standard_frame(bins, dtype)
        for _ in range(3):
            result = reducer.reduce(0, batch_size, PARAMETERS)[0]
        times = []
        for _ in range(batches):
            start = time.perf_counter()
            reducer.reduce(0, batch_size, PARAMETERS)
            times.append((time.perf_counter() - start) * 1e3 / batch_size)
        low, median, high = np.percentile(times, [25, 50, 75])
        kernels = [_kernel_times(reducer, batch_size) for _ in range(max(batches // 4, 3))]
        return {
            "chain_ms": round(float(median), 3),
            "quartiles_ms": [round(float(low), 3), round(float(high), 3)],
            "kernels_ms": {n: round(float(np.median([k[n] for k in kernels])), 3) for n in kernels[0]},
            "pixels": len(result.index),
            "peaks": result.n_peaks,
        }
    finally:
        reducer.close()


def _kernel_times(reducer: Reducer, batch_size: int) -> dict[str, float]:
    """ms per frame that each kernel ran, by the device's own clock; kernels that run twice are summed."""
    queue, kernels = reducer._queue, reducer._kernel
    events: list[tuple[str, cl.Event]] = []

    def timed(name: str):
        def launch(*arguments):
            event = kernels[name](*arguments)
            events.append((name, event))
            return event

        return launch

    reducer._queue = cl.CommandQueue(reducer._context, properties=cl.command_queue_properties.PROFILING_ENABLE)
    reducer._kernel = {name: timed(name) for name in kernels}
    try:
        reducer.reduce(0, batch_size, PARAMETERS)
    finally:
        reducer._queue, reducer._kernel = queue, kernels
    times: dict[str, float] = {}
    for name, event in events:
        times[name] = times.get(name, 0.0) + (event.profile.end - event.profile.start) * 1e-6 / batch_size
    return times


def run(device: str = "auto", batches: int = 30, batch_size: int = 4) -> dict:
    """Measure every pixel type: an object of plain values, `chain_ms` being that of uint32."""
    chosen = choose_device(device)
    load = os.getloadavg()[0]
    frames = {dtype: measure(dtype, chosen, batches, batch_size) for dtype in PIXEL_TYPES}
    return {
        "chain_ms": frames["uint32"]["chain_ms"],
        "device": chosen.name,
        "cpus": os.cpu_count(),
        "load_before": round(load, 2),
        "batch_size": batch_size,
        "frames": frames,
    }


def table(results: dict) -> str:
    """The same for people."""
    lines = [
        f"{results['device']}; {results['cpus']} CPUs ({platform.machine()}), load {results['load_before']} before",
        f"{SHAPE[0]} × {SHAPE[1]} pixels, {BINS} bins, batches of {results['batch_size']}; ms per frame",
    ]
    for dtype, result in results["frames"].items():
        low, high = result["quartiles_ms"]
        lines.append(f"{dtype}: chain {result['chain_ms']:.2f} (quartiles {low:.2f} to {high:.2f})")
        lines += [f"    {name:14} {value:7.3f}" for name, value in result["kernels_ms"].items()]
    return "\n".join(lines)
