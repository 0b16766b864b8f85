"""A benchmark's report: a table for people, JSON for programs, a picture for slides."""

from pathlib import Path

from export.machine import Frozen, Machine
from export.manifest import DataSource, Metric, Timing

REPORT, TABLE, PICTURE = "report.json", "report.md", "report.png"


class Result(Frozen):
    """One contender."""

    name: str
    metric: Metric | None
    agreement: float
    """With torch fp32, golden cases included."""
    size_bytes: int | None
    """Of the variant's files; None for torch."""
    timing: Timing


class Report(Frozen):
    """report.json."""

    name: str
    version: str
    default_variant: str
    data: DataSource | None
    split: str
    mean_tokens: float
    machine: Machine
    config: dict[str, object]
    git_commit: str | None
    created: str
    results: tuple[Result, ...]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the table: its head and its rows, as text."""
        metric = self.results[0].metric
        head = [
            "",
            metric.name if metric else "metric",
            "agreement",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "texts/s",
            "size",
            "speed-up",
        ]
        rows = []
        for result in self.results:
            timing = result.timing
            rows.append(
                [
                    f"{result.name} *" if result.name == self.default_variant else result.name,
                    f"{result.metric.value:.4f}" if result.metric else "no data",
                    f"{result.agreement:.2%}",
                    f"{timing.latency_ms_p50:.1f}",
                    f"{timing.latency_ms_p95:.1f}",
                    f"{timing.latency_ms_p99:.1f}",
                    f"{timing.texts_per_s:.0f}",
                    f"{result.size_bytes / 1e6:.1f} MB" if result.size_bytes else "",
                    f"{timing.speed_up:.2f} x",
                ]
            )
        return head, rows

    def caption(self) -> str:
        """Say what was measured, and where."""
        machine = self.machine
        texts = self.results[0].timing.texts
        source = Path(self.data.source).name if self.data else "no data"
        return (
            f"{texts} texts of {source} ({self.split}), {self.mean_tokens:g} tokens on average; "
            f"{machine.cpu}, {machine.cores} cores ({', '.join(machine.instructions)}). Latency: one text at a time. "
            "Texts/s: in micro-batches of like length. * serves by default."
        )


def write_report(folder: Path, report: Report) -> None:
    """Write the three files."""
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    head, rows = report.cells()
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    text = f"# {report.name} {report.version}\n\n{table}\n\n{report.caption()}\n"
    (folder / TABLE).write_text(text, encoding="utf-8")
    _draw(folder / PICTURE, report)


def _draw(file: Path, report: Report) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = [result.name for result in report.results]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 0.5 * len(names) + 1.6), layout="constrained")
    colours = ["#b8b8b8" if name.startswith("torch") else "#2a6f97" for name in names]
    left.barh(names, [result.timing.texts_per_s for result in report.results], color=colours)
    left.set_xlabel("texts/s (more is better)")
    right.barh(names, [result.timing.latency_ms_p95 for result in report.results], color="#e3e3e3", label="p95")
    right.barh(names, [result.timing.latency_ms_p50 for result in report.results], color=colours, label="p50")
    right.set_xlabel("latency of one text, ms: p50, and p95 in light grey (less is better)")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report.name} on {report.machine.cores} cores", fontsize=11)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
