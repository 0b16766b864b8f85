"""The report of the endpoint benchmark: JSON, Markdown tables and a picture."""

from pathlib import Path

from ..report import PICTURE, REPORT, TABLE, markdown_table
from .results import EndpointReport, LevelResult

MAX_CLIENT_CPU_SHARE = 0.5
"""Of one core; a load generator that needs more may be what limits the throughput."""
OWN_PREFIX = "tuneport"
Cells = tuple[list[str], list[list[str]]]
"""The header of a table, and its rows."""


def write_endpoint_report(folder: Path, report: EndpointReport) -> None:
    """Write report.json, report.md and report.png."""
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    title = f"# {report.name} {report.version}: the endpoint"
    tables = markdown_table(*level_cells(report)), markdown_table(*server_cells(report))
    (folder / TABLE).write_text("\n\n".join([title, *tables, *remarks(report)]) + "\n", encoding="utf-8")
    _draw(folder / PICTURE, report)


def level_cells(report: EndpointReport) -> Cells:
    """Return the table with a row for each server and number of connections."""
    header = ["", "connections", "requests/s", "p50 ms", "p95 ms", "p99 ms", "errors", "CPU ms/request", "padding"]
    header += ["GPU busy", "J/1000"] if report.device == "cuda" else []
    rows = [
        [
            result.name,
            str(level.connections),
            f"{level.requests_per_s:.0f}",
            f"{level.latency_ms_p50:.1f}",
            f"{level.latency_ms_p95:.1f}",
            f"{level.latency_ms_p99:.1f}",
            str(level.errors),
            f"{level.cpu_ms_per_request:.2f}",
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
        f"{over.latency_ms_p99:.0f} ms ({over.full_load_ms_p99:.0f} ms at full load); statuses {over.statuses}."
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
    return [*ceilings, *limits]


def _draw(file: Path, report: EndpointReport) -> None:
    """Draw throughput and p99 latency over the number of connections, side by side."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for result in report.results:
        connections = [str(level.connections) for level in result.levels]
        style: dict[str, object] = {"marker": "o", "linestyle": "-" if result.name.startswith(OWN_PREFIX) else "--"}
        left.plot(connections, [level.requests_per_s for level in result.levels], label=result.name, **style)
        right.plot(connections, [level.latency_ms_p99 for level in result.levels], **style)
    left.set_ylabel("requests/s (more is better)")
    left.set_ylim(bottom=0)
    right.set_ylabel("p99 ms (less is better)")
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("connections")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{report.name} ({report.variant}) on {report.host.cores} cores, the load included", fontsize=11)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
