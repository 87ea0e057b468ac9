"""The sections of a description: what can be said of one device, and of the Starter of its computer."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ..processing.errors import FrameSieveError
from . import attributes
from .attributes import TANGO_PROPERTIES

FOR_EVERY_TYPE = {"label", "format", "unit", "standard_unit", "display_unit", "description"}
FOR_EVERY_TYPE |= {"event_period", "archive_period"}
LIMIT_ORDER = ("min_alarm", "min_warning", "max_warning", "max_alarm")

Scalar = str | int | float | bool


def wrong(message: str, *place: str) -> PydanticCustomError:
    """An error with a message that needs no rewriting; `place` are keys below the place where it is raised."""
    return PydanticCustomError("beamline", "{message}", {"message": message, "place": place})


def _named(pattern: str, accepted: str) -> Any:
    """A text type for names: `accepted` says what the pattern allows."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise wrong(f"accepted is {accepted}")
        return value

    return Annotated[str, BeforeValidator(check)]


Member = _named(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a name of letters, digits, '_', '-' and '.'")
DeviceName = _named(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+){2}", "a Tango device name, domain/family/member")
Text = _named(r"[^\n]+", "text on one line")


class StrictModel(BaseModel):
    """Refuses unknown keys, says which ones there are, takes an empty entry for one that sets nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if data is None:
            return {}
        if not isinstance(data, Mapping):
            raise wrong("accepted are 'key: value' entries with the keys " + ", ".join(cls.model_fields))
        for key in data:
            if key not in cls.model_fields:
                raise wrong(cls._unknown(str(key)), str(key))
        return data

    @classmethod
    def _unknown(cls, key: str) -> str:
        near = difflib.get_close_matches(key, cls.model_fields, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"unknown key; {meant}Accepted are " + ", ".join(cls.model_fields)


class AttributeConfig(StrictModel):
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
                raise wrong(f"{low} = {a:g} must not lie above {high} = {b:g}")
        if self.min_value is not None and self.max_value is not None and self.min_value >= self.max_value:
            raise wrong(f"min_value = {self.min_value:g} must lie below max_value = {self.max_value:g}")
        return self


def _setting(role: str, name: str) -> Any:
    def check(value: Any) -> Any:
        try:
            return attributes.checked(role, name, value)
        except FrameSieveError as error:
            raise wrong(str(error)) from None

    return (Annotated[Any, BeforeValidator(check)], None)


def _attribute(role: str, name: str) -> Any:
    def check(config: AttributeConfig) -> AttributeConfig:
        for key in config.model_fields_set - FOR_EVERY_TYPE:
            if not attributes.is_number(role, name):
                raise wrong(f"{name} is not a number: accepted are label, format, description", key)
            if key in ("min_value", "max_value") and not attributes.is_writable(role, name):
                raise wrong(f"{name} cannot be written: accepted are " + ", ".join(LIMIT_ORDER), key)
        return config

    return (Annotated[AttributeConfig, AfterValidator(check)], None)


class _Settings(StrictModel):
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


class DeviceSection(StrictModel):
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
            raise wrong("accepted are 'PropertyName: value' entries")
        for name, value in data.items():
            if name not in TANGO_PROPERTIES and not re.fullmatch(r"[A-Z][A-Za-z0-9]*", str(name)):
                raise wrong("accepted as names of properties is PascalCase, e.g. SavingRoot", str(name))
            items = value if isinstance(value, list) else [value]
            if value is not None and not (items and all(isinstance(item, Scalar) for item in items)):
                accepted = "text, a number, true, false, a list of these, or null to take it out of the database"
                raise wrong(f"accepted is {accepted}", name)
        return data


def section_of(role: str) -> type[DeviceSection]:
    """The model of one device's section, its attributes taken from the tables."""
    settings = create_model(
        f"{role.title()}Settings", __base__=_Settings, **{n: _setting(role, n) for n in attributes.SETTINGS[role]}
    )
    settings.role = role
    configs = create_model(
        f"{role.title()}Attributes",
        __base__=StrictModel,
        **{name: _attribute(role, name) for name in attributes.all_attributes(role)},
    )
    return create_model(
        f"{role.title()}Section",
        __base__=DeviceSection,
        settings=(settings, Field(default_factory=settings)),
        attributes=(configs, Field(default_factory=configs)),
    )


class Starter(StrictModel):
    """Which Starter of the Tango control system looks after the server, and at which start-up level."""

    host: Member
    level: Annotated[int, Field(ge=1, le=99)] = 1
