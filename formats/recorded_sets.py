"""The parameter sets of a file."""

from __future__ import annotations

import json
from dataclasses import dataclass

import h5py

from ..processing.parameters import Parameters, ParameterSet
from . import layout


@dataclass(frozen=True, slots=True)
class RecordedParameterSet:
    """A parameter set of a file, and from when it held.

    Attributes
    ----------
    parameter_set
        Its `number`, as in the ledger, and its `values`: `values.snr_pick` and so on.
    first_frame
        The first frame number that it was used for.
    time
        When that was, in s since 1970.
    """

    parameter_set: ParameterSet
    first_frame: int
    time: float


def read_parameter_sets(h5: h5py.File) -> list[RecordedParameterSet]:
    """Those that frames were reduced with, in their order; none in files of pyFAI."""
    if layout.PARAMETER_SETS not in h5:
        return []
    return [
        RecordedParameterSet(
            ParameterSet(int(row["number"]), Parameters.from_dict(json.loads(row["json"]))),
            int(row["first_frame"]),
            float(row["time"]),
        )
        for row in h5[layout.PARAMETER_SETS][()]
    ]
