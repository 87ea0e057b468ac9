"""What the scripts share that write a page of the documents from the code: tables, and the choice of write or check."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path


def one_line(text: str | None) -> str:
    """Text, of a docstring say, in one line."""
    return " ".join(inspect.cleandoc(text or "").split())


def cell(text: str | None) -> str:
    """The same as it stands in a table."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table and an empty one behind them; cells are as `cell` makes them."""
    written = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    return [written[0], "|---" * len(columns) + "|", *written[1:], ""]


def main(page: Path, text: str) -> int:
    """Write the page or, with `--check`, only tell whether it is up to date: the exit status."""
    if "--check" in sys.argv[1:]:
        return int(not page.is_file() or page.read_text(encoding="utf-8") != text)
    page.write_text(text, encoding="utf-8")
    return 0
