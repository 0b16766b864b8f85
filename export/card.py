"""Write the model card, the artifact's README.md, from the manifest."""

from pathlib import Path

from tuneport.schema.artifact import CARD, PICTURE, File, Manifest, Timing, Variant
from tuneport.schema.run import DataSource
from tuneport.schema.torch_setup import REFERENCE
from tuneport.tasks import task_spec

from .pareto import device_name, pareto_front


def write_card(folder: Path, manifest: Manifest) -> File:
    """Write README.md into the artifact and return its record."""
    (folder / CARD).write_text(card(manifest), encoding="utf-8")
    return File.of(folder, CARD)


def card(manifest: Manifest) -> str:
    """Describe the model, its evidence, its provenance and its usage in Markdown."""
    lines = [
        f"# {manifest.name}",
        "",
        f"A model for **{manifest.task}**{labels(manifest)}. {long_inputs(manifest)}",
        "",
        f"The default variant is `{manifest.default_variant}`: {manifest.default_because}.",
        *(["", " ".join(combination(manifest))] if manifest.others else []),
        *_evaluation(manifest),
        *_provenance(manifest),
        "",
        "## Usage",
        "",
        "In this folder, or with its path in place of the dot:",
        "",
        "```",
        f"tuneport predict . {task_spec(manifest.task).predict_example}",
        "tuneport verify .    # check hashes and golden cases",
        "tuneport serve .     # POST /predict",
        "```",
        "",
        "## Limitations",
        "",
        "The results hold for inputs that resemble the validation data. `golden.jsonl` contains excerpts of that data: "
        "check its licence before you share this folder.",
        "",
    ]
    return "\n".join(lines)


def _evaluation(manifest: Manifest) -> list[str]:
    return [
        "",
        "## Evaluation",
        "",
        "Every variant passed a comparison with the PyTorch checkpoint. Max Δ is the largest absolute difference of an "
        "output; agreement is the share of inputs with the same prediction as PyTorch; memory and start were measured "
        "in a new process. `*` is the default. `†` is Pareto-dominated: another variant of the table is at least as "
        "good in metric, latency and throughput. `×2` runs two streams, each on its share of the cores. `¹` runs "
        "inputs one at a time. A speed-up is against the fastest PyTorch of the same class (fp32; fp16 and bf16; of "
        "all for int8 and int4) on the same device, which the last column names; in brackets its 95 % confidence "
        "interval.",
        *(line for part in manifest.parts for line in _measurements(part, manifest.default_variant)),
        "",
        f"![Metric over latency and throughput]({PICTURE})",
    ]


def _measurements(manifest: Manifest, default: str) -> list[str]:
    """Describe the variants that were measured side by side; `default` is the artifact's default variant."""
    remarks = [*noisy(manifest), *students(manifest), *excluded_parts(manifest)]
    return [
        "",
        *variant_table(manifest, default),
        "",
        f"Measured on {device_text(manifest)}, side by side with PyTorch, which makes "
        f"{manifest.torch_texts_per_s:g} inputs/s in fp32.",
        *(["", *(f"- {line}" for line in remarks)] if remarks else []),
        *(["", "Rejected variants:", ""] if manifest.rejected else []),
        *(f"- `{variant.name}`: {variant.reason}" for variant in manifest.rejected),
        *(["", *refused_baselines(manifest)] if manifest.refused_baselines else []),
        *(["", *calibration(manifest)] if manifest.calibration else []),
    ]


def _provenance(manifest: Manifest) -> list[str]:
    provenance = manifest.provenance
    return [
        "",
        "## Provenance",
        "",
        f"- base model: {provenance.base_model or 'not recorded'}",
        f"- checkpoint: SHA-256 `{provenance.checkpoint_sha256}`",
        *(f"- {line}" for part in manifest.parts for line in _export(part, of_several=bool(manifest.others))),
    ]


def _export(manifest: Manifest, *, of_several: bool) -> list[str]:
    """Describe the export that measured the variants of one part, which are named if there are `of_several`."""
    provenance = manifest.provenance
    data, seed = provenance.data, provenance.seed
    of = f" of {variant_names(manifest)}" if of_several else ""
    return [
        f"data{of}: {Path(data.source).name} ({row_counts(data)}), fingerprint `{data.fingerprint}`"
        if data
        else f"data{of}: none",
        f"seed: {seed if seed is not None else 'not recorded'}; code: {provenance.git_commit or 'not in git'}",
        f"versions{of}: {', '.join(f'{name} {number}' for name, number in provenance.versions.items())}",
    ]


