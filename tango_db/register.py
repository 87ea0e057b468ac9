"""Bring the Tango database in line with the description of a beamline: plan first, then apply.

What is in the database and not in the description stays: devices, properties set by hand, values tuned by the
beamline. Memorised attribute values live in the attribute property `__value`; once there is one it belongs to the
beamline, and only `reset_settings` writes over it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import tango

from ..processing.errors import CommunicationError, ConfigurationError
from ..processing.parameters import ErrorModel
from .attributes import MEMORISED, SERVER
from .beamline import Beamline, Device
from .sections import Starter


class Kind(StrEnum):
    """What a change is about."""

    device = "device"
    alias = "alias"
    property = "property"
    attribute = "attribute"  # label, limits …
    setting = "setting"  # memorised value
    starter = "Starter"


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the database, before and after; None: not there."""

    kind: Kind
    target: str  # device, or server for the Starter
    name: str
    old: tuple[str, ...] | None
    new: tuple[str, ...] | None

    def __str__(self) -> str:
        sign = "+" if self.old is None else "-" if self.new is None else "~"
        values = " → ".join(self.shown(value) for value in (self.old, self.new) if value is not None)
        return f"{sign} {self.target} {' '.join(filter(None, (self.kind, self.name)))}: {values}"

    def shown(self, value: tuple[str, ...]) -> str:
        """`old` or `new` for a reader."""
        if self.kind is Kind.setting and self.name == "error_model" and value[0] in {str(int(m)) for m in ErrorModel}:
            return ErrorModel(int(value[0])).name  # Tango memorises the number
        if self.kind in (Kind.device, Kind.starter):
            return ", ".join(value)
        return repr(value[0]) if len(value) == 1 else repr(list(value))


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done, and what is deliberately not."""

    changes: list[Change] = field(default_factory=list)
    kept: list[Change] = field(default_factory=list)  # tuned settings: what a reset would change
    strangers: list[str] = field(default_factory=list)  # sentences on devices that the description does not know
    running: list[str] = field(default_factory=list)  # servers that only see the changes after a restart


def connect(tango_host: str | None = None) -> tango.Database:
    """The Tango database at `HOST:PORT`, by default at $TANGO_HOST (also from tangorc); of several
    (`HOST:PORT,HOST:PORT`) the first that answers.

    Raises
    ------
    ConfigurationError
        TANGO_HOST is not set, or is not of this form.
    CommunicationError
        Nothing answers there.
    """
    given = tango_host or tango.ApiUtil.get_env_var("TANGO_HOST")
    if not given:
        raise ConfigurationError("TANGO_HOST is not set: set it to HOST:PORT of the Tango database")
    for entry in given.split(","):
        host, _, port = entry.strip().rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigurationError(f"TANGO_HOST = {given!r}: accepted is HOST:PORT, e.g. localhost:10000")
        try:
            return tango.Database(host, int(port))
        except tango.DevFailed:
            continue
    raise CommunicationError(f"no Tango database at {given}: start it or set TANGO_HOST")


def plan(beamline: Beamline, db: tango.Database, *, reset_settings: bool = False) -> Plan:
    """The difference between the description and the database; writes nothing.

    Raises
    ------
    ConfigurationError
        A device or alias of the description belongs to somebody else in the database.
    CommunicationError
        The database does not answer.
    """
    result = Plan()
    try:
        exported = [_plan_device(device, db, result, reset_settings) for device in beamline.devices()]
        result.running.extend(server for server in dict.fromkeys(exported) if server and _answers(db, server))
        known = {device.name.lower() for device in beamline.devices()}
        for instance, content in beamline.instances.items():
            server = f"{SERVER}/{instance}"
            _plan_starter(server, content, db, result)
            classes = list(db.get_device_class_list(server).value_string)
            for name, tango_class in zip(classes[::2], classes[1::2], strict=False):
                if tango_class != "DServer" and name.lower() not in known:
                    result.strangers.append(f"{server} also holds {name} ({tango_class}), which is not described")
    except tango.DevFailed as error:
        raise database_error(db, error) from None
    return result


def apply(changes: list[Change], db: tango.Database) -> None:
    """Carry out the changes of a plan, in order.

    Raises
    ------
    CommunicationError
        The database does not answer or refuses; says how many changes were made before. Run it again to
        do the rest.
    """
    for done, change in enumerate(changes):
        try:
            _apply(change, db)
        except tango.DevFailed as error:
            raise database_error(db, error, f" (after {done} of {len(changes)} changes, at: {change})") from None


# ---- planning


def _plan_device(device: Device, db: tango.Database, result: Plan, reset_settings: bool) -> str | None:
    """Returns the server that the device was last seen in, unless it has taken it out of the database since."""
    info = _device_info(db, device.name)
    new = (device.server, device.tango_class)
    old = (info.ds_full_name, info.class_name) if info else None
    if old and old[0].partition("/")[0].lower() != SERVER.lower():
        raise ConfigurationError(
            f"the device {device.name} belongs to {old[0]} ({old[1]}) in the database: give another name in the "
            "description, or delete it there first"
        )
    if old is None or [text.lower() for text in old] != [text.lower() for text in new]:
        result.changes.append(Change(Kind.device, device.name, "", old, new))
    _plan_alias(device, db, result)

    properties = device.section.properties
    stored = db.get_device_property(device.name, list(properties)) if properties else {}
    for name, value in properties.items():
        _add(result.changes, Kind.property, device, name, stored.get(name), value)

    configs = device.section.attributes.model_dump(exclude_unset=True)
    settings = device.section.settings.model_dump(exclude_unset=True)
    names = list({**configs, **settings})
    stored = db.get_device_attribute_property(device.name, names) if names else {}
    for attribute, config in configs.items():
        for name, value in (config or {}).items():
            _add(result.changes, Kind.attribute, device, f"{attribute}.{name}", stored[attribute].get(name), value)
    for name, value in settings.items():
        before = stored[name].get(MEMORISED)
        tuned = before and not reset_settings
        _add(result.kept if tuned else result.changes, Kind.setting, device, name, before, value)
    return old[0] if info and info.exported else None


def _plan_alias(device: Device, db: tango.Database, result: Plan) -> None:
    if "alias" not in device.section.model_fields_set:
        return
    new, old = device.section.alias, found(db.get_alias_from_device, device.name)
    owner = found(db.get_device_from_alias, new) if new else None
    if owner and owner.lower() != device.name.lower():
        raise ConfigurationError(f"the alias {new} of {device.name} belongs to {owner} in the database: choose another")
    if (old or "").lower() != (new or "").lower():
        result.changes.append(Change(Kind.alias, device.name, "", (old,) if old else None, (new,) if new else None))


def _plan_starter(server: str, instance: Any, db: tango.Database, result: Plan) -> None:
    if "starter" not in instance.model_fields_set:
        return
    starter: Starter | None = instance.starter
    info = found(db.get_server_info, server)
    old = _starter_texts(info.host, info.level) if info and info.mode and info.host.strip() else None
    new = _starter_texts(starter.host, starter.level) if starter else None
    if old != new:
        result.changes.append(Change(Kind.starter, server, "", old, new))


def _starter_texts(host: str, level: int) -> tuple[str, str]:
    return (f"host {host}", f"level {level}")


def _add(changes: list[Change], kind: Kind, device: Device, name: str, stored: Any, value: Any) -> None:
    """Note a change unless what is stored means the same."""
    old = tuple(stored) if stored is not None and len(stored) else None
    new = None if value is None else tuple(_text(item) for item in (value if isinstance(value, list) else [value]))
    same = old == new or (old and new and len(old) == len(new) and all(map(_same, old, new)))
    if not same:
        changes.append(Change(kind, device.name, name, old, new))


def _text(value: Any) -> str:
    """A value as Tango stores it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, ErrorModel):
        return str(int(value))  # a label would be refused when the server starts
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def _same(old: str, new: str) -> bool:
    """Texts that Tango reads alike: it writes 3.0 as 3 and keeps 15 digits."""
    if old == new or {old.lower(), new.lower()} in ({"true"}, {"false"}):
        return True
    try:
        return math.isclose(float(old), float(new), rel_tol=1e-14)
    except ValueError:
        return False


