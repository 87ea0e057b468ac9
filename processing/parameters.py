"""Live parameters: one immutable, validated, numbered object per change."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from .errors import OutOfRangeError

MAX_PATCH_SIZE = 15
MAX_SURROUNDINGS = 31
MAX_PEAKS = 10_000
REMEMBERED = 1000  # parameter sets whose values `ParameterStore.find` still knows


class ErrorModel(IntEnum):
    """How the spread of a bin is known; see docs/how_it_works.md."""

    azimuthal = 0  # measured in the bin
    poisson = 1  # variance = signal
    hybrid = 2  # azimuthal while clipping, poisson after
    exact = 3  # the tails of the Poisson distribution, for photon counts


#: name → (smallest, largest) accepted value, both included
LIMITS: dict[str, tuple[float, float]] = {
    "snr_clip": (0.0, 100.0),
    "clip_cycles": (0, 100),
    "noise": (0.0, 1e6),
    "snr_pick": (0.0, 1000.0),
    "surroundings": (0, MAX_SURROUNDINGS),
    "snr_peak": (0.0, 1000.0),
    "patch_size": (3, MAX_PATCH_SIZE),
    "min_pixels": (1, MAX_PATCH_SIZE**2),
    "max_peaks": (1, MAX_PEAKS),
    "radius_min": (0.0, 1e5),
    "radius_max": (0.0, 1e5),
    "veto_min_peaks": (0, MAX_PEAKS),
    "veto_max_peaks": (0, MAX_PEAKS),
    "control_fraction": (0.0, 100.0),
}

#: edges of squares with a pixel in the middle, and what is accepted for them
EDGES = {"patch_size": "odd numbers 3, 5, 7, …", "surroundings": "0 (none) and odd numbers 3, 5, 7, …"}


def is_edge(value: int) -> bool:
    """Whether a square with this edge has a pixel in its middle and others around it, or is none at all."""
    return value == 0 or (value > 1 and value % 2 == 1)


@dataclass(frozen=True, slots=True)
class Parameters:
    """Everything that can be changed while frames flow. Radii in mm (0 = no limit), fractions in %."""

    snr_clip: float = 0.0  # σ; 0 = Chauvenet
    clip_cycles: int = 5
    error_model: ErrorModel = ErrorModel.azimuthal
    noise: float = 1.0  # counts, added in quadrature to the spread
    snr_pick: float = 3.0
    surroundings: int = 0  # edge of the square kept around crowded places; 0 = none
    snr_peak: float = 3.0
    patch_size: int = 5
    min_pixels: int = 4
    max_peaks: int = 2048
    radius_min: float = 0.0
    radius_max: float = 0.0
    veto_enabled: bool = True
    veto_min_peaks: int = 20
    veto_max_peaks: int = 0  # 0 = no upper limit
    control_fraction: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name)))
        if self.min_pixels > self.patch_size**2:
            raise OutOfRangeError(
                f"min_pixels = {self.min_pixels}: a patch of {self.patch_size} × {self.patch_size} pixels "
                f"has {self.patch_size**2}; lower min_pixels or raise patch_size"
            )
        if self.radius_max and self.radius_max <= self.radius_min:
            raise OutOfRangeError(
                f"radius_max = {self.radius_max} mm must be 0 (no limit) or above radius_min = {self.radius_min} mm"
            )
        if self.veto_max_peaks and self.veto_max_peaks < self.veto_min_peaks:
            raise OutOfRangeError(
                f"max_peaks of the veto = {self.veto_max_peaks} must be 0 (no limit) or at least min_peaks = "
                f"{self.veto_min_peaks}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the error model by its name."""
        return dataclasses.asdict(self) | {"error_model": self.error_model.name}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Parameters:
        """The inverse of `to_dict`; unknown names are refused."""
        return cls().replace(**values)

    def replace(self, **changes: Any) -> Parameters:
        """A new object with some values changed; raises `OutOfRangeError` and changes nothing otherwise."""
        unknown = set(changes) - {field.name for field in dataclasses.fields(self)}
        if unknown:
            raise OutOfRangeError(f"unknown parameter {', '.join(sorted(unknown))}")
        return dataclasses.replace(self, **changes)


def _checked(name: str, value: Any) -> Any:
    """`value` as the type of its field, or an error that names the limits."""
    default = Parameters.__dataclass_fields__[name].default
    try:
        if isinstance(default, ErrorModel):
            return ErrorModel[value] if isinstance(value, str) else ErrorModel(value)
        if isinstance(default, bool):
            return bool(value)
        if isinstance(default, int):
            if int(value) != value:
                raise ValueError
            value = int(value)
        else:
            value = float(value)
    except (ValueError, KeyError, TypeError, OverflowError):
        expected = (
            "one of " + ", ".join(ErrorModel.__members__)
            if isinstance(default, ErrorModel)
            else f"a number of type {type(default).__name__}"
        )
        raise OutOfRangeError(f"{name} = {value!r}: accepted is {expected}") from None
    low, high = LIMITS[name]
    if not low <= value <= high:  # also refuses NaN
        raise OutOfRangeError(f"{name} = {value}: accepted is {low} to {high}")
    if name in EDGES and not is_edge(value):
        raise OutOfRangeError(f"{name} = {value}: accepted are {EDGES[name]}")
    return value


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """Parameters with the number under which frames record them."""

    number: int
    values: Parameters


class ParameterStore:
    """The parameter set in force, and the thousand before it: a change makes a new set with a new number.

    Numbers grow for as long as the process lives and start at 1. Thread-safe.
    """

    def __init__(self, values: Parameters | None = None) -> None:
        self._lock = threading.Lock()
        self._current = ParameterSet(1, values or Parameters())
        self._sets = deque([self._current], maxlen=REMEMBERED)

    @property
    def current(self) -> ParameterSet:
        return self._current

    def update(self, **changes: Any) -> ParameterSet:
        """Change some values at once; a change that changes nothing makes no new set."""
        with self._lock:
            values = self._current.values.replace(**changes)
            if values != self._current.values:
                self._current = ParameterSet(self._current.number + 1, values)
                self._sets.append(self._current)
            return self._current

    def find(self, number: int) -> ParameterSet:
        """The set with this number; `OutOfRangeError` where there was none, or too long ago."""
        with self._lock:
            oldest, newest = self._sets[0].number, self._sets[-1].number
            if not oldest <= number <= newest:
                raise OutOfRangeError(f"parameter set {number}: known are {oldest} to {newest}")
            return self._sets[number - oldest]
