"""The mask file of a run, and how to tell later which one it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from ..processing.errors import ConfigurationError
from ..sources.images import read_image
from ..sources.inputs import split_spec

MAX_HASHED = 256 << 20  # bytes; what is larger is a series with a mask in it, and reading it would hold the run up


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask as it was read: `spec` as it was given, `sha256` of the file in hex digits (None where it has more than
    `MAX_HASHED` bytes), `loaded` in ISO 8601 with the offset of the time zone, `pixels` (rows, columns), non-zero =
    bad. Without any there is no mask."""

    spec: str = ""
    sha256: str | None = None
    loaded: str | None = None
    pixels: np.ndarray | None = field(default=None, repr=False)

    @classmethod
    def read(cls, spec: str) -> MaskFile:
        """
        Raises
        ------
        ConfigurationError
            As `read_image`; the file is being written.
        """
        path = split_spec(spec)[0]
        for _ in range(3):  # the hash must be that of the pixels
            before, sha256 = _version(path), _sha256(path)
            pixels = read_image(spec)
            loaded = datetime.now().astimezone().isoformat(timespec="seconds")
            if _version(path) == before:
                return cls(spec, sha256, loaded, pixels)
        raise ConfigurationError(f"mask = {spec!r} is being written: try again when it is complete")


def _version(path: str) -> tuple[int, ...] | None:
    """What changes with the content of a file; None where it cannot be looked at."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return None


def _sha256(path: str) -> str | None:
    with contextlib.suppress(OSError):  # it could be read a moment ago
        if os.path.getsize(path) <= MAX_HASHED:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    return None
