"""What mkdocs does not do by itself: the README as start page, and links from the pages to files of the repository.

The pages are written for plain Markdown: a link such as `../tango_db/id29.yaml` leads to that file. On the site every
file that is linked in this way gets a page that shows it, so the links lead somewhere without a network, too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
README = "README.md"
START = "index.md"
CODE = "code"  # the folder of the pages that show a file
LINK = re.compile(r"(?<=\]\()(?![a-z]+:)([^)\s#]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors that they have on GitHub."""
    config.mdx_configs["toc"] = {"slugify": anchor, "permalink": True}
    return config


def anchor(heading: str, separator: str) -> str:
    """The anchor of a heading, the words of which are joined by the separator."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the start page, and a page for every file outside of docs/ that a page links."""
    readme = (ROOT / README).read_text(encoding="utf-8")
    texts = {README: readme, **{f"docs/{p.src_uri}": p.content_string for p in files.documentation_pages()}}
    files.append(File.generated(config, START, content=readme))
    for path in sorted({target(page, link) for page, text in texts.items() for link in LINK.findall(text)}):
        if not path.startswith(("docs/", "../")) and path != README and (ROOT / path).is_file():
            files.append(
                File.generated(config, place(path), content=code_page(path), inclusion=InclusionLevel.NOT_IN_NAV)
            )
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that are right in the repository into links that are right on the site."""
    here = page.file.src_uri
    if here.startswith(f"{CODE}/"):
        return text
    source = README if here == START else f"docs/{here}"
    folder = PurePosixPath(here).parent
    return LINK.sub(lambda link: os.path.relpath(place(target(source, link[1])), folder), text)


def target(page: str, link: str) -> str:
    """The file, seen from the root of the repository, to which a link on a page leads."""
    return os.path.normpath(PurePosixPath(page).parent / link)


def place(path: str) -> str:
    """Where a file of the repository is found on the site."""
    if path == README:
        return START
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{CODE}/{path}.md"


def code_page(path: str) -> str:
    """A page that shows a file."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return f"# {path}\n\n~~~~~~ {PurePosixPath(path).suffix.removeprefix('.') or 'text'}\n{text}\n~~~~~~\n"
