"""Put a report's table into README.md.

    python -m tuneport.stages.benchmarks.readme demo/report

Writes the report to benchmarks/reports/demo.json, without folders of the machine, and its table between the two marks
in README.md; both are committed together, and a test compares them.
"""

import argparse
import sys
from pathlib import Path

from tuneport.errors import TuneportError

from .compare import read_report
from .report import Report

ROOT = Path(__file__).resolve().parents[1]
README, COMMITTED = ROOT / "README.md", Path(__file__).resolve().parent / "reports" / "demo.json"
BEGIN, END = "<!-- table of benchmarks/reports/demo.json -->", "<!-- end of the table -->"
COLUMNS = ("", "accuracy", "agreement", "p50 ms", "p95 ms", "p99 ms", "texts/s", "size", "speed-up", "against")


def table_of(report: Report) -> str:
    """Return the report's table in Markdown, with the columns that fit into a page, padded to be read as text."""
    header, rows = report.cells()
    picked = [header.index(name) for name in COLUMNS]
    lines = [[row[i] for i in picked] for row in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(picked))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (aligned[0], rule, *aligned[1:]))


def without_folders(report: Report) -> Report:
    """Return the report without folders of the machine that made it: its data by name, and no settings."""
    data = report.data and report.data.model_copy(update={"source": Path(report.data.source).name})
    return report.model_copy(update={"data": data, "config": {}})


def with_table(text: str, table: str) -> str:
    """Return the text with a table between the marks; raises TuneportError if there is not one of each, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in after or END in before:
        raise TuneportError(f"{README.name} has not one place for the table", f"write {BEGIN} and {END} into it")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def main() -> None:
    """Update README.md and the committed report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path, help="a report of `tuneport bench`, report.json or its folder")
    folder = parser.parse_args().report
    try:
        report = read_report(folder)
        if not isinstance(report, Report):
            raise TuneportError(f"{folder} is no report of the variants", "give the report of `tuneport bench`")
        text = with_table(README.read_text(encoding="utf-8"), table_of(report))
    except TuneportError as error:
        sys.exit(f"error: {error}")
    COMMITTED.parent.mkdir(exist_ok=True)
    COMMITTED.write_text(without_folders(report).model_dump_json(indent=2) + "\n", encoding="utf-8")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
