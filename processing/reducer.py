"""The core: a batch of frames in, picked pixels, background curves and peaks out.

All steps are OpenCL kernels, see chain.py; what comes back is a few per cent of what went in. Results are sorted by
pixel index and the same to the last bit on every run, in every batch size and on every device that rounds divisions
and roots correctly.
"""

from __future__ import annotations

import contextlib
import math
import threading
from dataclasses import dataclass

import numpy as np
import pyopencl as cl

from .bins import RadialBins
from .chain import PEAK_CAPACITY, Chain
from .chunk_decoder import ChunkDecoder, UnsuitableChunkError
from .device_times import DeviceTimes, Sampler, duration
from .errors import ConfigurationError, FrameError, HardwareError
from .frames import PIXEL_DTYPES, Payload
from .opencl import DeviceChoice
from .parameters import Parameters
from .plateau import merge_plateaus


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

    `put` brings frames into a slot, `upload` to the device, and `reduce` reduces them. There are two slots: while one
    is reduced, another thread can fill and upload the other; and frames of a slot may be put by several threads.
    As long as the device does not decode, a frame may also be written into `inputs[slot][i]`; `reduce` then uploads
    it.

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
        Frames per call of `reduce`, at most.
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
        if lane_per_item is None:
            lane_per_item = not device.is_cpu
        #: device times of the frames that were reduced last; all 0 where these were not timed, see device_times.py
        self.times = DeviceTimes()
        self._sampler = Sampler()
        self._is_clear = True  # no step has left anything for one that never ran
        try:
            context = cl.Context([device.device])
            self._queue, self._transfers = cl.CommandQueue(context), cl.CommandQueue(context)
            timed = cl.command_queue_properties.PROFILING_ENABLE
            self._timed_queue, self._timed_transfers = (cl.CommandQueue(context, properties=timed) for _ in range(2))
            self._decoder: ChunkDecoder | None = None
            self._chain = Chain(self._queue, bins, self.dtype, dark, batch_size, lane_per_item=lane_per_item)
            self._make_inputs()
            self._queue.finish()  # another queue may be the first that is used
        except cl.Error as error:
            # too much in all, or (an invalid buffer size) in one piece
            if not isinstance(error, cl.MemoryError) and error.code != cl.status_code.INVALID_BUFFER_SIZE:
                raise HardwareError(f"{device.name}: {error}") from error
            raise HardwareError(
                f"{device.name}: not enough memory for {batch_size} frames of {bins.shape}; lower the batch size"
            ) from None

    def _make_inputs(self) -> None:
        """Two slots of host memory that the device reads: in place on a CPU, pinned for the transfer elsewhere."""
        shape = (self.batch_size, *self.bins.shape)
        size = math.prod(shape) * self.dtype.itemsize
        self.inputs: list[np.ndarray] = []
        self._raw: list[cl.Buffer] = []
        self._pinned: list[cl.Buffer] = []
        self._events: list[list[cl.Event]] = [[], []]  # pyopencl waits for a transfer whose event nobody keeps
        self._decodings: list[list[cl.Event]] = [[], []]
        self._is_uploaded = [False, False]
        self._is_timed = [False, False]
        self._reads: list[cl.Event] = []
        self._uploading = threading.Lock()  # both slots share the decoder
        self._chunks: list[set[int]] = [set(), set()]  # frames of a slot that are on the device only
        flags = cl.mem_flags
        for _ in range(2):
            pinned = cl.Buffer(self._queue.context, flags.READ_WRITE | flags.ALLOC_HOST_PTR, size)
            access = cl.map_flags.READ | cl.map_flags.WRITE
            array, _ = cl.enqueue_map_buffer(self._queue, pinned, access, 0, shape, self.dtype)
            self.inputs.append(array)
            self._pinned.append(pinned)
            on_device = pinned if self.device.is_cpu else cl.Buffer(self._queue.context, flags.READ_WRITE, size)
            self._raw.append(on_device)

    def warm_up(self) -> None:
        """Reduce empty frames in batches of every size: drivers do part of their work at the first launch of a size,
        and the first frames of a run are not to wait for that."""
        for slot in self.inputs:
            slot[...] = 0
        for n in range(1, self.batch_size + 1):
            self.reduce(0, n, Parameters(surroundings=3))  # all kernels
        self._sampler.restart()

    def decode_on_device(self) -> None:
        """From now on the device decodes bslz4 chunks itself, see chunk_decoder.py.

        Raises
        ------
        HardwareError
            It cannot.
        """
        try:
            n_pixels = self.bins.shape[0] * self.bins.shape[1]
            self._decoder = ChunkDecoder(
                self._transfers.context, self._transfers, n_pixels, self.dtype, self.batch_size
            )  # fmt: skip
        except cl.Error as error:
            raise HardwareError(f"{self.device.name}: {error}") from error

    @property
    def decodes(self) -> bool:
        """Whether compressed frames go to the device as they are."""
        return self._decoder is not None

    def put(self, slot: int, i: int, payload: Payload) -> None:
        """Bring a frame of the right shape and pixel type into place `i` of a slot: compressed where the device
        decodes, else decoded here. Different threads may put different frames.

        Raises
        ------
        FrameError
            The bytes are corrupt, as far as this can be seen here; `upload` tells the rest.
        """
        if self._decoder is not None:
            if (chunk := payload.bslz4_chunk) is not None:
                try:
                    self._decoder.put(slot, i, chunk)
                    self._chunks[slot].add(i)
                    return
                except UnsuitableChunkError:
                    pass
                except ValueError as error:
                    raise FrameError(f"corrupt bslz4 data of {len(chunk)} bytes: {error}") from None
            self._decoder.skip(slot, i)
            self._chunks[slot].discard(i)
        payload.read_into(self.inputs[slot][i])

    def upload(self, slot: int, n: int) -> dict[int, str]:
        """Bring the first `n` frames of a slot to the device while it reduces the other slot, and decode them there.

        Returns
        -------
        dict
            What is wrong with which of them, where compressed bytes turned out to be corrupt.

        Raises
        ------
        HardwareError
            The device failed.
        """
        bad: dict[int, str] = {}
        with self._uploading:
            is_timed = self._is_timed[slot] = self._sampler.is_due()
            queue = self._timed_transfers if is_timed else self._transfers
            try:
                if self._events[slot]:  # the same slot again, maybe through the other queue
                    cl.wait_for_events(self._events[slot])
                self._events[slot], self._decodings[slot] = [], []
                sent: list[cl.Event] = []
                if any(i < n for i in self._chunks[slot]):
                    sent, self._decodings[slot] = self._decoder.decode(slot, n, self._raw[slot], queue)
                    bad = self._decoder.failures(slot, n, queue)
                    if bad and is_timed:
                        self._sampler.postpone()  # its good frames come again
                self._send(slot, [i for i in range(n) if i not in self._chunks[slot]], queue)
                self._events[slot] += sent
            except cl.Error as error:
                self._events[slot] = []
                with contextlib.suppress(cl.Error):
                    queue.finish()  # what is still under way must not meet the next upload
                raise HardwareError(f"{self.device.name}: {error}") from error
        self._is_uploaded[slot] = not bad
        return {i: f"corrupt bslz4 data: {reason}" for i, reason in bad.items()}

    def _send(self, slot: int, frames: list[int], queue: cl.CommandQueue) -> None:
        """Start the transfer of frames that were decoded here, those that lie side by side in one go."""
        if self.device.is_cpu:
            return
        runs = np.split(frames, np.flatnonzero(np.diff(frames) != 1) + 1) if frames else []
        self._events[slot] = [
            cl.enqueue_copy(
                queue, self._raw[slot], self.inputs[slot][run[0] : run[-1] + 1],
                dst_offset=int(run[0]) * self.inputs[slot][0].nbytes, is_blocking=False,
            )
            for run in runs
        ]  # fmt: skip
        queue.flush()  # another queue waits for them

    def pixels(self, slot: int, i: int) -> np.ndarray:
        """Frame `i` of a slot that was reduced last, (rows, columns): to look at, until the slot is filled again."""
        if i in self._chunks[slot] and not self.device.is_cpu:
            frame = self.inputs[slot][i]
            queue = self._timed_queue if self._is_timed[slot] else self._queue
            try:
                self._reads.append(cl.enqueue_copy(queue, frame, self._raw[slot], src_offset=i * frame.nbytes))
            except cl.Error as error:
                raise HardwareError(f"{self.device.name}: {error}") from error
            self._chunks[slot].discard(i)
        return self.inputs[slot][i]

    def reduce(self, slot: int, n: int, parameters: Parameters) -> list[Reduction]:
        """Reduce the first `n` frames of a slot.

        Raises
        ------
        HardwareError
            The device failed.
        FrameError
            Without `upload` before: the bytes of a frame are corrupt.
        """
        self.times, self._reads = DeviceTimes(), []
        try:
            if not self._is_clear:
                self._clear()
            if not self._is_uploaded[slot] and (bad := self.upload(slot, n)):
                raise FrameError(next(iter(bad.values())))
            self._is_uploaded[slot] = False
            queue = self._timed_queue if self._is_timed[slot] else self._queue
            uploads = self._events[slot]
            launches = self._chain.run(self._raw[slot], n, parameters, queue, wait_for=uploads)
            reductions = self._read_back(queue, slot, n, parameters)
            self._events[slot] = []  # all is over
            if self._is_timed[slot]:
                kernels = [*self._decodings[slot], *(event for _, event in launches)]
                self.times = self._sampler.taken(n, uploads, kernels, self._reads)
            else:
                self._sampler.skip(n)
            return reductions
        except cl.Error as error:
            self._reset()
            raise HardwareError(f"{self.device.name}: {error}") from error
        finally:
            self._reads = []

    def profile(self, slot: int, n: int, parameters: Parameters) -> dict[str, float]:
        """As `reduce`, but gives the ms per frame that the upload (where there is one) and each kernel took, by the
        device's own clock."""
        queue, raw, events = self._timed_queue, self._raw[slot], []
        try:
            if not self.device.is_cpu:
                events.append(("upload", cl.enqueue_copy(queue, raw, self.inputs[slot][:n], is_blocking=False)))
            events += self._chain.run(raw, n, parameters, queue)
            queue.finish()
        except cl.Error as error:
            self._reset()
            raise HardwareError(f"{self.device.name}: {error}") from error
        times: dict[str, float] = {}
        for name, event in events:
            times[name] = times.get(name, 0.0) + 1e3 * duration(event) / n
        return times

    def _reset(self) -> None:
        self._is_clear = False
        with contextlib.suppress(cl.Error):
            self._timed_queue.finish()  # what is cleared now is not to be written again
        with contextlib.suppress(cl.Error):  # the next batch tries again, and says so where it fails
            self._clear()

    def _clear(self) -> None:
        self._chain.reset()
        self._queue.finish()  # the next batch may go through the other queue
        self._is_clear = True

    def _read_back(self, queue: cl.CommandQueue, slot: int, n: int, p: Parameters) -> list[Reduction]:
        chain, n_pixels = self._chain, self.bins.shape[0] * self.bins.shape[1]
        n_picked = self._read(queue, chain.n_picked, (n,), np.uint32)
        n_found = self._read(queue, chain.n_found, (n,), np.uint32)
        curves = self._read(queue, chain.curve, (n, self.bins.count, 2), np.float32)
        reductions = []
        for i in range(n):
            index = self._read(queue, chain.index, (n_picked[i],), np.uint32, i * n_pixels)
            intensity = self._read(queue, chain.intensity, (n_picked[i],), self.dtype, i * n_pixels)
            m = min(int(n_found[i]), PEAK_CAPACITY)
            rows = self._read(queue, chain.results, (m, 8), np.float32, i * PEAK_CAPACITY * 8)
            centres = self._read(queue, chain.found, (m,), np.uint32, i * PEAK_CAPACITY)
            mean, std = np.ascontiguousarray(curves[i, :, 0]), np.ascontiguousarray(curves[i, :, 1])
            rows, merged = merge_plateaus(rows, centres, lambda i=i: self.pixels(slot, i), p.patch_size)
            peaks = _strongest(rows, p.max_peaks)
            reductions.append(Reduction(index, intensity, mean, std, peaks, int(n_found[i]) - merged))
        return reductions

    def _read(
        self, queue: cl.CommandQueue, buffer: cl.Buffer, shape: tuple[int, ...], dtype: type | np.dtype, start: int = 0
    ) -> np.ndarray:
        out = np.empty(shape, dtype)
        if out.size:
            self._reads.append(cl.enqueue_copy(queue, out, buffer, src_offset=start * out.itemsize))
        return out

    def close(self) -> None:
        """Give the device's memory back; may be called twice."""
        self.inputs.clear()
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
        for buffer in {*self._raw, *self._pinned}:
            buffer.release()
        self._raw, self._pinned = [], []
        if self._chain is not None:
            self._chain.release()
            self._chain = None


def _strongest(rows: np.ndarray, most: int) -> np.ndarray:
    """The `most` peaks of largest intensity, strongest first, as rows of `frames.PEAK_COLUMNS`."""
    chosen = rows[np.argsort(-rows[:, 2], kind="stable")[:most]]
    snr = np.divide(chosen[:, 2], chosen[:, 3], out=np.zeros(len(chosen), np.float32), where=chosen[:, 3] > 0)
    return np.column_stack([chosen[:, :4], snr, chosen[:, 4], chosen[:, 5]]).astype(np.float32)
