"""What a run is made with: settings that are fixed while it lasts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..processing.errors import ConfigurationError, OutOfRangeError
from ..processing.poni import read_poni
from ..sources.images import split_spec
from ..sources.monitor import check_monitor
from ..sources.registry import check_source

OVERWRITE_POLICIES = ("abort", "overwrite")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of one run, as `AcquisitionDevice` has them. Files may be empty: not used.

    `mask`, `dark` and `flat` may name a dataset, `file.h5::/path`; in the mask non-zero is bad. `polarization`
    is the degree of linear polarization in the horizontal plane (-1 … 1), 0 = no correction. `source_corrections`: use
    the mask, and where it is still to be applied and `flat` is empty the flat field, that the source sends.
    """

    source: str = ""
    monitor: str = ""  # a Tango attribute that tells the incoming intensity; empty: what the source brings
    geometry: str = ""
    mask: str = ""
    dark: str = ""
    flat: str = ""
    source_corrections: bool = True
    polarization: float = 0.0
    solid_angle: bool = False
    radial_bins: int = 800
    number_of_frames: int = 0  # 0 = until the series ends
    opencl_device: str = "auto"
    saving_directory: str = ""
    saving_prefix: str = "frames"
    saving_next_number: int = 0
    saving_overwrite_policy: str = "abort"
    saving_file: str = ""  # the path of the file; empty: made of directory, prefix and number
    saving_sparse: bool = True
    saving_dense: bool = False
    saving_frames_per_file: int = 0  # 0 = all in one file; otherwise files of so many saved frames, and a master

    def replace(self, **changes: Any) -> RunSettings:
        return dataclasses.replace(self, **changes)

    @property
    def output_path(self) -> Path:
        """`<saving_directory>/<prefix>_<number>.h5`, the number with at least four digits, or `saving_file`."""
        if self.saving_file:
            return Path(self.saving_file)
        return Path(self.saving_directory) / f"{self.saving_prefix}_{self.saving_next_number:04d}.h5"

    def check(self, only: Collection[str] | None = None) -> None:
        """Check what can be checked without the detector; `only` the named settings where given, so that one can
        be corrected while another is still wrong.

        Raises
        ------
        ConfigurationError, OutOfRangeError
            Names the setting, its value and what is accepted.
        """
        for name in _CHECKS if only is None else _CHECKS.keys() & set(only):
            _CHECKS[name](name, getattr(self, name))


def check_in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise OutOfRangeError(f"{name} = {value}: accepted is {low} to {high}")


def check_file(name: str, spec: str) -> None:
    """An empty name, or a file that is there and can be read; `file.h5::/path` names a dataset of it."""
    if not spec:
        return
    try:
        split_spec(spec)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name} = {spec!r}: {error}; give the full path of a file or '' for none") from None


def check_inside(directory: str, root: str) -> None:
    """Refuse a saving directory outside of the property `SavingRoot` (empty: anywhere)."""
    if root and directory:
        inside, outside = Path(directory).resolve(), Path(root).resolve()
        if inside != outside and outside not in inside.parents:
            raise ConfigurationError(
                f"saving_directory = {directory!r} lies outside of {root!r}: the property SavingRoot allows only "
                "directories below it"
            )


def _check_geometry(name: str, value: str) -> None:
    check_file(name, value)
    if value:
        read_poni(value)


def _check_source(name: str, value: str) -> None:
    if value:
        check_source(value)


def _check_monitor(name: str, value: str) -> None:
    if value:
        check_monitor(value)


def _check_policy(name: str, value: str) -> None:
    if value not in OVERWRITE_POLICIES:
        raise OutOfRangeError(f"{name} = {value!r}: accepted is one of " + ", ".join(OVERWRITE_POLICIES))


def _check_prefix(name: str, value: str) -> None:
    if not value or set(value) & set("/\0:"):
        raise ConfigurationError(f"{name} = {value!r}: accepted is a file name without '/' and ':'")


def _between(low: float, high: float) -> Callable[[str, float], None]:
    return lambda name, value: check_in_range(name, value, low, high)


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "source": _check_source,
    "monitor": _check_monitor,
    "geometry": _check_geometry,
    "mask": check_file,
    "dark": check_file,
    "flat": check_file,
    "polarization": _between(-1.0, 1.0),
    "radial_bins": _between(10, 10_000),
    "number_of_frames": _between(0, 2**32 - 1),
    "saving_next_number": _between(0, 999_999_999),
    "saving_frames_per_file": _between(0, 1_000_000_000),
    "saving_overwrite_policy": _check_policy,
    "saving_prefix": _check_prefix,
}
