"""The records of the scaling benchmark, and its tables."""

from collections.abc import Callable
from typing import Literal

from tuneport.host import Host
from tuneport.schema.base import Frozen

from .machine import MachineState
from .page import Cells
from .shapes import ShapeTiming


class CoresTiming(Frozen):
    """One variant with the cores divided among streams, or among workers."""

    variant: str
    count: int
    """Streams or workers."""
    texts_per_s: float


class SizeResult(Frozen):
    """One model."""

    millions: int
    """Parameters that were aimed at."""
    layers: int
    hidden_size: int
    shapes: dict[str, tuple[ShapeTiming, ...]]
    """Target → lengths and batches."""
    streams: tuple[CoresTiming, ...]
    workers: tuple[CoresTiming, ...]
    left_out: tuple[str, ...] = ()
    """Variants that could not be built, each with its reason."""


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
    seconds: float
    """That the whole run took."""


def scaling_tables(report: ScalingReport) -> tuple[tuple[str, Cells], ...]:
    """Return the tables of lengths, batches, streams and workers, a row for each size and target."""
    lengths = _shape_cells(report, "tokens", lambda rows, tokens: tokens if rows == 1 else None)
    batches = _shape_cells(report, "rows of 32 tokens", lambda rows, tokens: rows if tokens == 32 else None)
    return (
        ("Milliseconds for one input, by its length", lengths),
        ("Milliseconds for a batch, by its rows", batches),
        ("Texts/s by the number of streams", _cores_cells(report, "streams", lambda size: size.streams)),
        ("Texts/s by the number of workers", _cores_cells(report, "workers", lambda size: size.workers)),
    )


def _cores_cells(
    report: ScalingReport, title: str, timings_of: Callable[[SizeResult], tuple[CoresTiming, ...]]
) -> Cells:
    counts = sorted({each.count for size in report.sizes for each in timings_of(size)})
    rows = []
    for size in report.sizes:
        rates = {(each.variant, each.count): each.texts_per_s for each in timings_of(size)}
        for name in dict.fromkeys(variant for variant, _ in rates):
            rows.append([f"{size.millions} M {name}", *(_number(rates.get((name, count))) for count in counts)])
    return [title, *map(str, counts)], rows


def _shape_cells(report: ScalingReport, title: str, pick: Callable[[int, int], int | None]) -> Cells:
    found = {
        (size.millions, name, at): shape.latency_ms
        for size in report.sizes
        for name, shapes in size.shapes.items()
        for shape in shapes
        if (at := pick(shape.rows, shape.tokens)) is not None
    }
    columns = sorted({at for *_, at in found})
    rows = [
        [f"{size.millions} M {name}", *(_number(found.get((size.millions, name, at))) for at in columns)]
        for size in report.sizes
        for name in size.shapes
    ]
    return [title, *map(str, columns)], rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
