"""Write the report of the engine benchmark: JSON, Markdown tables, a page and a picture."""

from pathlib import Path

from .page import Page, write_page
from .pictures import engine_figures
from .report import HTML, PICTURE, Report, check_one_device, markdown_table, write_json_and_table


def write_report(folder: Path, report: Report) -> None:
    """Write report.json, report.md, report.html and report.png; raises TuneportError if the report mixes devices."""
    check_one_device(report.results)
    title = f"{report.name} {report.version}"
    tables = [markdown_table(*report.cells())]
    shapes = report.shape_cells()
    if shapes[1]:
        tables.append("Milliseconds for a batch of a fixed shape:\n\n" + markdown_table(*shapes))
    parts = [f"# {title}", tables[0], report.caption(), *report.remarks(), *tables[1:]]
    write_json_and_table(folder, report, parts)
    figures = engine_figures(report)
    figures[0].picture.savefig(folder / PICTURE, dpi=120)
    page = Page(
        title=title,
        tables=(("Results", report.cells()), *((("Batches of fixed shape, ms", shapes),) if shapes[1] else ())),
        paragraphs=(report.caption(), *report.remarks()),
        figures=figures,
    )
    write_page(folder / HTML, page)
