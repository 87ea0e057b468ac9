"""Names and types of what a sparse file holds; shared by the writer and the reader."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from ..processing.frames import Verdict

ENTRY = "/entry_0000"
SPARSE_FRAMES = f"{ENTRY}/sparse_frames"
PEAKS = "/entry_1/result_1"
LEDGER = f"{ENTRY}/ledger"
PARAMETER_SETS = f"{ENTRY}/parameter_sets"
GEOMETRY = f"{ENTRY}/geometry"
PARTS = f"{ENTRY}/parts"
DENSE_DATA = "/entry/data/data"
DENSE_PARTS = "/entry/parts"

#: bitshuffle + LZ4: fast, and every reader of detector data has it
COMPRESSION = dict(hdf5plugin.Bitshuffle(cname="lz4"))
#: of tables: built into HDF5, so that the ledger can be read where no plugin is installed
TABLE_COMPRESSION = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
NO_COMPRESSION: dict = {}

#: column of `ReducedFrame.peaks` → dataset of `PEAKS`, each float32 (kept frames, most peaks of a frame)
PEAK_DATASETS = {
    "x": "peakXPosRaw",
    "y": "peakYPosRaw",
    "intensity": "peakTotalIntensity",
    "sigma": "peakTotalIntensitySigma",
    "snr": "peakSNR",
    "n_pixels": "peakNPixels",
    "maximum": "peakMaximumValue",
}

PEAKS_WIDTH = 2048  # columns of the peak arrays at first; they grow by as many
PEAKS_WIDTH_LIMIT = 10_240

_SERIES_BYTES = 64
_FILE_BYTES = 256
_REASON_BYTES = 128
_JSON_BYTES = 2048

#: one row per frame number; `row` is the row in `SPARSE_FRAMES` and `PEAKS`, −1 where the frame was not saved
LEDGER_DTYPE = np.dtype(
    [
        ("frame", "<i8"),
        ("series", h5py.string_dtype("utf-8", _SERIES_BYTES)),
        ("timestamp", "<f8"),  # s since 1970, NaN where unknown
        ("verdict", h5py.string_dtype("ascii", 8)),  # the name of a `Verdict` in lower case
        ("reason", h5py.string_dtype("utf-8", _REASON_BYTES)),
        ("n_pixels", "<u4"),
        ("n_peaks", "<u4"),
        ("parameter_set", "<u4"),
        ("row", "<i8"),
        ("stored_bytes", "<u8"),  # of the frame as received
        ("raw_bytes", "<u8"),  # of the frame, uncompressed
        ("monitor", "<f8"),  # incoming intensity (I0), NaN where unknown
        ("position_x", "<f8"),  # of the scan, NaN where unknown
        ("position_y", "<f8"),
    ]
)

#: the same in memory: verdicts as the numbers of `Verdict`
LEDGER_IN_MEMORY = np.dtype([(name, "u1" if name == "verdict" else LEDGER_DTYPE[name]) for name in LEDGER_DTYPE.names])

_NAME_OF = {verdict: verdict.name.lower().encode() for verdict in Verdict}


def verdict_names(verdicts: Iterable[Verdict]) -> list[bytes]:
    """As the ledger stores them."""
    return [_NAME_OF[verdict] for verdict in verdicts]


def ledger_in_memory(stored: np.ndarray) -> np.ndarray:
    """`LEDGER_IN_MEMORY` (frames,) from what the file holds."""
    ledger = np.zeros(len(stored), LEDGER_IN_MEMORY)
    for name in LEDGER_DTYPE.names:
        if name != "verdict":
            ledger[name] = stored[name]
    for verdict, name in _NAME_OF.items():
        ledger["verdict"][stored["verdict"] == name] = verdict
    return ledger


#: one row per parameter set; `json` are the values, `first_frame` and `time` (s since 1970) tell from when it held
PARAMETER_SET_DTYPE = np.dtype(
    [
        ("number", "<u4"),
        ("first_frame", "<i8"),
        ("time", "<f8"),
        ("json", h5py.string_dtype("utf-8", _JSON_BYTES)),
    ]
)

#: of a master: one row per part; its first saved frame is `first_row` of all
PART_DTYPE = np.dtype([("file", h5py.string_dtype("utf-8", _FILE_BYTES)), ("first_row", "<i8")])


def parts_of(table: h5py.Dataset | None, master: Path) -> list[Path]:
    """The files that a master joins, from its list of them; none where it has no such list."""
    return [] if table is None else [master.with_name(name.decode()) for name in table["file"]]


def encode_texts(texts: Iterable[str], dtype: np.dtype) -> list[bytes]:
    """Texts as UTF-8 that fits into the fixed-length `dtype`, cut between characters where it does not."""
    size = dtype.itemsize
    encoded = [text.encode() for text in texts]
    return [item if len(item) <= size else item[:size].decode(errors="ignore").encode() for item in encoded]
