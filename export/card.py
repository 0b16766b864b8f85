"""The model's card: the artifact's README.md, written from its manifest."""

from pathlib import Path

from export.frontier import frontier
from export.manifest import CARD, PICTURE, File, Manifest, Task, Variant

TEXT = '"some text"'
EXAMPLES: dict[Task, str] = {
    "question-answering": "< questions.jsonl",
    "automatic-speech-recognition": "speech.wav",
}
"""What comes behind `tuneport predict NAME`."""


def write_card(folder: Path, manifest: Manifest) -> File:
    """Write README.md into the artifact and return its record."""
    (folder / CARD).write_text(card(manifest), encoding="utf-8")
    return File.of(folder, CARD)


def card(manifest: Manifest) -> str:
    """Say what the model is, what was proven, and how to use it."""
    made = manifest.provenance
    data = made.data
    lines = [
        f"# {manifest.name}",
        "",
        f"A model for **{manifest.task}**{labels(manifest)}. {long_inputs(manifest)}",
        "",
        f"`{manifest.default_variant}` serves unless another variant is asked for: {manifest.default_because}.",
        "",
        "## What was proven",
        "",
        "Every variant below was compared with the PyTorch checkpoint before it was let in. Δ is the largest "
        "difference of an output, agreement the share of inputs with torch's answer; memory and start are those of a "
        "process of its own.",
        "",
        *variant_table(manifest),
        "",
        f"`*` serves, `†` is beaten by another in metric, latency and throughput at once, `×2` runs in two streams, "
        "each on its share of the cores, `¹` runs inputs one at a time. Timed on "
        f"{manifest.machine.cpu}, {manifest.machine.cores} cores, side by side with torch fp32 "
        f"({manifest.torch_texts_per_s:g} inputs/s).",
        "",
        f"![metric over latency and throughput]({PICTURE})",
        *(["", *(f"- {line}" for line in kept(manifest))] if kept(manifest) else []),
        *(["", "Not in this artifact:", ""] if manifest.rejected else []),
        *(f"- `{variant.name}`: {variant.reason}" for variant in manifest.rejected),
        *(["", *calibration(manifest)] if manifest.calibration else []),
        "",
        "## Where it comes from",
        "",
        f"- base model: {made.base_model or 'not recorded'}",
        f"- checkpoint: SHA-256 `{made.checkpoint_sha256}`",
        f"- data: {Path(data.source).name}, {data.rows}, fingerprint `{data.fingerprint}`" if data else "- data: none",
        f"- seed: {made.seed if made.seed is not None else 'not recorded'}; code: {made.git_commit or 'not in git'}",
        f"- versions: {', '.join(f'{name} {number}' for name, number in made.versions.items())}",
        "",
        "## How to use it",
        "",
        "```",
        f"tuneport predict {manifest.name} {EXAMPLES.get(manifest.task, TEXT)}    # this folder",
        f"tuneport verify  {manifest.name}    # hashes and golden cases",
        f"tuneport serve   {manifest.name}    # POST /predict",
        "```",
        "",
        "## What to keep in mind",
        "",
        "The figures hold for inputs like the validation data. Golden cases (`golden.jsonl`) contain excerpts of it: "
        "mind its licence before passing the folder on.",
        "",
    ]
    return "\n".join(lines)


def labels(manifest: Manifest) -> str:
    """Name the labels in a phrase; empty for tasks without."""
    if manifest.task not in ("text-classification", "token-classification"):
        return ""
    return f" with the labels {', '.join(f'`{label}`' for label in manifest.labels)}"


def long_inputs(manifest: Manifest) -> str:
    """Say what becomes of inputs that are longer than the model's maximum."""
    processing = manifest.processing
    if processing.doc_stride is None:
        return f"Inputs are cut at {processing.max_length} tokens."
    return f"Long inputs are read in windows of {processing.max_length} tokens that share {processing.doc_stride}."


def kept(manifest: Manifest) -> list[str]:
    """Say for each variant that needs it what stays in higher precision."""
    return [
        f"{each.name} keeps in fp32, as it failed without: {', '.join(each.kept_in_higher_precision)}"
        for each in manifest.variants
        if each.kept_in_higher_precision
    ]


def calibration(manifest: Manifest) -> list[str]:
    """Say how far probabilities are from frequencies, in a sentence; nothing where it was not measured."""
    made = manifest.calibration
    if made is None:
        return []
    verdict = (
        f"divides logits by {made.temperature:g}" if manifest.processing.temperature != 1 else "leaves logits alone"
    )
    return [
        f"Expected calibration error {made.error_before:.4f}; with a temperature of {made.temperature:g} "
        f"{made.error_after:.4f} on rows that it was not fitted on: serving {verdict}."
    ]


def variant_table(manifest: Manifest) -> list[str]:
    """Return the evidence as a Markdown table, a line each."""
    head, rows = evidence(manifest)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def evidence(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Return what was proven of each variant: the head of a table and its rows, as text."""
    metric = next((each.metric.name for each in manifest.variants if each.metric), "metric")
    head = ["variant", "engine", "size", "max Δ", "agreement", metric, "torch", "p50 ms", "inputs/s", "speed-up"]
    return [*head, "memory", "start"], [_evidence_of(variant, manifest) for variant in manifest.variants]


def _evidence_of(variant: Variant, manifest: Manifest) -> list[str]:
    metric, timing, footprint = variant.metric, variant.timing, variant.footprint
    mark = " *" if variant.name == manifest.default_variant else ""
    beaten = "" if variant.name in frontier(manifest.variants) else " †"
    device = "" if variant.device == "cpu" else f" {variant.device}"
    streams = (f" ×{variant.streams}" if variant.streams > 1 else "") + ("¹" if variant.alone else "")
    return [
        f"{variant.name}{mark}{beaten}",
        f"{variant.engine} {variant.precision}{device}{streams}",
        f"{variant.size_bytes / 1e6:.1f} MB",
        f"{variant.parity.max_abs_diff:.2g}",
        f"{variant.parity.agreement:.2%}",
        *([f"{metric.value:.4f}", f"{metric.torch:.4f}"] if metric else ["no data", ""]),
        *([f"{timing.latency_ms_p50:.1f}", f"{timing.texts_per_s:.0f}"] if timing else [""] * 2),
        f"{timing.speed_up:.2f} x" if timing else "",
        *([f"{footprint.memory_mib:.0f} MiB", f"{footprint.cold_start_ms:.0f} ms"] if footprint else [""] * 2),
    ]
