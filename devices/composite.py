"""All settings of the four devices as one text: the attribute `settings` of the acquisition device."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import tango

from ..acquisition.statistics import Snapshot
from ..processing.errors import OutOfRangeError
from .attributes import LiveSetting, RunSetting, Setting
from .presets import put_into_force

if TYPE_CHECKING:
    from .base import FrameSieveDevice


class AllSettings(Setting):
    """`{"sparsifier": {"snr_pick": 3.0, …}, …}`: names are those of the attributes. What is written may hold a part of
    them; the live ones among them become one parameter set."""

    def value(self, device: FrameSieveDevice, snapshot: Snapshot) -> str:
        found: dict[str, dict[str, Any]] = {}
        for other in sorted(device.pipeline.devices, key=lambda other: other.ROLE):
            values = {name: setting.value(other, snapshot) for name, setting in composed(other).items()}
            found[other.ROLE] = {name: getattr(value, "name", value) for name, value in values.items()}
        return json.dumps(found)

    def change(self, device: FrameSieveDevice, value: str) -> None:
        devices = {other.ROLE: other for other in list(device.pipeline.devices)}
        live: dict[str, Any] = {}
        run: dict[str, Any] = {}
        asked = parsed(value)
        for role, values in asked.items():
            if role not in devices:
                raise OutOfRangeError(f"settings: {role!r}: accepted is one of {', '.join(sorted(devices))}")
            known = composed(devices[role])
            for name, new in values.items():
                if name not in known:
                    raise OutOfRangeError(f"settings: {role}/{name}: accepted is one of {', '.join(sorted(known))}")
                setting = known[name]
                check_kind(f"{role}/{name}", setting, new)
                if isinstance(setting, RunSetting):
                    run[setting.field] = setting.clean(new)
                else:
                    live[setting.field] = new
        put_into_force(device.pipeline, live, run)
        for role, values in asked.items():
            devices[role].memorise(list(values))


def composed(device: FrameSieveDevice) -> dict[str, LiveSetting | RunSetting]:
    """The settings of a device that stand in the text, by attribute."""
    return {name: one for name, one in device.writable().items() if isinstance(one, LiveSetting | RunSetting)}


def parsed(text: str) -> dict[str, dict[str, Any]]:
    """The text as nested dictionaries."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OutOfRangeError(f"settings = {text[:80]!r}: accepted is JSON ({error})") from None
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        raise OutOfRangeError(f'settings = {text[:80]!r}: accepted is {{"sparsifier": {{"snr_pick": 3.5}}, …}}')
    return values


def check_kind(name: str, setting: Setting, value: Any) -> None:
    """Refuse what JSON can say and the attribute could not carry; ranges are checked by the settings themselves."""
    kind = setting.attr_type
    if kind == tango.CmdArgType.DevBoolean:
        is_right, right = isinstance(value, bool), "true or false"
    elif kind in (tango.CmdArgType.DevString, tango.CmdArgType.DevEnum):
        is_right, right = isinstance(value, str) and "\0" not in value, "a text"
    else:
        is_right, right = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        if is_right and kind != tango.CmdArgType.DevDouble:
            is_right, right = isinstance(value, int), "a whole number"
    if not is_right:
        raise OutOfRangeError(f"settings: {name} = {value!r}: accepted is {right}")
