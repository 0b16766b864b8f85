"""What the command line shows on a terminal: tables, and the step at hand."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table

from benchmarks.report import Report
from export.card import calibration, evidence, kept, long_inputs
from export.manifest import load_manifest

WIDEST = 1000


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], object]]:
    """Yield a function that is told each step: a spinner on a terminal, a line a step elsewhere."""
    console = Console(stderr=True)
    started = time.monotonic()
    if console.is_terminal:
        with console.status("starting") as status:
            yield lambda step: status.update(f"{step} ({time.monotonic() - started:.0f} s)")
    else:
        yield lambda step: print(f"[{time.monotonic() - started:5.1f} s] {step}", file=sys.stderr)


def show_report(report: Report) -> None:
    """Print a benchmark's table."""
    head, rows = report.cells()
    _print_table(head, rows, report.caption())


def show_artifact(folder: Path) -> None:
    """Print an artifact's evidence."""
    manifest = load_manifest(folder)
    made = manifest.provenance
    console = _console()
    console.print(f"[bold]{manifest.name}[/] {manifest.version}: {manifest.task}", highlight=False)
    if manifest.task in ("text-classification", "token-classification"):
        console.print(f"{len(manifest.labels)} labels: {', '.join(manifest.labels)}", highlight=False, markup=False)
    console.print(long_inputs(manifest), highlight=False)
    head, rows = evidence(manifest)
    parity = manifest.variants[0].parity
    _print_table(
        head,
        rows,
        f"{parity.golden_cases} golden cases and {parity.texts} validation inputs. "
        "* serves by default, † is beaten by another, ×2: in two streams, ¹: inputs run one at a time.",
    )
    lines = [
        f"default: {manifest.default_variant}, {manifest.default_because}",
        *kept(manifest),
        *(f"rejected: {rejected.name}: {rejected.reason}" for rejected in manifest.rejected),
        *calibration(manifest),
        f"measured on: {manifest.machine.cpu}, {manifest.machine.cores} cores",
        f"base model: {made.base_model or 'not recorded'}; checkpoint {made.checkpoint_sha256[:12]}; seed {made.seed}",
        f"data: {made.data.source}, {made.data.rows}, fingerprint {made.data.fingerprint[:12]}"
        if made.data
        else "data: none",
        f"made: {made.created}, code {made.git_commit or 'not in git'}",
        f"with: {', '.join(f'{name} {number}' for name, number in made.versions.items())}",
    ]
    for line in lines:
        console.print(line, highlight=False, markup=False)


def _print_table(head: list[str], rows: list[list[str]], caption: str) -> None:
    console = _console()
    table = Table(caption=caption, caption_justify="left")
    for i, title in enumerate(head):
        table.add_column(title, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    if Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum <= console.width:
        console.print(table)
        return
    for name, *cells in rows:  # cut off, figures would say nothing
        said = ", ".join(f"{title} {cell}" for title, cell in zip(head[1:], cells, strict=True) if cell)
        console.print(f"[bold]{name}[/]", highlight=False)
        console.print(Padding(said, (0, 0, 0, 2)), highlight=False, markup=False)
    console.print(caption, style="italic", highlight=False)


def _console() -> Console:
    """Wide enough for a table also where there is no terminal to measure."""
    console = Console()
    return console if console.is_terminal else Console(width=160)
