"""Reads sparse files frame by frame: only what is asked for comes from the disk."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ..processing.errors import ConfigurationError
from ..processing.frames import PEAK_COLUMNS, ReducedFrame, Verdict
from ..processing.parameters import Parameters, ParameterSet
from . import layout


@dataclass(frozen=True, slots=True)
class RecordedParameterSet:
    """A parameter set of a file, and from when it held (`time` in s since 1970)."""

    parameter_set: ParameterSet
    first_frame: int
    time: float


# a block of metadata that is read in the very moment in which it is replaced has a wrong checksum, once
_ATTEMPTS = 5
_PAUSE = 0.02  # s


class SparseFile:
    """A sparse file, finished or still being written: what is complete when it is opened.

    Parameters
    ----------
    path : path-like
        A file of `SparseWriter`. Files of pyFAI are read too; their ledger and parameter sets are empty.

    Raises
    ------
    ConfigurationError
        The file is missing, not HDF5, or holds no sparse frames.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                return self._load()
            except (ConfigurationError, OSError) as error:
                if "checksum" not in str(error) or not attempts_left:
                    raise
                time.sleep(_PAUSE)

    def _load(self) -> None:
        self._h5 = open_hdf5(self.path)
        try:
            # first the ledger and frame_ptr: the writer adds to them last, so all they speak of is there
            self._ledger = None
            if layout.LEDGER in self._h5:
                self._ledger = layout.ledger_in_memory(self._h5[layout.LEDGER][()])
            self._group = self._h5[_sparse_frames(self._h5)]
            self._frame_ptr = self._group["frame_ptr"][()].astype(np.int64)
            self._radius_image = self._group["mask"][()]
        except (KeyError, TypeError, ValueError) as error:
            self._h5.close()
            if "checksum" in str(error):
                raise OSError(f"{self.path} cannot be read: {error}") from None
            raise ConfigurationError(
                f"{self.path} holds no sparse frames; expected is a file of framesieve or of pyFAI's sparsify-Bragg"
            ) from None
        rows = len(self._frame_ptr) - 1
        if self._ledger is None:
            self._saved = np.full(rows, -1)
            self._ledger = np.zeros(0, dtype=layout.LEDGER_IN_MEMORY)
        else:
            self._saved = np.flatnonzero(self._ledger["row"] >= 0)[:rows]
        self._peaks = self._h5.get(layout.PEAKS) or self._h5.get(f"{layout.ENTRY}/peaks")

    def close(self) -> None:
        self._h5.close()

    def __enter__(self) -> SparseFile:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of saved frames."""
        return len(self._saved)

    @property
    def h5(self) -> h5py.File:
        """The open file."""
        return self._h5

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns of the detector."""
        return self._radius_image.shape

    @property
    def dtype(self) -> np.dtype:
        """Of the intensities."""
        return self._group["intensity"].dtype

    @property
    def n_pixels(self) -> int:
        """Pixels of all saved frames."""
        return int(self._frame_ptr[len(self)])

    @property
    def radius(self) -> np.ndarray:
        """Bin centres, float32 (bins,), in metres."""
        return self._group["radius"][()]

    @property
    def ledger(self) -> np.ndarray:
        """What became of each frame number: `layout.LEDGER_IN_MEMORY` (frames,), in order of arrival; `verdict`
        holds the numbers of `Verdict`."""
        return self._ledger

    @property
    def parameter_sets(self) -> list[RecordedParameterSet]:
        if layout.PARAMETER_SETS not in self._h5:
            return []
        return [
            RecordedParameterSet(
                ParameterSet(int(row["number"]), Parameters.from_dict(json.loads(row["json"]))),
                int(row["first_frame"]),
                float(row["time"]),
            )
            for row in self._h5[layout.PARAMETER_SETS][()]
        ]

    def peaks(self, row: int) -> np.ndarray:
        """float32 (peaks, 7) with the columns `PEAK_COLUMNS`; what the file does not hold is NaN."""
        row = self._checked(row)
        if self._peaks is None:
            return np.zeros((0, len(PEAK_COLUMNS)), dtype=np.float32)
        count = int(self._peaks["nPeaks"][row])
        peaks = np.full((count, len(PEAK_COLUMNS)), np.nan, dtype=np.float32)
        for column, name in enumerate(PEAK_COLUMNS):
            dataset = self._peaks.get(layout.PEAK_DATASETS[name])
            if dataset is not None:
                peaks[:, column] = dataset[row, :count]
        return peaks

    def frame(self, row: int) -> ReducedFrame:
        """The saved frame `row` (0 … len − 1; negative numbers count from the end)."""
        row = self._checked(row)
        pixels = slice(*self._frame_ptr[row : row + 2])
        peaks = self.peaks(row)
        frame = ReducedFrame(
            number=row,
            series_id="",
            timestamp=np.nan,
            verdict=Verdict.KEPT,
            n_pixels=pixels.stop - pixels.start,
            n_peaks=len(peaks),
            index=self._group["index"][pixels],
            intensity=self._group["intensity"][pixels],
            peaks=peaks,
        )
        if "background_avg" in self._group:
            frame.background_mean = self._group["background_avg"][row]
            frame.background_std = self._group["background_std"][row]
        if self._saved[row] >= 0:
            entry = self._ledger[self._saved[row]]
            frame.number = int(entry["frame"])
            frame.timestamp = float(entry["timestamp"])
            frame.verdict = Verdict(entry["verdict"])
            frame.series_id, frame.reason = entry["series"].decode(), entry["reason"].decode()
            for name in ("n_pixels", "n_peaks", "parameter_set", "stored_bytes", "raw_bytes"):
                setattr(frame, name, int(entry[name]))
            frame.monitor = float(entry["monitor"])
            frame.position = (float(entry["position_x"]), float(entry["position_y"]))
        return frame

    def densify(self, row: int) -> np.ndarray:
        """The frame as an image (rows, columns) in the pixel type of the file, the background without its noise.

        The background of a pixel is interpolated linearly between bin centres, constant beyond the first and the last,
        times the normalization of the pixel, rounded for integers. Masked pixels are `dummy` (0, or NaN for floats).
        """
        frame = self.frame(row)
        valid = np.isfinite(self._radius_image)
        dense = np.zeros(self.shape, dtype=np.float64)
        if frame.background_mean is not None:
            dense[valid] = np.interp(self._radius_image[valid], self.radius, frame.background_mean)
            if "normalization" in self._group:
                dense *= self._group["normalization"][()]
        if np.issubdtype(self.dtype, np.integer):
            limits = np.iinfo(self.dtype)
            dense = np.clip(np.floor(dense + 0.5), limits.min, limits.max)
        image = dense.astype(self.dtype)
        image.ravel()[frame.index] = frame.intensity
        image[~valid] = self._group["dummy"][()] if "dummy" in self._group else 0
        return image

    def _checked(self, row: int) -> int:
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.path} has {len(self)} saved frames, there is no frame {row}")
        return row % len(self)


def open_hdf5(path: Path) -> h5py.File:
    """The file for reading, or `ConfigurationError`."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ConfigurationError(f"{path} {what}; name an HDF5 file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read as HDF5: {error}") from None


def _sparse_frames(h5: h5py.File) -> str:
    """Path of the group, found as fabio finds it."""
    entry = h5[h5.attrs["default"]]
    return entry.attrs["pyFAI_sparse_frames"]
