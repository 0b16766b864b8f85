"""The pictures of the engine benchmark."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .page import ReportFigure
from .report import ModelResult, Report

matplotlib.use("agg")

TORCH_COLOR, VARIANT_COLOR, P95_COLOR = "#9a9a9a", "#2a6f97", "#d5d5d5"
MARKERS = "osD^vP*Xhd<>"
"""In print the shape of a point tells what its color tells on a screen."""
MIN_SPAN = 0.02
"""Smallest range of the metric's axis, so that differences of a tenth of a point look small."""


def engine_figures(report: Report) -> tuple[ReportFigure, ...]:
    """Draw the pictures; the first is report.png."""
    figures = [
        ReportFigure(
            "Throughput and latency",
            "Texts/s in batches with 95 % confidence intervals; latency of one text at a time: p50, and p95 in light "
            "grey.",
            _bars(report),
        ),
        ReportFigure(
            "Latency distribution",
            "Share of the texts, one at a time, that were answered within a time.",
            _distribution(report.results),
        ),
        ReportFigure(
            "Throughput against latency",
            "Texts/s in batches over the median latency of one text: up and to the left is better.",
            _scatter(report.results, lambda result: result.timing.texts_per_s, "texts/s"),
        ),
    ]
    metric = report.results[0].metric
    figures.append(
        ReportFigure(
            "Quality against latency",
            "The task's metric, or the agreement with torch fp32, over the median latency of one text.",
            _scatter(
                report.results,
                lambda result: result.metric.value if result.metric else result.agreement,
                metric.name if metric else "agreement with torch fp32",
                min_span=MIN_SPAN,
            ),
        )
    )
    if any(shape.rows == 1 for shape in report.results[0].shapes):
        figures.append(
            ReportFigure(
                "Latency over input length",
                "Median latency of one input of a fixed length, both axes logarithmic.",
                _lengths(report.results),
            )
        )
    return tuple(figures)


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a picture whose labels are never cut off, with axes side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(color="0.92", linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a color and a marker for each name; torch is dashed."""
    colors = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
    colors = (*colors[::2], *colors[1::2])  # the ten dark ones first
    return {
        name: {
            "color": colors[number % len(colors)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": "--" if "torch" in name else "-",
        }
        for number, name in enumerate(names)
    }


def legend_beside(axes: Axes) -> None:
    """Put the legend to the right of the axes, where it hides no point."""
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9)


def _bars(report: Report) -> Figure:
    """Draw throughput and latency as horizontal bars, side by side."""
    names = [result.name for result in report.results]
    timings = [result.timing for result in report.results]
    colors = [TORCH_COLOR if result.torch else VARIANT_COLOR for result in report.results]
    figure, (left, right) = new_figure(10, 0.42 * len(names) + 1.6, columns=2)
    speeds = [timing.texts_per_s for timing in timings]
    intervals = [timing.texts_per_s_interval or (timing.texts_per_s,) * 2 for timing in timings]
    errors = [
        [max(0.0, speed - low) for speed, (low, _) in zip(speeds, intervals, strict=True)],
        [max(0.0, high - speed) for speed, (_, high) in zip(speeds, intervals, strict=True)],
    ]
    left.barh(names, speeds, color=colors, xerr=errors, error_kw={"elinewidth": 1, "capsize": 3})
    left.set_xlabel("texts/s (more is better)")
    right.barh(names, [timing.latency_ms_p95 or timing.latency_ms_p50 for timing in timings], color=P95_COLOR)
    right.barh(names, [timing.latency_ms_p50 for timing in timings], color=colors)
    right.set_xlabel("ms for one text (less is better)")
    right.set_yticklabels([])
    for axes in (left, right):
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
    gpus = report.host.gpus
    machine = gpus[0].name if report.device == "cuda" and gpus else f"{report.host.cores} cores"
    figure.suptitle(f"{report.name} on {machine}", fontsize=11)
    return figure


def _distribution(results: Sequence[ModelResult]) -> Figure:
    """Draw the cumulative distribution of single latencies; the highest tenth counts most, so its axis is free."""
    figure, (axes,) = new_figure(9, 4.2)
    for name, style in styles([result.name for result in results]).items():
        quantiles = next(result.timing.latency_ms_quantiles for result in results if result.name == name)
        share = [100 * i / max(1, len(quantiles) - 1) for i in range(len(quantiles))]
        axes.plot(quantiles, share, label=name, markersize=3, **style)
    axes.set(xscale="log", xlabel="ms for one text", ylabel="% of the texts answered", ylim=(0, 102))
    plain_ticks(axes)
    legend_beside(axes)
    return figure


def _scatter(results: Sequence[ModelResult], height: Any, label: str, min_span: float = 0.0) -> Figure:
    """Draw a figure of each target over its median latency, with the confidence interval of the latter."""
    figure, (axes,) = new_figure(9, 4.2)
    values = [height(result) for result in results]
    for name, style in styles([result.name for result in results]).items():
        result = next(each for each in results if each.name == name)
        timing = result.timing
        low, high = timing.latency_ms_p50_interval or (timing.latency_ms_p50,) * 2
        error = [[max(0.0, timing.latency_ms_p50 - low)], [max(0.0, high - timing.latency_ms_p50)]]
        point = {**style, "linestyle": "none"}
        axes.errorbar([timing.latency_ms_p50], [height(result)], xerr=error, label=name, capsize=3, **point)
    middle, half = (max(values) + min(values)) / 2, max((max(values) - min(values)) * 0.6, min_span / 2)
    if min_span:
        axes.set_ylim(middle - half, middle + half)
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set(xlabel="p50 ms for one text", ylabel=label)
    legend_beside(axes)
    return figure


def _lengths(results: Sequence[ModelResult]) -> Figure:
    figure, (axes,) = new_figure(9, 4.2)
    for name, style in styles([result.name for result in results]).items():
        shapes = next(result.shapes for result in results if result.name == name)
        single = sorted((shape.tokens, shape.latency_ms) for shape in shapes if shape.rows == 1)
        axes.plot([tokens for tokens, _ in single], [ms for _, ms in single], label=name, markersize=5, **style)
    axes.set(xscale="log", yscale="log", xlabel="tokens of the input", ylabel="ms")
    plain_ticks(axes)
    lengths = sorted({shape.tokens for shape in results[0].shapes if shape.rows == 1})
    axes.set_xticks(lengths, [str(length) for length in lengths])
    legend_beside(axes)
    return figure


def plain_ticks(axes: Axes) -> None:
    """Write the numbers of logarithmic axes in full, a few in each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
