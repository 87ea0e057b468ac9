"""From the text of the attribute `source` to the source itself."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from ..processing.errors import ConfigurationError
from ..processing.frames import Source
from .file import FileSource
from .stream2 import Stream2Source

ACCEPTED = "stream2://HOST:PORT[?channel=NAME] and file:PATH[::DATASET]"
_NOT_YET = ("stream1", "sls", "tango")


def open_source(url: str) -> Source:
    """The source that `url` names; it is made, not opened.

    Parameters
    ----------
    url : str
        `stream2://HOST:PORT[?channel=NAME&queue=MESSAGES]` or `file:PATH[::DATASET]` (`Stream2Source` and
        `FileSource` tell the meaning).

    Raises
    ------
    ConfigurationError
        The text names no source; nothing is looked up on disk or network for this.
    """
    scheme, separator, rest = url.strip().partition(":")
    if separator and scheme == "stream2":
        return _stream2(url.strip())
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


def _stream2(url: str) -> Stream2Source:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"source {url!r}: {error} (stream2://HOST:PORT)") from None
    if not host or not port or parts.path.strip("/") or parts.username is not None or parts.fragment:
        raise ConfigurationError(
            f"source {url!r} must be written stream2://HOST:PORT, e.g. stream2://dcu.example.org:31001"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    channel, queue = options.pop("channel", None), options.pop("queue", "100")
    if options:
        raise ConfigurationError(f"source {url!r}: unknown option {next(iter(options))!r} (accepted: channel, queue)")
    if channel == "":
        raise ConfigurationError(f"source {url!r}: the option channel is empty")
    if not (queue.isascii() and queue.isdigit() and 1 <= int(queue) <= 100_000):
        raise ConfigurationError(f"source {url!r}: the option queue must be from 1 to 100000, not {queue!r}")
    return Stream2Source(host, port, channel, int(queue))
