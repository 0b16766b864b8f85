"""The pictures of the endpoint benchmark."""

from matplotlib.figure import Figure

from ..page import ReportFigure
from ..pictures import legend_beside, new_figure, plain_ticks, styles
from .results import EndpointReport


def endpoint_figures(report: EndpointReport) -> tuple[ReportFigure, ...]:
    """Draw the pictures; the first is report.png."""
    figures = [
        ReportFigure(
            "Throughput and p99 over the number of connections",
            "A closed loop: each connection sends its next request when it has the answer to the last one. Throughput "
            "with 95 % confidence intervals.",
            _connections(report),
        ),
        ReportFigure(
            "Latency against throughput",
            "Each point is a number of connections: to the right and down is better.",
            _tradeoff(report),
        ),
        ReportFigure(
            "Latency distribution",
            f"Share of the requests answered within a time, at {report.results[0].levels[-1].connections} connections.",
            _distribution(report),
        ),
    ]
    if report.rate_searches:
        figures.append(
            ReportFigure(
                "Open loop: p99 over the rate of arrivals",
                "Requests arrive at random times, and latency counts from the arrival. The dashed line is the "
                "objective; a filled point holds it, a hollow one does not.",
                _rates(report),
            )
        )
    return tuple(figures)


def _connections(report: EndpointReport) -> Figure:
    figure, (left, right) = new_figure(11, 4.4, columns=2)
    for name, style in styles([result.name for result in report.results]).items():
        levels = next(result.levels for result in report.results if result.name == name)
        connections = [str(level.connections) for level in levels]
        rates = [level.requests_per_s for level in levels]
        intervals = [level.requests_per_s_interval or (level.requests_per_s,) * 2 for level in levels]
        errors = [
            [max(0.0, rate - low) for rate, (low, _) in zip(rates, intervals, strict=True)],
            [max(0.0, high - rate) for rate, (_, high) in zip(rates, intervals, strict=True)],
        ]
        left.errorbar(connections, rates, yerr=errors, label=name, capsize=3, **style)
        right.plot(connections, [level.latency_ms_p99 or level.latency_ms_p95 for level in levels], **style)
    left.set(xlabel="connections", ylabel="requests/s (more is better)", ylim=(0, None))
    right.set(xlabel="connections", ylabel="p99 ms (less is better)", yscale="log")
    plain_ticks(right)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"{report.name} ({report.variant}) on {report.host.cores} cores, the load included", fontsize=11)
    return figure


def _tradeoff(report: EndpointReport) -> Figure:
    figure, (axes,) = new_figure(9, 4.4)
    for name, style in styles([result.name for result in report.results]).items():
        levels = next(result.levels for result in report.results if result.name == name)
        axes.plot(
            [each.requests_per_s for each in levels], [each.latency_ms_p95 for each in levels], label=name, **style
        )
    axes.set(xlabel="requests/s", ylabel="p95 ms", yscale="log", xlim=(0, None))
    plain_ticks(axes)
    legend_beside(axes)
    return figure


def _distribution(report: EndpointReport) -> Figure:
    figure, (axes,) = new_figure(9, 4.4)
    for name, style in styles([result.name for result in report.results]).items():
        quantiles = next(each.levels[-1].latency_ms_quantiles for each in report.results if each.name == name)
        share = [100 * i / max(1, len(quantiles) - 1) for i in range(len(quantiles))]
        axes.plot(quantiles, share, label=name, markersize=3, **style)
    axes.set(xscale="log", xlabel="ms", ylabel="% of the requests answered", ylim=(0, 102))
    plain_ticks(axes)
    legend_beside(axes)
    return figure


def _rates(report: EndpointReport) -> Figure:
    figure, (axes,) = new_figure(9, 4.4)
    for name, style in styles([search.name for search in report.rate_searches]).items():
        search = next(each for each in report.rate_searches if each.name == name)
        rates = sorted((each for each in search.rates if each.latency_ms_p99), key=lambda each: each.offered_per_s)
        offered, p99 = [each.offered_per_s for each in rates], [each.latency_ms_p99 or 0.0 for each in rates]
        faces = [style["color"] if each.holds else "white" for each in rates]
        axes.plot(offered, p99, color=style["color"], linestyle=style["linestyle"], linewidth=1)
        axes.scatter(offered, p99, marker=style["marker"], facecolors=faces, edgecolors=style["color"], label=name)
    axes.axhline(report.rate_searches[0].slo_p99_ms, color="0.3", linestyle="--", linewidth=1)
    axes.set(xlabel="arrivals/s", ylabel="p99 ms", yscale="log", xlim=(0, None))
    plain_ticks(axes)
    legend_beside(axes)
    return figure