def variant_names(manifest: Manifest) -> str:
    """List the names of all variants."""
    return ", ".join(variant.name for variant in manifest.variants)


def combination(manifest: Manifest) -> list[str]:
    """Return sentences on the parts of a combined artifact, and what serves where; nothing of any other artifact."""
    if not manifest.others:
        return []
    order = [manifest.default_variant]
    for parts in manifest.parts_by_device:
        order += [part.default_variant for part in parts if part.default_variant not in order]
        order += [f"the fastest in the table of {part.default_variant}" for part in parts if len(part.variants) > 1]
    return [
        f"It was combined of {1 + len(manifest.others)} exports of one checkpoint: figures of one table were measured "
        "side by side, and those of two tables cannot be compared.",
        f"The first of these that runs on a host serves there: {', '.join(order)}.",
        *(["Reasons and rejected variants name variants as their own export did."] if _has_new_names(manifest) else []),
    ]


def _has_new_names(manifest: Manifest) -> bool:
    """Tell whether a variant got its device before its name, because another one has that name."""
    names = {variant.name for variant in manifest.variants}
    return any(f"{each.execution.device}-{name}" == each.name for each in manifest.variants for name in names)


def row_counts(data: DataSource) -> str:
    """Write the number of rows of each split; data that was not split is the split `all`."""
    counts = [f"{count} {'rows' if split == 'all' else split}" for split, count in data.rows.items()]
    return ", ".join((*counts, *(["labels not read"] if data.unlabelled else [])))


def device_text(manifest: Manifest) -> str:
    """Name the processor, or the GPU, that the variants and PyTorch were timed on."""
    host, name = manifest.host, device_name(manifest)
    if manifest.torch.device == "cpu":
        return f"{name}, {host.cores} cores"
    return f"{name} (driver {host.driver or 'unknown'}), {host.cores} cores of {host.cpu}"


def noisy(manifest: Manifest) -> list[str]:
    """Return a sentence that names the variants whose speed-up the machine was too noisy to measure well."""
    names = [each.name for each in manifest.variants if each.evidence.timing.is_noisy]
    if not names:
        return []
    return [f"The machine was too noisy to measure the speed-up of {', '.join(names)} as closely as intended."]


def speed_up_text(timing: Timing) -> str:
    """Return a speed-up with its confidence interval, if that was measured."""
    if timing.speed_up_interval is None:
        return f"{timing.speed_up:.2f} x"
    low, high = timing.speed_up_interval
    return f"{timing.speed_up:.2f} x [{low:.2f}, {high:.2f}]"


def labels(manifest: Manifest) -> str:
    """Return a phrase that lists the labels; empty for tasks without labels."""
    if not task_spec(manifest.task).has_labels:
        return ""
    return f" with the labels {', '.join(f'`{label}`' for label in manifest.labels)}"


def long_inputs(manifest: Manifest) -> str:
    """Return a sentence on inputs that are longer than the model's maximum."""
    processing = manifest.processing
    if processing.doc_stride is None:
        return f"Inputs are truncated to {processing.max_length} tokens."
    return f"Long inputs are read in windows of {processing.max_length} tokens that share {processing.doc_stride}."


def excluded_parts(manifest: Manifest) -> list[str]:
    """Return a sentence for each quantized variant of which some parts stay in fp32."""
    return [
        f"{variant.name} keeps in fp32, because it failed its gate without: {', '.join(variant.evidence.fp32_parts)}"
        for variant in manifest.variants
        if variant.evidence.fp32_parts
    ]


def students(manifest: Manifest) -> list[str]:
    """Return a sentence for each variant whose model is a student of the checkpoint."""
    return [
        f"{variant.name} is a student: {len(student.layers)} of {student.full_layers} layers, trained to compute what "
        f"the full model computes, {student.steps} steps ({student.seconds:.0f} s) on {student.rows} rows of the train "
        "split"
        for variant in manifest.variants
        if (student := variant.evidence.student)
    ]


def refused_baselines(manifest: Manifest) -> list[str]:
    """Return a sentence for each of PyTorch's precisions that was not timed."""
    return [f"{name} was not timed: {reason}." for name, reason in manifest.refused_baselines.items()]


