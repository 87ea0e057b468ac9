"""The core: a batch of frames in, picked pixels, background curves and peaks out.

    raw ─► clip_bins ─► pick_pixels ─► count/sum/emit ─► read_picked ─► find_peaks ─► count/sum/emit ─► measure_peaks

All steps are OpenCL kernels (processing/kernels); what comes back is a few per cent of what went in. Results are
sorted by pixel index and the same to the last bit on every run, in every batch size and on every device that
rounds divisions and roots correctly.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pyopencl as cl

from .bins import RadialBins
from .errors import ConfigurationError, HardwareError
from .frames import PIXEL_DTYPES
from .opencl import DeviceChoice, build
from .parameters import MAX_PEAKS, Parameters
from .plateau import merge_plateaus

LANES = 64  # partial sums per bin; the same everywhere, see kernels/common.cl
CHUNK = 256  # as in kernels/compact.cl
LIST_PARTS_CPU, LIST_PARTS_GPU = 64, 65536  # work-items that share a list of pixels
PEAK_CAPACITY = 2 * MAX_PEAKS  # peaks of a frame that are measured before the strongest are chosen

_KERNELS = ("common", "clip", "pick", "compact", "peaks")
_CL_TYPES = {"u1": "uchar", "u2": "ushort", "u4": "uint", "i2": "short", "i4": "int", "f4": "float"}


@dataclass(slots=True)
class Reduction:
    """Result of one frame.

    `index` uint32 (n,) sorted, `intensity` (n,) raw − dark in the pixel type, `mean` and `std` float32 (bins,)
    with NaN in empty bins, `peaks` float32 (m, 7) with the columns of `frames.PEAK_COLUMNS`, strongest first and
    at most `max_peaks`, `n_peaks` how many were found.
    """

    index: np.ndarray
    intensity: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    peaks: np.ndarray
    n_peaks: int


class Reducer:
    """Reduces batches of frames of one shape and pixel type on one OpenCL device.

    Frames are put into `inputs[slot][i]`, and `reduce(slot, n, parameters)` reduces the first n of them. There are
    two slots so that one can be filled while the other is being reduced. Not thread-safe beyond that.

    Parameters
    ----------
    bins
        Geometry, mask and norm.
    dtype
        Pixel type, one of `frames.PIXEL_DTYPES`.
    device
        From `opencl.choose_device`.
    dark
        (rows, columns), subtracted from the raw values; None: nothing is.
    batch_size
        Frames per launch.
    lane_per_item
        None: as suits the device. True: a work-group per bin (GPU), False: a work-item per bin (CPU).
    """

    def __init__(
        self,
        bins: RadialBins,
        dtype: np.dtype,
        device: DeviceChoice,
        *,
        dark: np.ndarray | None = None,
        batch_size: int = 4,
        lane_per_item: bool | None = None,
    ) -> None:
        self.bins = bins
        self.dtype = np.dtype(dtype)
        self.device = device
        self.batch_size = batch_size
        if self.dtype not in PIXEL_DTYPES:
            raise ConfigurationError(
                f"pixels of type {self.dtype} cannot be reduced; accepted are "
                + ", ".join(accepted.name for accepted in PIXEL_DTYPES)
            )
        if dark is not None and dark.shape != bins.shape:
            raise ConfigurationError(f"the dark image has {dark.shape} pixels, the frames have {bins.shape}")
        self._group = LANES if (not device.is_cpu if lane_per_item is None else lane_per_item) else 1
        try:
            self._set_up(dark)
        except cl.Error as error:
            # too much in all, or (an invalid buffer size) in one piece
            if not isinstance(error, cl.MemoryError) and error.code != cl.status_code.INVALID_BUFFER_SIZE:
                raise HardwareError(f"{device.name}: {error}") from error
            raise HardwareError(
                f"{device.name}: not enough memory for {batch_size} frames of {bins.shape}; lower the batch size"
            ) from None

    def _set_up(self, dark: np.ndarray | None) -> None:
        self._context = cl.Context([self.device.device])
        self._queue = cl.CommandQueue(self._context)
        program = self._build(dark is not None)
        self._kernel = {kernel.function_name: kernel for kernel in program.all_kernels()}

        bins, frames = self.bins, self.batch_size
        self._n_pixels = bins.shape[0] * bins.shape[1]
        self._n_words = -(-self._n_pixels // 32)
        self._n_chunks = -(-self._n_words // CHUNK)
        self._order = self._constant(bins.order)
        self._bounds = self._constant(bins.bounds)
        self._position = self._constant(bins.position)
        self._position_sorted = self._constant(bins.position[bins.order])
        self._norm = self._constant(bins.norm)
        self._norm_sorted = self._constant(None if bins.norm is None else bins.norm[bins.order])
        self._dark = self._constant(None if dark is None else np.ascontiguousarray(dark, np.float32).ravel())
        table = chauvenet_table(int(np.diff(bins.bounds).max()))
        self._table, self._table_end = self._constant(table), table.size - 1

        self._make_inputs()
        self._values = self._scratch(frames * bins.order.size * 4)
        self._curve = self._scratch(frames * bins.count * 8)
        self._bits = self._scratch(frames * self._n_words * 4)
        self._counts = self._scratch(frames * self._n_chunks * 4)
        self._index = self._scratch(frames * self._n_pixels * 4)
        self._intensity = self._scratch(frames * self._n_pixels * self.dtype.itemsize)
        self._n_picked = self._scratch(frames * 4)
        self._found = self._scratch(frames * PEAK_CAPACITY * 4)
        self._n_found = self._scratch(frames * 4)
        self._results = self._scratch(frames * PEAK_CAPACITY * 32)

    def _build(self, have_dark: bool) -> cl.Program:
        raw_type = _CL_TYPES[self.dtype.str[1:]]
        options = {
            "RAW_T": raw_type,
            "TO_RAW": "convert_float" if self.dtype.kind == "f" else f"convert_{raw_type}_sat_rte",
            "RAW_IS_SIGNED": int(self.dtype.kind == "i"),
            "RAW_IS_FLOAT": int(self.dtype.kind == "f"),
            "HAVE_NORM": int(self.bins.norm is not None),
            "HAVE_DARK": int(have_dark),
            "LANES": LANES,
            "GROUP": self._group,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", cl.CompilerWarning)
            return build(self._context, _KERNELS, [f"-D{name}={value}" for name, value in options.items()])

    def _constant(self, array: np.ndarray | None) -> cl.Buffer:
        """A read-only buffer; where there is nothing, a small one that no kernel looks at."""
        flags = cl.mem_flags.READ_ONLY | cl.mem_flags.COPY_HOST_PTR
        return cl.Buffer(self._context, flags, hostbuf=np.zeros(1, np.float32) if array is None else array)

    def _scratch(self, size: int) -> cl.Buffer:
        return cl.Buffer(self._context, cl.mem_flags.READ_WRITE, max(size, 4))

    def _make_inputs(self) -> None:
        """Two slots of host memory that the device reads: in place on a CPU, pinned for the transfer elsewhere."""
        shape = (self.batch_size, *self.bins.shape)
        size = math.prod(shape) * self.dtype.itemsize
        self.inputs: list[np.ndarray] = []
        self._raw: list[cl.Buffer] = []
        flags = cl.mem_flags
        for _ in range(2):
            pinned = cl.Buffer(self._context, flags.READ_WRITE | flags.ALLOC_HOST_PTR, size)
            access = cl.map_flags.READ | cl.map_flags.WRITE
            array, _ = cl.enqueue_map_buffer(self._queue, pinned, access, 0, shape, self.dtype)
            self.inputs.append(array)
            if self.device.is_cpu:
                self._raw.append(pinned)
            else:
                self._raw.append(cl.Buffer(self._context, flags.READ_ONLY, size))

    def warm_up(self) -> None:
        """Reduce empty frames in batches of every size: drivers do part of their work at the first launch of a size,
        and the first frames of a run are not to wait for that."""
        for slot in self.inputs:
            slot[...] = 0
        for n in range(1, self.batch_size + 1):
            self.reduce(0, n, Parameters())

    def reduce(self, slot: int, n: int, parameters: Parameters) -> list[Reduction]:
        """Reduce the first `n` frames of `inputs[slot]`.

        Raises
        ------
        HardwareError
            The device failed.
        """
        try:
            self._launch(slot, n, parameters)
            return self._read_back(slot, n, parameters)
        except cl.Error as error:
            raise HardwareError(f"{self.device.name}: {error}") from error

    def _launch(self, slot: int, n: int, p: Parameters) -> None:
        queue, kernel, bins = self._queue, self._kernel, self.bins
        raw = self._raw[slot]
        if not self.device.is_cpu:
            cl.enqueue_copy(queue, raw, self.inputs[slot][:n], is_blocking=False)
        u32, i32, f32 = np.uint32, np.int32, np.float32
        per_bin, group = (bins.count * self._group, n), (self._group, 1)
        n_pixels, n_valid, n_words = u32(self._n_pixels), u32(bins.order.size), u32(self._n_words)
        noise, n_bins = f32(p.noise), i32(bins.count)

        kernel["clip_bins"](
            queue, per_bin, group, raw, n_pixels, self._order, self._bounds, self._norm_sorted, self._dark,
            self._table, i32(self._table_end), f32(p.snr_clip), i32(p.clip_cycles), i32(p.error_model),
            self._values, n_valid, self._curve,
        )  # fmt: skip
        self._clear_bits(n)
        kernel["pick_pixels"](
            queue, per_bin, group, self._order, self._bounds, self._norm_sorted, self._position_sorted,
            self._values, n_valid, self._curve, f32(p.snr_pick), noise, self._bits, n_words,
        )  # fmt: skip
        self._compact(n, self._n_picked, self._index, self._n_pixels)
        many = (LIST_PARTS_CPU if self.device.is_cpu else LIST_PARTS_GPU, n)
        kernel["read_picked"](
            queue, many, None, raw, n_pixels, self._dark, self._index, self._n_picked, n_pixels, self._intensity
        )
        half_patch = i32(p.patch_size // 2)
        first, last = self._position_limits(p)
        pixels = (raw, u32(bins.shape[1]), u32(bins.shape[0]), self._norm, self._dark, self._position, self._curve)
        self._clear_bits(n)
        kernel["find_peaks"](
            queue, many, None, *pixels, n_bins, self._index, self._n_picked, n_pixels, f32(p.snr_peak), noise,
            half_patch, i32(p.min_pixels), f32(first), f32(last), self._bits, n_words,
        )  # fmt: skip
        self._compact(n, self._n_found, self._found, PEAK_CAPACITY)
        kernel["measure_peaks"](
            queue, many, None, *pixels, n_bins, self._found, self._n_found, u32(PEAK_CAPACITY),
            f32(p.snr_peak), noise, half_patch, self._results,
        )  # fmt: skip

    def _clear_bits(self, n: int) -> None:
        cl.enqueue_fill_buffer(self._queue, self._bits, np.uint32(0), 0, n * self._n_words * 4)

    def _compact(self, n: int, total: cl.Buffer, index: cl.Buffer, capacity: int) -> None:
        n_words, n_chunks = np.uint32(self._n_words), np.uint32(self._n_chunks)
        queue, kernel, chunks = self._queue, self._kernel, (self._n_chunks, n)
        kernel["count_bits"](queue, chunks, None, self._bits, n_words, self._counts)
        kernel["sum_counts"](queue, (n,), None, self._counts, n_chunks, total)
        kernel["emit_bits"](queue, chunks, None, self._bits, n_words, self._counts, np.uint32(capacity), index)

    def _position_limits(self, p: Parameters) -> tuple[float, float]:
        """radius_min and radius_max (mm) in units of bins from the first centre."""
        start, step = self.bins.radius[0], self.bins.width
        first = (p.radius_min * 1e-3 - start) / step if p.radius_min else -math.inf
        last = (p.radius_max * 1e-3 - start) / step if p.radius_max else math.inf
        return first, last

    def _read_back(self, slot: int, n: int, p: Parameters) -> list[Reduction]:
        n_picked = self._read(self._n_picked, (n,), np.uint32)
        n_found = self._read(self._n_found, (n,), np.uint32)
        curves = self._read(self._curve, (n, self.bins.count, 2), np.float32)
        reductions = []
        for i in range(n):
            index = self._read(self._index, (n_picked[i],), np.uint32, i * self._n_pixels)
            intensity = self._read(self._intensity, (n_picked[i],), self.dtype, i * self._n_pixels)
            m = min(int(n_found[i]), PEAK_CAPACITY)
            rows = self._read(self._results, (m, 8), np.float32, i * PEAK_CAPACITY * 8)
            centres = self._read(self._found, (m,), np.uint32, i * PEAK_CAPACITY)
            mean, std = np.ascontiguousarray(curves[i, :, 0]), np.ascontiguousarray(curves[i, :, 1])
            rows, merged = merge_plateaus(rows, centres, self.inputs[slot][i], p.patch_size)
            peaks = _strongest(rows, p.max_peaks)
            reductions.append(Reduction(index, intensity, mean, std, peaks, int(n_found[i]) - merged))
        return reductions

    def _read(self, buffer: cl.Buffer, shape: tuple[int, ...], dtype: type | np.dtype, start: int = 0) -> np.ndarray:
        out = np.empty(shape, dtype)
        if out.size:
            cl.enqueue_copy(self._queue, out, buffer, src_offset=start * out.itemsize)
        return out

    def close(self) -> None:
        """Give the device's memory back."""
        self.inputs.clear()
        for name, value in list(vars(self).items()):
            for buffer in value if isinstance(value, list) else [value]:
                if isinstance(buffer, cl.Buffer):
                    buffer.release()
                    setattr(self, name, None)


def chauvenet_table(largest: int) -> np.ndarray:
    """float32 (largest + 1,): √(2 ln(N/√2π)), the cut-off of Chauvenet's criterion for N values; below 3 values,
    where the formula has no answer, that for 3."""
    n = np.maximum(np.arange(largest + 1, dtype=np.float64), 3)
    return np.sqrt(2 * np.log(n / math.sqrt(2 * math.pi))).astype(np.float32)


def _strongest(rows: np.ndarray, most: int) -> np.ndarray:
    """The `most` peaks of largest intensity, strongest first, as rows of `frames.PEAK_COLUMNS`."""
    chosen = rows[np.argsort(-rows[:, 2], kind="stable")[:most]]
    snr = np.divide(chosen[:, 2], chosen[:, 3], out=np.zeros(len(chosen), np.float32), where=chosen[:, 3] > 0)
    return np.column_stack([chosen[:, :4], snr, chosen[:, 4], chosen[:, 5]]).astype(np.float32)
