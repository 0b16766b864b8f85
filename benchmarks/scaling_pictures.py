"""The pictures of the scaling benchmark."""

from typing import Literal

from matplotlib.figure import Figure

from .page import ReportFigure
from .pictures import legend_beside, new_figure, plain_ticks, styles
from .scaling_report import ScalingReport

Series = dict[str, list[tuple[float, float]]]
"""Name → points."""
SHOWN_TOKENS, BATCH_TOKENS = 128, 32
"""Length of the inputs in the picture of model sizes, and of the rows of batches."""


def scaling_figures(report: ScalingReport) -> tuple[ReportFigure, ...]:
    """Draw length, batch and cores of the largest model, and latency over the model's size."""
    largest = report.sizes[-1]
    lengths: Series = {
        name: [(each.tokens, each.latency_ms) for each in shapes if each.rows == 1]
        for name, shapes in largest.shapes.items()
    }
    batches: Series = {
        name: [(each.rows, 1000 * each.rows / each.latency_ms) for each in shapes if each.tokens == BATCH_TOKENS]
        for name, shapes in largest.shapes.items()
    }
    sizes: Series = {}
    for size in report.sizes:
        for name, shapes in size.shapes.items():
            shown = [each.latency_ms for each in shapes if (each.rows, each.tokens) == (1, SHOWN_TOKENS)]
            sizes.setdefault(name, []).extend((size.millions, latency_ms) for latency_ms in shown)
    cores: Series = {}
    for kind, timings in (("streams", largest.streams), ("workers", largest.workers)):
        for each in timings:
            cores.setdefault(f"{each.variant}, {kind}", []).append((each.count, each.texts_per_s))
    model = f"{largest.millions} M parameters"
    return (
        ReportFigure(
            "Latency over input length",
            f"Median latency of one input, {model}; both axes logarithmic.",
            _lines(lengths, "tokens of the input", "ms"),
        ),
        ReportFigure(
            "Throughput over batch",
            f"Rows of {BATCH_TOKENS} tokens, {model}; both axes logarithmic.",
            _lines(batches, "rows of a batch", "texts/s"),
        ),
        ReportFigure(
            "Throughput over streams and workers",
            f"The cores are divided among the streams of one process, or among processes, {model}.",
            _lines(cores, "streams or workers", "texts/s", scale="linear"),
        ),
        ReportFigure(
            "Latency over model size",
            f"One input of {SHOWN_TOKENS} tokens; both axes logarithmic.",
            _lines(sizes, "millions of parameters", "ms"),
        ),
    )


def _lines(series: Series, label: str, unit: str, *, scale: Literal["log", "linear"] = "log") -> Figure:
    figure, (axes,) = new_figure(9, 4.2)
    for name, style in styles(list(series)).items():
        points = sorted(series[name])
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, markersize=5, **style)
    axes.set(xscale=scale, yscale=scale, xlabel=label, ylabel=unit)
    plain_ticks(axes)
    if scale == "linear":
        axes.set_ylim(bottom=0)
    ticks = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    legend_beside(axes)
    return figure
