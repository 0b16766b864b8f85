"""One HTML page that needs no network: tables, and pictures as inline SVG."""

import html
import io
import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

Cells = tuple[list[str], list[list[str]]]
"""The header of a table, and its rows."""
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 2rem auto; max-width: 84rem;
  padding: 0 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.87rem; }
th, td { padding: 0.3rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; min-width: 2.6rem; }
th:first-child, td:first-child { text-align: left; }
figure svg { max-width: 72rem; }
figure { margin: 1rem 0 2rem; break-inside: avoid; } figure svg { width: 100%; height: auto; }
figcaption { color: #444; font-size: 0.9rem; }
@page { size: A4 landscape; margin: 12mm; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } table { font-size: 7.5pt; }
  .table { overflow: visible; }
  th, td { padding: 0.15rem 0.3rem; } }
"""


@dataclass(frozen=True)
class ReportFigure:
    """A picture with its title and what it shows."""

    title: str
    caption: str
    picture: Figure


@dataclass(frozen=True)
class Page:
    """What a page holds, from top to bottom."""

    title: str
    tables: tuple[tuple[str, Cells], ...]
    """With a title each."""
    paragraphs: tuple[str, ...]
    figures: tuple[ReportFigure, ...]


def write_page(file: Path, page: Page) -> None:
    """Write a page."""
    body = [f"<h1>{html.escape(page.title)}</h1>"]
    body += [f"<h2>{html.escape(title)}</h2>{_table(cells)}" for title, cells in page.tables]
    body += [f"<p>{html.escape(text)}</p>" for text in page.paragraphs]
    body += [_figure(each, f"f{number}-") for number, each in enumerate(page.figures)]
    file.write_text(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(page.title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n",
        encoding="utf-8",
    )


def _table(cells: Cells) -> str:
    header, rows = cells
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(figure: ReportFigure, prefix: str) -> str:
    title, caption = html.escape(figure.title), html.escape(figure.caption)
    svg = _svg(figure.picture, prefix).replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    return f"<h2>{title}</h2><figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _svg(picture: Figure, prefix: str) -> str:
    """Draw a picture as an SVG element; text as paths, because a viewer's fonts may be wider than the space for them.

    `prefix` keeps the ids of several pictures in one page apart.
    """
    buffer = io.StringIO()
    picture.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    return svg.replace("url(#", f"url(#{prefix}")
