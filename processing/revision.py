"""Of which git revision this program is, where it runs from a checkout."""

from __future__ import annotations

import functools
import re
from pathlib import Path

SHOWN = 12  # hex digits


@functools.cache
def revision() -> str:
    """The first digits of the commit that was checked out when the program asked first; "" where it does not run from
    a checkout. Changes that are not committed do not show."""
    return git_revision(Path(__file__).resolve().parents[1])


def git_revision(folder: Path) -> str:
    """The commit that is checked out in a folder, from the files of git, without the program; "" where it is none."""
    try:
        git = folder / ".git"
        if git.is_file():  # a worktree or a submodule
            git = folder / git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        commit = (git / "HEAD").read_text(encoding="utf-8").strip()
        if commit.startswith("ref:"):
            commit = _commit_of(commit.removeprefix("ref:").strip(), git)
    except (OSError, ValueError):
        return ""
    return commit[:SHOWN] if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", commit) else ""


def _commit_of(ref: str, git: Path) -> str:
    """What a branch points to."""
    common = git / "commondir"
    where = git / common.read_text(encoding="utf-8").strip() if common.is_file() else git
    for place in (git, where):
        if (place / ref).is_file():
            return (place / ref).read_text(encoding="utf-8").strip()
    for line in (where / "packed-refs").read_text(encoding="utf-8").splitlines():
        commit, _, name = line.partition(" ")
        if name == ref:
            return commit
    return ""
