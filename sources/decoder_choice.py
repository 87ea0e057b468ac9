"""Where compressed frames of a run are decoded faster: by threads of the host, or by kernels on the OpenCL device."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyopencl as cl

from ..processing.bitshuffle import encode
from ..processing.chunk_decoder import ChunkDecoder
from ..processing.errors import FrameSieveError
from ..processing.opencl import DeviceChoice
from .codec import decode

#: pixels of the largest frame that is tried; a larger one takes as much longer as it is larger
MAX_TRIAL_PIXELS: Final = 1 << 22
MAX_TRIAL_FRAMES: Final = 8

#: each way is tried for so long, but at least `MIN_ROUNDS` times
TRIAL_SECONDS: Final = 0.08
MIN_ROUNDS: Final = 2


_MOST_KNOWN: Final = 64
_known: dict[tuple, DecoderChoice] = {}


@dataclass(frozen=True, slots=True)
class DecoderChoice:
    """`where` is "host" or "device"; milliseconds per frame either way, NaN where it could not be tried."""

    where: str
    host_ms: float
    device_ms: float
    reason: str


def choose_decoder(
    device: DeviceChoice, shape: tuple[int, int], dtype: np.dtype, *, n_threads: int, batch_size: int
) -> DecoderChoice:
    """Decode a simulated bslz4 frame (Poisson, 12 counts) both ways on this very hardware, and compare.

    Both times end when the pixels are in the memory of the device, since that is where they are needed. Takes some
    tenths of a second, more where the kernels have to be compiled first. Whatever goes wrong on the device is a reason
    for the host, not an error. Times that were measured once are remembered.

    Parameters
    ----------
    device
        From `opencl.choose_device`.
    shape, dtype
        Of the frames of the run.
    n_threads
        That would decode on the host.
    batch_size
        Frames that would be decoded in one go on the device.
    """
    case = (device, shape, np.dtype(dtype), n_threads, batch_size)
    if case not in _known:
        choice = _measure(*case)
        if math.isnan(choice.device_ms):
            return choice  # it may work the next time
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[case] = choice
    return _known[case]


def _measure(
    device: DeviceChoice, shape: tuple[int, int], dtype: np.dtype, n_threads: int, batch_size: int
) -> DecoderChoice:
    n_pixels = shape[0] * shape[1]
    trial_pixels = min(n_pixels, MAX_TRIAL_PIXELS)
    frames = min(max(n_threads, batch_size), MAX_TRIAL_FRAMES)
    scale = 1e3 * n_pixels / (trial_pixels * frames)
    pixels = _simulated(trial_pixels, np.dtype(dtype))
    chunk = encode(pixels)
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            context = cl.Context([device.device])
            queue = cl.CommandQueue(context)
            raw = cl.Buffer(context, cl.mem_flags.READ_WRITE, frames * pixels.nbytes)
            host = scale * _time_host(pool, chunk, frames, pixels, None if device.is_cpu else (queue, raw))
            seconds = _time_device(pool, chunk, frames, pixels, queue, raw)
        except (FrameSieveError, cl.Error) as error:
            host = scale * _time_host(pool, chunk, frames, pixels, None)
            return DecoderChoice("host", host, float("nan"), f"not on {device.name}: {str(error).splitlines()[0]}")
    if seconds is None:
        return DecoderChoice("host", host, float("nan"), f"not on {device.name}: it decoded a trial frame wrongly")
    where = "device" if scale * seconds < host else "host"
    times = f"{scale * seconds:.2f} ms per frame on the device, {host:.2f} ms with {n_threads} threads of the host"
    return DecoderChoice(where, host, scale * seconds, times)


def _simulated(n: int, dtype: np.dtype) -> np.ndarray:
    """Counts of a weak background; the same again after some blocks, which compression does not see."""
    return np.resize(np.random.default_rng(0).poisson(12, 1 << 15).astype(dtype), n)


def _time_host(
    pool: ThreadPoolExecutor,
    chunk: bytes,
    frames: int,
    pixels: np.ndarray,
    upload: tuple[cl.CommandQueue, cl.Buffer] | None,
) -> float:
    """Seconds for all frames, with their way to the device where they have to make one."""
    out = np.empty((frames, pixels.size), pixels.dtype)

    def once() -> None:
        for future in [pool.submit(decode, chunk, "bslz4", pixels.itemsize, row) for row in out]:
            future.result()
        if upload is not None:
            queue, raw = upload
            cl.enqueue_copy(queue, raw, out)

    return _median_time(once)


def _time_device(
    pool: ThreadPoolExecutor, chunk: bytes, frames: int, pixels: np.ndarray, queue: cl.CommandQueue, raw: cl.Buffer
) -> float | None:
    """Seconds for all frames, None where they come out wrong."""
    decoder = ChunkDecoder(queue.context, queue, pixels.size, pixels.dtype, frames)
    try:

        def once() -> None:
            for future in [pool.submit(decoder.put, 0, i, chunk) for i in range(frames)]:
                future.result()
            decoder.decode(0, frames, raw)
            queue.finish()

        seconds = _median_time(once)
        last = np.empty_like(pixels)
        cl.enqueue_copy(queue, last, raw, src_offset=(frames - 1) * pixels.nbytes)
        return None if decoder.failures(0, frames) or last.tobytes() != pixels.tobytes() else seconds
    finally:
        decoder.close()


def _median_time(once: Callable[[], None]) -> float:
    once()  # memory is touched, caches are warm
    times: list[float] = []
    while len(times) < MIN_ROUNDS or sum(times) < TRIAL_SECONDS:
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
