"""bslz4 chunks → pixels on an OpenCL device: compressed bytes go over, decoded ones stay there.

    put: header checked, bytes copied ─► upload ─► find_blocks ─► decode_blocks ─► the pixels, in a buffer

What does not stand in the first 12 bytes is found out by the kernels (processing/kernels/bslz4.cl), so a call of `put`
costs a few microseconds and the copy, during which other threads run. Whatever the bytes are, the kernels touch
nothing but the frame that they belong to, and say which frame is broken.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pyopencl as cl

from .bitshuffle import HEADER
from .errors import ConfigurationError
from .frames import PIXEL_DTYPES
from .opencl import build

#: bytes of the largest block that is decoded on a device (what HDF5's bitshuffle and DECTRIS write); it has to fit
#: into the local memory of a work-group several times
MAX_BLOCK: Final = 8192

#: bytes of the smallest blocks of which an incompressible frame has room; smaller ones have to compress a little
SMALL_BLOCK: Final = 512

GROUP_GPU: Final = 32  # work-items that decode a block
WALKERS_GPU: Final = 256  # work-items that follow the lengths of a chunk

_KERNELS: Final = ("lz4", "bitshuffle", "bslz4")
_CL_TYPES: Final = {1: "uchar", 2: "ushort", 4: "uint"}
_ALL_GOOD: Final = 0xFFFFFFFF  # as in kernels/bslz4.cl
_START: Final = 16  # bytes before a chunk, for what the host has read from its header
_ALIGNMENT: Final = 128
_SLACK: Final = 64  # the kernels may look that far behind a chunk


class UnsuitableChunkError(ValueError):
    """A chunk that may be good but is not for the device: decode it on the host."""


class ChunkDecoder:
    """Decodes batches of bslz4 chunks (HDF5 filter 32008, bitshuffle with LZ4) of one shape and pixel type.

    Elements of bitshuffle are whole pixels in the byte order of this computer. Chunks are put into one of two slots,
    and `decode` writes the pixels of the first n of a slot into a buffer; one slot can be filled while the other is
    being decoded. Different threads may `put` different frames at the same time; else not thread-safe.

    Parameters
    ----------
    context, queue
        Where `decode` works; in-order queue.
    n_pixels
        Of a frame.
    dtype
        Pixel type, one of `frames.PIXEL_DTYPES`.
    batch_size
        Frames that a slot holds.
    group_per_block
        None: as suits the device. True: a work-group does a block, and the bytes are copied to the device (GPU).
        False: a work-item does a block, and the bytes are read where `put` leaves them (CPU).

    Raises
    ------
    ConfigurationError
        The pixel type is not supported.
    HardwareError
        The device cannot build the kernels.
    pyopencl.Error
        Not enough memory on the device, most of all.
    """

    def __init__(
        self,
        context: cl.Context,
        queue: cl.CommandQueue,
        n_pixels: int,
        dtype: np.dtype,
        batch_size: int,
        *,
        group_per_block: bool | None = None,
    ) -> None:
        self.n_pixels, self.dtype, self.batch_size = n_pixels, np.dtype(dtype), batch_size
        if self.dtype not in PIXEL_DTYPES:
            accepted = ", ".join(each.name for each in PIXEL_DTYPES)
            raise ConfigurationError(f"pixels of type {self.dtype} cannot be decoded; accepted are {accepted}")
        self._context, self._queue = context, queue
        (device,) = context.devices
        is_cpu = bool(device.type & cl.device_type.CPU)
        self._in_place = is_cpu if group_per_block is None else not group_per_block
        self._group, self._walkers = (1, 1) if self._in_place else (GROUP_GPU, WALKERS_GPU)
        program = self._build()
        self._find_blocks, self._decode_blocks = program.find_blocks, program.decode_blocks

        #: bytes of the largest chunk that `put` takes: a frame that does not compress at all
        self.capacity = largest_chunk(n_pixels, self.dtype.itemsize)
        self._stride = -(-(_START + self.capacity + _SLACK) // _ALIGNMENT) * _ALIGNMENT
        self._most_blocks = max(n_pixels // 8, 1)
        self._make_slots()
        flags = cl.mem_flags
        self._places = cl.Buffer(context, flags.READ_WRITE, batch_size * self._most_blocks * 4)
        self._status = [cl.Buffer(context, flags.READ_WRITE, batch_size * 4) for _ in range(2)]

    def _build(self) -> cl.Program:
        itemsize = self.dtype.itemsize
        defines = {
            "ELEMENT_T": _CL_TYPES[itemsize],
            "ELEMENT_BYTES": itemsize,
            "MAX_BLOCK": MAX_BLOCK,
            "GROUP": self._group,
            "WALKERS": self._walkers,
        }
        return build(self._context, _KERNELS, defines)

    def _make_slots(self) -> None:
        """Host memory for compressed bytes: read in place on a CPU, pinned for the transfer elsewhere."""
        flags, shape = cl.mem_flags, (self.batch_size, self._stride)
        self._pinned, self._rows, self._inputs, self._tables = [], [], [], []
        self._uploads: list[list[cl.Event]] = [[], []]
        for _ in range(2):
            pinned = cl.Buffer(self._context, flags.READ_WRITE | flags.ALLOC_HOST_PTR, math.prod(shape))
            access = cl.map_flags.READ | cl.map_flags.WRITE
            array, _ = cl.enqueue_map_buffer(self._queue, pinned, access, 0, shape, np.uint8)
            self._pinned.append(pinned)
            self._inputs.append(array)
            self._tables.append(array[:, :_START].view(np.uint32))
            self._tables[-1][:] = 0
            self._rows.append(pinned if self._in_place else cl.Buffer(self._context, flags.READ_ONLY, math.prod(shape)))

    def accepts(self, chunk: bytes | memoryview) -> bool:
        """Whether `put` will take the chunk. Says nothing of the compressed bytes themselves."""
        try:
            self._layout(chunk)
        except ValueError:
            return False
        return True

    def put(self, slot: int, i: int, chunk: bytes | memoryview) -> None:
        """Copy the bytes of frame `i` of a batch into `slot`; thread-safe where `slot` or `i` differ.

        Raises
        ------
        UnsuitableChunkError
            The chunk has to be decoded on the host: its blocks are too large or it takes more room than a frame
            that does not compress.
        ValueError
            The header is corrupt; says in what.
        """
        per_block, blocks = self._layout(chunk)
        self._inputs[slot][i, _START : _START + len(chunk)] = np.frombuffer(chunk, np.uint8)
        self._tables[slot][i] = len(chunk), per_block, blocks, 0

    def skip(self, slot: int, i: int) -> None:
        """There is no chunk for frame `i` of a batch: `decode` leaves its pixels as they are."""
        self._tables[slot][i] = 0

    def _layout(self, chunk: bytes | memoryview) -> tuple[int, int]:
        """(elements of a block, number of blocks) from the header."""
        itemsize, size = self.dtype.itemsize, len(chunk)
        if size < HEADER.size:
            raise ValueError(f"truncated: {size} bytes, the header alone has {HEADER.size}")
        announced, block = HEADER.unpack_from(chunk)
        if announced != self.n_pixels * itemsize:
            raise ValueError(f"{announced} bytes are announced, not {self.n_pixels * itemsize}")
        if block == 0 or block % (8 * itemsize):
            raise ValueError(f"blocks of {block} bytes for elements of {itemsize}")
        if block > MAX_BLOCK:
            raise UnsuitableChunkError(f"blocks of {block} bytes, a device takes up to {MAX_BLOCK}")
        if size > self.capacity:
            raise UnsuitableChunkError(f"a chunk of {size} bytes, a device takes up to {self.capacity}")
        per_block = block // itemsize
        return per_block, -(-(self.n_pixels // 8 * 8) // per_block)

    def decode(
        self, slot: int, n: int, out: cl.Buffer, queue: cl.CommandQueue | None = None
    ) -> tuple[list[cl.Event], list[cl.Event]]:
        """Enqueue the decoding of the first `n` chunks of `slot`, and return without waiting: the events of the
        transfers, and those of the kernels.

        Frame i goes to element i · `n_pixels` of `out`. The slot must not be filled again before the last of the
        events (or anything enqueued later) is complete. Which frames were corrupt is told by `failures`. Another
        `queue` of the context may be given for both, as long as nothing is going on in any other.
        """
        if not 0 < n <= self.batch_size:
            raise ValueError(f"{n} frames of a slot that holds {self.batch_size}")
        queue = queue or self._queue
        rows, table, u32 = self._rows[slot], self._tables[slot], np.uint32
        if not self._in_place:
            # an event that nobody keeps makes pyopencl wait for the transfer
            self._uploads[slot] = [
                cl.enqueue_copy(
                    queue, rows, self._inputs[slot][i, : _START + table[i, 0]], dst_offset=i * self._stride,
                    is_blocking=False,
                )
                for i in range(n)
            ]  # fmt: skip
        arguments = (
            rows, np.uint64(self._stride), u32(self.n_pixels), u32(self._most_blocks), self._places,
            self._status[slot], out,
        )  # fmt: skip
        found = self._find_blocks(queue, (self._walkers, n), (self._walkers, 1), *arguments)
        blocks = max(int(table[:n, 2].max()), 1)
        decoded = self._decode_blocks(queue, (self._group * blocks, n), (self._group, 1), *arguments)
        return list(self._uploads[slot]), [found, decoded]

    def failures(self, slot: int, n: int, queue: cl.CommandQueue | None = None) -> dict[int, str]:
        """Frames among the first `n` that the last `decode` of `slot` could not decode, and what is wrong with them.

        Waits for the device. The pixels of such a frame are undefined; those of the others are right.
        """
        status = np.empty(n, np.uint32)
        cl.enqueue_copy(queue or self._queue, status, self._status[slot])
        return {int(i): self._reason(int(status[i]), slot, int(i)) for i in np.flatnonzero(status != _ALL_GOOD)}

    def _reason(self, status: int, slot: int, i: int) -> str:
        size, _, blocks, _ = self._tables[slot][i]
        block, is_corrupt = divmod(status, 2)
        if is_corrupt:
            return f"block {block} of {blocks} cannot be decompressed"
        where = "behind its blocks" if block == blocks else f"at block {block} of {blocks}"
        return f"truncated, or a wrong length, {where} ({size} bytes)"

    def close(self) -> None:
        """Give the device's memory back."""
        self._queue.finish()
        self._inputs, self._tables, self._uploads = [], [], [[], []]
        for buffer in {*self._pinned, *self._rows, *self._status, self._places}:
            buffer.release()
        self._pinned, self._rows, self._status = [], [], []


def largest_chunk(n_pixels: int, itemsize: int) -> int:
    """Bytes of a chunk of blocks of `SMALL_BLOCK` bytes or more that does not compress.

    LZ4 then writes one sequence per block: a token, a byte per 255 of length, and the literals; its authors allow 16
    bytes in all besides the bytes per 255.
    """
    blocks = -(-n_pixels * itemsize // SMALL_BLOCK)
    return HEADER.size + blocks * (4 + SMALL_BLOCK + SMALL_BLOCK // 255 + 16)
