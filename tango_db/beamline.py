"""The description of a beamline: which devices there are, how they are set up and what they start with.

Written in YAML (see the sample files beside this module), checked here, put into the Tango database by `register`.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..acquisition.settings import check_inside
from ..processing.errors import ConfigurationError, FrameSieveError
from ..processing.parameters import Parameters
from . import attributes, dsconfig
from .attributes import ROLES, SERVER, TANGO_PROPERTIES
from .yaml_file import YamlFile

MISSING = {
    "domain": "the first part of the device names, e.g. id29",
    "instances": "the pipelines of the beamline, at least one",
    "host": "the name of the computer whose Starter it is",
}
FOR_EVERY_TYPE = {"label", "format", "unit", "standard_unit", "display_unit", "description"}
FOR_EVERY_TYPE |= {"event_period", "archive_period"}
LIMIT_ORDER = ("min_alarm", "min_warning", "max_warning", "max_alarm")

Scalar = str | int | float | bool


def _error(message: str, *place: str) -> PydanticCustomError:
    """An error with a message that needs no rewriting; `place` are keys below the place where it is raised."""
    return PydanticCustomError("beamline", "{message}", {"message": message, "place": place})


def _named(pattern: str, accepted: str) -> Any:
    """A text type for names: `accepted` says what the pattern allows."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise _error(f"accepted is {accepted}")
        return value

    return Annotated[str, BeforeValidator(check)]


