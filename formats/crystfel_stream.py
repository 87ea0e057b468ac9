"""Frames of a sparse file as CrystFEL takes them over ZeroMQ: one MessagePack map each, image and peaks.

CrystFEL compares a key of a message with the one it looks for only as far as the former goes: no key may be the
beginning of one that is looked for. It takes the numbers of peaks for floating point ones without a look at their type.
"""

from __future__ import annotations

import re

import numpy as np

from ..processing.errors import ConfigurationError
from ..processing.frames import PEAK_COLUMNS
from .dense_files import MASKED
from .sparse_reader import SparseFile

IMAGE, PEAKS = "detector_data", "peak_list"

_PEAK_KEYS = {"fs": "x", "ss": "y", "intensity": "intensity"}


def message(file: SparseFile, row: int, *, noise: bool = True, seed: int | None = None) -> bytes:
    """The saved frame `row`, made dense.

    Masked pixels are −1 in images of integers, which are "<i4", and in those of floats, "<f4". Peaks are in pixels from
    the centre of the first one, as in a CXI file.

    Raises
    ------
    ConfigurationError
        The package msgpack is missing.
    IndexError
        There is no such frame.
    """
    try:
        import msgpack
    except ImportError as error:
        raise ConfigurationError("the package msgpack is missing: pip install msgpack") from error
    frame = file.frame(row)
    floats = file.dtype.kind == "f"
    options = {"dtype": np.dtype("<f4" if floats else "<i4"), "masked": MASKED}
    if not floats:
        options["lowest"] = 0
    if noise:
        options |= {"noise": file.parameters_of(frame), "rng": file.generator(frame, seed)}
    image = file.densifier.image(frame, **options)
    peaks = frame.peaks[np.isfinite(frame.peaks[:, [PEAK_COLUMNS.index(name) for name in _PEAK_KEYS.values()]]).all(1)]
    return msgpack.packb(
        {
            IMAGE: {"type": image.dtype.str, "shape": list(image.shape), "data": image.tobytes()},
            PEAKS: {key: peaks[:, PEAK_COLUMNS.index(name)].astype(float).tolist() for key, name in _PEAK_KEYS.items()},
            "series": frame.series_id,
            "frame_number": frame.number,
            "timestamp": float(frame.timestamp),
        },
        use_bin_type=True,
    )


def stream_geometry(text: str) -> str:
    """A geometry file for files, as one for messages: images are single ones, and flagged pixels are in them."""
    lines = []
    for line in text.splitlines():
        name = line.partition("=")[0].strip()
        if re.fullmatch(r"dim\d+|mask\d+_\w+|peak_list_type", name):
            continue
        new = {"data": IMAGE, "peak_list": PEAKS}.get(name)
        lines.append(line if new is None else f"{name} = {new}")
    return "\n".join(lines) + "\n"
