"""Hooks of the documentation site: pages made from files of the repository root, and links that leave ``docs/``.

Guides link to files such as ``../src/videoxl/config.py``. The site has no such pages, so there these links lead to the
repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
"""Page of the site -> file in the repository root."""
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from files of the repository root."""
    from mkdocs.structure.files import File

    for page, name in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at pages of the site where there is one, at the repository otherwise."""
    origin = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    pages = {name: page for page, name in PAGES.items()}

    def target(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        found = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
        site = pages.get(found) or (found.removeprefix("docs/") if found.startswith("docs/") else None)
        if site is not None and files.get_file_from_path(site):
            relative = posixpath.relpath(site, posixpath.dirname(page.file.src_uri) or ".")
            return f"]({relative}{anchor})"
        kind = "tree" if (ROOT / found).is_dir() else "blob"
        return f"]({config.repo_url}/{kind}/main/{found}{anchor})"

    return LINK.sub(target, markdown)
