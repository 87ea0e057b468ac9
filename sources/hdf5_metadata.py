"""What an HDF5 file tells beside its frames: of the detector and the beam, pixel mask, values per frame.

Names are those of NeXus (NXmx) and of DECTRIS' master files, which add `detectorSpecific`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import h5py
import numpy as np

from ..processing.frames import NOWHERE
from .hdf5_find import children, first_line, get
from .message_fields import seconds_since_1970, wavelength

_LENGTHS: Final = {
    **{"m": 1.0, "metre": 1.0, "meter": 1.0, "mm": 1e-3, "millimetre": 1e-3, "millimeter": 1e-3},
    **{"um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "microns": 1e-6, "nm": 1e-9, "pm": 1e-12},
    **{"a": 1e-10, "å": 1e-10, "angstrom": 1e-10, "angstroms": 1e-10, "ångström": 1e-10},
}
_ENERGIES: Final = {"ev": 1.0, "kev": 1e3}
_SECONDS: Final = {"s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def read_metadata(file: h5py.File) -> dict[str, Any]:
    """`wavelength`, `distance`, `sensor_thickness` (m), `pixel_size` (slow, fast) in m, `beam_center` (x, y) in pixels,
    `saturation_value`, `detector`, `sensor_material`: as far as they are there and mean something; a zero in a place
    of the first three was never set."""
    entry = _entry(file)
    if entry is None:
        return {}
    instrument, detector = _instrument(entry), _detector(entry)
    beams = [get(instrument, "beam"), get(entry, "sample/beam"), *children(instrument, "NXbeam")] if instrument else []
    pixel = [_length(detector, name) for name in ("y_pixel_size", "x_pixel_size")]
    values = {
        "wavelength": next(filter(None, map(_wavelength, [*beams, *_monochromators(instrument)])), None),
        "distance": _length(detector, "detector_distance") or _length(detector, "distance"),
        "pixel_size": None if None in pixel else pixel,
        "beam_center": _beam_center(detector, pixel),
        "saturation_value": _number(detector, "saturation_value"),
        "detector": _text(detector, "description"),
        "sensor_material": _text(detector, "sensor_material"),
        "sensor_thickness": _length(detector, "sensor_thickness"),
    }
    return {name: value for name, value in values.items() if value is not None}


def announced_frames(file: h5py.File) -> int | None:
    """How many images a series is to have (`nimages` × `ntrigger` of a DECTRIS master); None where it does not say."""
    specific = get(_detector(_entry(file)) or file, "detectorSpecific")
    images, triggers = _number(specific, "nimages"), _number(specific, "ntrigger")
    total = int(images or 0) * int(triggers or 1)
    return total if 0 < total < 1 << 63 else None


def read_pixel_mask(file: h5py.File, shape: tuple[int, int]) -> tuple[np.ndarray | None, str]:
    """The pixel mask (rows, columns), non-zero = bad, or None; and what is wrong with it, or ''."""
    detector = _detector(_entry(file))
    item = get(detector, "detectorSpecific/pixel_mask") if detector else None
    if item is None and detector:
        item = get(detector, "pixel_mask")
    return _image(item, shape, "biu", "pixel_mask")


def read_flatfield(file: h5py.File, shape: tuple[int, int]) -> tuple[np.ndarray | None, str]:
    """The factors float32 (rows, columns) by which pixels are still to be multiplied, or None; and what is wrong with
    them, or ''. Only those of a detector that says it has not applied them (`flatfield_correction_applied` 0)."""
    detector = _detector(_entry(file))
    groups = [group for group in (detector, get(detector, "detectorSpecific") if detector else None) if group]
    applied = [_number(group, "flatfield_correction_applied") for group in groups]
    if next((value for value in applied if value is not None), None) != 0:
        return None, ""
    item = next((found for group in reversed(groups) if (found := get(group, "flatfield")) is not None), None)
    image, problem = _image(item, shape, "iuf", "flatfield")
    return None if image is None else image.astype(np.float32), problem


class FrameValues:
    """What a file holds for each of its `count` frames, as datasets of so many values; NaN where there is none.

    Times: `timestamp` beside the frames, in seconds since 1970, or `start_time` of the NXdetector, seconds after its
    attribute `start`. Monitor: `monitor` beside the frames, or `data` of the NXmonitor that is called `control`, or
    `monitor`, or is the only one. Position: `position_x` and `position_y` beside the frames, or the values of the two
    NXpositioner in NXsample whose names end in x and y.
    """

    def __init__(self, file: h5py.File, beside: h5py.Group, count: int) -> None:
        entry = _entry(file)
        self._time = _per_frame(get(beside, "timestamp"), count)
        self._monitor = _per_frame(get(beside, "monitor"), count)
        position = [_per_frame(get(beside, f"position_{axis}"), count) for axis in "xy"]
        if entry is not None:
            if self._time is None:
                self._time = _start_times(_detector(entry), count)
            if self._monitor is None:
                self._monitor = _per_frame(_monitor_data(entry), count)
            if any(values is None for values in position):
                position = [_per_frame(_positioner(entry, axis), count) for axis in "xy"]
        self._position = None if any(values is None for values in position) else position

    def timestamp(self, index: int) -> float:
        return math.nan if self._time is None else float(self._time[index])

    def monitor(self, index: int) -> float:
        return math.nan if self._monitor is None else float(self._monitor[index])

    def position(self, index: int) -> tuple[float, float]:
        return NOWHERE if self._position is None else (float(self._position[0][index]), float(self._position[1][index]))


def _entry(file: h5py.File) -> h5py.Group | None:
    entry = next(children(file, "NXentry"), None) or get(file, "entry")
    return entry if isinstance(entry, h5py.Group) else None


def _instrument(entry: h5py.Group | None) -> h5py.Group | None:
    if entry is None:
        return None
    found = get(entry, "instrument") or next(children(entry, "NXinstrument"), None)
    return found if isinstance(found, h5py.Group) else None


def _detector(entry: h5py.Group | None) -> h5py.Group | None:
    instrument = _instrument(entry)
    if instrument is None:
        return None
    found = get(instrument, "detector") or next(children(instrument, "NXdetector"), None)
    return found if isinstance(found, h5py.Group) else None


def _monochromators(instrument: h5py.Group | None) -> list[h5py.Group]:
    return list(children(instrument, "NXmonochromator")) if instrument is not None else []


def _monitor_data(entry: h5py.Group) -> h5py.Dataset | None:
    monitors = list(children(entry, "NXmonitor"))
    named = {item.name.rpartition("/")[2]: item for item in monitors}
    chosen = named.get("control") or named.get("monitor") or (monitors[0] if len(monitors) == 1 else None)
    return get(chosen, "data") if chosen is not None else None


def _positioner(entry: h5py.Group, axis: str) -> h5py.Dataset | None:
    sample = get(entry, "sample")
    found = list(children(sample, "NXpositioner")) if isinstance(sample, h5py.Group) else []
    found = [item for item in found if item.name.lower().endswith(axis)]
    return get(found[0], "value") if len(found) == 1 else None


def _start_times(detector: h5py.Group | None, count: int) -> np.ndarray | None:
    item = get(detector, "start_time") if detector is not None else None
    seconds = _per_frame(item, count)
    if seconds is None:
        return None
    begin = seconds_since_1970(_decoded(item.attrs.get("start", "")))
    unit = _SECONDS.get(_decoded(item.attrs.get("units", "s")).strip().lower())
    return None if begin is None or unit is None else begin + seconds * unit


def _per_frame(item: object, count: int) -> np.ndarray | None:
    """Float64 (count,), or None where this is no dataset of one number per frame."""
    if not isinstance(item, h5py.Dataset) or item.shape not in ((count,), (count, 1)) or item.dtype.kind not in "iuf":
        return None
    try:
        return item[()].astype(np.float64).reshape(count)
    except OSError:
        return None


def _image(item: object, shape: tuple[int, int], kinds: str, what: str) -> tuple[np.ndarray | None, str]:
    if not isinstance(item, h5py.Dataset):
        return None, ""
    if item.shape not in (shape, (1, *shape)) or item.dtype.kind not in kinds:
        return None, f"{what} of the file is {item.dtype.name} {item.shape}, the frames have {shape}: it is not used"
    try:
        return item[()].reshape(shape).astype(item.dtype.newbyteorder("=")), ""
    except OSError as error:
        return None, f"{what} of the file cannot be read ({first_line(error)}): it is not used"


def _wavelength(beam: object) -> float | None:
    """Metres, of a beam or a monochromator."""
    if not isinstance(beam, h5py.Group):
        return None
    for name in ("incident_wavelength", "wavelength"):
        if value := _length(beam, name, "angstrom"):  # NeXus: ångström where nothing else is said
            return value
    for name in ("incident_energy", "energy"):
        if value := _scaled(beam, name, _ENERGIES, "ev"):
            return wavelength(None, value)
    return None


def _beam_center(detector: h5py.Group | None, pixel: list[float | None]) -> list[float] | None:
    """(x, y) in pixels; NeXus has it as a length, detectors have it in pixels."""
    center = []
    for name, size in zip(("beam_center_x", "beam_center_y"), reversed(pixel), strict=True):
        value = _number(detector, name)
        unit = _LENGTHS.get(_unit(detector, name, "pixel"))
        if value is None or (unit is not None and size is None):
            return None
        center.append(value if unit is None else value * unit / size)
    return center


def _length(group: object, name: str, usual: str = "m") -> float | None:
    """Metres, above zero; `usual` holds where the dataset names no unit. None in a unit that is not known."""
    return _scaled(group, name, _LENGTHS, usual)


def _scaled(group: object, name: str, units: dict[str, float], usual: str) -> float | None:
    value, unit = _number(group, name), units.get(_unit(group, name, usual))
    if value is None or unit is None or value <= 0:
        return None
    return value if unit == 1.0 else value * unit


def _unit(group: object, name: str, usual: str) -> str:
    item = get(group, name) if isinstance(group, h5py.Group) else None
    text = _decoded(item.attrs.get("units", "")) if isinstance(item, h5py.Dataset) else ""
    return text.strip().lower() or usual


def _number(group: object, name: str) -> float | int | None:
    """A single finite number."""
    value = _scalar(group, name)
    if not isinstance(value, np.number | np.bool_) or isinstance(value, np.complexfloating):
        return None
    return value.item() if np.isfinite(value) else None


def _text(group: object, name: str) -> str | None:
    value = _scalar(group, name)
    return _decoded(value).strip() or None if isinstance(value, str | bytes) else None


def _scalar(group: object, name: str) -> Any:
    item = get(group, name) if isinstance(group, h5py.Group) else None
    if not isinstance(item, h5py.Dataset) or item.size != 1:
        return None
    try:
        return np.ravel(item[()])[0]
    except OSError:
        return None


def _decoded(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
