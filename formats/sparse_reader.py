"""Reads sparse files frame by frame: only what is asked for comes from the disk."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from ..processing.errors import ConfigurationError
from ..processing.frames import EMPTY_PEAKS, PEAK_COLUMNS, ReducedFrame, RunInfo, Verdict
from ..processing.parameters import Parameters
from ..processing.poni import parse_poni
from . import layout
from .densify import Densifier
from .pyfai_configuration import parameters_in, poni_text_in
from .recorded_sets import RecordedParameterSet, read_parameter_sets

# a block of metadata that is read in the very moment in which it is replaced has a wrong checksum, once
_ATTEMPTS = 5
_PAUSE = 0.02  # s


class SparseFile(Sequence):
    """A sparse file, finished or still being written: what is complete when it is opened.

    >>> from framesieve.formats.sparse_reader import SparseFile
    >>>
    >>> with SparseFile("sparse.h5") as file:
    ...     for frame in file:
    ...         print(frame.number, frame.n_pixels, frame.peaks[:3])
    ...     image = file.densify(0, noise=True)

    A sequence of its saved frames: `len(file)`, `file[i]`, `file[-1]`, `file[10:20]`, `for frame in file`; each frame
    is read when it is asked for, and only it. In memory are where frames begin, the ledger (about 270 bytes per row),
    and once frames have been densified 8 bytes per pixel (12 with norms) of the detector.

    Parameters
    ----------
    path
        A file of framesieve. Files of pyFAI are read too; their ledger and parameter sets are empty.
    incomplete
        Open a master some of whose parts are missing, too: the pixels of those are zeros.

    Attributes
    ----------
    path
        The file, as it was named.
    parts
        The files that a master joins; none where it joins none.

    Raises
    ------
    ConfigurationError
        The file is missing, not HDF5, holds no sparse frames, or parts of it are missing.
    OSError
        The disk cannot be read, or the file is damaged.
    """

    path: Path
    parts: list[Path]

    def __init__(self, path: str | os.PathLike[str], *, incomplete: bool = False) -> None:
        self.path = Path(path)
        self._incomplete = incomplete
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
        self._check_parts()
        self._peaks = self._h5.get(layout.PEAKS) or self._group.parent.get("peaks")
        self._densifier: Densifier | None = None
        self._parameters: dict[int, Parameters] | None = None

    def _check_parts(self) -> None:
        """HDF5 gives zeros for a part of a master that is missing, and does not say so."""
        self.parts = layout.parts_of(self._h5.get(layout.PARTS), self.path)
        missing = [part.name for part in self.parts if not part.is_file()]
        if missing and not self._incomplete:
            self._h5.close()
            raise ConfigurationError(
                f"{self.path} joins {len(self.parts)} files, of which {len(missing)} are missing beside it: "
                f"{', '.join(missing[:3])}"
            )

    def close(self) -> None:
        """Close the file; a `with` block does so at its end."""
        self._h5.close()

    def __enter__(self) -> SparseFile:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of saved frames."""
        return len(self._saved)

    def __getitem__(self, row: int | slice) -> ReducedFrame | Sequence[ReducedFrame]:
        """The saved frame `row` (see `frame`); for a slice a sequence that reads each of its frames when it is used."""
        if isinstance(row, slice):
            return _Frames(self, range(len(self))[row])
        return self.frame(row)

    def __iter__(self) -> Iterator[ReducedFrame]:
        return (self.frame(row) for row in range(len(self)))

    @property
    def h5(self) -> h5py.File:
        """The open file, for whatever else is in it (docs/files.md)."""
        return self._h5

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns of the detector."""
        return self._radius_image.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the intensities."""
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
        """What became of each frame number: a structured array (frames,), in order of arrival, with the columns of
        docs/files.md; `verdict` holds the numbers 0 kept, 1 vetoed, 2 control, 3 lost, 4 dropped, 5 failed."""
        return self._ledger

    @property
    def parameter_sets(self) -> list[RecordedParameterSet]:
        """Those that frames were reduced with, in their order; none in files of pyFAI."""
        return read_parameter_sets(self._h5)

    def peaks(self, row: int) -> np.ndarray:
        """The peaks of a saved frame, the strongest first; less than `n_peaks` of the ledger if `max_peaks` cut them.

        Parameters
        ----------
        row
            As in `frame`.

        Returns
        -------
        float32 (peaks, 7): x, y (pixel index, the centre of the first pixel is 0), intensity and its sigma (counts),
        snr, n_pixels, maximum (counts); NaN where the file does not have it.

        Raises
        ------
        IndexError
            There is no such frame.
        """
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

    def frame(self, row: int, *, peaks: bool = True) -> ReducedFrame:
        """A saved frame.

        Parameters
        ----------
        row
            0 … len − 1; negative numbers count from the end.
        peaks
            Whether its peaks are read, too.

        Raises
        ------
        IndexError
            There is no such frame.
        """
        row = self._checked(row)
        pixels = slice(*self._frame_ptr[row : row + 2])
        peaks = self.peaks(row) if peaks else EMPTY_PEAKS
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

    def parameters_of(self, frame: ReducedFrame) -> Parameters:
        """The parameters that a frame was reduced with; those of the whole file where it has no parameter sets,
        framesieve's defaults where it has no parameters at all.

        Parameters
        ----------
        frame
            A frame of this file.
        """
        if self._parameters is None:
            self._parameters = {s.parameter_set.number: s.parameter_set.values for s in self.parameter_sets}
        found = self._parameters.get(frame.parameter_set)
        return found if found is not None else parameters_in(self._group.parent)

    def seed_of(self, frame: ReducedFrame) -> np.random.SeedSequence:
        """What the noise of a frame is drawn from unless another seed is given: its series and its number.

        Parameters
        ----------
        frame
            A frame of this file.
        """
        return np.random.SeedSequence([zlib.crc32(frame.series_id.encode()), frame.number % 2**64])

    @property
    def densifier(self) -> Densifier:
        """What `densify` makes images with; several threads may use it at once."""
        if self._densifier is None:
            norm = self._group["normalization"][()] if "normalization" in self._group else None
            self._densifier = Densifier(self._radius_image, self.radius, self.dtype, norm)
        return self._densifier

    @property
    def dummy(self) -> float:
        """Value of masked pixels in dense frames: 0, or NaN for floats."""
        return self._group["dummy"][()] if "dummy" in self._group else 0

    def densify(self, row: int, *, noise: bool = False, seed: int | None = None) -> np.ndarray:
        """The frame as an image (rows, columns) in the pixel type of the file.

        Parameters
        ----------
        row
            As in `frame`.
        noise
            Whether pixels that were not kept have noise: drawn at random as docs/densify.md tells, none above the
            threshold of this frame. Without it they have the mean of the background, rounded for integers.
        seed
            What noise is drawn from, together with the frame's number; the same seed gives the same image. Unless given
            it follows from the name of the series.

        Returns
        -------
        The background is interpolated linearly between bin centres, constant beyond the first and the last, times the
        normalization of the pixel. Masked pixels are `dummy`.

        Raises
        ------
        IndexError
            There is no such frame.
        """
        frame = self.frame(row)
        if not noise:
            return self.densifier.image(frame, masked=self.dummy)
        return self.densifier.image(
            frame, noise=self.parameters_of(frame), rng=self.generator(frame, seed), masked=self.dummy
        )

    def generator(self, frame: ReducedFrame, seed: int | None = None) -> np.random.Generator:
        """What the noise of a frame is drawn from.

        Parameters
        ----------
        frame
            A frame of this file.
        seed
            As in `densify`.
        """
        sequence = self.seed_of(frame) if seed is None else np.random.SeedSequence([seed, frame.number % 2**64])
        return np.random.Generator(np.random.SFC64(sequence))

    def run_info(self) -> RunInfo:
        """What the file tells of the run beside its frames.

        Raises
        ------
        ConfigurationError
            The geometry is missing or cannot be used.
        """
        entry = self._group.parent
        text, source, settings, told = "", "", {}, {}
        if "geometry" in entry:
            text, source = (entry["geometry"][name].asstr()[()] for name in ("poni", "source"))
            settings, told = (json.loads(entry["geometry"][name][()]) for name in ("configuration", "source_metadata"))
        else:
            text = poni_text_in(entry)
        poni = parse_poni(text, f"geometry of {self.path}")
        return RunInfo.of_geometry(
            replace(poni, shape=self.shape),
            told,
            shape=self.shape,
            dtype=self.dtype,
            radius=self.radius,
            radius_image=self._radius_image,
            normalization=None,
            source=source,
            configuration=settings,
        )

    @property
    def peak_group(self) -> h5py.Group | None:
        """The group with the arrays of all peaks, row i of frame i; None where there are none."""
        return self._peaks

    def _checked(self, row: int) -> int:
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.path} has {len(self)} saved frames, there is no frame {row}")
        return row % len(self)


class _Frames(Sequence):
    """Some frames of a file, read when they are used."""

    def __init__(self, file: SparseFile, rows: range) -> None:
        self._file = file
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int | slice) -> ReducedFrame | Sequence[ReducedFrame]:
        rows = self._rows[place]
        return _Frames(self._file, rows) if isinstance(rows, range) else self._file.frame(rows)


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
