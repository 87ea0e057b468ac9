"""The description of a beamline: which devices there are, how they are set up and what they start with.

Written in YAML (see the sample files beside this module), checked here, put into the Tango database by `register`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ..acquisition.settings import check_inside
from ..processing.errors import ConfigurationError, FrameSieveError
from ..processing.parameters import Parameters
from . import attributes, dsconfig
from .attributes import ROLES, SERVER
from .sections import Member, Starter, StrictModel, section_of, wrong
from .yaml_file import YamlFile

MISSING = {
    "domain": "the first part of the device names, e.g. id29",
    "instances": "the pipelines of the beamline, at least one",
    "host": "the name of the computer whose Starter it is",
}


class Instance(StrictModel):
    """One pipeline: the server `FrameSieve INSTANCE` and its devices."""

    suffix: Member | None = None
    acquisition: section_of("acquisition") = Field(default_factory=section_of("acquisition"))
    sparsifier: section_of("sparsifier") = Field(default_factory=section_of("sparsifier"))
    peakfinder: section_of("peakfinder") = Field(default_factory=section_of("peakfinder"))
    veto: section_of("veto") = Field(default_factory=section_of("veto"))
    starter: Starter | None = None

    @model_validator(mode="after")
    def _settings_agree(self) -> Instance:
        """What no setting alone can tell: the same checks as the devices make."""
        live = {}
        for role, names in attributes.SETTINGS.items():
            given = getattr(self, role).settings.model_dump(exclude_unset=True)
            live |= {
                names[name]: value for name, value in given.items() if names[name] in Parameters.__dataclass_fields__
            }
            for name, value in given.items():
                self._within_limits(role, name, value)
        try:
            Parameters().replace(**live)
        except FrameSieveError as error:
            raise wrong(str(error)) from None
        root = self.acquisition.properties.get("SavingRoot")
        try:
            check_inside(self.acquisition.settings.saving_directory or "", root if isinstance(root, str) else "")
        except FrameSieveError:
            place = ("acquisition", "settings", "saving_directory")
            raise wrong(f"accepted is a directory below the property SavingRoot, {root}", *place) from None
        return self

    def _within_limits(self, role: str, name: str, value: Any) -> None:
        """Tango drops a memorised value outside of min_value … max_value without a word."""
        config = getattr(getattr(self, role).attributes, name)
        if config is None or not attributes.is_number(role, name):
            return
        low, high = config.min_value, config.max_value
        if (low is not None and value < low) or (high is not None and value > high):
            raise wrong("lies outside of min_value … max_value in 'attributes'", role, "settings", name)


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the description with its full name."""

    name: str
    role: str
    instance: str
    section: Any  # a DeviceSection of its role

    @property
    def tango_class(self) -> str:
        return ROLES[self.role]

    @property
    def server(self) -> str:
        return f"{SERVER}/{self.instance}"


def _text_keys(data: Any) -> Any:
    """An instance may be called 29: YAML reads a number, Tango wants a name."""
    if not isinstance(data, Mapping) or not data:
        raise wrong("accepted are 'INSTANCE: …' entries, at least one")
    return {str(key) if isinstance(key, int) else key: value for key, value in data.items()}


class Beamline(StrictModel):
    """A beamline: the domain of its device names and the instances of the server."""

    domain: Member
    instances: Annotated[dict[Member, Instance], BeforeValidator(_text_keys)]

    def devices(self) -> Iterator[Device]:
        """All devices, in the order of the description."""
        for instance, content in self.instances.items():
            for role in ROLES:
                section = getattr(content, role)
                member = f"{role}_{content.suffix}" if content.suffix else role
                yield Device(section.name or f"{self.domain}/framesieve/{member}", role, instance, section)

    @model_validator(mode="after")
    def _names_differ(self) -> Beamline:
        """Tango compares names without regard to case."""
        owners: dict[str, Device] = {}
        for device in self.devices():
            other = owners.setdefault(device.name.lower(), device)
            if other is not device:
                raise wrong(
                    f"the device name {device.name} belongs to {other.instance}.{other.role} already: give this "
                    "instance a suffix, or the device a name",
                    "instances",
                    device.instance,
                    device.role,
                )
        aliases: dict[str, Device] = {}
        for device in self.devices():
            if device.section.alias:
                other = aliases.setdefault(device.section.alias.lower(), device)
                if other is not device:
                    raise wrong(
                        f"the alias {device.section.alias} belongs to {other.name} already",
                        *("instances", device.instance, device.role, "alias"),
                    )
        instances = [name.lower() for name in self.instances]
        if len(set(instances)) < len(instances):
            raise wrong("instances must differ in more than upper and lower case", "instances")
        return self


def load(path: str | Path) -> Beamline:
    """Read and check a beamline description, or the servers `FrameSieve` in a file of dsconfig's (`.json`).

    Raises
    ------
    ConfigurationError
        One line for every mistake: file, line, place in the file, what stands there and what is accepted.
    """
    file = YamlFile(path)
    source = dsconfig.Description(file) if dsconfig.is_dsconfig(file.contents) else None
    try:
        return Beamline.model_validate(source.contents if source else file.contents)
    except ValidationError as error:
        lines = dict.fromkeys(_line(file, source, details) for details in error.errors(include_url=False))
        raise ConfigurationError("\n".join(lines)) from None


def _line(file: YamlFile, source: dsconfig.Description | None, details: Mapping[str, Any]) -> str:
    place = [part for part in details["loc"] if part != "[key]"]
    place += details.get("ctx", {}).get("place", ())
    if source:
        place = source.place(place)
    where = ".".join(str(part) for part in place)
    message = details["msg"].replace("Input should be ", "accepted is ")
    if details["type"] == "missing":
        message = "is missing: " + MISSING.get(str(place[-1]), "it must be given")
        return f"{file.path}:{file.line(place)}: {where} {message}"
    found = file.value(place)
    text = repr(found)
    value = "" if isinstance(found, Mapping) else f" = {text if len(text) <= 60 else text[:57] + '…'}"
    return f"{file.path}:{file.line(place)}: {where or 'the file'}{value}: {message}"
