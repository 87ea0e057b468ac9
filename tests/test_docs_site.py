"""The documents as a site: every link leads somewhere, and nothing is fetched from the network."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocs") is None,
    reason="the extra docs is not installed",
)


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    # without --quiet, which would keep warnings from the count of --strict
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(out)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


class Page(HTMLParser):
    """What a page makes the browser load, where its links lead, and the text of its article outside of code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a":
            self.links.append(values.get("href") or "")
        else:
            self.loads += [values[name] or "" for name in ("src", "href", "srcset", "data", "action") if name in values]
        if tag in ("article", "code", "pre", "script", "style", "table"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            self._open.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._open == ["article"]:
            self.text.append(data)


def pages(site: Path) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path) for path in sorted(site.rglob("*.html"))}


def test_nothing_comes_from_the_network(site):
    loads = {name: page.loads for name, page in pages(site).items()}
    assert any("stylesheets/main" in one for one in loads["index.html"])  # they are seen at all
    assert not [(name, one) for name, all_ in loads.items() for one in all_ if re.match(r"[a-z]+:(?<!data:)|//", one)]
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert styles
    assert not [one for text in styles for one in re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^)]*)", text)]


def test_search_works_from_the_disk(site):
    """The index is a script, and what stands in for a Worker comes before all other scripts."""
    assert "leaves no pixel" in (site / "search/search_index.js").read_text(encoding="utf-8")
    for page in pages(site).values():
        scripts = [one for one in page.loads if one.endswith(".js")]
        assert scripts[0].endswith("assets/iframe-worker.js") and len(scripts) > 1


def test_the_readme_is_the_start_page(site):
    start = pages(site)["index.html"]
    headings = re.findall(r"^## (.+)$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(headings) > 3 and set(headings) <= {text.strip() for text in start.text}
    assert {"tuning.html", "devices.html", "code/LICENSE.html"} <= set(start.links)


def test_files_that_pages_link_are_shown(site):
    assert "code/tango_db/id29.yaml.html" in pages(site)["beamline.html"].links
    shown = re.sub(r"<[^>]*>", "", (site / "code/tango_db/id29.yaml.html").read_text(encoding="utf-8"))
    line = next(
        line for line in (ROOT / "tango_db/id29.yaml").read_text(encoding="utf-8").splitlines() if "geometry:" in line
    )
    assert line.strip() in shown


def test_all_markdown_is_understood(site):
    """Lists, tables and blocks of code that this Markdown reads otherwise than GitHub's would show their marks."""
    marks = re.compile(r"```|`|^\s*[*|] |\n[*|] |\n\d+\. |\*\*|\]\(")
    found = {name: [text for text in page.text if marks.search(text)] for name, page in pages(site).items()}
    assert not {name: texts for name, texts in found.items() if texts}


def test_broken_links_fail(tmp_path):
    for name in ("mkdocs.yml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "tango_db", tmp_path / "tango_db", ignore=shutil.ignore_patterns("*.py"))
    broken = ["nowhere.md", "tuning.md#no-such-heading", "../tango_db/missing.yaml"]
    with (tmp_path / "docs" / "panel.md").open("a", encoding="utf-8") as page:
        page.writelines(f"\n[a link]({link})\n" for link in broken)
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert len(told) == len(broken) and all("panel.md" in line for line in told)
