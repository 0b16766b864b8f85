"""What the endpoint benchmark found: JSON for programs, a table for people, a picture for slides."""

from pathlib import Path

from benchmarks.report import PICTURE, REPORT, TABLE
from export.machine import Frozen, Machine

MOST_CLIENT_SHARE = 0.5
"""Of one processor; a load that uses more may be what is measured."""


class Level(Frozen):
    """One contender under a closed loop of some connections; the median of the rounds, percentiles of them all."""

    connections: int
    requests_per_s: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    errors: int
    """Answers other than 200, and connections that broke."""
    cpu_ms_per_request: float
    """Of all processes of the server."""
    padding_share: float | None
    """Of the tokens that the engine computed; None where the server does not say."""
    client_cpu_share: float
    """Processors that the load used; at most `MOST_CLIENT_SHARE` of one, or it may be what was measured."""


class Standing(Frozen):
    """One contender."""

    name: str
    agreement: float
    """Share of the golden cases to which it answers what torch does."""
    changed_under_load: int
    """Answers of the sample that load changed."""
    ready_s: float
    """From the command to /readyz; median of the rounds."""
    worker_mib: float
    """Resident memory of its largest process after the load; the largest of the rounds."""
    total_mib: float
    levels: tuple[Level, ...]


class Ceiling(Frozen):
    """The load against a server that does nothing."""

    connections: int
    requests_per_s: float
    client_cpu_ms_per_request: float


class Overload(Frozen):
    """Tuneport's HTTP door in an open loop at twice its best."""

    offered_per_s: float
    goodput_per_s: float
    best_per_s: float
    latency_ms_p99: float
    """Of those that were accepted."""
    full_load_ms_p99: float
    statuses: dict[int, int]


class Short(Frozen):
    """One connection asking for one short text, beside the engine alone."""

    tokens: int
    latency_ms_p50: float
    engine_ms_p50: float
    cpu_ms_per_request: float
    engine_cpu_ms: float


class EndpointReport(Frozen):
    """report.json."""

    name: str
    version: str
    variant: str
    texts: int
    mean_tokens: float
    source: str
    machine: Machine
    config: dict[str, object]
    git_commit: str | None
    created: str
    standings: tuple[Standing, ...]
    ceilings: tuple[Ceiling, ...]
    overload: Overload | None
    short: Short | None
    notes: tuple[str, ...]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the table: its head and its rows, as text."""
        head = ["", "connections", "requests/s", "p50 ms", "p95 ms", "p99 ms", "errors", "CPU ms/request", "padding"]
        rows = [
            [
                standing.name,
                str(level.connections),
                f"{level.requests_per_s:.0f}",
                f"{level.latency_ms_p50:.1f}",
                f"{level.latency_ms_p95:.1f}",
                f"{level.latency_ms_p99:.1f}",
                str(level.errors),
                f"{level.cpu_ms_per_request:.2f}",
                "" if level.padding_share is None else f"{level.padding_share:.1%}",
            ]
            for standing in self.standings
            for level in standing.levels
        ]
        return head, rows

    def server_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the second table: what does not depend on the number of connections."""
        head = ["", "like torch", "changed under load", "ready s", "worker MiB", "all processes MiB"]
        rows = [
            [
                each.name,
                f"{each.agreement:.1%}",
                str(each.changed_under_load),
                f"{each.ready_s:.1f}",
                f"{each.worker_mib:.0f}",
                f"{each.total_mib:.0f}",
            ]
            for each in self.standings
        ]
        return head, rows

    def remarks(self) -> list[str]:
        """Say the rest in sentences."""
        lines = [
            f"{self.texts} texts of {self.source}, {self.mean_tokens:g} tokens on average, variant {self.variant}; "
            f"{self.machine.cpu}, {self.machine.cores} cores ({', '.join(self.machine.instructions)}), shared by the "
            "server and the load."
        ]
        if self.short:
            lines.append(
                f"A text of {self.short.tokens} tokens on one connection: p50 {self.short.latency_ms_p50:.2f} ms and "
                f"{self.short.cpu_ms_per_request:.2f} ms of processor time; the engine alone "
                f"{self.short.engine_ms_p50:.2f} ms and {self.short.engine_cpu_ms:.2f} ms."
            )
        if self.overload:
            over = self.overload
            lines.append(
                f"Offered {over.offered_per_s:.0f} requests/s, twice its best: {over.goodput_per_s:.0f}/s answered "
                f"({over.goodput_per_s / over.best_per_s:.0%} of the best), p99 of the accepted "
                f"{over.latency_ms_p99:.0f} ms ({over.full_load_ms_p99:.0f} ms at full load); "
                f"statuses {over.statuses}."
            )
        lines += [
            f"The load alone at {each.connections} connections: {each.requests_per_s:.0f} requests/s, "
            f"{each.client_cpu_ms_per_request:.3f} ms of processor time a request."
            for each in self.ceilings
        ]
        lines += [
            f"{standing.name} at {level.connections} connections: the load used {level.client_cpu_share:.0%} of a "
            "processor and may be what was measured."
            for standing in self.standings
            for level in standing.levels
            if level.client_cpu_share > MOST_CLIENT_SHARE
        ]
        return [*lines, *self.notes]


def write_endpoint_report(folder: Path, report: EndpointReport) -> None:
    """Write the three files."""
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    parts = [f"# {report.name} {report.version}: the endpoint", _table(*report.cells()), _table(*report.server_cells())]
    (folder / TABLE).write_text("\n\n".join([*parts, *report.remarks()]) + "\n", encoding="utf-8")
    _draw(folder / PICTURE, report)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _draw(file: Path, report: EndpointReport) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for standing in report.standings:
        connections = [str(level.connections) for level in standing.levels]
        style: dict[str, object] = {"marker": "o", "linestyle": "-" if standing.name.startswith("tuneport") else "--"}
        left.plot(connections, [level.requests_per_s for level in standing.levels], label=standing.name, **style)
        right.plot(connections, [level.latency_ms_p99 for level in standing.levels], **style)
    left.set_ylabel("requests/s (more is better)")
    left.set_ylim(bottom=0)
    right.set_ylabel("p99 ms (less is better)")
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("connections")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(f"{report.name} ({report.variant}) on {report.machine.cores} cores, the load included", fontsize=11)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
