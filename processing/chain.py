"""The kernels that a batch of frames runs through on the device, and the memory they share.

    raw ─► sort_pixels ─► clip_bins ─► pick_pixels ─► find_peaks ─► count, sum, emit ─► measure_peaks ─► peaks
                                            └─► (surroundings) ─► count, sum, emit ─► picked pixels

A GPU does all frames of a batch in each launch. A CPU does frame after frame, so that what one step leaves is still in
its cache for the next; what lies between the steps is then kept for one frame only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyopencl as cl

from .bins import RadialBins
from .opencl import build
from .parameters import MAX_PEAKS, ErrorModel, Parameters
from .poisson_tails import COUNTS, OCTAVES, tail_tables
from .tiles import TILE_COLUMNS, TILE_ROWS, order_by_tiles

LANES = 64  # partial sums per bin; the same everywhere, see kernels/common.cl
PEAK_CAPACITY = 2 * MAX_PEAKS  # peaks of a frame that are measured before the strongest are chosen

_CHUNK_CPU, _CHUNK_GPU = 256, 16  # words of a bitmap per work-item
_PARTS_CPU, _PARTS_GPU = 64, 65536  # work-items that share a bitmap or a list
_BAND_CPU, _BAND_GPU = 64, 8  # rows that a work-item does, see kernels/surround.cl
_RANGES = 16  # of bins that a CPU sweeps through, per frame
_KERNELS = ("common", "sort", "exact", "clip", "pick", "sweep", "compact", "peaks", "surround")
_CL_TYPES = {"u1": "uchar", "u2": "ushort", "u4": "uint", "i2": "short", "i4": "int", "f4": "float"}


class Chain:
    """Kernels and buffers for frames of one shape and pixel type.

    Attributes
    ----------
    curve
        float32 (frames, bins, 2): mean and standard deviation.
    n_picked, n_found
        uint32 (frames,), numbers of picked pixels and of peaks.
    index, intensity
        uint32 and pixel type (frames, rows · columns), the first `n_picked` are valid.
    found
        uint32 (frames, PEAK_CAPACITY), pixels where peaks are.
    results
        float32 (frames, PEAK_CAPACITY, 8), see kernels/peaks.cl.
    """

    def __init__(
        self,
        queue: cl.CommandQueue,
        bins: RadialBins,
        dtype: np.dtype,
        dark: np.ndarray | None,
        frames: int,
        *,
        lane_per_item: bool,
    ) -> None:
        self._context, self._queue = queue.context, queue
        self._bins, self._dtype = bins, dtype
        on_cpu = bool(queue.device.type & cl.device_type.CPU)
        self._group = LANES if lane_per_item else 1
        self._chunk = _CHUNK_CPU if on_cpu else _CHUNK_GPU
        self._parts = _PARTS_CPU if on_cpu else _PARTS_GPU
        self._band = _BAND_CPU if on_cpu else _BAND_GPU
        self._any_group = 1 if on_cpu else None  # or the driver chooses, and builds a kernel for each choice
        self._frames_per_launch = 1 if on_cpu else frames
        program = self._build(dark is not None)
        names = [kernel.function_name for kernel in program.all_kernels()]
        self._kernels = {name: cl.Kernel(program, name) for name in names}
        for name in ("count_bits", "sum_counts"):  # launched twice, with other arguments
            self._kernels[f"{name} of peaks"] = cl.Kernel(program, name)
        self._set_up_geometry(dark)
        self._set_up_scratch(frames)

    def _build(self, have_dark: bool) -> cl.Program:
        kind, raw_type = self._dtype.kind, _CL_TYPES[self._dtype.str[1:]]
        defines = {
            "RAW_T": raw_type,
            "TO_RAW": "convert_float" if kind == "f" else f"convert_{raw_type}_sat_rte",
            "RAW_IS_SIGNED": int(kind == "i"),
            "RAW_IS_FLOAT": int(kind == "f"),
            "HAVE_NORM": int(self._bins.norm is not None),
            "HAVE_DARK": int(have_dark),
            "TILE_ROWS": TILE_ROWS,
            "TILE_COLUMNS": TILE_COLUMNS,
            "LANES": LANES,
            "GROUP": self._group,
            "CHUNK": self._chunk,
            "BAND": self._band,
        }
        return build(self._context, _KERNELS, defines)

    def _set_up_geometry(self, dark: np.ndarray | None) -> None:
        bins = self._bins
        tiles = order_by_tiles(bins, LANES)
        self._n_pixels = bins.shape[0] * bins.shape[1]
        self._n_words = -(-self._n_pixels // 32)  # of a bitmap of the image
        self._n_chunks = -(-self._n_words // self._chunk)
        self._n_places = tiles.order.size
        self._n_tiles = tiles.n_tiles
        self._tile_bounds = self._constant(tiles.tile_bounds)
        if self._group == 1:
            runs, first_run = tiles.runs()
            self._sources = self._constant(runs)
        else:
            first_run = np.zeros_like(tiles.place)
            self._sources = self._constant(tiles.sources)
        segments = [tiles.place, tiles.length, first_run[: tiles.place.size], np.zeros_like(tiles.place)]
        self._tile_segments = self._constant(np.column_stack(segments).astype(np.uint32))
        self._bounds = self._constant(tiles.bounds)
        ranges = range_bounds(tiles.bounds, _RANGES)
        self._ranges, self._n_ranges = self._constant(ranges), ranges.size - 1
        self._list_size = int(np.diff(tiles.bounds).max())
        self._position = self._constant(bins.position)
        self._usable = self._constant(bitmap(~np.isnan(bins.position)))
        origin = np.column_stack([tiles.order, tiles.spread(bins.position, 0).view(np.uint32)])
        self._origin = self._constant(origin)
        self._norm = self._constant(bins.norm)
        self._norm_sorted = self._constant(None if bins.norm is None else tiles.spread(bins.norm, 1))
        self._dark = self._constant(None if dark is None else np.ascontiguousarray(dark, np.float32).ravel())
        self._narrowest = 1.0 if bins.norm is None else 1 / math.sqrt(float(bins.norm.max()))
        table = chauvenet_table(int(np.diff(bins.bounds).max()))
        self._table, self._table_end = self._constant(table), np.int32(table.size - 1)

    def _set_up_scratch(self, frames: int) -> None:
        # between the steps, for the frames of a launch
        launched = self._frames_per_launch
        # the padding stays NaN: sorting never writes there
        self._values = self._filled(launched * self._n_places, np.float32(math.nan))
        if self._group == 1:
            self._lists = self._scratch(launched * self._n_ranges * self._list_size * 4)
        self._picked = self._filled(launched * self._n_words, np.uint32(0))
        self._strong = self._filled(launched * self._n_words, np.uint32(0))
        self._peaks = self._scratch(launched * self._n_words * 4)
        rows, columns = self._bins.shape
        self._crowds = self._scratch(launched * rows * -(-columns // 32) * 4)
        self._counts = self._scratch(launched * self._n_chunks * 4)
        self._tails = self._filled((2 + 2 * OCTAVES) * COUNTS, np.float32(0))
        self._tails_for: tuple[float, ...] | None = None
        # results, for the frames of a batch
        self.curve = self._scratch(frames * self._bins.count * 8)
        self.n_picked, self.n_found = self._scratch(frames * 4), self._scratch(frames * 4)
        self.index = self._scratch(frames * self._n_pixels * 4)
        self.intensity = self._scratch(frames * self._n_pixels * self._dtype.itemsize)
        self.found = self._scratch(frames * PEAK_CAPACITY * 4)
        self.results = self._scratch(frames * PEAK_CAPACITY * 32)

    def _constant(self, array: np.ndarray | None) -> cl.Buffer:
        """A read-only buffer; where there is nothing, a small one that no kernel looks at."""
        flags = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
        return cl.Buffer(self._context, flags, hostbuf=np.zeros(1, np.float32) if array is None else array)

    def _scratch(self, size: int) -> cl.Buffer:
        return cl.Buffer(self._context, cl.mem_flags.READ_WRITE, max(size, 4))

    def _filled(self, size: int, value: np.generic) -> cl.Buffer:
        buffer = self._scratch(size * value.itemsize)
        cl.enqueue_fill_buffer(self._queue, buffer, value, 0, size * value.itemsize)
        return buffer

    def run(
        self,
        raw: cl.Buffer,
        n: int,
        parameters: Parameters,
        queue: cl.CommandQueue | None = None,
        wait_for: Sequence[cl.Event] = (),
    ) -> list[tuple[str, cl.Event]]:
        """Launch all steps for the first `n` frames in `raw`, once `wait_for` has happened; the kernels' names with
        their events."""
        queue = queue or self._queue
        if parameters.error_model is ErrorModel.exact:
            self._tabulate_tails(queue, parameters)
        steps = self._steps(raw, parameters)
        for name, _, _, arguments in steps:
            self._kernels[name].set_args(*arguments)
        events = []
        for first in range(0, n, self._frames_per_launch):
            frames = min(self._frames_per_launch, n - first)
            for name, size, group, _ in steps:
                group = group or self._any_group
                event = cl.enqueue_nd_range_kernel(
                    queue,
                    self._kernels[name],
                    (size, frames),
                    (group, 1) if group else None,
                    global_work_offset=(0, first),
                    wait_for=None if events else list(wait_for),
                )
                events.append((name, event))
        return events

    def _tabulate_tails(self, queue: cl.CommandQueue, p: Parameters) -> None:
        cuts = (p.snr_pick, p.snr_peak, p.snr_clip)
        if cuts != self._tails_for:
            self._tails_for = None
            cl.enqueue_copy(queue, self._tails, tail_tables(*cuts), is_blocking=True)
            self._tails_for = cuts

    def _steps(self, raw: cl.Buffer, p: Parameters) -> list[tuple[str, int, int | None, tuple]]:
        """(kernel, global size, local size, arguments) in the order of launch; sizes are those of a frame."""
        u32, i32, f32 = np.uint32, np.int32, np.float32
        rows, columns, n_bins = u32(self._bins.shape[0]), u32(self._bins.shape[1]), i32(self._bins.count)
        n_places, n_pixels, n_words = u32(self._n_places), u32(self._n_pixels), u32(self._n_words)
        n_chunks, capacity = u32(self._n_chunks), u32(PEAK_CAPACITY)
        group, chunks = self._group, self._n_chunks
        is_exact = p.error_model is ErrorModel.exact
        # there the smallest meaningful signal is a count
        noise = f32(0 if is_exact else p.noise)
        snr_peak, half_patch, exact = f32(p.snr_peak), i32(p.patch_size // 2), (i32(is_exact), self._tails)
        nearest, farthest = self._position_limits(p)
        pixels = (raw, columns, rows, self._norm, self._dark, self._position, self.curve, n_bins, noise, half_patch)
        clip = (self._table, self._table_end, f32(p.snr_clip), i32(p.clip_cycles), i32(p.error_model), self._tails,
                self.curve)  # fmt: skip
        surround = []
        if p.surroundings:
            surround = [
                ("find_crowds", self._parts, None, (self._picked, n_words, columns, rows, self._crowds)),
                ("keep_around", self._parts, None, (
                    self._crowds, columns, rows, u32(p.surroundings // 2), raw, self._dark, self._usable, self._picked,
                    n_words)),
            ]  # fmt: skip
        pick = (f32(p.snr_pick), snr_peak, noise, *exact, f32(self._narrowest), self._bounds, self._norm_sorted,
                self._origin, self._picked, self._strong, n_words)  # fmt: skip
        if group == 1:
            clip_and_pick = [
                ("sweep_bins", self._n_ranges, 1, (
                    self._values, n_places, n_bins, self._ranges, *clip, self._lists, u32(self._list_size), *pick)),
            ]  # fmt: skip
        else:
            per_bin = self._bins.count * group
            clip_and_pick = [
                ("clip_bins", per_bin, group, (self._values, n_places, self._bounds, self._norm_sorted, *clip)),
                ("pick_pixels", per_bin, group, (self._values, n_places, self.curve, *pick)),
            ]
        return [
            ("sort_pixels", self._n_tiles * group, group, (
                raw, columns, rows, self._dark, self._tile_bounds, self._tile_segments, self._sources, self._values,
                n_places)),
            *clip_and_pick,
            ("find_peaks", self._parts, None, (
                *pixels, i32(p.min_pixels), f32(nearest), f32(farthest), self._picked, self._strong, self._peaks,
                n_words)),
            *surround,
            ("count_bits", chunks, None, (self._picked, n_words, self._counts)),
            ("sum_counts", group, group, (self._counts, n_chunks, self.n_picked)),
            ("emit_pixels", chunks, None, (
                self._picked, n_words, self._counts, raw, self._dark, n_pixels, self.index, self.intensity)),
            ("count_bits of peaks", chunks, None, (self._peaks, n_words, self._counts)),
            ("sum_counts of peaks", group, group, (self._counts, n_chunks, self.n_found)),
            ("emit_peaks", chunks, None, (
                self._peaks, n_words, self._counts, capacity, self.found, self._strong)),
            ("measure_peaks", self._parts, None, (
                *pixels, snr_peak, *exact, self.found, self.n_found, capacity, self.results)),
        ]  # fmt: skip

    def _position_limits(self, p: Parameters) -> tuple[float, float]:
        """radius_min and radius_max (mm) in units of bins from the first centre."""
        start, step = self._bins.radius[0], self._bins.width
        nearest = (p.radius_min * 1e-3 - start) / step if p.radius_min else -math.inf
        farthest = (p.radius_max * 1e-3 - start) / step if p.radius_max else math.inf
        return nearest, farthest

    def reset(self) -> None:
        """After a failure: clear what a step may have left for one that never ran."""
        for bitmap in (self._picked, self._strong):
            cl.enqueue_fill_buffer(self._queue, bitmap, np.uint32(0), 0, bitmap.size)

    def release(self) -> None:
        """Give the device's memory back."""
        for value in vars(self).values():
            if isinstance(value, cl.Buffer):
                value.release()


def chauvenet_table(largest: int) -> np.ndarray:
    """float32 (largest + 1,): √(2 ln(N/√2π)), the cut-off of Chauvenet's criterion for N values; below 3 values,
    where the formula has no answer, that for 3."""
    n = np.maximum(np.arange(largest + 1, dtype=np.float64), 3)
    return np.sqrt(2 * np.log(n / math.sqrt(2 * math.pi))).astype(np.float32)


def bitmap(pixels: np.ndarray) -> np.ndarray:
    """uint32 (words,): bit i of word w is pixel 32·w + i of `pixels`, bool (pixels,)."""
    padded = np.zeros(-(-pixels.size // 32) * 32, bool)
    padded[: pixels.size] = pixels
    return np.packbits(padded, bitorder="little").view("<u4")


def range_bounds(bounds: np.ndarray, n_ranges: int) -> np.ndarray:
    """int32 (up to n_ranges + 1,): bins where ranges of about the same number of places begin."""
    edges = np.searchsorted(bounds, np.linspace(0, bounds[-1], n_ranges + 1)[1:-1])
    return np.unique([0, *edges, bounds.size - 1]).astype(np.int32)
