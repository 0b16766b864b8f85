"""MkDocs hooks: pages generated from the code, links to files of the repository, and no requests to other hosts."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)#]+)\)")
"""A link out of docs/, to a file of the repository."""
LOADED = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc=["'](?:https?:)?//|<link\b[^>]*\brel="?(?:stylesheet|preconnect|icon)"""
    r"""[^>]*\bhref=["'](?:https?:)?//|url\(["']?(?:https?:)?//"""
)
"""What a browser would load from another host."""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are generated, and those that are files of the repository's root."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    import reference

    pages = {
        "reference/settings.md": reference.settings_page(),
        "reference/options.md": reference.options_page(),
        "reference/python.md": reference.python_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "]("),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links to files of the repository by their paths; raise for one that does not exist."""
    folder = Path(page.file.src_uri).parent

    def replace(match: re.Match[str]) -> str:
        label, path = match[1], match[0].rpartition("(")[2].rstrip(")")
        target = (ROOT / "docs" / folder / path.partition("#")[0]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return match[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri} links to {path}, which does not exist")
        name = str(target.relative_to(ROOT))
        return f"`{name}`" if label.strip("`") in (name, target.name) else f"{label} (`{name}`)"

    return OUTSIDE.sub(replace, markdown)


def on_post_build(config: Any) -> None:
    """Raise for a page or a style sheet that loads something from another host."""
    site = Path(config.site_dir)
    for file in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        if match := LOADED.search(file.read_text(encoding="utf-8")):
            raise PluginError(f"{file.relative_to(site)} loads {match[0][:120]} from another host")
