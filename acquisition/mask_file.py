"""The mask file of a run, and how to tell later which one it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from ..sources.images import read_image
from ..sources.inputs import split_spec

MAX_HASHED = 256 << 20  # bytes; what is larger is a series with a mask in it, and reading it would hold the run up


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask as it was read: `spec` as it was given, `sha256` of the file in hex digits (None where it has more than
    `MAX_HASHED` bytes), `loaded` in ISO 8601 with the offset of the time zone, `pixels` (rows, columns), non-zero =
    bad."""

    spec: str
    sha256: str | None
    loaded: str
    pixels: np.ndarray = field(repr=False)

    @classmethod
    def read(cls, spec: str) -> MaskFile:
        """
        Raises
        ------
        ConfigurationError
            As `read_image`.
        """
        pixels = read_image(spec)
        return cls(
            spec, _sha256(split_spec(spec)[0]), datetime.now().astimezone().isoformat(timespec="seconds"), pixels
        )


def _sha256(path: str) -> str | None:
    with contextlib.suppress(OSError):  # it could be read a moment ago
        if os.path.getsize(path) <= MAX_HASHED:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    return None
