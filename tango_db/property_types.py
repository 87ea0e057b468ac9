"""Whether the properties of a description are those that the device classes have."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from ..processing.errors import ConfigurationError
from .attributes import TANGO_PROPERTIES
from .beamline import Beamline

_NAMES_OF_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def check_properties(beamline: Beamline, known: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Check the properties against those that the device classes have.

    Parameters
    ----------
    known
        Device class → name of a property → its type, as for `tango.server.device_property`.

    Returns
    -------
    A sentence for every property that its class does not have: it does no harm, but is probably a slip.

    Raises
    ------
    ConfigurationError
        A value is of the wrong type: the server would end when it reads it.
    """
    unknown = []
    for device in beamline.devices():
        kinds = known.get(device.tango_class)
        if kinds is None:
            continue
        folded = {name.lower(): kind for name, kind in kinds.items()}  # Tango does not mind the case
        for name, value in device.section.properties.items():
            if name in TANGO_PROPERTIES:
                continue
            if name.lower() not in folded:
                near = difflib.get_close_matches(name, kinds, 1)
                meant = f"; did you mean {near[0]}?" if near else ""
                unknown.append(f"{device.name}: {device.tango_class} has no property {name}{meant}")
            elif value is not None and not _fits(value, folded[name.lower()]):
                place = f"instances.{device.instance}.{device.role}.properties.{name}"
                raise ConfigurationError(f"{place} = {value!r}: accepted is {_NAMES_OF_KINDS[folded[name.lower()]]}")
    return unknown


def _fits(value: Any, kind: Any) -> bool:
    if kind not in _NAMES_OF_KINDS:  # text, or a list of something
        return True
    return type(value) is kind or (kind is float and type(value) is int)
