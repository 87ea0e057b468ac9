"""Where the modules of a detector lie in its image: by the grid that their headers tell, or by a layout file.

A layout file is YAML. Modules stand in the order of the receivers' ports; `row` and `column` are where the upper left
pixel of the module lies in the image, from 0:

    shape: [1064, 1030]
    modules:
      - {row: 0, column: 0}
      - {row: 550, column: 0, flip_rows: true, flip_columns: true, rotate: 90}

First the module is flipped, then it is rotated, counterclockwise by so many degrees.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from ..processing.errors import ConfigurationError, FrameError
from .message_fields import shown
from .payload import MAX_PIXELS
from .sls_messages import ModuleKind, ModuleMessage

#: receivers of one detector
MAX_MODULES: Final = 256

MAX_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Where one module lies: (row, column) of its upper left pixel in the image, and how it is turned before."""

    row: int
    column: int
    flip_rows: bool = False
    flip_columns: bool = False
    rotate: int = 0

    def size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the image that a module of `shape` takes."""
        return shape[::-1] if self.rotate % 180 else shape

    def end(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(row, column) behind the lower right pixel."""
        rows, columns = self.size(shape)
        return self.row + rows, self.column + columns

    def put(self, module: np.ndarray, image: np.ndarray) -> None:
        """Copy a module (rows, columns) into its place."""
        below, right = self.end(module.shape)
        module = module[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        # "equiv" swaps bytes where the stored order is not that of this computer
        np.copyto(image[self.row : below, self.column : right], np.rot90(module, self.rotate // 90), casting="equiv")

    def overlaps(self, other: Place, shape: tuple[int, int]) -> bool:
        """Whether two modules of this shape have a pixel in common."""
        mine, theirs = self.end(shape), other.end(shape)
        return (
            max(self.row, other.row) < min(mine[0], theirs[0])
            and max(self.column, other.column) < min(mine[1], theirs[1])
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """The image (rows, columns), and where in it the module of each receiver lies."""

    shape: tuple[int, int]
    places: tuple[Place, ...]

    def check(self, shape: tuple[int, int]) -> None:
        """FrameError where modules of `shape` do not fit into the image, or overlap."""
        for number, place in enumerate(self.places):
            below, right = place.end(shape)
            if below > self.shape[0] or right > self.shape[1]:
                raise FrameError(
                    f"module {number} of {shape[0]} × {shape[1]} pixels at row {place.row}, column {place.column} is "
                    f"beyond the image of the layout file, {self.shape[0]} × {self.shape[1]}"
                )
        for (one, first), (other, second) in combinations(enumerate(self.places), 2):
            if first.overlaps(second, shape):
                raise FrameError(
                    f"modules {one} and {other} of {shape[0]} × {shape[1]} pixels overlap in the layout file"
                )


def read_layout(path: str) -> Layout:
    """A layout file.

    Raises
    ------
    ConfigurationError
        It is missing or not understood; the text names what is wrong, and where.
    """
    where = f"layout {path}"
    try:
        if os.path.getsize(path) > MAX_FILE_BYTES:
            raise ConfigurationError(f"{where}: is no layout file, it has more than {MAX_FILE_BYTES} bytes")
        contents = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{where}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{where}: is no valid YAML: {error}") from None
    if not isinstance(contents, dict) or set(contents) != {"shape", "modules"}:
        raise ConfigurationError(f"{where}: must have the entries shape and modules, and no others")
    match contents["shape"]:
        case [int(rows), int(columns)] if min(rows, columns) > 0 and rows * columns <= MAX_PIXELS:
            shape = (rows, columns)
        case other:
            raise ConfigurationError(f"{where}: shape must be [rows, columns], not {shown(other)}")
    modules = contents["modules"]
    if not isinstance(modules, list) or not 1 <= len(modules) <= MAX_MODULES:
        raise ConfigurationError(f"{where}: modules must be a list of 1 to {MAX_MODULES} entries")
    return Layout(shape, tuple(_place(entry, f"{where}: modules[{n}]", shape) for n, entry in enumerate(modules)))


def _place(entry: Any, where: str, shape: tuple[int, int]) -> Place:
    accepted = Place.__slots__
    if not isinstance(entry, dict) or not {"row", "column"} <= set(entry) <= set(accepted):
        raise ConfigurationError(f"{where}: must have row and column, and may have {', '.join(accepted[2:])}")
    for name, end in zip(("row", "column"), shape, strict=True):
        value = entry[name]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < end:
            raise ConfigurationError(f"{where}: {name} must be from 0 to {end - 1}, not {shown(value)}")
    for name in ("flip_rows", "flip_columns"):
        if not isinstance(entry.get(name, False), bool):
            raise ConfigurationError(f"{where}: {name} must be true or false, not {shown(entry[name])}")
    angle = entry.get("rotate", 0)
    if isinstance(angle, bool) or not isinstance(angle, int) or angle not in (0, 90, 180, 270):
        raise ConfigurationError(f"{where}: rotate must be 0, 90, 180 or 270, not {shown(angle)}")
    return Place(**entry)


class ImagePlan:
    """Where the modules of one series lie; found out from the first module that tells it.

    Parameters
    ----------
    n_receivers
        Modules of a whole frame.
    layout
        None: modules lie side by side without gaps, where their headers say.
    """

    def __init__(self, n_receivers: int, layout: Layout | None) -> None:
        self._n, self._layout = n_receivers, layout
        self.kind: ModuleKind | None = None
        self.shape: tuple[int, int] | None = None
        self.places: dict[int, Place] = {}  # receiver → place of its module
        self._positions: dict[tuple[int, int], int] = {}  # row, column in the grid → receiver

    def problem(self, receiver: int, message: ModuleMessage) -> str:
        """Why a module cannot be put into the image; '' where it can, and its place is known then."""
        if message.problem:
            return message.problem
        try:
            if self.kind is None:
                self._begin(message.kind)
            if message.kind != self.kind:
                raise FrameError(f"the module is {message.kind}, but the series has {self.kind}")
            if self._layout is None:
                self._find_place(receiver, message)
        except FrameError as error:
            return str(error)
        return ""

    def _begin(self, kind: ModuleKind) -> None:
        rows, columns = kind.grid
        if self._layout is not None:
            self._layout.check(kind.shape)
            self.shape, self.places = self._layout.shape, dict(enumerate(self._layout.places))
        elif rows * columns != self._n:
            raise FrameError(
                f"the detector has {rows} × {columns} receivers, but {self._n} are read: write "
                f"modules={rows * columns} in the source, or name a layout file"
            )
        else:
            self.shape = (rows * kind.shape[0], columns * kind.shape[1])
        self.kind = kind

    def _find_place(self, receiver: int, message: ModuleMessage) -> None:
        (row, column), grid = message.position, self.kind.grid
        where = f"row {row}, column {column}"
        if not (row < grid[0] and column < grid[1]):
            raise FrameError(f"{where} is beyond the grid of {grid[0]} × {grid[1]} modules")
        other = self._positions.setdefault((row, column), receiver)
        if other != receiver:
            raise FrameError(f"receivers {other} and {receiver} both say {where}: name a layout file")
        place = Place(row * self.kind.shape[0], column * self.kind.shape[1], message.is_flipped)
        if self.places.setdefault(receiver, place) != place:
            raise FrameError(f"the module has moved to {where}, or was flipped")


@dataclass(frozen=True, slots=True)
class ModulesPayload:
    """Modules that are put together when a buffer is there to take them; implements `Payload`.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image.
    module_shape : (int, int)
        Rows and columns of every module.
    stored_dtype : numpy.dtype
        Of the pixels as stored.
    modules : tuple of (buffer, Place)
        The pixels of the modules that came, as received; kept, not copied. Pixels where none lies get the value that
        flags a pixel as unusable.
    """

    shape: tuple[int, int]
    module_shape: tuple[int, int]
    stored_dtype: np.dtype
    modules: tuple[tuple[memoryview, Place], ...]

    #: frames never come compressed
    bslz4_chunk = None

    @property
    def dtype(self) -> np.dtype:
        return self.stored_dtype.newbyteorder("=")

    @property
    def stored_bytes(self) -> int:
        return sum(len(data) for data, _ in self.modules)

    def read_into(self, out: np.ndarray) -> None:
        """Put the modules into `out` (C-contiguous, of `shape` and `dtype`)."""
        if out.shape != self.shape or out.dtype != self.dtype:
            raise ValueError(f"the buffer is {out.dtype} {out.shape}, the frame {self.dtype} {self.shape}")
        if len(self.modules) * math.prod(self.module_shape) < math.prod(self.shape):
            out.fill(flag_value(self.dtype))
        for data, place in self.modules:
            place.put(np.frombuffer(data, self.stored_dtype).reshape(self.module_shape), out)


def flag_value(dtype: np.dtype) -> int | float:
    """The value of a pixel that takes no part in the reduction: the largest one of an unsigned type, -1 of a signed
    one, NaN."""
    if dtype.kind == "u":
        return int(np.iinfo(dtype).max)
    return -1 if dtype.kind == "i" else math.nan