# ---- applying


def _apply(change: Change, db: tango.Database) -> None:
    attribute, _, entry = change.name.partition(".")
    if change.kind is Kind.setting:
        entry = MEMORISED
    match change.kind:
        case Kind.device:
            server, tango_class = change.new
            if _device_info(db, f"dserver/{server}") is None:
                _add_device(db, f"dserver/{server}", server, "DServer")
            alias = found(db.get_alias_from_device, change.target)
            _add_device(db, change.target, server, tango_class)
            if alias and not found(db.get_alias_from_device, change.target):
                db.put_device_alias(change.target, alias)  # lost when a device moves to another server
        case Kind.alias:
            if change.old:
                db.delete_device_alias(change.old[0])
            if change.new:
                db.put_device_alias(change.target, change.new[0])
        case Kind.property:
            if change.new is None:
                db.delete_device_property(change.target, [change.name])
            else:
                db.put_device_property(change.target, {change.name: list(change.new)})
        case Kind.attribute | Kind.setting:
            if change.new is None:
                db.delete_device_attribute_property(change.target, {attribute: [entry]})
            else:
                db.put_device_attribute_property(change.target, {attribute: {entry: list(change.new)}})
        case Kind.starter:
            if change.new is None:
                db.delete_server_info(change.target)
            else:
                info = tango.DbServerInfo()
                info.name, info.mode = change.target, 1  # 1: controlled by the Starter
                info.host, info.level = change.new[0].partition(" ")[2], int(change.new[1].partition(" ")[2])
                db.put_server_info(info)
                _show_to_starter(db, change.target, info.host)


