"""The messages that users can meet, as the source code has them: `python tests/messages_in_code.py` lists those that
docs/troubleshooting.md does not cover.

Taken are the texts of the exceptions that reach the command line, Tango clients and the ledger, of warnings and errors
in the log, of `last_error`, and of what makes State go to ALARM. A part that is filled in when the program runs is `…`,
here and in the table of the page; a row covers a message if the constant parts of one of its quotations occur in the
message in their order.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "troubleshooting.md"
HOLE = "…"
#: what a message or a quotation needs of its own, in letters; with less it passes on another message
LEAST = 7

#: where exceptions of these bases, and of what is derived from them, are meant for users
BASES = {"FrameSieveError", "ReductionError", "CborError"}
#: functions that make such an exception of a text
MAKERS = {"wrong"}
LOGS = {"warning", "error", "exception", "warn_stream", "error_stream", "set_error"}
#: methods that give lines of Status
STATUS = {"alarms", "notes"}
PACKAGES = ("acquisition", "cli", "clients", "devices", "formats", "processing", "simulators", "sources", "tango_db")


@functools.cache
def messages() -> dict[str, str]:
    """Every message, and the first place (file:line) where it stands."""
    exceptions = derived(trees().values())
    found: dict[str, str] = {}
    for path, tree in trees().items():
        # macros and controllers have no class of their own: what they raise is shown by Sardana
        names = exceptions | ({"ValueError", "RuntimeError"} if "sardana" in path.parts else set())
        for node, line in texts(tree, names):
            for text in rendered(node):
                if letters(text) >= LEAST:
                    found.setdefault(text, f"{path}:{line}")
    return found


@functools.cache
def strings() -> set[str]:
    """Every text in the code, whatever it is for, and all that has holes."""
    kinds = (ast.Constant, ast.JoinedStr, ast.BinOp)
    nodes = (node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, kinds))
    return {text for node in nodes for text in rendered(node) if letters(text) >= LEAST}


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """The code, by its place in the repository."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def derived(trees: Iterable[ast.Module]) -> set[str]:
    """The names of all classes that are derived from `BASES`, and these."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names = set(BASES)
    while more := {c.name for c in classes if names & {name_of(base) for base in c.bases}} - names:
        names |= more
    return names


def texts(tree: ast.Module, exceptions: set[str]) -> Iterator[tuple[ast.expr, int]]:
    """The expressions that make a message."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            name, first = name_of(node.func), node.args[0]
            is_log = name in LOGS and isinstance(node.func, ast.Attribute)
            if name in exceptions | MAKERS or is_log:
                # ("REASON", text) of the client, ("%s", text) of Tango's log
                passed_on = isinstance(first, ast.Constant) and re.fullmatch(r"[A-Z_]+|%s", str(first.value))
                yield (node.args[1] if passed_on and len(node.args) > 1 else first), node.lineno
        elif isinstance(node, ast.FunctionDef) and node.name in STATUS:
            for part in ast.walk(ast.Module(node.body[1:] if ast.get_docstring(node) else node.body, [])):
                said = part.elts if isinstance(part, ast.List) else part.args if isinstance(part, ast.Call) else []
                yield from ((one, part.lineno) for one in said)


def name_of(node: ast.expr) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def rendered(node: ast.expr) -> list[str]:
    """What an expression can say, with holes for what is filled in."""
    if isinstance(node, ast.Constant):
        return [re.sub(r"%[sdrg]", HOLE, str(node.value))]
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else HOLE for part in node.values]
        return [re.sub(f"{HOLE}+", HOLE, "".join(map(str, parts)))]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [left + right for left in rendered(node.left) for right in rendered(node.right)]
    if isinstance(node, ast.IfExp):
        return rendered(node.body) + rendered(node.orelse)
    return [HOLE]


def letters(text: str) -> int:
    return sum(c.isalpha() for c in text)


def quotations(page: str) -> list[str]:
    """What stands between backticks in the first column of the tables."""
    cells = [re.split(r"(?<!\\)\|", line)[1] for line in page.splitlines() if line.startswith("| ")]
    return [quote.replace("\\|", "|") for cell in cells for quote in re.findall(r"`([^`]+)`", cell)]


def covers(quote: str, message: str) -> bool:
    """Whether the constant parts of a quotation occur in a message, in their order."""
    place = 0
    for part in quote.split(HOLE):
        found = message.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return letters(quote) >= LEAST


def uncovered(page: str) -> dict[str, str]:
    """Messages that no row of the page covers, with their places."""
    quotes = quotations(page)
    return {text: where for text, where in messages().items() if not any(covers(quote, text) for quote in quotes)}


if __name__ == "__main__":
    missing = uncovered(PAGE.read_text(encoding="utf-8"))
    print(*(f"{where}  {text}" for text, where in missing.items()), f"{len(missing)} of {len(messages())}", sep="\n")
