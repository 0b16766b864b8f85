"""Compute and draw the Pareto front of quality, latency and throughput."""

from pathlib import Path
from typing import Any

from tuneport.schema.artifact import PICTURE, File, Manifest, Variant

LABEL_OFFSETS = (6, -13, -24, 17)
"""Vertical offsets of the names beside their points, in typographic points, used in turn."""
MIN_SPAN = 0.04
"""Smallest range of the metric's axis, so that differences of a tenth of a point look small."""


def pareto_front(variants: tuple[Variant, ...]) -> set[str]:
    """Return the names of the variants that no other dominates in metric, latency and throughput."""

    def figures(variant: Variant) -> tuple[float, float, float]:
        evidence = variant.evidence
        quality = -evidence.metric.drop if evidence.metric else -evidence.parity.max_abs_diff
        return quality, -evidence.timing.latency_ms_p50, evidence.timing.texts_per_s

    def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    all_figures = {variant.name: figures(variant) for variant in variants}
    return {name for name, own in all_figures.items() if not any(dominates(each, own) for each in all_figures.values())}


def draw_pareto(folder: Path, manifest: Manifest) -> File:
    """Draw pareto.png, the metric over latency and over throughput, and return its record.

    A combined artifact has a row of axes for each of its parts, because their figures cannot be compared.
    """
    from matplotlib.figure import Figure  # `tuneport inspect`, which needs the front alone, does without

    parts = manifest.parts
    figure = Figure(figsize=(9, 3.6 * len(parts)), layout="constrained")
    rows = figure.subplots(len(parts), 2, sharey="row", squeeze=False)
    for part, (latency, throughput) in zip(parts, rows, strict=True):
        if len(parts) > 1:
            latency.set_title(f"measured on {device_name(part)}", loc="left", fontsize=9)
        _draw_part(part, latency, throughput)
    figure.savefig(folder / PICTURE, dpi=110, metadata={"Software": None})
    return File.of(folder, PICTURE)


def device_name(manifest: Manifest) -> str:
    """Name the processor, or the GPU, that variants which were measured side by side were timed on."""
    host = manifest.host
    if manifest.torch.device == "cpu":
        return host.cpu
    return host.gpus[0].name if host.gpus else "a GPU that NVML does not name"


def _draw_part(manifest: Manifest, latency: Any, throughput: Any) -> None:
    """Draw variants that were measured side by side."""
    best = pareto_front(manifest.variants)
    for number, variant in enumerate(manifest.variants):
        evidence = variant.evidence
        metric = evidence.metric.value if evidence.metric else evidence.parity.agreement
        style = {"marker": "o" if variant.name in best else "x", "s": 45}
        for axes, x in ((latency, evidence.timing.latency_ms_p50), (throughput, evidence.timing.texts_per_s)):
            points = axes.scatter([x], [metric], **style)
            # Names of neighbouring points would overlap at one height.
            place = {"textcoords": "offset points", "xytext": (4, LABEL_OFFSETS[number % 4])}
            axes.annotate(variant.name, (x, metric), color=points.get_facecolor()[0], fontsize=8, **place)
    first = manifest.variants[0].evidence.metric
    bottom, top = latency.dataLim.intervaly
    if first:
        latency.axhline(first.torch, color="0.6", linewidth=0.8, linestyle="--", label="torch fp32")
        throughput.axhline(first.torch, color="0.6", linewidth=0.8, linestyle="--")
        latency.legend(fontsize=8, frameon=False)
    latency.set(xlabel="p50 latency, one input (ms)", ylabel=first.name if first else "agreement with torch")
    throughput.set(xlabel="inputs/s in batches")
    middle, half = (bottom + top) / 2, max((top - bottom) * 0.75, MIN_SPAN / 2)
    latency.set_ylim(middle - half, middle + half)
    for axes in (latency, throughput):
        axes.set_xlim(left=0, right=axes.get_xlim()[1] * 1.25)
        axes.spines[["top", "right"]].set_visible(False)
