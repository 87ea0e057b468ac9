"""A file of the program dsconfig as the description of a beamline.

The format is JSON: servers → FrameSieve → instance → class → device → alias, properties and attribute properties,
every value a list of texts. `export` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..processing.errors import ConfigurationError
from ..processing.parameters import ErrorModel
from . import attributes
from .attributes import MEMORISED, ROLES, SERVER
from .yaml_file import YamlFile

SECTIONS = ("alias", "properties", "attribute_properties")
CLASSES = {tango_class.lower(): role for role, tango_class in ROLES.items()}
Place = tuple[str, ...]


def is_dsconfig(contents: Any) -> bool:
    """Whether this is the format of dsconfig, and not a description as `beamline` has it."""
    return isinstance(contents, Mapping) and "domain" not in contents and bool({"servers", "devices"} & set(contents))


class Description:
    """The servers `FrameSieve` of a file of dsconfig's, as a description; what the file has besides is not read.

    Attributes
    ----------
    contents
        What `beamline.Beamline` checks.

    Raises
    ------
    ConfigurationError
        It is not the format of dsconfig, or not all devices of an instance are there; says where.
    """

    def __init__(self, file: YamlFile) -> None:
        self._file = file
        self._devices: dict[tuple[str, str], Place] = {}  # instance and role → place of the device in the file
        instances = {}
        for place, classes in self._instances():
            instances[place[-1].rpartition("/")[2]] = self._instance(place, classes)
        domain = next(iter(self._devices.values()))[-1].partition("/")[0]
        self.contents = {"domain": domain, "instances": instances}

    def place(self, place: Sequence[Any]) -> Place:
        """Where in the file stands what has a place in `contents`."""
        match [str(part) for part in place]:
            case ["instances", instance, role, *rest] if (instance, role) in self._devices:
                device = self._devices[instance, role]
            case ["instances", instance, *_]:
                return next((device[:-2] for (name, _), device in self._devices.items() if name == instance), ())
            case _:
                return ()
        match rest:
            case ["settings", name, *_]:
                return (*device, "attribute_properties", self._as_written(device, name), MEMORISED)
            case ["attributes", name, *rest]:
                return (*device, "attribute_properties", self._as_written(device, name), *rest)
            case ["name", *_]:
                return device
        return (*device, *rest)

    def _as_written(self, device: Place, attribute: str) -> str:
        names = self._file.value((*device, "attribute_properties"))
        return next((name for name in names if name.lower() == attribute.lower()), attribute)

    def _error(self, place: Place, message: str) -> ConfigurationError:
        where = ".".join(place)
        return ConfigurationError(f"{self._file.path}:{self._file.line(place)}: {where}: {message}")

    def _mapping(self, place: Place, accepted: str) -> Mapping[str, Any]:
        value = self._file.value(place)
        if not isinstance(value, Mapping):
            raise self._error(place, f"accepted is an object with {accepted}")
        return value

    def _instances(self) -> Iterable[tuple[Place, Mapping[str, Any]]]:
        """Each instance of FrameSieve: the name of the server stands in one key or in two."""
        accepted = f'"{SERVER}": {{"INSTANCE": {{"CLASS": {{"DEVICE": …}}}}}}'
        if "servers" not in self._file.contents:
            raise self._error(("devices",), f"accepted is 'servers', an object with {accepted}")
        servers = self._mapping(("servers",), accepted)
        found = []
        for server in servers:
            name, _, instance = str(server).partition("/")
            if name.lower() == SERVER.lower():
                place: Place = ("servers", str(server))
                content = self._mapping(place, "instances")
                found += [place] if instance else [(*place, str(key)) for key in content]
        if not found:
            others = ", ".join(map(str, servers)) or "nothing"
            raise self._error(("servers",), f"there is no server {SERVER} here, but {others}")
        for place in found:
            yield place, self._mapping(place, "classes of devices")

    def _instance(self, place: Place, classes: Mapping[str, Any]) -> dict[str, Any]:
        instance, sections = place[-1].rpartition("/")[2], {}
        for tango_class in classes:
            role = CLASSES.get(str(tango_class).lower())
            if str(tango_class).lower() == "dserver":
                continue
            if role is None:
                raise self._error((*place, str(tango_class)), f"accepted are {', '.join(ROLES.values())}")
            devices = self._mapping((*place, str(tango_class)), "the name of a device")
            if len(devices) != 1:
                raise self._error((*place, str(tango_class)), f"accepted is one device, not {len(devices)}")
            device = (*place, str(tango_class), str(next(iter(devices))))
            self._devices[instance, role] = device
            sections[role] = self._section(role, device)
        missing = [tango_class for role, tango_class in ROLES.items() if role not in sections]
        if missing:
            raise self._error(place, f"{', '.join(missing)} is missing: an instance has a device of each class")
        return sections

    def _section(self, role: str, device: Place) -> dict[str, Any]:
        content = self._mapping(device, ", ".join(SECTIONS))
        for key in content:
            if key not in SECTIONS:
                raise self._error((*device, str(key)), f"unknown key; accepted are {', '.join(SECTIONS)}")
        section: dict[str, Any] = {"name": device[-1], "properties": {}, "settings": {}, "attributes": {}}
        if "alias" in content:
            section["alias"] = content["alias"]
        for name in self._mapping((*device, "properties"), '"NAME": ["TEXT", …]'):
            if not str(name).startswith("__"):
                texts = self._texts((*device, "properties", str(name)))
                section["properties"][name] = _typed(texts[0]) if len(texts) == 1 else texts or None
        for name in self._mapping((*device, "attribute_properties"), '"ATTRIBUTE": {"ENTRY": ["TEXT"]}'):
            place = (*device, "attribute_properties", str(name))
            known = {known.lower(): known for known in attributes.all_attributes(role)}
            attribute = known.get(str(name).lower(), name)
            for entry in self._mapping(place, '"ENTRY": ["TEXT"]'):
                texts = self._texts((*place, str(entry)))
                if len(texts) > 1:
                    raise self._error((*place, str(entry)), "accepted is a list of one text")
                text = texts[0] if texts else None
                if entry == MEMORISED:
                    section["settings"][attribute] = _setting(role, attribute, text)
                elif not str(entry).startswith("__"):  # what Tango keeps for itself
                    section["attributes"].setdefault(attribute, {})[entry] = text
        return section

    def _texts(self, place: Place) -> list[str]:
        value = self._file.value(place)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._error(place, f'accepted is a list of texts, such as ["3"], not {value!r}')
        return value


def _typed(text: str) -> str | int | bool:
    """A number or a truth value that stands for itself: properties have types, the database has texts."""
    if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text):
        return int(text)
    return {"true": True, "false": False}.get(text.lower(), text)


def _setting(role: str, name: str, text: str | None) -> Any:
    """The memorised value in the type of its attribute; as it is where it does not fit, which the checks then tell."""
    if text is None or name not in attributes.SETTINGS[role]:
        return text
    expected = attributes.default(role, name)
    if isinstance(expected, str):
        return text
    if isinstance(expected, bool):
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if isinstance(expected, ErrorModel):
        return next((model.name for model in ErrorModel if str(int(model)) == text), text)  # the database has numbers
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        return float(text)
    return text