Member = _named(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a name of letters, digits, '_', '-' and '.'")
DeviceName = _named(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+){2}", "a Tango device name, domain/family/member")
Text = _named(r"[^\n]+", "text on one line")


class _Model(BaseModel):
    """Refuses unknown keys, says which ones there are, takes an empty entry for one that sets nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if data is None:
            return {}
        if not isinstance(data, Mapping):
            raise _error("accepted are 'key: value' entries with the keys " + ", ".join(cls.model_fields))
        for key in data:
            if key not in cls.model_fields:
                raise _error(cls._unknown(str(key)), str(key))
        return data

    @classmethod
    def _unknown(cls, key: str) -> str:
        near = difflib.get_close_matches(key, cls.model_fields, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"unknown key; {meant}Accepted are " + ", ".join(cls.model_fields)


class AttributeConfig(_Model):
    """How one attribute shows and when it raises an alarm; `null` takes an entry out of the database again."""

    label: Text | None = None
    format: _named(r"%\S+", "a format such as %6.2f") | None = None
    min_value: FiniteFloat | None = None
    max_value: FiniteFloat | None = None
    min_alarm: FiniteFloat | None = None
    min_warning: FiniteFloat | None = None
    max_warning: FiniteFloat | None = None
    max_alarm: FiniteFloat | None = None
    abs_change: FiniteFloat | None = None
    rel_change: FiniteFloat | None = None
    archive_abs_change: FiniteFloat | None = None
    archive_rel_change: FiniteFloat | None = None
    delta_t: FiniteFloat | None = None
    delta_val: FiniteFloat | None = None
    unit: Text | None = None
    standard_unit: Text | None = None
    display_unit: Text | None = None
    description: Text | None = None
    event_period: Annotated[int, Field(ge=1)] | None = None
    archive_period: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _limits_in_order(self) -> AttributeConfig:
        given = [(name, getattr(self, name)) for name in LIMIT_ORDER if getattr(self, name) is not None]
        for (low, a), (high, b) in itertools.pairwise(given):
            if a > b:
                raise _error(f"{low} = {a:g} must not lie above {high} = {b:g}")
        if self.min_value is not None and self.max_value is not None and self.min_value >= self.max_value:
            raise _error(f"min_value = {self.min_value:g} must lie below max_value = {self.max_value:g}")
        return self


def _setting(role: str, name: str) -> Any:
    def check(value: Any) -> Any:
        try:
            return attributes.checked(role, name, value)
        except FrameSieveError as error:
            raise _error(str(error)) from None

    return (Annotated[Any, BeforeValidator(check)], None)


def _attribute(role: str, name: str) -> Any:
    def check(config: AttributeConfig) -> AttributeConfig:
        for key in config.model_fields_set - FOR_EVERY_TYPE:
            if not attributes.is_number(role, name):
                raise _error(f"{name} is not a number: accepted are label, format, description", key)
            if key in ("min_value", "max_value") and not attributes.is_writable(role, name):
                raise _error(f"{name} cannot be written: accepted are " + ", ".join(LIMIT_ORDER), key)
        return config

    return (Annotated[AttributeConfig, AfterValidator(check)], None)


class _Settings(_Model):
    """Base of the initial settings of one device class."""

    role: ClassVar[str]

    @classmethod
    def _unknown(cls, key: str) -> str:
        if key in attributes.TRANSIENT[cls.role]:
            return "this attribute is not memorised, the server forgets it when it stops: set it for each run"
        if key in attributes.READINGS[cls.role] + attributes.TEXTS[cls.role]:
            return "this attribute cannot be written"
        owners = [role for role, names in attributes.SETTINGS.items() if key in names]
        return f"this is a setting of {owners[0]}: write it there" if owners else super()._unknown(key)


class DeviceSection(_Model):
    """What the description says about one device; the sections of the four classes differ in their attributes."""

    name: DeviceName | None = None
    alias: Member | None = None
    properties: dict[str, Scalar | list[Scalar] | None] = Field(default_factory=dict)

    @field_validator("properties", mode="before")
    @classmethod
    def _property_values(cls, data: Any) -> Any:
        if data is None:
            return {}
        if not isinstance(data, Mapping):
            raise _error("accepted are 'PropertyName: value' entries")
        for name, value in data.items():
            if name not in TANGO_PROPERTIES and not re.fullmatch(r"[A-Z][A-Za-z0-9]*", str(name)):
                raise _error("accepted as names of properties is PascalCase, e.g. SavingRoot", str(name))
            items = value if isinstance(value, list) else [value]
            if value is not None and not (items and all(isinstance(item, Scalar) for item in items)):
                accepted = "text, a number, true, false, a list of these, or null to take it out of the database"
                raise _error(f"accepted is {accepted}", name)
        return data


def _section(role: str) -> type[DeviceSection]:
    """The model of one device's section, its attributes taken from the tables."""
    settings = create_model(
        f"{role.title()}Settings", __base__=_Settings, **{n: _setting(role, n) for n in attributes.SETTINGS[role]}
    )
    settings.role = role
    configs = create_model(
        f"{role.title()}Attributes",
        __base__=_Model,
        **{name: _attribute(role, name) for name in attributes.all_attributes(role)},
    )
    return create_model(
        f"{role.title()}Section",
        __base__=DeviceSection,
        settings=(settings, Field(default_factory=settings)),
        attributes=(configs, Field(default_factory=configs)),
    )


class Starter(_Model):
    """Which Starter of the Tango control system looks after the server, and at which start-up level."""

    host: Member
    level: Annotated[int, Field(ge=1, le=99)] = 1


class Instance(_Model):
    """One pipeline: the server `FrameSieve INSTANCE` and its devices."""

    suffix: Member | None = None
    acquisition: _section("acquisition") = Field(default_factory=_section("acquisition"))
    sparsifier: _section("sparsifier") = Field(default_factory=_section("sparsifier"))
    peakfinder: _section("peakfinder") = Field(default_factory=_section("peakfinder"))
    veto: _section("veto") = Field(default_factory=_section("veto"))
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
            raise _error(str(error)) from None
        root = self.acquisition.properties.get("SavingRoot")
        try:
            check_inside(self.acquisition.settings.saving_directory or "", root if isinstance(root, str) else "")
        except FrameSieveError:
            place = ("acquisition", "settings", "saving_directory")
            raise _error(f"accepted is a directory below the property SavingRoot, {root}", *place) from None
        return self

    def _within_limits(self, role: str, name: str, value: Any) -> None:
        """Tango drops a memorised value outside of min_value … max_value without a word."""
        config = getattr(getattr(self, role).attributes, name)
        if config is None or not attributes.is_number(role, name):
            return
        low, high = config.min_value, config.max_value
        if (low is not None and value < low) or (high is not None and value > high):
            raise _error("lies outside of min_value … max_value in 'attributes'", role, "settings", name)


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
        raise _error("accepted are 'INSTANCE: …' entries, at least one")
    return {str(key) if isinstance(key, int) else key: value for key, value in data.items()}


class Beamline(_Model):
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
                raise _error(
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
                    raise _error(
                        f"the alias {device.section.alias} belongs to {other.name} already",
                        *("instances", device.instance, device.role, "alias"),
                    )
        instances = [name.lower() for name in self.instances]
        if len(set(instances)) < len(instances):
            raise _error("instances must differ in more than upper and lower case", "instances")
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


PROPERTY_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


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
                raise ConfigurationError(f"{place} = {value!r}: accepted is {PROPERTY_KINDS[folded[name.lower()]]}")
    return unknown


def _fits(value: Any, kind: Any) -> bool:
    if kind not in PROPERTY_KINDS:  # text, or a list of something
        return True
    return type(value) is kind or (kind is float and type(value) is int)
