"""The report of the engine benchmark: JSON, a Markdown table and a picture."""

from collections.abc import Sequence
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.gpu import GpuUsage
from tuneport.host import Host
from tuneport.schema.artifact import Metric, Timing
from tuneport.schema.base import Frozen
from tuneport.schema.run import DataSource
from tuneport.schema.torch_setup import TorchDevice, TorchSetup

REPORT, TABLE, PICTURE = "report.json", "report.md", "report.png"
TORCH_COLOR, VARIANT_COLOR, P95_COLOR = "#b8b8b8", "#2a6f97", "#e3e3e3"
TORCH_PREFIX = "torch"


class ModelResult(Frozen):
    """What was measured of torch or of one variant."""

    name: str
    device: TorchDevice
    torch: TorchSetup | None
    """How torch ran; None for a variant."""
    compile_s: float | None
    """Seconds of `torch.compile`, which are in no timing."""
    metric: Metric | None
    agreement: float
    """Share of the golden cases and inputs with the prediction of torch fp32."""
    size_bytes: int | None
    """Size of the variant's files; None for torch."""
    max_batch_tokens: int
    """Padded tokens of the batches that throughput was measured with: the best of the same choice for every target."""
    timing: Timing
    gpu: GpuUsage


class Report(Frozen):
    """report.json."""

    name: str
    version: str
    default_variant: str
    data: DataSource | None
    split: str
    mean_tokens: float
    """Mean length of the timed rows, in tokens."""
    device: TorchDevice
    """What all targets ran on."""
    host: Host
    config: dict[str, object]
    git_commit: str | None
    created: str
    """UTC, ISO 8601."""
    results: tuple[ModelResult, ...]
    notes: tuple[str, ...] = ()
    """What takes no part, and why."""

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the table as text: its header, and a row for each result."""
        metric = self.results[0].metric
        metric_name = metric.name if metric else "metric"
        header = ["", metric_name, "agreement", "p50 ms", "p95 ms", "p99 ms", "texts/s", "size"]
        gpu_header = ["GPU MiB", "GPU busy", "J/1000 texts"] if self.device == "cuda" else []
        return [*header, *gpu_header, "speed-up", "against"], [self._row(result) for result in self.results]

    def caption(self) -> str:
        """Describe the inputs, the host, and how the columns were measured."""
        num_inputs = self.results[0].timing.texts
        source = Path(self.data.source).name if self.data else "no data"
        return (
            f"{num_inputs} texts of {source} ({self.split}), {self.mean_tokens:g} tokens on average; "
            f"{self._machine()}. Latency: one text at a time. Texts/s: in batches of similar length, of the size that "
            "is best for each target. Speed-up: against the fastest torch of the same precision class, of all for int8 "
            "and int4. * is the default variant."
        )

    def remarks(self) -> list[str]:
        """Return a sentence for each target that takes no part, and for each time of compilation."""
        compiled = [
            f"torch.compile took {result.compile_s:g} s for {result.name}, which are in no timing."
            for result in self.results
            if result.compile_s is not None
        ]
        return [*self.notes, *compiled]

    def _machine(self) -> str:
        """Name the processor, or the GPU, that everything ran on."""
        host = self.host
        processor = f"{host.cpu}, {host.cores} cores ({', '.join(host.instructions)})"
        if self.device == "cpu":
            return processor
        names = f"{host.gpus[0].name}, driver {host.driver}" if host.gpus else "a GPU that NVML does not name"
        return f"{names}; copies to the GPU and back are included; {processor}"

    def _row(self, result: ModelResult) -> list[str]:
        timing = result.timing
        return [
            f"{result.name} *" if result.name == self.default_variant else result.name,
            f"{result.metric.value:.4f}" if result.metric else "no data",
            f"{result.agreement:.2%}",
            f"{timing.latency_ms_p50:.1f}",
            f"{timing.latency_ms_p95:.1f}",
            f"{timing.latency_ms_p99:.1f}",
            f"{timing.texts_per_s:.0f}",
            f"{result.size_bytes / 1e6:.1f} MB" if result.size_bytes else "",
            *(_gpu_cells(result.gpu) if self.device == "cuda" else ()),
            f"{timing.speed_up:.2f} x",
            timing.baseline,
        ]


def check_one_device(results: Sequence[ModelResult]) -> None:
    """Raise TuneportError if the results are of several devices: their speeds are not comparable."""
    devices = {result.name: result.device for result in results}
    if len(set(devices.values())) > 1:
        named = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise TuneportError(f"the report mixes devices: {named}", "bench one device at a time, with --device")


def _gpu_cells(gpu: GpuUsage) -> tuple[str, str, str]:
    return (
        "" if gpu.memory_mib is None else f"{gpu.memory_mib:.0f}",
        "" if gpu.utilization is None else f"{gpu.utilization:.0%}",
        "" if gpu.energy_j_per_1000_texts is None else f"{gpu.energy_j_per_1000_texts:.1f}",
    )


def write_report(folder: Path, report: Report) -> None:
    """Write report.json, report.md and report.png; raises TuneportError if the report mixes devices."""
    check_one_device(report.results)
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    table = markdown_table(*report.cells())
    parts = [f"# {report.name} {report.version}", table, report.caption(), *report.remarks()]
    (folder / TABLE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _draw(folder / PICTURE, report)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Format a table in Markdown: the first column left-aligned, the others right-aligned."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _draw(file: Path, report: Report) -> None:
    """Draw throughput and latency as horizontal bars, side by side."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = [result.name for result in report.results]
    timings = [result.timing for result in report.results]
    colors = [TORCH_COLOR if name.startswith(TORCH_PREFIX) else VARIANT_COLOR for name in names]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 0.5 * len(names) + 1.6), layout="constrained")
    left.barh(names, [timing.texts_per_s for timing in timings], color=colors)
    left.set_xlabel("texts/s (more is better)")
    right.barh(names, [timing.latency_ms_p95 for timing in timings], color=P95_COLOR, label="p95")
    right.barh(names, [timing.latency_ms_p50 for timing in timings], color=colors, label="p50")
    right.set_xlabel("latency of one text, ms: p50, and p95 in light grey (less is better)")
    for axes in (left, right):
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    gpus = report.host.gpus
    machine = gpus[0].name if report.device == "cuda" and gpus else f"{report.host.cores} cores"
    figure.suptitle(f"{report.name} on {machine}", fontsize=11)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
