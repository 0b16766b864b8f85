"""The parts of the report in Markdown: speeds, the endpoint, variants, training."""

from collections.abc import Mapping
from typing import Any

from tuneport.schema.run import Training

from ..report import markdown_table
from ..training import TrainingReport
from .config import ENDPOINT_FLOORS
from .endpoint_report import EndpointFigures
from .speed_report import FloorResult, SpeedReport

LARGE = 1000
"""From here on figures have no decimals."""


def speed_parts(name: str, speed: SpeedReport) -> list[str]:
    """Return a model's tables: what every target reached, and the floors."""
    targets = list(dict.fromkeys(target for workload in speed.workloads for target in workload.values))
    titles = {target: f"torch {setup.precision} {target}" for target, setup in speed.baselines.items()}
    titles[speed.default_variant] = f"{speed.default_variant} *"
    header = ["workload", "unit", *(titles.get(each, each) for each in targets)]
    rows = [
        [workload.workload, workload.unit, *(_cell(workload.values.get(each)) for each in targets)]
        for workload in speed.workloads
    ]
    compiled = ", ".join(f"{workload} {seconds:g} s" for workload, seconds in speed.compile_s.items())
    differences = ", ".join(
        f"{variant} {'not finite' if value is None else f'{value:.2g}'}" for variant, value in speed.differences.items()
    )
    parts = [
        f"## Speed: {name}",
        markdown_table(header, rows),
        f"`ms` is the median of a batch of rows x tokens, `texts/s` is on {speed.mean_tokens:g} tokens on average, "
        f"sorted by length; copies to the device and back are included. * is the default variant. Largest difference "
        f"from torch fp32: {differences}. torch.compile took: {compiled or 'it was not run'}.",
        *(f"**{variant} is wrong**: {why}" for variant, why in speed.wrong.items()),
        *(f"**torch.compile failed** on {workload}: {why}" for workload, why in speed.not_compiled.items()),
    ]
    floors = [
        [
            each.floor.workload, f"torch {each.floor.against}", f"{each.floor.factor:g} x",
            "" if each.factor is None else f"{each.factor:.2f} x", each.variant, _outcome(speed, each),
        ]
        for each in speed.floors
    ]  # fmt: skip
    if floors:
        parts.append(markdown_table(["workload", "against", "floor", "reached", "variant", ""], floors))
    return parts


def _outcome(speed: SpeedReport, result: FloorResult) -> str:
    """Return in words what became of a floor."""
    if result.factor is None:
        words, *reason = speed.why_not_measured(result.floor).partition(" (")
        return f"**{words}**{''.join(reason)}"
    return "met" if result.is_met else "**missed**"


def endpoint_parts(figures: EndpointFigures) -> list[str]:
    """Return the figures of the service, and its floors."""
    shown = {
        "load generator alone, requests/s": figures.client_ceiling_per_s,
        "requests/s": figures.requests_per_s,
        "p50 under this load, ms": figures.latency_ms_p50,
        f"one text of {figures.short_tokens or '?'} tokens, p50, ms": figures.short_ms_p50,
        "the same in the engine alone, ms": figures.engine_ms_p50,
        "added by the service, ms": figures.added_ms,
    }
    missed, not_measured = figures.missed(), figures.not_measured()
    floors = [
        [
            floor.title, floor.bound, _cell(getattr(figures, floor.figure)),
            "**not measured**" if floor.figure in not_measured
            else f"**missed**: {missed[floor.figure]}" if floor.figure in missed else "met",
        ]
        for floor in ENDPOINT_FLOORS
    ]  # fmt: skip
    return [
        "## Endpoint",
        f"{figures.variant} behind {figures.workers} workers that share one engine process; {figures.connections} "
        f"connections from {figures.clients} processes on the same machine; one text a request, "
        f"{figures.mean_tokens:g} tokens on average.",
        markdown_table(["figure", "value"], [[name, _cell(value)] for name, value in shown.items()]),
        *([markdown_table(["goal", "floor", "reached", ""], floors)] if figures.device == "cuda" else []),
    ]


def variant_parts(variants: Mapping[str, Any], placements: Mapping[str, Any]) -> list[str]:
    """Return which variants are missing and why, and where their nodes run."""
    parts = ["## Variants"] if variants or placements else []
    for name, found in variants.items():
        parts.append(f"{name}: {', '.join(found['passed'])} passed their gates.")
        parts += [f"{name}: **{variant} was rejected**: {why}" for variant, why in found["missing"].items()]
    not_run = {variant: why for found in variants.values() for variant, why in found["not_run"].items()}
    parts += [f"{variant} was not run: it {why.partition(' ')[2]}." for variant, why in not_run.items()]
    rows = [
        [name, variant, *(str(counts[each]) for each in ("nodes", "on_cpu", "copies"))]
        for name, found in placements.items()
        for variant, counts in found["summary"].items()
    ]
    if rows:
        parts.append(markdown_table(["model", "variant", "nodes", "of them on the CPU", "of them copies"], rows))
    return parts


def training_parts(finetuning: Training | None, comparison: TrainingReport | None) -> list[str]:
    """Return how fast the model was trained, and the table against a plain Trainer."""
    parts = [f"Step `finetune`: {finetuning.describe()}."] if finetuning else []
    if comparison:
        settings = comparison.settings
        parts += [
            comparison.table().rstrip(),
            f"Training of {settings.model} on {settings.data}, {settings.max_steps} steps of "
            f"{settings.per_device_train_batch_size} rows, up to {settings.max_length} tokens.",
        ]
    return ["## Training", *parts] if parts else []


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= LARGE else f"{value:.4g}"
