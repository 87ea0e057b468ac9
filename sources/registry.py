"""From the text of the attribute `source` to the source itself."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from ..processing.errors import ConfigurationError
from ..processing.frames import Source
from .file import FileSource
from .stream1 import Stream1Source
from .stream2 import Stream2Source

ACCEPTED = "stream2://HOST:PORT[?channel=NAME], stream1://HOST:PORT and file:PATH[::DATASET]"
_NOT_YET = ("sls", "tango")
#: the usual port and the options of the streams
_STREAMS = {"stream1": (9999, ("queue",)), "stream2": (31001, ("channel", "queue"))}


def open_source(url: str) -> Source:
    """The source that `url` names; it is made, not opened.

    Parameters
    ----------
    url : str
        `stream2://HOST:PORT[?channel=NAME&queue=MESSAGES]`, `stream1://HOST:PORT[?queue=MESSAGES]` or
        `file:PATH[::DATASET]` (`Stream2Source`, `Stream1Source` and `FileSource` tell the meaning).

    Raises
    ------
    ConfigurationError
        The text names no source; nothing is looked up on disk or network for this.
    """
    scheme, separator, rest = url.strip().partition(":")
    if separator and scheme in _STREAMS:
        return _stream(scheme, url.strip())
    if separator and scheme == "file":
        # file:///data/x.h5 is the usual way to write an absolute path as a URL
        path = rest.removeprefix("//") if rest.startswith("///") else rest
        if not path.partition("::")[0]:
            raise ConfigurationError(f"source {url!r} names no file (file:PATH[::DATASET])")
        return FileSource(path)
    if separator and scheme in _NOT_YET:
        raise ConfigurationError(f"source {url!r}: {scheme} is not supported yet (accepted: {ACCEPTED})")
    raise ConfigurationError(f"source {url!r} is not understood (accepted: {ACCEPTED})")


def check_source(url: str) -> None:
    """Whether `url` is written as `open_source` wants it.

    Raises
    ------
    ConfigurationError
    """
    open_source(url)


def _stream(scheme: str, url: str) -> Stream1Source | Stream2Source:
    usual_port, accepted = _STREAMS[scheme]
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"source {url!r}: {error} ({scheme}://HOST:PORT)") from None
    if not host or not port or parts.path.strip("/") or parts.username is not None or parts.fragment:
        raise ConfigurationError(
            f"source {url!r} must be written {scheme}://HOST:PORT, e.g. {scheme}://dcu.example.org:{usual_port}"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = [name for name in options if name not in accepted]
    if unknown:
        raise ConfigurationError(f"source {url!r}: unknown option {unknown[0]!r} (accepted: {', '.join(accepted)})")
    channel, queue = options.get("channel"), options.get("queue", "100")
    if channel == "":
        raise ConfigurationError(f"source {url!r}: the option channel is empty")
    if not (queue.isascii() and queue.isdigit() and 1 <= int(queue) <= 100_000):
        raise ConfigurationError(f"source {url!r}: the option queue must be from 1 to 100000, not {queue!r}")
    if scheme == "stream1":
        return Stream1Source(host, port, int(queue))
    return Stream2Source(host, port, channel, int(queue))
