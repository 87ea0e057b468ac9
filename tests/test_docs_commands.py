"""The commands that the documents show are understood: every option exists and takes such a value."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from framesieve.cli.main import UsageError, app

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ("command_line.md", "python_reference.md")
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED)]
BLOCK = re.compile(r"^ *```\n(.*?)^ *```$", flags=re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^(?:\S*/)?framesieve (.+)$")
FORMS = re.compile(r"[|…]|\[-")  # not a command, but what one looks like


def commands(page: Path) -> list[tuple[str, bool]]:
    """Each command of a page, and whether it is one to be typed: others are only spoken of, and may be cut short."""
    text = page.read_text(encoding="utf-8")
    typed = [line.strip() for block in BLOCK.findall(text) for line in block.splitlines()]
    spoken_of = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    found = [(COMMAND.match(line), True) for line in typed] + [(COMMAND.match(line), False) for line in spoken_of]
    return [(match[1], is_typed) for match, is_typed in found if match and not FORMS.search(match[1])]


def parse(arguments: list[str]) -> None:
    """As the program does it, up to where the command would begin."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and arguments and arguments[0] in command.commands:
        command = command.commands[arguments.pop(0)]
    if hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
        raise UsageError(f"there is no command {arguments[0]}")
    command.make_context("framesieve", arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_understood(page):
    for text, is_typed in commands(page):
        words = shlex.split(re.sub(r"\bN\b", "1", text), comments=True)
        try:
            parse(words)
        except typer.Exit:  # --version
            continue
        except UsageError as error:
            cut_short = type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError")  # of the click of typer
            assert cut_short and not is_typed, f"{text}: {error.format_message()}"


def test_commands_are_found():
    found = [one for page in PAGES for one in commands(page)]
    assert len([text for text, is_typed in found if is_typed]) > 30
    assert len([text for text, is_typed in found if not is_typed]) > 30


@pytest.mark.parametrize("text", ["densify a.h5 -o b.h5 --sead 1", "reduce a.h5 --min-peaks many", "bench quick"])
def test_mistakes_are_seen(text):
    with pytest.raises(UsageError):
        parse(text.split())