def _add_device(db: tango.Database, name: str, server: str, tango_class: str) -> None:
    info = tango.DbDevInfo()
    info.name, info.server, info._class = name, server, tango_class
    db.add_device(info)


def _show_to_starter(db: tango.Database, server: str, host: str) -> None:
    """Note the computer at the server's admin device, as if it had run there: Starter lists no server otherwise."""
    name = f"dserver/{server}"
    known = _device_info(db, name)
    if known is None:
        _add_device(db, name, server, "DServer")
    elif known.exported or known.host.partition(".")[0].lower() == host.partition(".")[0].lower():
        return
    info = tango.DbDevExportInfo()
    info.name, info.ior, info.host, info.version, info.pid = name, "", host, "", 0
    db.export_device(info)
    db.unexport_server(server)  # PyTango's database does nothing when a single device is unexported


# ---- the database


def _device_info(db: tango.Database, name: str) -> Any | None:
    try:
        return db.get_device_info(name)
    except tango.DevFailed as error:
        if error.args[0].reason == "DB_DeviceNotDefined":
            return None
        raise


def _answers(db: tango.Database, server: str) -> bool:
    """Whether a server runs: one that was killed stays "exported" in the database."""
    try:
        tango.DeviceProxy(f"tango://{db.get_db_host()}:{db.get_db_port()}/dserver/{server}").ping()
    except tango.DevFailed:
        return False
    return True


def found(look_up: Any, name: str) -> Any | None:
    """What a look-up finds, or None: databases differ in the error for what is not there."""
    try:
        return look_up(name)
    except tango.DevFailed as error:
        if any(details.reason == "API_CorbaException" for details in error.args):
            raise
        return None


def database_error(db: tango.Database, error: tango.DevFailed, when: str = "") -> CommunicationError:
    reason = " ".join(error.args[0].desc.split())
    return CommunicationError(f"the Tango database at {db.get_db_host()}:{db.get_db_port()} failed{when}: {reason}")


def report(result: Plan, *, dry_run: bool = False, source: str = "the description") -> list[str]:
    """A plan in words, line by line.

    Parameters
    ----------
    dry_run
        The changes will not be applied.
    source
        What to call the description, e.g. its file name.
    """
    lines = [str(change) for change in result.changes]
    lines += [
        f"= {change.target} setting {change.name} stays {change.shown(change.old)}, as the database has it "
        f"({source} says {change.shown(change.new)}; --reset-settings writes that)"
        for change in result.kept
    ]
    lines += [f"! {sentence}: left alone" for sentence in result.strangers]
    if not result.changes:
        return [*lines, "nothing to change"]
    count = "1 change" if len(result.changes) == 1 else f"{len(result.changes)} changes"
    lines.append(f"{count} to make, nothing written (dry run)" if dry_run else f"{count} made")
    if result.running and not dry_run:
        lines.append(f"! {', '.join(result.running)} is running: restart it for the changes to take effect")
    return lines
