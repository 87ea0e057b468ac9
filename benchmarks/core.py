"""Time of the core on the standard frame: `framesieve bench core`.

The standard frame has 2167 × 2070 pixels, a solvent ring with Poisson statistics and 300 peaks; 800 bins, snr_pick 2,
the other parameters at their defaults. The chain is what `processing_time` measures: from a batch in host memory to
its results in host memory, decoding and writing left out. The stream is the same batch after batch, one being copied
into the other input slot meanwhile.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import numpy as np
import pyopencl as cl

from ..processing.opencl import DeviceChoice
from ..processing.reducer import Reducer
from .measuring import Spread, align, one_device, timed, up_to
from .roofline import CopySpeed, copy_speed, necessary_bytes, share
from .standard import BINS, PARAMETERS, SHAPE, standard_bins, standard_frame
from .stream import stream_times
from .sweeps import Sizes, measure_sweeps, sweep_table

PIXEL_TYPES = ("uint32", "uint16")
BATCHES = 30  # unless told otherwise
_SECONDS = 1.5  # for each thing that is timed, unless told how often


def measure(
    dtype: str,
    device: DeviceChoice,
    batches: int,
    batch_size: int,
    *,
    shape: tuple[int, int] = SHAPE,
    bins: int = BINS,
    copy: CopySpeed | None = None,
    seconds: float | None = None,
) -> dict:
    """Median and quartiles of the chain and of the stream, and the time of each kernel, in ms per frame; the share of
    the roofline where the speed of a copy is given. `batches` are timed, fewer after `seconds` (each time)."""
    radial = standard_bins(shape, bins)
    reducer = Reducer(radial, dtype, device, batch_size=batch_size)
    try:
        frames = np.stack([standard_frame(radial, dtype)] * batch_size)
        reducer.inputs[0][:] = frames
        for _ in range(3):
            result = reducer.reduce(0, batch_size, PARAMETERS)[0]
        per_frame = 1e3 / batch_size
        times = [timed(lambda: reducer.reduce(0, batch_size, PARAMETERS)) for _ in up_to(batches, seconds)]
        chain = Spread.of([time.wall * per_frame for time in times])
        rounds = stream_times(reducer, frames, PARAMETERS, max(batches // 2, 2), seconds)
        stream = Spread.of([time * 1e3 for time in rounds])
        kernels = [reducer.profile(0, batch_size, PARAMETERS) for _ in up_to(max(batches // 4, 3), seconds)]
        kernels_ms = {name: float(np.median([times[name] for times in kernels])) for name in kernels[0]}
        kernels_ms.pop("upload", None)  # told apart below
        kernels_sum = sum(kernels_ms.values())
        results = {
            "chain_ms": round(chain.median, 3),
            "quartiles_ms": chain.quartiles(),
            "frames_per_s": round(1e3 / chain.median, 1),
            "batches": chain.n,
            "stream_ms": round(stream.median, 3),
            "stream_quartiles_ms": stream.quartiles(),
            "stream_frames_per_s": round(1e3 / stream.median, 1),
            "core_ms": round(float(np.median([time.processor for time in times])) * per_frame, 3),
            "kernels_ms": {name: round(value, 3) for name, value in kernels_ms.items()},
            "kernels_sum_ms": round(kernels_sum, 3),
            "pixels": len(result.index),
            "peaks": result.n_peaks,
        }
        if copy is not None:
            necessary = necessary_bytes(
                radial.order.size, reducer.dtype.itemsize, has_norm=radial.norm is not None, has_dark=False
            )
            results["roofline"] = {
                "necessary_mb": round(necessary / 1e6, 1),
                "ms_at_copy_speed": round(necessary / copy.bytes_per_s * 1e3, 3),
                "share_of_kernels": round(share(necessary, copy.bytes_per_s, kernels_sum / 1e3), 4),
                "share_of_chain": round(share(necessary, copy.bytes_per_s, chain.median / 1e3), 4),
            }
        if not device.is_cpu:
            results["upload"] = upload_times(reducer, batches)
        return results
    finally:
        reducer.close()


def upload_times(reducer: Reducer, repeats: int) -> dict[str, float]:
    """How long a batch takes from the input slot (pinned memory) to the device: ms per frame, GB/s."""
    frames = reducer.inputs[0]
    context = reducer._queue.context
    queue = cl.CommandQueue(context)
    target = cl.Buffer(context, cl.mem_flags.READ_ONLY, frames.nbytes)
    try:
        cl.enqueue_copy(queue, target, frames)
        times = [timed(lambda: cl.enqueue_copy(queue, target, frames)) for _ in range(repeats)]
    finally:
        target.release()
    seconds = float(np.median([time.wall for time in times]))
    return {"ms": round(seconds * 1e3 / len(frames), 4), "gb_per_s": round(frames.nbytes / seconds / 1e9, 2)}


def run(
    device: str = "auto",
    batches: int | None = None,
    batch_size: int = 4,
    *,
    sweep: bool | None = None,
    rounds: int | None = None,
    sizes: Sizes | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict:
    """Measure every pixel type, then the ratios: an object of plain values, `chain_ms` being that of uint32.

    Parameters
    ----------
    device
        `auto` or PLATFORM:DEVICE.
    batches
        How many are timed for the chain; None: `BATCHES`, fewer where they take long.
    batch_size
        Frames per batch.
    sweep
        True: measure all values of each sweep; None: only the two that make its ratio; False: none.
    rounds
        Of each sweep; None: a third of `batches`.
    sizes
        What to measure instead of the standard frame and its kin.
    progress
        Called with a word on what is being measured.
    """
    chosen = one_device(device)
    load = os.getloadavg()[0]
    sizes = sizes or Sizes()
    seconds = None if batches else _SECONDS
    batches = batches or BATCHES
    progress("copy speed")
    copy = copy_speed(chosen, sizes.copy)
    frames = {}
    for dtype in PIXEL_TYPES:
        progress(f"chain, stream and kernels, {dtype}")
        frames[dtype] = measure(
            dtype,
            chosen,
            batches,
            batch_size,
            shape=sizes.standard,
            bins=sizes.standard_bins,
            copy=copy,
            seconds=seconds,
        )
    if rounds:
        seconds = None
    rounds = rounds or max(batches // 3, 2)
    sweeps: dict[str, dict] = {"ratios": {}, "sweeps": {}}
    if sweep is not False:
        sweeps = measure_sweeps(
            chosen, rounds, batch_size, complete=bool(sweep), sizes=sizes, seconds=seconds, progress=progress
        )
    return {
        "chain_ms": frames["uint32"]["chain_ms"],
        "device": chosen.name,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "load_before": round(load, 2),
        "shape": list(sizes.standard),
        "bins": sizes.standard_bins,
        "batch_size": batch_size,
        "copy": {
            "gb_per_s": round(copy.bytes_per_s / 1e9, 2),
            "buffer_mb": round(copy.size / 1e6, 1),
            "kernel": copy.kernel,
        },
        "frames": frames,
        **sweeps,
    }


def table(results: dict) -> str:
    """The same for people."""
    copy = results["copy"]
    rows, columns = results["shape"]
    lines = [
        f"{results['device']}; {results['cpus']} CPUs ({results['machine']}), load {results['load_before']} before",
        f"{rows} × {columns} pixels, {results['bins']} bins, batches of {results['batch_size']}; medians, ms per frame",
        f"copy speed {copy['gb_per_s']:.1f} GB/s (read + written, buffers of {copy['buffer_mb']:.0f} MB)",
    ]
    for dtype, result in results["frames"].items():
        low, high = result["quartiles_ms"]
        roof = result["roofline"]
        lines += [
            "",
            f"{dtype}: chain {result['chain_ms']:.2f} ms (quartiles {low:.2f} to {high:.2f}), "
            f"{result['frames_per_s']:.0f} frames/s, {result['batches']} batches; "
            f"{result['pixels']} pixels, {result['peaks']} peaks",
        ]
        low, high = result["stream_quartiles_ms"]
        lines.append(
            f"  stream: {result['stream_ms']:.2f} ms (quartiles {low:.2f} to {high:.2f}), "
            f"{result['stream_frames_per_s']:.0f} frames/s, one slot being filled while the other is reduced"
        )
        if upload := result.get("upload"):
            lines.append(
                f"  upload of a frame {upload['ms']:.3f} ms ({upload['gb_per_s']:.1f} GB/s), part of the chain"
            )
        steps = [[f"  {name}", f"{value:.3f}"] for name, value in result["kernels_ms"].items()]
        lines += align([*steps, ["  sum of the kernels", f"{result['kernels_sum_ms']:.3f}"]])
        lines.append(
            f"  roofline: {roof['necessary_mb']:.1f} MB take {roof['ms_at_copy_speed']:.2f} ms at copy speed: "
            f"{100 * roof['share_of_kernels']:.1f} % of it reached by the kernels, "
            f"{100 * roof['share_of_chain']:.1f} % by the chain"
        )
    return "\n".join([*lines, *sweep_table(results)])
