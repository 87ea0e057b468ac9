"""From the text of the attribute `source` to the source itself."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from ..processing.errors import ConfigurationError, FrameSieveError
from ..processing.frames import Source
from .file import FileSource
from .follow import FollowSource
from .sls import SlsSource
from .stream1 import Stream1Source
from .stream2 import Stream2Source
from .tango_source import TangoSource

#: makes a source from the whole text of its URL; raises ConfigurationError where that is not understood, and looks
#: nothing up on disk or network
Factory = Callable[[str], Source]

#: for each scheme how it is written, and who makes its source
SCHEMES: Final[dict[str, tuple[str, Factory]]] = {
    "stream2": ("stream2://HOST:PORT[?channel=NAME]", Stream2Source.from_url),
    "stream1": ("stream1://HOST:PORT", Stream1Source.from_url),
    "sls": ("sls://HOST:PORT[?modules=N]", SlsSource.from_url),
    "tango": ("tango://DEVICE/ATTRIBUTE", TangoSource.from_url),
    "file": ("file:PATH[::DATASET]", FileSource.from_url),
    "follow": ("follow:PATH[::DATASET][?timeout=SECONDS]", FollowSource.from_url),
}

#: other packages add sources by an entry point of this group: its name is the scheme, its object a `Factory`
ENTRY_POINTS = "framesieve.sources"


def accepted() -> str:
    """How sources are written, for errors and help."""
    written = [text for text, _ in SCHEMES.values()] + [f"{scheme}:…" for scheme in sorted(_plugins())]
    return f"{', '.join(written[:-1])} and {written[-1]}"


def open_source(url: str) -> Source:
    """The source that `url` names; it is made, not opened.

    Raises
    ------
    ConfigurationError
        The text names no source; nothing is looked up on disk or network for this.
    """
    url = url.strip()
    scheme, separator, _ = url.partition(":")
    if separator and scheme in SCHEMES:
        return SCHEMES[scheme][1](url)
    if separator and scheme in _plugins():
        return _load(scheme)(url)
    raise ConfigurationError(f"source {url!r} is not understood (accepted: {accepted()})")


def check_source(url: str) -> None:
    """Whether `url` is written as `open_source` wants it.

    Raises
    ------
    ConfigurationError
    """
    open_source(url)


@functools.cache
def _plugins() -> dict[str, object]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS) if point.name not in SCHEMES}


def _load(scheme: str) -> Factory:
    try:
        return _plugins()[scheme].load()
    except FrameSieveError:
        raise
    except Exception as error:  # whatever its import raises
        raise ConfigurationError(f"the plug-in for {scheme}: cannot be loaded: {error}") from error
