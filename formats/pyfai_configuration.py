"""What pyFAI calls the parameters and the geometry in its sparse files, and what they are here."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import h5py

from ..processing.errors import OutOfRangeError
from ..processing.frames import RunInfo
from ..processing.parameters import Parameters

DATA = "sparsify/configuration/data"  # below the entry

#: name of pyFAI → ours; patch_size before min_pixels, which it limits
_NAMES = {
    "cutoff_clip": "snr_clip",
    "cycle": "clip_cycles",
    "error_model": "error_model",
    "noise": "noise",
    "cutoff_pick": "snr_pick",
    "cutoff_peak": "snr_peak",
    "patch_size": "patch_size",
    "connected": "min_pixels",
}


def as_pyfai(info: RunInfo, values: Parameters) -> dict[str, Any]:
    """The configuration under pyFAI's names; fabio takes the noise's cut-off from it."""
    ours = values.to_dict()
    sparsify = {theirs: ours[name] for theirs, name in _NAMES.items()} | {"radius": len(info.radius), "unit": "r_m"}
    return {"geometry": _as_dict(info.poni_text), "sparsify": sparsify, "framesieve": info.configuration}


def parameters_in(entry: h5py.Group) -> Parameters:
    """The parameters as pyFAI writes them; the default of each that is missing or not understood."""
    parameters = Parameters()
    try:
        values = json.loads(entry[DATA][()])["sparsify"]
    except (KeyError, ValueError, TypeError):
        return parameters
    for theirs, ours in _NAMES.items():
        with contextlib.suppress(KeyError, TypeError, OutOfRangeError):
            parameters = parameters.replace(**{ours: values[theirs]})
    return parameters


def poni_text_in(entry: h5py.Group) -> str:
    """The geometry as the text of a PONI file; empty where there is none."""
    try:
        values = json.loads(entry[DATA][()])["geometry"].items()
    except (AttributeError, KeyError, ValueError, TypeError):
        return ""
    lines = []
    for key, item in values:
        item = json.dumps(item) if isinstance(item, dict) else item
        lines.append(f"{'distance' if key == 'dist' else key}: {item}")
    return "\n".join(lines) + "\n"


def _as_dict(text: str) -> dict[str, Any]:
    """A PONI text in the form that pyFAI keeps in files: lower-case keys, `dist` for the distance."""
    result: dict[str, Any] = {}
    for line in text.splitlines():
        key, colon, rest = line.partition(":")
        if not colon or line.lstrip().startswith("#"):
            continue
        key, rest = key.strip().lower(), rest.strip()
        try:
            result["dist" if key == "distance" else key] = json.loads(rest)
        except json.JSONDecodeError:  # a name, not a number or an object
            result[key] = rest
    return result
