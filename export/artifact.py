"""Write the artifact: select the default variant, draw the Pareto front, write the model card and the manifest."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import onnxruntime

from tuneport.folders import git_commit
from tuneport.host import Host
from tuneport.schema.artifact import (
    SCHEMA_VERSION,
    BaselineTiming,
    Calibration,
    File,
    Manifest,
    Processing,
    Provenance,
    Rejected,
    Variant,
)
from tuneport.schema.torch_setup import REFERENCE

from .card import write_card
from .config import ExportConfig
from .graph import Signature
from .groups import Timings
from .pareto import draw_pareto
from .select import select_default, slower_than_torch
from .source import Source

LIBRARIES = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "tokenizers")


def write_artifact(
    folder: Path,
    name: str,
    config: ExportConfig,
    source: Source,
    *,
    processing: Processing,
    signature: Signature,
    variants: Sequence[Variant],
    timings: Timings,
    rejected: Sequence[Rejected],
    calibration: Calibration | None,
) -> Manifest:
    """Write pareto.png, README.md and the sealed manifest.json into the artifact's folder; returns the manifest."""
    default, reason = select_default(variants, config.objective, timings.results)
    baselines = tuple(
        BaselineTiming(
            setup=setup,
            timing=timings.results[name].timing,
            max_batch_tokens=timings.results[name].max_batch_tokens,
        )
        for name, setup in timings.baselines.items()
    )
    inputs, outputs = signature
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        task=source.checkpoint.task,
        labels=source.checkpoint.labels,
        processing=processing,
        inputs=inputs,
        outputs=outputs,
        variants=tuple(variants),
        rejected=tuple(rejected),
        default_variant=default,
        default_because=reason,
        host=Host.here(),
        torch=timings.baselines[REFERENCE],
        torch_texts_per_s=baselines[0].timing.texts_per_s,
        baselines=baselines,
        refused_baselines=dict(timings.refused),
        calibration=calibration,
        files=_shared_files(folder),
        provenance=_provenance(source, config),
    )
    if doubt := slower_than_torch(manifest):
        manifest = manifest.model_copy(update={"default_because": f"{reason}; {doubt}"})
    manifest = manifest.model_copy(update={"files": (*manifest.files, draw_pareto(folder, manifest))})
    manifest = manifest.model_copy(update={"files": (*manifest.files, write_card(folder, manifest))})
    manifest.save(folder)
    return manifest


def _shared_files(folder: Path) -> tuple[File, ...]:
    """Record the files that all variants share: tokenizer and golden cases."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return tuple(File.of(folder, str(path)) for path in paths if path.parts[0] != "onnx")


def _provenance(source: Source, config: ExportConfig) -> Provenance:
    run = source.checkpoint.run
    settings = {"export": config.model_dump(mode="json", exclude={"checkpoint"})}
    runtime = "onnxruntime" if config.device == "cpu" else "onnxruntime-gpu"
    return Provenance(
        base_model=run.config["model"] if run else None,
        checkpoint=str(config.checkpoint.resolve()),
        checkpoint_sha256=source.checkpoint.sha256,
        data=source.sample.source,
        config={**(run.config if run else {}), **settings},
        seed=run.seed if run else None,
        git_commit=git_commit(Path(__file__).parent),
        versions={**{name: version(name) for name in LIBRARIES}, runtime: onnxruntime.__version__},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
