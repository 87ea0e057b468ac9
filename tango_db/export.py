"""The Tango database's entries on servers, as JSON in the format of the program dsconfig: a backup of all that has been
tuned on the beamline, which dsconfig and `framesieve register` read again; see `dsconfig`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import tango

from ..processing.errors import ConfigurationError
from .attributes import SERVER
from .register import database_error, found


def servers_in(db: tango.Database) -> list[str]:
    """The servers `FrameSieve/INSTANCE` that the database knows."""
    return sorted(str(name) for name in db.get_server_list(f"{SERVER}/*"))


def export(db: tango.Database, servers: Iterable[str]) -> dict[str, Any]:
    """All that the database has on the devices of some servers.

    Raises
    ------
    ConfigurationError
        One of the servers is not in the database.
    CommunicationError
        The database does not answer.
    """
    try:
        return _export(db, servers)
    except tango.DevFailed as error:
        raise database_error(db, error) from None


def _export(db: tango.Database, servers: Iterable[str]) -> dict[str, Any]:
    exported: dict[str, Any] = {}
    known = {name.lower(): name for name in servers_in(db)}
    for asked in servers:
        server = known.get(asked.lower())
        if server is None:
            raise ConfigurationError(
                f"{asked} is not in the Tango database; it has {', '.join(known.values()) or 'none'}"
            )
        listed = list(db.get_device_class_list(server).value_string)
        devices = [(name, kind) for name, kind in zip(listed[::2], listed[1::2], strict=False) if kind != "DServer"]
        name, _, instance = server.partition("/")
        classes = exported.setdefault(name, {}).setdefault(instance, {})
        for device, kind in devices:
            classes.setdefault(kind, {})[device] = _exported_device(db, device)
    return {"tango_host": f"{db.get_db_host()}:{db.get_db_port()}", "servers": exported}


def _exported_device(db: tango.Database, device: str) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if alias := found(db.get_alias_from_device, device):
        content["alias"] = str(alias)
    names = [name for name in db.get_device_property_list(device, "*") if not name.startswith("__")]
    if names:
        stored = db.get_device_property(device, names)
        content["properties"] = {name: list(map(str, stored[name])) for name in names}
    names = list(db.command_inout("DbGetDeviceAttributeList", [device, "*"]))
    if names:
        stored = db.get_device_attribute_property(device, names)
        content["attribute_properties"] = {
            name: {entry: list(map(str, values)) for entry, values in stored[name].items()} for name in names
        }
    return content


def save(contents: Mapping[str, Any], path: Path) -> None:
    """Write as dsconfig does. What stands in the file before stays until the new contents are complete.

    Raises
    ------
    ConfigurationError
        The file cannot be written.
    """
    text = json.dumps(contents, ensure_ascii=False, indent=4, sort_keys=True) + "\n"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None
