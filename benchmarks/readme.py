"""Put a report's table into a document.

    python -m tuneport.stages.benchmarks.readme demo/report

A report of `tuneport bench` goes to benchmarks/reports/demo.json, without folders of the machine, and its table between
the two marks in README.md; one of `tuneport bench-endpoint` to benchmarks/reports/endpoint.json and docs/benchmarks.md.
Report and document are committed together, and a test compares them.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneport.errors import TuneportError

from .command import one_line_errors
from .compare import read_report
from .endpoint.results import EndpointReport, LevelResult
from .report import Report, milliseconds

ROOT = Path(__file__).resolve().parents[1]
REPORTS = Path(__file__).resolve().parent / "reports"
END = "<!-- end of the table -->"
COLUMNS = ("", "accuracy", "agreement", "p50 ms", "p95 ms", "p99 ms", "texts/s", "size", "speed-up", "against")


@dataclass(frozen=True)
class Place:
    """Where a committed report's table is."""

    document: Path
    committed: Path

    @property
    def begin(self) -> str:
        """Return the mark before the table."""
        return f"<!-- table of benchmarks/reports/{self.committed.name} -->"


ENGINE = Place(ROOT / "README.md", REPORTS / "demo.json")
ENDPOINT = Place(ROOT / "docs" / "benchmarks.md", REPORTS / "endpoint.json")


def place_of(report: Report | EndpointReport) -> Place:
    """Return the place of a report's table."""
    return ENGINE if isinstance(report, Report) else ENDPOINT


def table_of(report: Report | EndpointReport) -> str:
    """Return the report's table in Markdown, with the columns that fit into a page, padded to be read as text."""
    if isinstance(report, EndpointReport):
        return _padded(_endpoint_lines(report))
    header, rows = report.cells()
    picked = [header.index(name) for name in COLUMNS]
    return _padded([[row[i] for i in picked] for row in (header, *rows)])


def without_folders(report: Report | EndpointReport) -> Report | EndpointReport:
    """Return the report without folders of the machine that made it: its data by name, and no settings."""
    if isinstance(report, EndpointReport):
        return report.model_copy(update={"config": {}})
    data = report.data and report.data.model_copy(update={"source": Path(report.data.source).name})
    return report.model_copy(update={"data": data, "config": {}})


def with_table(text: str, table: str, begin: str) -> str:
    """Return the text with a table between the marks; raises TuneportError if there is not one of each, in order."""
    before, found_begin, rest = text.partition(begin)
    _, end, after = rest.partition(END)
    if not (found_begin and end) or begin in after or END in before:
        raise TuneportError("the document has not one place for the table", f"write {begin} and {END} into it")
    return f"{before}{begin}\n\n{table}\n\n{END}{after}"


def _endpoint_lines(report: EndpointReport) -> list[list[str]]:
    """Return a row for each server: its rates, and p99 at the most connections."""
    connections = [level.connections for level in report.results[0].levels]
    header = ["", *(f"requests/s at {count}" for count in connections), f"p99 ms at {connections[-1]}"]
    lines = [[*header, "CPU ms/request", "ready s", "MiB", "agreement"]]
    for result in report.results:
        last = result.levels[-1]
        line = [result.name, *(_rate(level) for level in result.levels), milliseconds(last.latency_ms_p99)]
        line += [f"{last.cpu_ms_per_request:.1f}", f"{result.ready_s:.1f}", f"{result.total_mib:.0f}"]
        lines.append([*line, f"{result.agreement:.0%}"])
    return lines


def _rate(level: LevelResult) -> str:
    return f"{level.requests_per_s:.0f}"


def _padded(lines: Sequence[Sequence[str]]) -> str:
    """Format lines, the first of which is the header, as a Markdown table of one width."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (aligned[0], rule, *aligned[1:]))


def main() -> None:
    """Update a document and the committed report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path, help="a report of `tuneport bench` or bench-endpoint, or its folder")
    folder = parser.parse_args().report
    with one_line_errors():
        report = read_report(folder)
        place = place_of(report)
        text = with_table(place.document.read_text(encoding="utf-8"), table_of(report), place.begin)
    place.committed.parent.mkdir(exist_ok=True)
    place.committed.write_text(without_folders(report).model_dump_json(indent=2) + "\n", encoding="utf-8")
    place.document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
