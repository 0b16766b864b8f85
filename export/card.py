"""The model's card: the artifact's README.md, written from its manifest."""

from pathlib import Path

from export.manifest import CARD, File, Manifest


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
        f"A model for **{manifest.task}** with the labels {', '.join(f'`{label}`' for label in manifest.labels)}. "
        f"Inputs are cut at {manifest.processing.max_length} tokens.",
        "",
        f"`{manifest.default_variant}` serves unless another variant is asked for: {manifest.default_because}.",
        "",
        "## What was proven",
        "",
        "Every variant below was compared with the PyTorch checkpoint before it was let in.",
        "",
        *variant_table(manifest),
        "",
        f"Timed on {manifest.machine.cpu}, {manifest.machine.cores} cores, side by side with torch fp32 "
        f"({manifest.torch_texts_per_s:g} texts/s).",
        *(["", "Not in this artifact:", ""] if manifest.rejected else []),
        *(f"- `{variant.name}`: {variant.reason}" for variant in manifest.rejected),
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
        f'tuneport predict {manifest.name} "some text"    # this folder',
        f"tuneport verify  {manifest.name}                # hashes and golden cases",
        f"tuneport serve   {manifest.name}                # POST /predict",
        "```",
        "",
        "## What to keep in mind",
        "",
        "The figures hold for text like the validation data. Golden cases (`golden.jsonl`) contain excerpts of it: "
        "mind its licence before passing the folder on.",
        "",
    ]
    return "\n".join(lines)


def variant_table(manifest: Manifest) -> list[str]:
    """Return the evidence as a Markdown table, a line each."""
    head, rows = evidence(manifest)
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def evidence(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Return what was proven of each variant: the head of a table and its rows, as text."""
    head = [
        "variant",
        "precision",
        "size",
        "max Δlogit",
        "agreement",
        "accuracy",
        "torch",
        "p50 ms",
        "texts/s",
        "speed-up",
    ]
    rows = []
    for variant in manifest.variants:
        metric, timing = variant.metric, variant.timing
        cells = [
            f"{variant.name} *" if variant.name == manifest.default_variant else variant.name,
            f"{variant.precision} {variant.device}",
            f"{variant.file.size_bytes / 1e6:.1f} MB",
            f"{variant.parity.max_abs_diff:.2g}",
            f"{variant.parity.label_agreement:.2%}",
            *([f"{metric.value:.4f}", f"{metric.torch:.4f}"] if metric else ["no data", ""]),
            *(
                [f"{timing.latency_ms_p50:.1f}", f"{timing.texts_per_s:.0f}", f"{timing.speed_up:.2f} x"]
                if timing
                else [""] * 3
            ),
        ]
        rows.append(cells)
    return head, rows
