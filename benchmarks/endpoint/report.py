"""The report of the endpoint benchmark: JSON, Markdown tables, a page and a picture."""

from pathlib import Path

from ..page import Cells, Page, write_page
from ..report import HTML, PICTURE, markdown_table, milliseconds, write_json_and_table
from .pictures import endpoint_figures
from .results import EndpointReport, LevelResult

MAX_CLIENT_CPU_SHARE = 0.5
"""Of one core; a load generator that needs more may be what limits the throughput."""


def write_endpoint_report(folder: Path, report: EndpointReport) -> None:
    """Write report.json, report.md, report.html and report.png."""
    title = f"{report.name} {report.version}: the endpoint"
    tables: list[tuple[str, Cells]] = [("Closed loop", level_cells(report)), ("Servers", server_cells(report))]
    if report.rate_searches:
        objective = f"Open loop: the highest rate with p99 within {report.rate_searches[0].slo_p99_ms:g} ms"
        tables.append((objective, rate_cells(report)))
    parts = [f"# {title}", *(f"## {name}\n\n{markdown_table(*cells)}" for name, cells in tables), *remarks(report)]
    write_json_and_table(folder, report, parts)
    figures = endpoint_figures(report)
    figures[0].picture.savefig(folder / PICTURE, dpi=120)
    page = Page(title=title, tables=tuple(tables), paragraphs=tuple(remarks(report)), figures=figures)
    write_page(folder / HTML, page)


def level_cells(report: EndpointReport) -> Cells:
    """Return the table with a row for each server and number of connections."""
    header = ["", "connections", "requests/s", "p50 ms", "p95 ms", "p99 ms"]
    header += ["p99.9 ms", "errors", "CPU ms/request", "load cores", "padding"]
    header += ["GPU busy", "J/1000"] if report.device == "cuda" else []
    rows = [
        [
            result.name,
            str(level.connections),
            _rate(level),
            f"{level.latency_ms_p50:.1f}",
            f"{level.latency_ms_p95:.1f}",
            milliseconds(level.latency_ms_p99),
            milliseconds(level.latency_ms_p999),
            str(level.errors),
            f"{level.cpu_ms_per_request:.2f}",
            f"{level.client_cpu_share:.2f}",
            "" if level.padding_share is None else f"{level.padding_share:.1%}",
            *(_gpu_cells(level) if report.device == "cuda" else ()),
        ]
        for result in report.results
        for level in result.levels
    ]
    return header, rows


def server_cells(report: EndpointReport) -> Cells:
    """Return the table with a row for each server: what does not depend on the number of connections."""
    header = ["", "agreement", "changed under load", "ready s", "worker MiB", "all processes MiB"]
    header += ["GPU MiB"] if report.device == "cuda" else []
    rows = [
        [
            result.name,
            f"{result.agreement:.1%}",
            str(result.changed_under_load),
            f"{result.ready_s:.1f}",
            f"{result.worker_mib:.0f}",
            f"{result.total_mib:.0f}",
            *([_number(result.gpu_memory_mib)] if report.device == "cuda" else []),
        ]
        for result in report.results
    ]
    return header, rows


def rate_cells(report: EndpointReport) -> Cells:
    """Return the table with a row for each server: the highest rate that holds the latency objective."""
    rows = []
    for search in report.rate_searches:
        held = [rate for rate in search.rates if rate.holds]
        best = max(held, key=lambda rate: rate.offered_per_s, default=None)
        share = max(rate.client_cpu_share for rate in search.rates)
        rows.append(
            [
                search.name,
                "none" if search.highest_per_s is None else f"{search.highest_per_s:.0f}",
                milliseconds(best.latency_ms_p50 if best else None),
                milliseconds(best.latency_ms_p99 if best else None),
                f"{share:.2f}",
            ]
        )
    return ["", "requests/s", "p50 ms", "p99 ms", "load cores"], rows


def _rate(level: LevelResult) -> str:
    """Write the requests/s with their confidence interval."""
    if level.requests_per_s_interval is None:
        return f"{level.requests_per_s:.0f}"
    low, high = level.requests_per_s_interval
    return f"{level.requests_per_s:.0f} [{low:.0f}, {high:.0f}]"


def _gpu_cells(level: LevelResult) -> tuple[str, str]:
    utilization = "" if level.gpu_utilization is None else f"{level.gpu_utilization:.0%}"
    return utilization, _number(level.energy_j_per_1000_requests)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def remarks(report: EndpointReport) -> list[str]:
    """Return what is not in the tables, a paragraph each."""
    return [
        _inputs_remark(report),
        *_short_text_remarks(report),
        _overload_remark(report),
        *_client_remarks(report),
        *([report.machine.describe()] if report.machine else []),
        *report.notes,
    ]


def _inputs_remark(report: EndpointReport) -> str:
    return (
        f"{report.num_inputs} texts of {report.source}, {report.mean_tokens:g} tokens on average, "
        f"variant {report.variant}; {_gpu(report)}{report.host.cpu}, {report.host.cores} cores "
        f"({', '.join(report.host.instructions)}), shared by the server and the load generator."
    )


def _gpu(report: EndpointReport) -> str:
    if report.device == "cpu":
        return ""
    gpus = report.host.gpus
    name = gpus[0].name if gpus else "a GPU that NVML does not name"
    return f"{name}, driver {report.host.driver}; "


def _short_text_remarks(report: EndpointReport) -> list[str]:
    short = report.short_text
    if short is None:
        return []
    return [
        f"A text of {short.tokens} tokens on one connection: p50 {short.latency_ms_p50:.2f} ms and "
        f"{short.cpu_ms_per_request:.2f} ms of CPU time; the engine alone "
        f"{short.engine_ms_p50:.2f} ms and {short.engine_cpu_ms:.2f} ms."
    ]


def _overload_remark(report: EndpointReport) -> str:
    over = report.overload
    return (
        f"Offered {over.offered_per_s:.0f} requests/s, twice its best: {over.goodput_per_s:.0f}/s answered "
        f"({over.goodput_per_s / over.best_per_s:.0%} of the best), p99 of the accepted "
        f"{milliseconds(over.latency_ms_p99)} ms ({milliseconds(over.full_load_ms_p99)} ms at full load); "
        f"statuses {over.statuses}."
    )


def _client_remarks(report: EndpointReport) -> list[str]:
    ceilings = [
        f"The load generator alone at {each.connections} connections: {each.requests_per_s:.0f} requests/s, "
        f"{each.client_cpu_ms_per_request:.3f} ms of CPU time a request."
        for each in report.client_ceilings
    ]
    limits = [
        f"{result.name} at {level.connections} connections: the load generator used {level.client_cpu_share:.0%} "
        "of a core and may limit the throughput."
        for result in report.results
        for level in result.levels
        if level.client_cpu_share > MAX_CLIENT_CPU_SHARE
    ]
    limits += [
        f"{search.name} in the open loop: the load generator used {share:.0%} of a core and may limit the rate."
        for search in report.rate_searches
        if (share := max(rate.client_cpu_share for rate in search.rates)) > MAX_CLIENT_CPU_SHARE
    ]
    return [*ceilings, *limits]
