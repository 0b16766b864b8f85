"""The pictures of the scaling benchmark."""

from matplotlib.figure import Figure

from .page import ReportFigure
from .pictures import legend_beside, new_figure, plain_ticks, styles
from .scaling_report import ScalingReport

SHOWN_TOKENS = 128
"""Length of the inputs in the picture of model sizes."""


def scaling_figures(report: ScalingReport) -> tuple[ReportFigure, ...]:
    """Draw latency over length of the largest model, throughput over the batch, and latency over the model's size."""
    largest = report.sizes[-1]
    shapes = {result.name: result.shapes for result in largest.report.results}
    lengths = {name: [(each.tokens, each.latency_ms) for each in all_] for name, all_ in _where(shapes, rows=1).items()}
    batches = {
        name: [(each.rows, 1000 * each.rows / each.latency_ms) for each in all_]
        for name, all_ in _where(shapes, tokens=32).items()
    }
    sizes: dict[str, list[tuple[float, float]]] = {}
    for size in report.sizes:
        for result in size.report.results:
            for each in result.shapes:
                if (each.rows, each.tokens) == (1, SHOWN_TOKENS):
                    sizes.setdefault(result.name, []).append((size.millions, each.latency_ms))
    streams: dict[str, list[tuple[float, float]]] = {}
    for timing in largest.streams:
        streams.setdefault(timing.variant, []).append((timing.streams, timing.texts_per_s))
    model = f"{largest.millions} M parameters"
    return (
        ReportFigure("Latency over input length", f"One input, {model}.", _lines(lengths, "tokens of the input", "ms")),
        ReportFigure(
            "Throughput over batch", f"Rows of 32 tokens, {model}.", _lines(batches, "rows of a batch", "texts/s")
        ),
        ReportFigure(
            "Throughput over streams", f"Cores divided among streams, {model}.", _lines(streams, "streams", "texts/s")
        ),
        ReportFigure(
            "Latency over model size",
            f"One input of {SHOWN_TOKENS} tokens.",
            _lines(sizes, "millions of parameters", "ms"),
        ),
    )


def _where(shapes: dict[str, tuple], **fields: int) -> dict[str, list]:  # type: ignore[type-arg]
    return {
        name: [each for each in all_ if all(getattr(each, field) == value for field, value in fields.items())]
        for name, all_ in shapes.items()
    }


def _lines(series: dict[str, list[tuple[float, float]]], label: str, unit: str) -> Figure:
    figure, (axes,) = new_figure(9, 4.2)
    for name, style in styles(list(series)).items():
        points = sorted(series[name])
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, markersize=5, **style)
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel=unit)
    plain_ticks(axes)
    ticks = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    legend_beside(axes)
    return figure
