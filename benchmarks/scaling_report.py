"""The records of the scaling benchmark, and its tables."""

from collections.abc import Callable
from typing import Literal

from tuneport.host import Host
from tuneport.schema.base import Frozen

from .machine import MachineState
from .page import Cells
from .report import Report


class StreamTiming(Frozen):
    """One variant with its cores divided among streams."""

    variant: str
    streams: int
    texts_per_s: float


class SizeResult(Frozen):
    """One model."""

    millions: int
    """Parameters that were aimed at."""
    layers: int
    hidden_size: int
    report: Report
    """Of `tuneport bench`: the shapes are lengths and batches."""
    streams: tuple[StreamTiming, ...]


class ScalingReport(Frozen):
    """scaling.json."""

    schema_version: Literal[1] = 1
    kind: Literal["scaling"] = "scaling"
    host: Host
    machine: MachineState
    git_commit: str | None
    created: str
    sizes: tuple[SizeResult, ...]
    notes: tuple[str, ...]


def scaling_tables(report: ScalingReport) -> tuple[tuple[str, Cells], ...]:
    """Return the tables of lengths, batches and streams, a row for each size and target."""
    lengths = _shape_cells(report, "tokens", lambda rows, tokens: tokens if rows == 1 else None)
    batches = _shape_cells(report, "rows of 32 tokens", lambda rows, tokens: rows if tokens == 32 else None)
    counts = range(1, report.host.cores + 1)
    rates = {
        (size.millions, each.variant, each.streams): each.texts_per_s for size in report.sizes for each in size.streams
    }
    rows = [
        [f"{size.millions} M {name}", *(_number(rates.get((size.millions, name, count))) for count in counts)]
        for size in report.sizes
        for name in dict.fromkeys(each.variant for each in size.streams)
    ]
    return (
        ("Milliseconds for one input, by its length", lengths),
        ("Milliseconds for a batch, by its rows", batches),
        ("Texts/s by the number of streams", (["streams", *map(str, counts)], rows)),
    )


def _shape_cells(report: ScalingReport, title: str, pick: Callable[[int, int], int | None]) -> Cells:
    found = {
        (size.millions, result.name, at): shape.latency_ms
        for size in report.sizes
        for result in size.report.results
        for shape in result.shapes
        if (at := pick(shape.rows, shape.tokens)) is not None
    }
    columns = sorted({at for *_, at in found})
    rows = [
        [f"{size.millions} M {result.name}", *(_number(found.get((size.millions, result.name, at))) for at in columns)]
        for size in report.sizes
        for result in size.report.results
    ]
    return [title, *map(str, columns)], rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
