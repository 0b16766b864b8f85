"""The report of the engine benchmark: its records, and its tables as text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tuneport.errors import TuneportError
from tuneport.gpu import GpuUsage
from tuneport.host import Host
from tuneport.schema.artifact import Metric, Timing
from tuneport.schema.base import Frozen
from tuneport.schema.run import DataSource
from tuneport.schema.torch_setup import TorchDevice, TorchSetup
from tuneport.stages.export.card import speed_up_text

from .machine import MachineState
from .shapes import ShapeTiming

REPORT, TABLE, PICTURE, HTML = "report.json", "report.md", "report.png", "report.html"


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
    memory_mib: float | None = None
    """Resident memory that opening it and a full batch add to a process of its own; None where it was not measured."""
    cold_start_ms: float | None = None
    """From nothing opened to the first answer in such a process."""
    max_batch_tokens: int
    """Padded tokens of the batches that throughput was measured with: the best of the same choice for every target."""
    timing: Timing
    product_share: float | None = None
    """Share of the machine's highest measured rate of matrix products that its matrix products reach."""
    shapes: tuple[ShapeTiming, ...] = ()
    gpu: GpuUsage


class Report(Frozen):
    """report.json."""

    schema_version: Literal[2] = 2
    kind: Literal["engine"] = "engine"
    name: str
    version: str
    manifest_sha256: str = ""
    default_variant: str
    data: DataSource | None
    split: str
    mean_tokens: float
    """Mean length of the timed rows, in tokens."""
    device: TorchDevice
    """What all targets ran on."""
    host: Host
    machine: MachineState | None = None
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
        header = [
            "",
            metric_name,
            "change",
            "agreement",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "texts/s",
            "tokens/s",
            "of ceiling",
            "size",
            "memory",
            "cold start",
        ]
        gpu_header = ["GPU MiB", "GPU busy", "J/1000 texts"] if self.device == "cuda" else []
        return [*header, *gpu_header, "speed-up", "against"], [self._row(result) for result in self.results]

    def shape_cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the table of fixed shapes, milliseconds a batch, as text; no row if none was timed."""
        shapes = [shape.name for shape in self.results[0].shapes]
        rows = [[each.name, *(f"{shape.latency_ms:.1f}" for shape in each.shapes)] for each in self.results]
        return ["rows × tokens", *shapes], rows if shapes else []

    def caption(self) -> str:
        """Describe the inputs, the host, and how the columns were measured."""
        num_inputs = self.results[0].timing.texts
        source = Path(self.data.source).name if self.data else "no labels"
        return (
            f"{num_inputs} texts of {source} ({self.split}), {self.mean_tokens:g} tokens on average; "
            f"{self._machine()}. Latency: one text at a time. Texts/s: in batches of similar length, of the size that "
            "is best for each target; tokens/s without padding. Speed-up: against the fastest torch of the same "
            "precision class, of all for int8 and int4, with its 95 % confidence interval. Change: of the metric, "
            "against torch fp32. Memory and cold start: of a process of its own that opens the model; the import of "
            "the engine is included. * is the default variant."
        )

    def remarks(self) -> list[str]:
        """Return a sentence for each thing that the table does not say: noise, what takes no part, compilation."""
        compiled = [
            f"torch.compile took {result.compile_s:g} s for {result.name}, which are in no timing."
            for result in self.results
            if result.compile_s is not None
        ]
        noisy = [result.name for result in self.results if result.timing.is_noisy]
        noise = f"The machine was too noisy to measure as closely as intended: {', '.join(noisy)}."
        ceilings = self.machine.product_tflops if self.machine else {}
        rates = ", ".join(f"{name} {rate:g} TFLOP/s" for name, rate in ceilings.items())
        ceiling = f"Of ceiling: share of the fastest measured product of large matrices in torch: {rates}."
        return [
            *([noise] if noisy else []),
            *([ceiling] if ceilings else []),
            *([self.machine.describe()] if self.machine else []),
            *self.notes,
            *compiled,
        ]

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
            f"{result.metric.value:.4f}" if result.metric else "no labels",
            _change(result.metric),
            f"{result.agreement:.2%}",
            f"{timing.latency_ms_p50:.1f}",
            milliseconds(timing.latency_ms_p95),
            milliseconds(timing.latency_ms_p99),
            f"{timing.texts_per_s:.0f}",
            "" if timing.tokens_per_s is None else f"{timing.tokens_per_s:.0f}",
            "" if result.product_share is None else f"{result.product_share:.0%}",
            f"{result.size_bytes / 1e6:.1f} MB" if result.size_bytes else "",
            "" if result.memory_mib is None else f"{result.memory_mib:.0f} MiB",
            "" if result.cold_start_ms is None else f"{result.cold_start_ms / 1000:.1f} s",
            *(_gpu_cells(result.gpu) if self.device == "cuda" else ()),
            speed_up_text(timing),
            timing.baseline,
        ]


def check_one_device(results: Sequence[ModelResult]) -> None:
    """Raise TuneportError if the results are of several devices: their speeds are not comparable."""
    devices = {result.name: result.device for result in results}
    if len(set(devices.values())) > 1:
        named = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise TuneportError(f"the report mixes devices: {named}", "bench one device at a time, with --device")


def _change(metric: Metric | None) -> str:
    """Write the difference of a metric from torch fp32's; nothing where there is no metric."""
    return "" if metric is None else f"{metric.value - metric.torch:+.4f}"


def milliseconds(value: float | None) -> str:
    """Write a percentile; a dash if there were too few samples for it."""
    return "–" if value is None else f"{value:.1f}"


def _gpu_cells(gpu: GpuUsage) -> tuple[str, str, str]:
    return (
        "" if gpu.memory_mib is None else f"{gpu.memory_mib:.0f}",
        "" if gpu.utilization is None else f"{gpu.utilization:.0%}",
        "" if gpu.energy_j_per_1000_texts is None else f"{gpu.energy_j_per_1000_texts:.1f}",
    )


def write_json_and_table(folder: Path, report: Frozen, parts: Sequence[str]) -> None:
    """Write report.json, and report.md with a blank line between its parts."""
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / TABLE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Format a table in Markdown: the first column left-aligned, the others right-aligned."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
