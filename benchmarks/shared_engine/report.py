"""The report of the benchmark: JSON and a Markdown table."""

from pathlib import Path

from ..report import markdown_table, write_json_and_table
from .config import CaseResult, SharedEngineReport

HEADER = [
    "engine", "workers", "requests/s", "of one worker", "p50 ms", "worker CPU ms/request", "engine CPU ms/request",
    "client CPU ms/request", "rows a batch", "worker MiB", "engine MiB", "errors",
]  # fmt: skip


def write_report(folder: Path, report: SharedEngineReport) -> None:
    """Write report.json and report.md."""
    rows = [_row(report, case) for case in report.cases]
    parts = [f"# Workers that share an engine: {report.model}", markdown_table(HEADER, rows), _caption(report)]
    write_json_and_table(folder, report, parts)


def _row(report: SharedEngineReport, case: CaseResult) -> list[str]:
    one = next(each for each in report.cases if (each.engine, each.workers) == (case.engine, 1))
    return [
        case.engine,
        f"{case.workers}",
        f"{case.requests_per_s:.0f}",
        f"{case.requests_per_s / one.requests_per_s:.2f}",
        f"{case.latency_ms_p50:.2f}",
        f"{case.worker_ms:.3f}",
        f"{case.engine_ms:.3f}",
        f"{case.client_ms:.3f}",
        f"{case.rows_per_batch:.1f}",
        f"{case.worker_mib:.0f}",
        f"{case.engine_mib:.0f}",
        f"{case.errors}",
    ]


def _caption(report: SharedEngineReport) -> str:
    config, host = report.config, report.host
    cpu_ms = [case.worker_ms + case.engine_ms + case.client_ms for case in report.cases]
    return (
        f"One text of 16 tokens a request, {config.connections} connections, batches of up to {config.batch_tokens} "
        f"tokens. Medians of {config.rounds} rounds, {config.seconds:g} s of load each; the load generator shares the "
        f"processors: {host.cpu}, {host.cores} cores.\n\n"
        "own: the engine is in the worker. shared: in one process for all workers. paced: the same, but the engine "
        f"stands for a GPU; it takes {config.batch_ms:g} ms a batch, and computes each text only once.\n\n"
        f"{host.cores} cores have {1000 * host.cores:.0f} ms of processor time a second. The services and their load "
        f"generator need {min(cpu_ms):.3f} to {max(cpu_ms):.3f} ms of it for a request, so that no number of workers "
        f"answers more than {1000 * host.cores / min(cpu_ms):.0f} requests/s here."
    )
