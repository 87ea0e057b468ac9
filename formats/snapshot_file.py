"""A file object under HDF5 whose file on disk is, at every moment, one complete HDF5 file.

HDF5 writes its internal structures in any order and marks a file that is being written, so that a reader
in the middle of a run, or after the writer was killed, finds nonsense or is refused. `SnapshotFile` sits
between the HDF5 library and the disk (h5py's driver "fileobj") and goes from one complete state to the next:

* What lies behind the end of the last complete state is written through: nothing refers to it yet.
* What would change the last complete state (only the library's small structures: lengths, chunk indices, the
  superblock) is held in memory until `commit`, which writes it children first: chunk indices, then the
  lengths of datasets, then the lengths of those that readers go by. Each structure is one small write.
* The mark "is being written" never reaches the disk.
* Whatever touches the disk is done by a `Disk`, in order: writes are handed over, only `commit` waits for them.
* The superblock announces more bytes than there are, and the file is that long, with a hole at its end: a reader
  refuses addresses behind the end that it found when it opened the file, and would fail as soon as the file grows.

A process that is killed at any moment, and readers that see the writes in their order (on the same machine, or through
a coherent file system), find a complete file. A machine that loses power may not have written in this order.

This is safe only while HDF5 never reuses space that the last complete state refers to; `hdf5_writer` sees to it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import weakref
from collections import deque
from collections.abc import Sequence
from functools import partial

from .disk import Disk, no_answer

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_SIZE = 48  # of version 2 and 3, with addresses of 8 bytes
_SUPERBLOCK_KEY = (0, _SUPERBLOCK_SIZE)
_FLAGS = 11  # byte of the superblock that holds the mark
_LENGTH = slice(28, 36)  # bytes of the superblock that hold the length of the file
_GATHERED = 256 << 10  # bytes that are handed over to the disk at once
_FIRST_HOLE = 64 << 20  # bytes announced beyond twice the length of the file

# Order in which structures are overwritten. Everything without a signature is an array of chunk addresses or
# the rest of an uncompressed chunk; both only grow. The superblock comes first, because it holds the end of the file.
_OTHER = 1
_RANKS = {b"\x89HDF": 0, b"EADB": 2, b"EASB": 3, b"EAIB": 4, b"EAHD": 5, b"OCHK": 6, b"OHDR": 7}


class SnapshotFile(io.RawIOBase):
    """A new, empty file `fd` (open for reading and writing), for `h5py.File(SnapshotFile(fd), "w", …)`.

    Errors of the disk are kept in `error` and never reach HDF5, which could not be closed any more
    otherwise: from the first error on everything stays in memory, and the file on disk stays as it was.

    Parameters
    ----------
    fd : int
        Closed by `finish`.
    disk : Disk, optional
        Who reads and writes; without, a new one.

    Attributes
    ----------
    committed : int
        Length of the last complete state (bytes); 0 before the first.
    """

    def __init__(self, fd: int, disk: Disk | None = None) -> None:
        super().__init__()
        self.committed = 0
        self._error: OSError | None = None
        self._disk = disk or Disk()
        if disk is None:
            weakref.finalize(self, self._disk.close, wait=False)
        self._fd = fd
        self._position = 0
        self._end = 0  # what HDF5 believes to be the length of the file
        self._announced = 0  # length of the file on disk
        self._reach = 0  # what the structures on disk may refer to, also if a commit was cut short
        self._superblock = b""  # of the last complete state
        # (address, length) → bytes not on disk yet, oldest first. A later block wins over an earlier one.
        self._held: dict[tuple[int, int], bytes] = {}
        # handed over to the disk and not written yet; older than what is held after an error
        self._under_way: deque[tuple[int, bytes]] = deque()
        self._gathered = (0, 0)  # how many of them, and bytes, the disk does not know of yet

    @property
    def error(self) -> OSError | None:
        """What the disk refused."""
        if self._error is None and self._disk.given_up:
            self._error = no_answer()
        return self._error

    @error.setter
    def error(self, error: OSError) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._end = self._position if size is None else size
        return self._end

    def readinto(self, buffer) -> int:
        out = memoryview(buffer).cast("B")
        start, stop = self._position, self._position + len(out)
        try:
            self._hand_over()
            data = self._disk.call(os.pread, self._fd, len(out), start)
        except OSError as error:
            self.error = self.error or error
            data = b""
        out[: len(data)] = data
        out[len(data) :] = bytes(len(out) - len(data))
        not_on_disk = list(self._under_way) if self.error else []  # otherwise the disk has done all that was before
        for address, block in (*not_on_disk, *((address, block) for (address, _), block in self._held.items())):
            low, high = max(start, address), min(stop, address + len(block))
            if low < high:
                out[low - start : high - start] = block[low - address : high - address]
        self._position = stop
        return len(out)

    def write(self, buffer) -> int:
        data = bytes(memoryview(buffer).cast("B"))
        start = self._position
        self._position += len(data)
        self._end = max(self._end, self._position)
        # before the first commit nothing is complete, hence everything is held
        if start < self.committed or not self.committed or self.error:
            self._hold(start, data)
        else:
            self._under_way.append((start, data))
            self._gathered = (self._gathered[0] + 1, self._gathered[1] + len(data))
            if self._gathered[1] >= _GATHERED:
                self._hand_over()
        return len(data)

    def _hand_over(self) -> None:
        """Have the disk write what has been gathered: handing over takes longer than a small write."""
        (count, size), self._gathered = self._gathered, (0, 0)
        if count:
            self._disk.submit(partial(self._write_next, count), size)

    def _write_next(self, count: int) -> None:
        """In the thread of the disk: write what is longest under way. From an error on it stays there."""
        for _ in range(count):
            if self.error:
                return
            address, data = self._under_way[0]
            try:
                _write_all(self._fd, data, address)
            except OSError as error:
                self.error = error
            except BaseException as error:
                self.error = OSError(errno.EIO, f"{type(error).__name__}: {error}")
            else:
                self._under_way.popleft()

    def _hold(self, address: int, data: bytes) -> None:
        key = (address, len(data))
        self._held.pop(key, None)  # to the end of the order
        self._held[key] = data

    def commit(self, last: Sequence[int] = ()) -> None:
        """Make what HDF5 has written so far (flush it before) the state that readers see.

        Parameters
        ----------
        last : sequence of int
            Addresses of the object headers that are overwritten after all others, in this order.
        """
        if self.error:
            return
        order = {address: len(_RANKS) + 1 + place for place, address in enumerate(last)}

        def rank(item: tuple[tuple[int, int], bytes]) -> int:
            (address, _), block = item
            return order.get(address, _RANKS.get(block[:4], _OTHER))

        try:
            self._hand_over()
            self._announce()
            if self.committed:
                blocks = [(address, block) for (address, _), block in sorted(self._held.items(), key=rank)]
            else:  # all of the file is in memory still and appears on disk in one write
                image = bytearray(self._end)
                for (address, length), block in self._held.items():
                    image[address : address + length] = block
                blocks = [(0, bytes(image))]
            self._disk.call(self._replace, blocks, self._end)
        except OSError as error:
            self.error = self.error or error
            return
        self._held.clear()
        self.committed = self._end

    def _replace(self, blocks: list[tuple[int, bytes]], end: int) -> None:
        """In the thread of the disk: go from the last complete state to one that reaches up to `end`."""
        if self.error:  # of a write before
            raise self.error
        self._reach = end
        for address, block in blocks:
            if self._disk.given_up:  # meanwhile
                raise no_answer()
            _write_all(self._fd, block, address)

    def _announce(self) -> None:
        """Make room for what comes, and the superblock say so.

        The length doubles: a reader that reads faster than the file grows never meets the end.
        """
        if self._end > self._announced:
            self._announced = 2 * self._end + _FIRST_HOLE
            self._announced = self._disk.call(self._lengthen, self._announced, self._end)
        self._superblock = self._held.get(_SUPERBLOCK_KEY, self._superblock)
        self._held[_SUPERBLOCK_KEY] = published_superblock(self._superblock, self._announced)

    def _lengthen(self, length: int, least: int) -> int:
        """In the thread of the disk: the file is so long now."""
        try:
            os.ftruncate(self._fd, length)
        except OSError:  # a limit on the length of files
            length = least
            os.ftruncate(self._fd, length)
        return length

    def finish(self) -> None:
        """Give the file its true length and close it, once HDF5 has closed it; also after an error. A disk that does
        not answer does so when it comes back."""
        self.commit()
        with contextlib.suppress(OSError):
            if self._disk.given_up:
                self._disk.submit(self._end_file)
            else:
                self._disk.call(self._end_file)

    def _end_file(self) -> None:
        """In the thread of the disk."""
        with contextlib.suppress(OSError):
            if self._superblock:
                _write_all(self._fd, published_superblock(self._superblock, self._reach), 0)
            os.ftruncate(self._fd, self._reach)
        with contextlib.suppress(OSError):
            os.close(self._fd)


def _write_all(fd: int, data, offset: int) -> None:
    view = memoryview(data)
    while len(view):
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def published_superblock(superblock: bytes, length: int) -> bytes:
    """`superblock` (48 bytes, version 3) for readers: not being written, the file `length` bytes long."""
    head = bytearray(superblock[: _SUPERBLOCK_SIZE - 4])
    if not head.startswith(_SIGNATURE) or head[8] != 3:
        raise ValueError("HDF5 wrote a superblock that is not of version 3")
    head[_FLAGS] = 0
    head[_LENGTH] = struct.pack("<Q", length)
    return bytes(head) + struct.pack("<I", lookup3(head))


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash "lookup3" (little-endian words, initial value 0), HDF5's checksum of its structures.

    `data` has a length that is a multiple of 4 and not 0.
    """
    words = list(struct.unpack(f"<{len(data) // 4}I", data))
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF
    while len(words) > 3:
        a, b, c = (a + words[0]) & 0xFFFFFFFF, (b + words[1]) & 0xFFFFFFFF, (c + words[2]) & 0xFFFFFFFF
        del words[:3]
        for shift in (4, 6, 8, 16, 19, 4):
            a = ((a - c) & 0xFFFFFFFF) ^ _rotate(c, shift)
            c = (c + b) & 0xFFFFFFFF
            a, b, c = b, c, a
    words += [0] * (3 - len(words))
    a, b, c = (a + words[0]) & 0xFFFFFFFF, (b + words[1]) & 0xFFFFFFFF, (c + words[2]) & 0xFFFFFFFF
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotate(b, shift)) & 0xFFFFFFFF
        a, b, c = b, c, a
    return b  # what was c in the last round


def _rotate(value: int, shift: int) -> int:
    return ((value << shift) | (value >> (32 - shift))) & 0xFFFFFFFF
