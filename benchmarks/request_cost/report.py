"""The report of the benchmark of the cost of a request: JSON and a Markdown table."""

from pathlib import Path

from ..report import markdown_table, write_json_and_table
from .config import RequestCostReport, ServerResult

HEADER = [
    "", "requests/s", "of bare", "CPU ms/request", "p50 ms", "above the engine", "texts/s", "of the engine",
    "ready s", "worker MiB", "above the engine", "errors",
]  # fmt: skip


def write_report(folder: Path, report: RequestCostReport) -> None:
    """Write report.json and report.md."""
    rows = [_row(report, server) for server in report.servers]
    parts = [
        f"# The cost of a request: {report.model}",
        markdown_table(HEADER, rows),
        _caption(report),
        _layers(report),
    ]
    write_json_and_table(folder, report, parts)


def _row(report: RequestCostReport, server: ServerResult) -> list[str]:
    bare, engine = report.servers[0], report.engine
    return [
        server.name,
        f"{server.requests_per_s:.0f}",
        f"{server.requests_per_s / bare.requests_per_s:.2f}",
        f"{server.cpu_ms_per_request:.3f}",
        f"{server.latency_ms_p50:.2f}",
        f"{server.latency_ms_p50 - engine.latency_ms_p50:.2f}",
        f"{server.texts_per_s:.0f}" if server.texts_per_s is not None else "",
        f"{server.texts_per_s / engine.texts_per_s:.2f}" if server.texts_per_s is not None else "",
        f"{server.ready_s:.2f}",
        f"{server.worker_mib:.0f}",
        f"{server.worker_mib - engine.memory_mib:.0f}",
        f"{server.errors}",
    ]


def _layers(report: RequestCostReport) -> str:
    rows = [[layer.name, f"{layer.cpu_us:.0f}"] for layer in report.layers]
    return (
        markdown_table(["layer of a request over HTTP", "processor time µs"], rows)
        + "\n\nEach layer alone, in one process: a request of one text, with an engine that answers at once, and the "
        "engine. HTTP and the whole request under 32 connections."
    )


def _caption(report: RequestCostReport) -> str:
    config, engine, host = report.config, report.engine, report.host
    return (
        f"Requests/s and processor time: one text of 16 tokens a request, {config.connections} connections. p50: one "
        f"connection. Texts/s: {config.texts} texts a request, 4 connections. Medians of {config.rounds} rounds, "
        f"{config.seconds:g} s of load each, the servers in turn; the load generator shares the processors.\n\n"
        f"The engine alone, in one process: p50 {engine.latency_ms_p50:g} ms, {engine.texts_per_s:.0f} texts/s in "
        f"batches of {config.texts} ({engine.texts_per_s_from_text:.0f} from text to label), "
        f"{engine.memory_mib:g} MiB. {host.cpu}, {host.cores} cores."
    )
