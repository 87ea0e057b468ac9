"""Frames of an HDF5 file, or of a master and its data files, while they are written."""

from __future__ import annotations

import os

import h5py

from ..processing.errors import ConfigurationError
from ..processing.frames import Payload, SeriesStart
from .hdf5_find import find_places, first_line, get
from .hdf5_growing import GrowingSet
from .hdf5_metadata import announced_frames, read_flatfield, read_metadata, read_pixel_mask
from .hdf5_parts import Parts, SequentialParts, VirtualParts
from .hdf5_virtual import VirtualFrames


class Hdf5Follower:
    """Implements `Follower` for the file at `path`, whose frames are in a dataset that grows, in the numbered datasets
    that a master links to, or in the sources of a virtual dataset. They are numbered 0, 1, 2 …"""

    def __init__(self, path: str, dataset: str | None, timeout: float) -> None:
        self.path = path
        self.reason = f"{path}: not looked at yet"
        self._dataset = dataset
        self._growing = GrowingSet(timeout)
        self._parts: Parts | None = None
        self._planned = -1  # the opening of the file that `_parts` is of
        self._announced: int | None = None
        self._position = 0

    @property
    def number(self) -> int:
        return self._position

    @property
    def is_complete(self) -> bool:
        expected = self.expected
        return expected is not None and self._position >= expected

    @property
    def expected(self) -> int | None:
        return (self._parts.total if self._parts is not None else None) or self._announced

    def look(self) -> None:
        """See what is new. ConfigurationError where it can never be used."""
        self._growing.look()
        if self._parts is None or (isinstance(self._parts, SequentialParts) and self._parts.is_at_last):
            self._plan()

    def _plan(self) -> None:
        """Find out where the frames are; a master may get more links while it is written."""
        master = self._growing.file(self.path)
        if master.file is None:
            self.reason = master.reason
            return
        if master.openings == self._planned and self._parts is not None:
            return
        try:
            places = find_places(master.file, self._dataset)
            item = get(places[0].group, places[0].name)
            if self._parts is None and isinstance(item, h5py.Dataset) and item.is_virtual:
                self._parts = VirtualParts(self._growing, VirtualFrames(item, f"{self.path}::{item.name}"))
            elif self._parts is None:
                self._parts = SequentialParts(self._growing, [place.target() for place in places])
            elif len(places) > len(self._parts.places):
                self._parts.places += [place.target() for place in places[len(self._parts.places) :]]
            self._announced = announced_frames(master.file)
            self._planned = master.openings
        except ConfigurationError as error:
            self.reason, master.is_doubtful = str(error), True
        except (OSError, RuntimeError, KeyError) as error:  # half updated
            self.reason, master.is_doubtful = f"{self.path}: {first_line(error)}", True

    def payload(self) -> Payload | None:
        if self._parts is None:
            return None
        payload = self._parts.payload(self._position)
        self.reason = self._parts.reason if payload is None else ""
        return payload

    def start(self, payload: Payload | None) -> SeriesStart | None:
        """Of the series whose first frame this is, None: a broken one."""
        file = self._growing.file(self.path).file
        if file is None:
            return None
        if payload is None:
            metadata = read_metadata(file) | {"files": [self.path]}
            return SeriesStart(os.path.basename(self.path), None, None, self.expected, metadata)
        mask, mask_problem = read_pixel_mask(file, payload.shape)
        flat, flat_problem = read_flatfield(file, payload.shape)
        return SeriesStart(
            os.path.basename(self.path),
            payload.shape,
            payload.dtype,
            self.expected,
            read_metadata(file) | {"files": [self.path]},
            pixel_mask=mask,
            flatfield=flat,
            problems=tuple(filter(None, (mask_problem, flat_problem))),
        )

    def advance(self) -> None:
        self._position += 1

    def missing(self, *, at_end: bool) -> int | None:
        if self._parts is None:
            return None
        count = self._parts.missing(self._position)
        self.reason = self._parts.reason
        return 1 if count is None and at_end and self._parts.is_stored(self._position) else count

    def close(self) -> None:
        self._growing.close()
