"""Which devices a panel shows: those of one pipeline, found in the Tango database."""

from __future__ import annotations

import re

import tango

from ...processing.errors import CommunicationError, ConfigurationError
from .. import connection

SERVER = "FrameSieve"
MEMBERS = {device_class: member for device_class, member in connection.MEMBERS.items() if member in connection.NEEDED}
_WHERE = re.compile(r"(?P<prefix>tango://[^/]+/)?(?P<path>[^/#]+(/[^/#]+){0,2})?(?P<suffix>#dbase=(no|yes))?")


def find_devices(where: str = "") -> dict[str, str]:
    """Names of the devices of one pipeline by member: acquisition, sparsifier, peakfinder, veto.

    Parameters
    ----------
    where
        A domain, `DOMAIN/framesieve`, or the name of one device of the pipeline, with `tango://HOST:PORT/` in front
        where TANGO_HOST is not meant. Empty: the only pipeline of the database. With `#dbase=no` at the end the devices
        have their default names.

    Raises
    ------
    ConfigurationError
        No pipeline is there, or several are; the text names them.
    CommunicationError
        The database does not answer.
    """
    match = _WHERE.fullmatch(where.strip())
    if match is None:
        raise ConfigurationError(
            f"{where!r} is no place of devices: accepted are DOMAIN, DOMAIN/FAMILY or the name of a device"
        )
    prefix, path, suffix = match["prefix"] or "", (match["path"] or "").lower(), match["suffix"] or ""
    if suffix == "#dbase=no":
        domain, family, *_ = [*path.split("/"), "framesieve", ""]
        return {member: f"{prefix}{domain}/{family}/{member}{suffix}" for member in MEMBERS.values()}
    try:
        pipelines = _pipelines(_database(prefix))
    except tango.DevFailed as error:
        raise CommunicationError(f"the Tango database does not answer: {error.args[0].desc.strip()}") from None
    found = [
        devices for devices in pipelines.values() if any(_belongs(name.lower(), path) for name in devices.values())
    ]
    if len(found) != 1:
        known = "; ".join(sorted(devices["acquisition"] for devices in found or pipelines.values())) or "none"
        what = "several pipelines are" if found else "no pipeline is"
        raise ConfigurationError(f"{what} at {where!r}; name one of these devices: {known}")
    return {member: prefix + name for member, name in found[0].items()}


def _database(prefix: str) -> tango.Database:
    if not prefix:
        return tango.Database()
    host, _, port = prefix.removeprefix("tango://").rstrip("/").rpartition(":")
    return tango.Database(host, int(port))


def _pipelines(database: tango.Database) -> dict[str, dict[str, str]]:
    """Server instance → its devices by member; what has no AcquisitionDevice is left out."""
    pipelines = {}
    for server in database.get_server_list(f"{SERVER}/*"):
        pairs = list(database.get_device_class_list(server))
        devices = {MEMBERS[cls]: name for name, cls in zip(pairs[::2], pairs[1::2], strict=True) if cls in MEMBERS}
        if "acquisition" in devices:
            pipelines[server] = devices
    return pipelines


def _belongs(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(path + "/")
