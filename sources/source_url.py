"""The text that names a source, taken apart: `SCHEME://HOST:PORT?OPTION=VALUE&…`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from ..processing.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class HostAndPort:
    """Where a detector listens, and the options that were given."""

    host: str
    port: int
    options: Mapping[str, str]


def parse_host_and_port(url: str, *, usual_port: int, options: tuple[str, ...] = ()) -> HostAndPort:
    """Of `SCHEME://HOST:PORT[?NAME=VALUE&…]`, with no other options than those named.

    Raises
    ------
    ConfigurationError
    """
    scheme = url.partition(":")[0]
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"source {url!r}: {error} ({scheme}://HOST:PORT)") from None
    if not host or not port or parts.path.strip("/") or parts.username is not None or parts.fragment:
        raise ConfigurationError(
            f"source {url!r} must be written {scheme}://HOST:PORT, e.g. {scheme}://detector.example.org:{usual_port}"
        )
    return HostAndPort(host, port, parse_options(url, parts.query, options))


def parse_options(url: str, query: str, accepted: tuple[str, ...]) -> dict[str, str]:
    """The options behind the question mark; ConfigurationError for one that is unknown or empty."""
    given = dict(parse_qsl(query, keep_blank_values=True))
    for name, value in given.items():
        if name not in accepted:
            known = f"accepted: {', '.join(accepted)}" if accepted else "none is accepted"
            raise ConfigurationError(f"source {url!r}: unknown option {name!r} ({known})")
        if not value:
            raise ConfigurationError(f"source {url!r}: the option {name} is empty")
    return given


def count_option(url: str, options: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number; ConfigurationError where it is none or out of range."""
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise ConfigurationError(f"source {url!r}: the option {name} must be from {low} to {high}, not {text!r}")
    return int(text)


def seconds_option(url: str, options: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    """A time in seconds; ConfigurationError where it is none or out of range."""
    try:
        value = float(options.get(name, default))
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ConfigurationError(
            f"source {url!r}: the option {name} must be from {low:g} to {high:g} seconds, not {options[name]!r}"
        )
    return value
