"""The report of the check: report.json, report.md and report.png, to be committed."""

from pathlib import Path
from typing import Any, Literal

from tuneport.host import Host
from tuneport.schema.base import Frozen
from tuneport.schema.run import Training
from tuneport.schema.torch_setup import TorchDevice

from ..report import PICTURE, REPORT, TABLE, markdown_table
from ..training import TrainingReport
from .config import EAGER, FLOORS
from .endpoint_report import EndpointFigures
from .report_parts import endpoint_parts, speed_parts, training_parts, variant_parts
from .speed_report import SpeedReport
from .steps import PASSED, StepResult


class GpuCheckReport(Frozen):
    """report.json."""

    schema_version: Literal[2]
    name: str
    device: TorchDevice
    model: str
    """Name of the model that was fine-tuned."""
    data: str
    host: Host
    git_commit: str | None
    created: str
    """UTC, ISO 8601."""
    minutes: float
    """The limit of all steps together."""
    is_floors_only: bool = False
    """Whether only the steps on which the floors depend were to run."""
    steps: tuple[StepResult, ...]
    finetuning: Training | None = None
    """How the model was trained, and how fast."""
    training: TrainingReport | None = None
    """The speed of training against that of a plain Trainer."""
    bench: dict[str, Any] | None = None
    """report.json of `tuneport bench`, without its settings."""
    endpoint: dict[str, Any] | None = None
    """report.json of `tuneport bench-endpoint`, without its settings."""
    generation: dict[str, Any] | None = None
    """report.json of `tuneport bench` of the generative model, without its settings."""

    @property
    def is_passed(self) -> bool:
        """Whether every step passed; a wrong answer, a fallback and a missed floor fail a step."""
        return all(step.status == PASSED for step in self.steps)

    def results(self, kind: str) -> dict[str, Any]:
        """Return what the steps of a kind, such as `speed`, measured, by model."""
        prefix = f"{kind}-"
        return {step.name.removeprefix(prefix): step.result for step in self.steps
                if step.name.startswith(prefix) and step.result}  # fmt: skip

    def speeds(self) -> dict[str, SpeedReport]:
        """Return what the speed steps measured, by model."""
        return {name: SpeedReport.model_validate(result) for name, result in self.results("speed").items()}

    def timed(self) -> dict[str, SpeedReport]:
        """Return those of `speeds` with a workload."""
        return {name: speed for name, speed in self.speeds().items() if speed.workloads}

    def endpoint_figures(self) -> EndpointFigures | None:
        """Return what step `endpoint` measured."""
        found = next((step.result for step in self.steps if step.name == "endpoint"), None)
        return EndpointFigures.model_validate(found) if found else None

    def text(self) -> str:
        """Return the report in Markdown."""
        gpus = self.host.gpus
        machine = gpus[0].name if self.device == "cuda" and gpus else self.host.cpu
        verdict = "passed" if self.is_passed else "**failed**"
        seconds = sum(step.seconds for step in self.steps)
        parts = [
            f"# GPU check: {machine}",
            f"{verdict}, {seconds:.0f} s in all, code {self.git_commit or 'not in git'}, {self.created}. "
            f"{'Only the steps of the floors. ' if self.is_floors_only else ''}"
            f"{self.model} fine-tuned on {self.data}; a seeded random BERT; device {self.device}.",
            _machine(self.host),
            "## Steps",
            markdown_table(["step", "status", "exit code", "seconds"], [_step_cells(step) for step in self.steps]),
            *(f"`{step.name}`: {step.status}\n\n```\n{step.detail}\n```" for step in self.steps if step.detail),
        ]
        for name, speed in self.speeds().items():
            parts += speed_parts(name, speed)
        if figures := self.endpoint_figures():
            parts += endpoint_parts(figures)
        parts += variant_parts(self.results("variants"), self.results("placement"))
        parts += training_parts(self.finetuning, self.training)
        return "\n\n".join(parts) + "\n"


def write_gpu_report(folder: Path, report: GpuCheckReport, *, has_picture: bool = True) -> None:
    """Write report.json, report.md and, if something was timed, report.png."""
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / TABLE).write_text(report.text(), encoding="utf-8")
    if has_picture and report.timed():
        _draw(folder / PICTURE, report)


def _machine(host: Host) -> str:
    gpus = [
        f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_gib:g} GiB, "
        f"{gpu.max_sm_clock_mhz or '?'} MHz, {gpu.power_limit_w or '?'} W{', MIG' if gpu.is_mig else ''}"
        for gpu in host.gpus
    ]
    driver = f"driver {host.driver}, CUDA up to {host.cuda}" if host.driver else "no NVIDIA driver"
    return f"{'; '.join(gpus) or 'No GPU'}; {driver}; {host.cpu}, {host.cores} cores, {host.memory_gib:g} GiB."


def _step_cells(step: StepResult) -> list[str]:
    return [step.name, step.status, "" if step.exit_code is None else str(step.exit_code), f"{step.seconds:.1f}"]


def _draw(file: Path, report: GpuCheckReport) -> None:
    """Draw for each model and workload how many times as fast as eager torch each variant is, and the floors."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    speeds = report.timed()
    figure, axes = pyplot.subplots(
        1, len(speeds), squeeze=False, figsize=(5.5 * len(speeds), 3.8), layout="constrained"
    )
    for panel, (name, speed) in zip(axes[0], speeds.items(), strict=True):
        variants = list(speed.differences)
        width = 0.8 / max(1, len(variants))
        for i, variant in enumerate(variants):
            places = [at + i * width for at in range(len(speed.workloads))]
            panel.bar(places, [workload.factors[EAGER][variant] for workload in speed.workloads], width, label=variant)
        for at, workload in enumerate(speed.workloads):
            for floor in FLOORS if speed.device == "cuda" else ():
                if (floor.workload, floor.against) == (workload.workload, EAGER):
                    panel.hlines(floor.factor, at - width / 2, at + 0.8 - width / 2, colors="black", linestyles="--")
        panel.axhline(1.0, color="0.6", linewidth=0.8)
        panel.set_xticks(range(len(speed.workloads)), [workload.workload for workload in speed.workloads], fontsize=8)
        panel.set_ylabel(f"times torch {speed.baselines[EAGER].precision} eager")
        panel.set_title(name, fontsize=10)
        panel.legend(fontsize=7, frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(report.name, fontsize=11)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
