"""What all writers share: a new HDF5 file that readers can open at any moment, and clear errors."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import errno
import importlib.metadata
import os
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..processing.errors import ConfigurationError, HardwareError, NotAllowedError
from ..processing.frames import RunInfo
from .chunks import ChunkError, ChunkQueue, Codec
from .disk import Disk
from .growing_dataset import GrowingDataset
from .snapshot_file import SnapshotFile

PROGRAM = "framesieve"
VERSION = importlib.metadata.version(PROGRAM)

#: seconds between two commits while frames are appended; `flush` commits at once
COMMIT_INTERVAL = 0.5

_open_writers: weakref.WeakSet[Hdf5Writer] = weakref.WeakSet()


class Hdf5Writer:
    """A new HDF5 file; what is appended becomes visible in `commit`, all of it at once.

    Not thread-safe: one thread appends and closes.

    Parameters
    ----------
    path : path-like
        The file to create. It exists, as a valid empty file, when the constructor returns.
    overwrite : bool
        Replace a file of this name, but only once a run begins in the new one; until then the new one lies beside it
        under a name of its own. A program that has the old file open keeps it.
    hidden : bool
        Likewise under a name of its own until a run begins in it, in any case.
    disk : Disk, optional
        Who does what the disk may not answer, where several files share it; without, one of its own.

    Raises
    ------
    ConfigurationError
        The directory is missing or not writable, or the file exists.
    HardwareError
        The disk refuses: full, over quota, gone.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        hidden: bool = False,
        disk: Disk | None = None,
    ) -> None:
        self._path = Path(path)
        self._info: RunInfo | None = None
        self._rows = 0
        self._closed = False
        self._told = False  # the caller knows of the error in `_file`
        self._pending = False  # something is appended but not committed
        self._last_commit = time.monotonic()
        self._chunks = ChunkQueue()
        self._growing: list[GrowingDataset] = []
        self._last_written: list[GrowingDataset] = []  # those that readers go by: their length changes last
        self._shares_disk = disk is not None
        self._disk = disk or Disk()
        try:
            fd, self._place = self._disk.call(_create, self._path, overwrite, hidden)  # where it lies now
        except BaseException as error:
            if not self._shares_disk:
                self._disk.close()
            if isinstance(error, OSError):
                raise HardwareError(f"{self._path} cannot be created: {error.strerror}") from error
            raise
        self._file = SnapshotFile(fd, self._disk)
        # v110: the format with append-only chunk indices. "none": freed space is not used again.
        self._h5 = h5py.File(self._file, "w", libver=("v110", "v110"), fs_strategy="none")
        self._guard: h5py.Dataset | None = None
        _open_writers.add(self)
        try:
            with self._writing():
                self._h5.attrs["NX_class"] = "NXroot"
                self._h5.attrs["file_name"] = str(self._path)
                self._h5.attrs["file_time"] = iso_time()
                self._h5.attrs["HDF5_Version"] = h5py.version.hdf5_version
                self._commit()
        except HardwareError:
            self.close()
            raise

    @property
    def path(self) -> Path:
        return self._path

    @property
    def rows(self) -> int:
        """Number of saved frames."""
        return self._rows

    @property
    def has_begun(self) -> bool:
        return self._info is not None

    def begin(self, info: RunInfo) -> None:
        """Write everything that is fixed, once shape and dtype of the frames are known.

        Raises
        ------
        NotAllowedError
            The file has begun already, or is closed.
        HardwareError
            The disk refuses.
        """
        if self._info is not None:
            raise NotAllowedError(f"{self.path}: a run has begun in this file already")
        with self._writing():
            self._write_fixed(info)
            self._info = info
            self._commit()
            self._take_name()

    def _write_fixed(self, info: RunInfo) -> None:
        """Create everything that the file of this kind has before its first frame."""
        raise NotImplementedError

    @property
    def bytes_written(self) -> int:
        """Length of the file as readers see it."""
        return self._file.committed

    @property
    def closed(self) -> bool:
        return self._closed

    def flush(self) -> None:
        """Make everything appended so far visible to readers. Call it when no frames come for a while.

        Raises
        ------
        HardwareError
            The disk refuses. The file stays as it was after the last commit.
        """
        with self._writing():
            if self._pending:
                self._commit()

    def close(self) -> None:
        """Finish the file. May be called twice.

        Raises
        ------
        HardwareError
            The last frames could not be written; not raised where an earlier call has told so.
        """
        if self._closed:
            return
        told = self._told
        try:
            if not self._file.error:
                with contextlib.suppress(HardwareError), self._writing():
                    self._commit()
        finally:
            self._closed = True
            _open_writers.discard(self)
            self._guard = None
            with contextlib.suppress(Exception) if self._file.error else contextlib.nullcontext():
                self._h5.close()
            self._file.finish()
            if self._place != self._path:
                self._ask(self._place.unlink, True)  # no run began in it
            if not self._shares_disk:
                self._disk.close()
        if self._file.error and not told:
            raise self._disk_error()

    def remove(self) -> None:
        """Close and take the file away again: for one in which no run began. A file that it was to replace stays."""
        self.close()
        with contextlib.suppress(OSError):
            if not self._disk.given_up:
                self._place.unlink(missing_ok=True)

    @property
    def stalled(self) -> float:
        """Seconds for which the disk has not answered."""
        return self._disk.stalled

    def give_up(self) -> None:
        """Wait for the disk no longer: what is going on in another thread ends with `HardwareError`."""
        self._disk.give_up()

    def __enter__(self):
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Around everything that writes: what the disk refuses becomes `HardwareError`.

        After any exception the file stays as it was after the last commit.
        """
        if self._closed:
            raise NotAllowedError(f"{self._path} is closed")
        if self._file.error:
            raise self._disk_error()
        try:
            yield
        except ChunkError as error:
            self._file.error = self._file.error or OSError(errno.EIO, str(error))
        except HardwareError as error:  # of another file, without which this one cannot go on
            self._file.error = self._file.error or OSError(errno.EIO, str(error))
            self._told = True
            raise
        except BaseException as error:
            if not self._file.error:  # a fault of ours, or an interrupt: HDF5's state may be half done
                self._file.error = OSError(errno.EINTR, f"interrupted by {type(error).__name__}")
                self._told = True
                raise
            # otherwise HDF5 only tells the consequence
        if self._file.error:
            raise self._disk_error()

    def _disk_error(self) -> HardwareError:
        self._told = True
        error = self._file.error
        return HardwareError(
            f"{self._path}: {error.strerror} (errno {error.errno}) while writing; the file holds what was written "
            f"before ({self._file.committed} bytes). Make room or choose another saving_directory, then start again"
        )

    def _create_growing(
        self,
        parent: h5py.Group,
        name: str,
        dtype: np.dtype | type,
        tail: tuple[int, ...],
        rows_per_chunk: int,
        codec: Codec | None = None,
        widest: int | None = None,
    ) -> GrowingDataset:
        """A new `GrowingDataset` of this file."""
        growing = GrowingDataset(
            parent, name, dtype, tail, rows_per_chunk, codec=codec, queue=self._chunks, widest=widest
        )
        self._growing.append(growing)
        return growing

    def _commit_if_due(self) -> None:
        self._pending = True
        if time.monotonic() - self._last_commit >= COMMIT_INTERVAL:
            self._commit()

    def _commit(self) -> None:
        self._before_commit()
        self._chunks.drain()
        for growing in self._growing:
            growing.complete()
        self._h5.flush()
        self._file.commit([h5py.h5o.get_info(growing.dataset.id).addr for growing in self._last_written])
        self._pending = False
        self._last_commit = time.monotonic()
        # HDF5 takes space back that is freed at the very end of the file, and writes there again: the last chunk,
        # still partly empty, would be overwritten while the state on disk refers to it. So the end is always
        # occupied by a dataset without a name, which goes once there is another one behind it.
        self._guard = self._h5.create_dataset(None, data=np.uint8(0))
        if not self._file.error and self._ask(self._place.exists) is False:
            self._file.error = FileNotFoundError(errno.ENOENT, "the file or its directory was removed")

    def _take_name(self) -> None:
        """A run begins: from here on it is the file of this name."""
        if self._place != self._path and not self._file.error:
            self._ask(os.replace, self._place, self._path)
            if not self._file.error:
                self._place = self._path

    def _ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """Have something done by the disk; what it refuses is in `_file.error`, and the answer then None."""
        try:
            return self._disk.call(function, *args)
        except OSError as error:
            self._file.error = self._file.error or error

    def _before_commit(self) -> None:
        """Hook: bring up to date what is written at every commit."""


def _create(path: Path, overwrite: bool, hidden: bool) -> tuple[int, Path]:
    """A descriptor of the new file `path` and where it lies, or an error that says what would be right."""
    directory = path.parent
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "does not exist"
        raise ConfigurationError(f"{path}: the directory {directory} {what}; create it or name another one")
    if path.is_dir():
        raise ConfigurationError(f"{path} is a directory; name a file")
    try:
        exists = path.exists()
        if exists and not overwrite:
            raise FileExistsError
        place = path.with_name(f".{path.name}.new") if exists or hidden else path
        if place != path:
            place.unlink(missing_ok=True)  # of a process that was killed
        return os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), place
    except FileExistsError:
        raise ConfigurationError(
            f"{path} exists; choose another prefix or number, or the overwrite policy 'overwrite'"
        ) from None
    except OSError as error:
        kind = HardwareError if error.errno in _DISK_ERRORS else ConfigurationError
        raise kind(f"{path} cannot be created: {error.strerror} (errno {error.errno})") from error


_DISK_ERRORS = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS}


def iso_time(seconds: float | None = None) -> str:
    """Local time with its offset from UTC, as NeXus wants it."""
    moment = datetime.datetime.now() if seconds is None else datetime.datetime.fromtimestamp(seconds)
    return moment.astimezone().isoformat(timespec="milliseconds")


@atexit.register
def _close_all() -> None:
    """HDF5 must not find open files when the interpreter is already gone."""
    for writer in list(_open_writers):
        with contextlib.suppress(Exception):
            writer.close()