def calibration(manifest: Manifest) -> list[str]:
    """Return a sentence on the calibration error of probabilities; nothing if it was not measured."""
    result = manifest.calibration
    if result is None:
        return []
    is_applied = manifest.processing.temperature != 1
    action = f"divides logits by {result.temperature:g}" if is_applied else "does not scale logits"
    return [
        f"Expected calibration error {result.error_before:.4f}; with a temperature of {result.temperature:g} "
        f"{result.error_after:.4f}, cross-validated: serving {action}."
    ]


def variant_table(manifest: Manifest, default: str) -> list[str]:
    """Return the lines of a Markdown table of what `evidence` returns."""
    head, rows = evidence(manifest, default)
    alignment = ["---"] + ["---:"] * (len(head) - 1)
    return [f"| {' | '.join(cells)} |" for cells in (head, alignment, *rows)]


def evidence(manifest: Manifest, default: str) -> tuple[list[str], list[list[str]]]:
    """Return the evidence of variants that were measured side by side as cells: the head of a table and its rows.

    `default` is the variant to mark: the artifact's default variant, which another part than this one may have.
    """
    metric = next((each.evidence.metric.name for each in manifest.variants if each.evidence.metric), "metric")
    head = ["variant", "engine", "size", "max Δ", "agreement", metric, "torch", "p50 ms", "inputs/s"]
    head += ["memory", "start", "speed-up", "against"]
    return head, [_evidence_row(variant, manifest, is_default=variant.name == default) for variant in manifest.variants]


def summary(manifest: Manifest) -> tuple[list[str], list[list[str]]]:
    """Return the cells of a narrow table: its head, torch's row, and a row for each variant."""
    metric = next((each.evidence.metric for each in manifest.variants if each.evidence.metric), None)
    head = ["", metric.name if metric else "metric", "agrees", "p50 ms", "inputs/s", "size", "speed-up"]
    speed = f"{manifest.torch_texts_per_s:.0f}" if manifest.torch_texts_per_s else ""
    torch = [REFERENCE, f"{metric.torch:.4f}" if metric else "no labels", "", "", speed, "", ""]
    return head, [torch, *(_summary_row(variant, manifest) for variant in manifest.variants)]


def _summary_row(variant: Variant, manifest: Manifest) -> list[str]:
    evidence = variant.evidence
    return [
        f"{variant.name} *" if variant.name == manifest.default_variant else variant.name,
        f"{evidence.metric.value:.4f}" if evidence.metric else "no labels",
        f"{evidence.parity.agreement:.2%}",
        f"{evidence.timing.latency_ms_p50:.1f}",
        f"{evidence.timing.texts_per_s:.0f}",
        f"{variant.execution.size_bytes / 1e6:.1f} MB",
        f"{evidence.timing.speed_up:.2f} x",
    ]


def _evidence_row(variant: Variant, manifest: Manifest, *, is_default: bool) -> list[str]:
    execution, evidence = variant.execution, variant.evidence
    metric, timing, footprint = evidence.metric, evidence.timing, evidence.footprint
    default = " *" if is_default else ""
    dominated = "" if variant.name in pareto_front(manifest.variants) else " †"
    gpu_mib = footprint.gpu_memory_mib
    device = "" if execution.device == "cpu" else f" {execution.device}"
    streams = f" ×{execution.streams}" if execution.streams > 1 else ""
    single = "¹" if execution.single_row_batches else ""
    return [
        f"{variant.name}{default}{dominated}",
        f"{execution.engine} {execution.precision}{device}{streams}{single}",
        f"{execution.size_bytes / 1e6:.1f} MB",
        f"{evidence.parity.max_abs_diff:.2g}",
        f"{evidence.parity.agreement:.2%}",
        *([f"{metric.value:.4f}", f"{metric.torch:.4f}"] if metric else ["no labels", ""]),
        f"{timing.latency_ms_p50:.1f}",
        f"{timing.texts_per_s:.0f}",
        f"{footprint.memory_mib:.0f} MiB" + (f" + {gpu_mib:.0f} MiB GPU" if gpu_mib is not None else ""),
        f"{footprint.cold_start_ms:.0f} ms",
        speed_up_text(timing),
        timing.baseline,
    ]
