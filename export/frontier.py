"""The frontier of what a variant keeps and what it costs, as a picture and as names."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from export.manifest import PICTURE, File, Manifest, Variant

matplotlib.use("agg")


HEIGHTS = (6, -13, -24, 17)
"""Of names beside their points, in points."""
SHOWN = 0.04
"""Of the metric, at least: a tenth of a point must not look like a cliff."""


def frontier(variants: tuple[Variant, ...]) -> set[str]:
    """Return the variants that no other beats in one of metric, latency and throughput without losing in another."""

    def figures(variant: Variant) -> tuple[float, float, float]:
        assert variant.timing is not None
        kept = -variant.metric.drop if variant.metric else -variant.parity.max_abs_diff
        return kept, -variant.timing.latency_ms_p50, variant.timing.texts_per_s

    def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return one != other and all(a >= b for a, b in zip(one, other, strict=True))

    every = {variant.name: figures(variant) for variant in variants}
    return {name for name, mine in every.items() if not any(beats(theirs, mine) for theirs in every.values())}


def draw(folder: Path, manifest: Manifest) -> File:
    """Draw frontier.png, the metric over latency and over throughput, and return its record."""
    best = frontier(manifest.variants)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    latency, throughput = figure.subplots(1, 2, sharey=True)
    for number, variant in enumerate(manifest.variants):
        assert variant.timing is not None
        metric = variant.metric.value if variant.metric else variant.parity.agreement
        style = {"marker": "o" if variant.name in best else "x", "s": 45}
        for axes, x in ((latency, variant.timing.latency_ms_p50), (throughput, variant.timing.texts_per_s)):
            points = axes.scatter([x], [metric], **style)
            # Names of variants side by side would lie on each other at one height, and want their point's colour.
            place = {"textcoords": "offset points", "xytext": (4, HEIGHTS[number % 4])}
            axes.annotate(variant.name, (x, metric), color=points.get_facecolor()[0], fontsize=8, **place)
    first = manifest.variants[0].metric
    bottom, top = latency.dataLim.intervaly
    if first:
        latency.axhline(first.torch, color="0.6", linewidth=0.8, linestyle="--", label="torch fp32")
        throughput.axhline(first.torch, color="0.6", linewidth=0.8, linestyle="--")
        latency.legend(fontsize=8, frameon=False)
    latency.set(xlabel="p50 latency, one input (ms)", ylabel=first.name if first else "agreement with torch")
    throughput.set(xlabel="inputs/s in batches")
    middle, half = (bottom + top) / 2, max((top - bottom) * 0.75, SHOWN / 2)
    latency.set_ylim(middle - half, middle + half)
    for axes in (latency, throughput):
        axes.set_xlim(left=0, right=axes.get_xlim()[1] * 1.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / PICTURE, dpi=110, metadata={"Software": None})
    return File.of(folder, PICTURE)
