"""The commit that is checked out, read without git, is the one that git says."""

import shutil
import subprocess
from pathlib import Path

import pytest
from framesieve.cli import main
from framesieve.processing import revision
from framesieve.processing.revision import git_revision

AS_SOMEBODY = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", *AS_SOMEBODY, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_branches_packed_branches_no_branch_and_worktrees(tmp_path):
    checkout, worktree = tmp_path / "checkout", tmp_path / "worktree"
    checkout.mkdir()
    git(checkout, "init", "-q", "-b", "some/branch")
    assert git_revision(checkout) == "", "no commit yet"
    seen = []

    def check(folder: Path) -> None:
        seen.append(git_revision(folder))
        assert len(seen[-1]) == 12 and git(folder, "rev-parse", "HEAD").startswith(seen[-1])

    for message in ("first", "second"):
        git(checkout, "commit", "-q", "--allow-empty", "-m", message)
        check(checkout)
    git(checkout, "worktree", "add", "-q", "-b", "other", str(worktree), "HEAD~1")
    check(worktree)
    git(checkout, "branch", "a/refs/heads/some/branch", "HEAD~1")  # comes first, and is another one
    git(checkout, "pack-refs", "--all")
    assert not (checkout / ".git/refs/heads/some/branch").exists()
    check(checkout)
    check(worktree)
    git(checkout, "checkout", "-q", "--detach", "HEAD~1")
    check(checkout)
    first, second = seen[:2]
    assert first != second and seen[2:] == [first, second, first, first]


@pytest.mark.parametrize("head", [None, "", "ref: refs/heads/gone\n", "0123456789abcdef\n", b"\xff\xfe"])
def test_where_there_is_no_checkout_there_is_no_revision(tmp_path, head):
    if head is not None:
        (tmp_path / ".git").mkdir()
        (tmp_path / ".git/HEAD").write_bytes(head if isinstance(head, bytes) else head.encode())
    assert git_revision(tmp_path) == ""


def test_the_program_says_it_where_it_knows_it(monkeypatch, capsys):
    number = main.version("framesieve")
    for commit, expected in (("0123456789ab", f"framesieve {number} (git 0123456789ab)"), ("", f"framesieve {number}")):
        monkeypatch.setattr(main, "revision", lambda commit=commit: commit)
        assert main.main(["--version"]) == 0
        assert capsys.readouterr().out.strip() == expected


def test_it_is_read_once_and_of_this_package():
    root = Path(revision.__file__).resolve().parents[1]
    assert revision.revision() == git_revision(root) and revision.revision.cache_info().currsize == 1
