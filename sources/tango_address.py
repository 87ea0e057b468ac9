"""How devices of Tango and what is read from them are written: `[tango://][HOST:PORT/]DOMAIN/FAMILY/MEMBER/NAME`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..processing.errors import ConfigurationError
from .source_url import parse_options

#: of devices and attributes
_NAME = re.compile(r"[^/\s?#:@]+")
_HOST = re.compile(r"[^/\s?#:@]+:\d{1,5}")

_FORM = "DOMAIN/FAMILY/MEMBER/NAME or HOST:PORT/DOMAIN/FAMILY/MEMBER/NAME"


@dataclass(frozen=True, slots=True)
class TangoAddress:
    """`device` as `tango.DeviceProxy` takes it, `name` an attribute or command of it, and options."""

    device: str
    name: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        device, _, fragment = self.device.removeprefix("tango://").partition("#")
        return f"{device}/{self.name}" + (f"#{fragment}" if fragment else "")


def parse_address(text: str, what: str, options: tuple[str, ...] = ()) -> TangoAddress:
    """Of `[tango://][HOST:PORT/]DOMAIN/FAMILY/MEMBER/NAME[?OPTION=VALUE&…][#dbase=no]`; the last two may also come the
    other way round. `what` names the setting in errors.

    Raises
    ------
    ConfigurationError
    """
    path, mark, tail = _cut(text.strip().removeprefix("tango://"))
    query, fragment = (tail, "") if mark == "?" else ("", tail)
    if mark == "?":
        query, _, fragment = tail.partition("#")
    elif mark == "#":
        fragment, _, query = tail.partition("?")
    parts = path.split("/")
    host = parts.pop(0) if len(parts) == 5 else ""
    if len(parts) != 4 or not all(_NAME.fullmatch(part) for part in parts) or (host and not _HOST.fullmatch(host)):
        raise ConfigurationError(f"{what} {text!r} must be written {_FORM}, e.g. id00/eiger/1/image")
    if fragment not in ("", "dbase=no", "dbase=yes"):
        raise ConfigurationError(f"{what} {text!r}: behind # only dbase=no (or dbase=yes) is understood")
    if fragment == "dbase=no" and not host:
        raise ConfigurationError(f"{what} {text!r}: a device without database needs its HOST:PORT")
    if query and not options:
        raise ConfigurationError(f"{what} {text!r}: there are no options here, leave out {query!r}")
    device = "/".join(parts[:3])
    if host:
        device = f"tango://{host}/{device}" + (f"#{fragment}" if fragment else "")
    return TangoAddress(device, parts[3], parse_options(text, query, options))


def _cut(text: str) -> tuple[str, str, str]:
    """What comes before the first ? or #, that sign, and what comes behind it."""
    found = re.search(r"[?#]", text)
    return (text, "", "") if found is None else (text[: found.start()], found.group(), text[found.end() :])
