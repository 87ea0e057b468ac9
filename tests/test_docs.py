"""The documents: the generated pages are up to date and leave nothing out, and links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from framesieve import clients
from framesieve.clients import Change, Reduction
from framesieve.formats.sparse_reader import SparseFile

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


@pytest.mark.parametrize(
    ("script", "page"),
    [
        ("make_device_reference.py", "devices.md"),
        ("make_command_line.py", "command_line.md"),
        ("make_python_reference.py", "python_reference.md"),
    ],
)
def test_a_generated_page_is_that_of_the_code(script, page):
    done = subprocess.run([sys.executable, ROOT / "docs" / script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run 'python docs/{script}' and commit docs/{page}\n{done.stderr}"


def test_the_references_leave_nothing_out():
    """Everything has a meaning, and every number that can be written says what is accepted."""
    for page, least in (("devices.md", 90), ("command_line.md", 100), ("python_reference.md", 80)):
        rows = [row for row in table_rows(ROOT / "docs" / page) if row[0].startswith("`")]
        assert len(rows) >= least
        assert not [row for row in rows if len(row[-1]) < 10], page
        numbers = [
            row for row in rows if len(row) == 6 and row[3].startswith("rw") and row[1] in ("double", "long", "ulong")
        ]
        assert len(numbers) > 15 or page != "devices.md"
        assert not [row for row in numbers if "Accepted: " not in row[-1]]


@pytest.mark.parametrize("one", [Reduction, Change, SparseFile])
def test_the_reference_of_python_has_every_method(one):
    text = (ROOT / "docs" / "python_reference.md").read_text(encoding="utf-8")
    methods = [name for name in vars(one) if not name.startswith("_") and callable(getattr(one, name))]
    assert methods
    assert not [name for name in methods if f"\n### {one.__name__}.{name}\n" not in text]


def test_the_reference_of_python_has_all_that_the_client_exports():
    text = (ROOT / "docs" / "python_reference.md").read_text(encoding="utf-8")
    assert set(clients.__all__) <= set(re.findall(r"^## (.+)$", text, flags=re.MULTILINE))


def table_rows(page: Path) -> list[list[str]]:
    lines = (line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    broken = [link for link in links(page) if not leads_somewhere(page, link)]
    assert not broken


def links(page: Path) -> list[str]:
    return [first or second for first, second in LINK.findall(without_code(page))]


def without_code(page: Path) -> str:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def leads_somewhere(page: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):  # the network is not asked
        return True
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or target.suffix != ".md" or anchor in anchors(target))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_reachable_from_the_readme():
    assert {page.name for page in PAGES[1:] if page.parent.name == "docs"} <= {
        Path(link.partition("#")[0]).name for link in links(ROOT / "README.md")
    }
