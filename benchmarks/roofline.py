"""How fast the device moves memory, and what share of that speed a reduction reaches.

The bytes counted are those that an ideal implementation has to read: every valid pixel once, in its own type, with the
four bytes of the order that say where it belongs, and four more for a norm and for a dark image where there are any.
Results, intermediate values and second readings are not counted: they are what lowers the share. The chain reads two
bytes of order (the place in a tile), and moves the signals, four bytes each, twice: it writes them in the order of the
bins and reads them from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyopencl as cl

from ..processing.opencl import DeviceChoice

_ORDER = 4  # bytes per pixel: which pixel, or which place
_IMAGE = 4  # bytes per pixel of a norm or a dark, float32
_MB = 1 << 20

# two ways to walk through memory; processors and GPUs differ in which is the faster
_COPY = """
kernel void copy_items(global const uint4 *from, global uint4 *to, const ulong per_item) {
    to[get_global_id(0)] = from[get_global_id(0)];
}
kernel void copy_runs(global const uint4 *from, global uint4 *to, const ulong per_item) {
    const size_t first = get_global_id(0) * per_item;
    for (size_t i = first; i < first + per_item; i++)
        to[i] = from[i];
}
"""
_VECTOR = 16  # bytes of uint4
_RUNS = 64  # work-items of copy_runs: a few per core


@dataclass(frozen=True, slots=True)
class CopySpeed:
    """The fastest copy that was seen."""

    bytes_per_s: float  # read and written, counted together
    size: int  # bytes of the buffer it was seen with
    kernel: str


def necessary_bytes(n_pixels: int, item_size: int, *, has_norm: bool = False, has_dark: bool = False) -> int:
    """Bytes that have to be read for a frame of `n_pixels` valid pixels of `item_size` bytes."""
    return n_pixels * (item_size + _ORDER + _IMAGE * has_norm + _IMAGE * has_dark)


def share(necessary: int, bytes_per_s: float, seconds: float) -> float:
    """Share of the roofline, 1 = as fast as memory allows: time that the bytes need over the time taken."""
    return necessary / bytes_per_s / seconds


def copy_speed(device: DeviceChoice, sizes: tuple[int, ...] | None = None, repeats: int = 7) -> CopySpeed:
    """Copy one device buffer into another, several times for each size (bytes); the fastest copy of all.

    The sizes must be larger than the last cache, else it is the cache that is measured.
    """
    context = cl.Context([device.device])
    queue = cl.CommandQueue(context)
    program = cl.Program(context, _COPY).build(cache_dir=False)
    best = CopySpeed(0.0, 0, "")
    for size in sizes or _sizes(device):
        size -= size % (_VECTOR * _RUNS)
        start, end = (cl.Buffer(context, cl.mem_flags.READ_WRITE, size) for _ in range(2))
        cl.enqueue_fill_buffer(queue, start, np.uint32(1), 0, size)
        cl.enqueue_fill_buffer(queue, end, np.uint32(2), 0, size)  # makes every page of it real
        for kernel in program.all_kernels():
            items = size // _VECTOR if kernel.function_name == "copy_items" else _RUNS
            for _ in range(repeats):
                queue.finish()
                begin = time.perf_counter()
                kernel(queue, (items,), None, start, end, np.uint64(size // _VECTOR // items))
                queue.finish()
                speed = 2 * size / (time.perf_counter() - begin)
                if speed > best.bytes_per_s:
                    best = CopySpeed(speed, size, kernel.function_name)
        start.release()
        end.release()
    return best


def _sizes(device: DeviceChoice) -> tuple[int, ...]:
    """Buffer sizes to try: well above the last cache, well below the memory."""
    if not device.is_cpu:
        least, most = 256 * _MB, device.device.max_mem_alloc_size
    else:
        least, most = 2 * last_cache(device), device.device.max_mem_alloc_size // 4
    return tuple(size for size in (least, 2 * least, 4 * least) if size <= most) or (most,)


def last_cache(device: DeviceChoice) -> int:
    """Bytes of the processor's last cache, as the system or else the driver tells it; at least 8 MiB."""
    sizes = [device.device.global_mem_cache_size]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * 1024)
    return max(8 * _MB, *sizes)
