"""The export, top to bottom: checkpoint → ONNX → variants → gate → timing → artifact."""

import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from export.card import write_card
from export.checkpoint import Checkpoint, open_checkpoint
from export.files import EngineError, GateError, TuneportError, check_out, git_commit, new_folder, write_lines
from export.golden import golden_cases
from export.machine import Frozen, Machine
from export.manifest import (
    GOLDEN,
    MANIFEST,
    SCHEMA_VERSION,
    TOKENIZER,
    Device,
    File,
    GoldenCase,
    Manifest,
    Name,
    Parity,
    Processing,
    Provenance,
    Rejected,
    Timing,
    Variant,
)
from export.measure import Contender, time_side_by_side
from export.parity import Evidence, compare, judge
from export.reference import TorchModel
from export.sample import Sample, read_sample
from export.to_onnx import signature, to_onnx
from export.variants import Recipe, choose_recipes
from serve.engines import Output, open_engine
from serve.predictor import Model, golden_logits
from serve.tokenizer import TextTokenizer

LIBRARIES = ("torch", "transformers", "optimum", "optimum-onnx", "onnx", "tokenizers")
TIMED_TEXTS = 200


class ExportConfig(Frozen):
    """One export."""

    checkpoint: Path
    """A run folder of `tuneport finetune`, or a folder that transformers saved."""
    name: Name = "model"
    data: str | None = None
    """Labelled data for the gate; unset: the validation split that the run was trained with."""
    columns: dict[str, str] = Field(default_factory=dict)
    device: Device = "cpu"
    variants: tuple[str, ...] = ()
    """Which to build; unset: all that the device runs."""
    max_drop: float = Field(default=0.01, ge=0, le=1)
    """Accuracy that a variant may lose against torch, 0.01 being one point."""
    max_length: int | None = Field(default=None, ge=8)
    max_texts: int = Field(default=1000, ge=1)
    """Validation rows for the gate, the first ones."""
    seed: int = 42
    trust_remote_code: bool = False


def export(
    config: ExportConfig, out: Path, *, overwrite: bool = False, progress: Callable[[str], object] = lambda _: None
) -> Manifest:
    """Turn a checkpoint into an artifact of the variants that pass their gate; returns its manifest.

    Nothing is left at `out` unless fp32 passes. Raises TuneportError for a checkpoint, data or settings that
    cannot be used, GateError if fp32 does not answer as torch does. `progress` is told each step.
    """
    check_out(out, marker=MANIFEST, overwrite=overwrite)
    recipes = choose_recipes(config.variants, config.device)
    progress("reading the checkpoint and the data")
    checkpoint = open_checkpoint(
        config.checkpoint, max_length=config.max_length, trust_remote_code=config.trust_remote_code
    )
    sample = read_sample(
        checkpoint.labels,
        accepts_pairs=checkpoint.accepts_pairs,
        data=config.data or (checkpoint.run.data if checkpoint.run else None),
        columns=config.columns,
        seed=config.seed,
        splits=("validation",),
        count=config.max_texts,
    )
    with new_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        progress("asking torch for the reference answers")
        reference = TorchModel(checkpoint)
        golden = golden_cases(checkpoint, reference, sample.texts)
        expected = reference.logits(sample.texts)
        _write_shared_files(folder, checkpoint, golden)
        processing = _processing(checkpoint)
        tokenizer = TextTokenizer(folder / TOKENIZER, processing)

        fp32 = folder / "onnx" / "fp32" / "model.onnx"
        fp32.parent.mkdir(parents=True)
        progress("exporting through Optimum")
        to_onnx(checkpoint, fp32)
        passed: dict[str, tuple[Variant, Model]] = {}
        rejected: list[Rejected] = []
        for name, recipe in recipes.items():
            progress(f"building and judging {name}")
            evidence: Evidence | None = None
            try:
                variant = _build(folder, name, recipe, fp32, config.device)
                model = Model(tokenizer, open_engine(folder, variant), processing.pad_token_id)
                evidence = _examine(model, golden, sample, expected)
                if recipe.precision != "fp32" and not sample.texts:
                    raise GateError("no labelled text to judge it by", "give some with --data")
                judge(evidence, recipe.rule(config.max_drop))
            except (GateError, EngineError) as error:
                if name == "fp32":
                    raise _no_artifact(error) from error
                shutil.rmtree(folder / "onnx" / name)
                rejected.append(_rejected(name, error, evidence))
                continue
            proven = {"parity": evidence.parity, "metric": evidence.metric, "tolerance": recipe.tolerance(evidence)}
            passed[name] = variant.model_copy(update=proven), model

        rows = tokenizer.encode((sample.texts or [case.text for case in golden])[:TIMED_TEXTS])
        contenders: dict[str, Contender] = {"torch fp32": reference.run_batch}
        contenders |= {name: model.run_batch for name, (_, model) in passed.items()}
        timings = time_side_by_side(contenders, rows, baseline="torch fp32", progress=progress)
        default, because = choose_default({name: timings[name] for name in passed})
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=config.name,
            task=checkpoint.task,
            labels=checkpoint.labels,
            processing=processing,
            inputs=signature(fp32)[0],
            outputs=signature(fp32)[1],
            variants=tuple(v.model_copy(update={"timing": timings[name]}) for name, (v, _) in passed.items()),
            rejected=tuple(rejected),
            default_variant=default,
            default_because=because,
            machine=Machine.here(),
            torch_texts_per_s=timings["torch fp32"].texts_per_s,
            files=tuple(File.of(folder, path) for path in (TOKENIZER, GOLDEN)),
            provenance=_provenance(checkpoint, config, sample),
        )
        card = write_card(folder, manifest)
        manifest = manifest.model_copy(update={"files": (*manifest.files, card)})
        manifest.save(folder)
    return manifest


def choose_default(timings: dict[str, Timing]) -> tuple[str, str]:
    """Choose the variant with the most texts/s on this machine's sample, and say why in a sentence."""
    best = max(timings, key=lambda name: timings[name].texts_per_s)
    speeds = ", ".join(f"{name} {timing.texts_per_s:g}" for name, timing in timings.items())
    texts = timings[best].texts
    return best, f"the most texts/s of those that passed, measured here on {texts} texts of mixed length: {speeds}"


def _build(folder: Path, name: str, recipe: Recipe, fp32: Path, device: Device) -> Variant:
    """Build a variant's file; what it proves is filled in when it has proven it."""
    path = f"onnx/{name}/model.onnx"
    if folder / path != fp32:
        (folder / path).parent.mkdir()
        try:
            recipe.build(fp32, folder / path)
        except OSError:
            raise
        except Exception as error:  # quantizers raise what they come across
            raise EngineError(f"it cannot be built ({str(error)[:200]})", "choose other variants") from error
    return Variant(
        name=name,
        engine=recipe.engine,
        precision=recipe.precision,
        device=device,
        file=File.of(folder, path),
        tolerance=0.0,
        parity=Parity(golden_cases=0, texts=0, max_abs_diff=0, golden_max_abs_diff=0, label_agreement=0),
        metric=None,
    )


def _examine(model: Model, golden: list[GoldenCase], sample: Sample, expected: Output) -> Evidence:
    """Run a variant as serving would, and as it would not: the texts in mixed-length batches, as they come."""
    cases = golden_logits(model, golden), np.array([case.logits for case in golden], np.float32)
    rows = model.tokenizer.encode(sample.texts)
    mixed = [
        result["logits"] for start in range(0, len(rows), 16) for result in model.run_batch(rows[start : start + 16])
    ]
    return compare(cases, (np.array(mixed, np.float32).reshape(expected.shape), expected), sample.targets)


def _no_artifact(error: TuneportError) -> TuneportError:
    """Say why fp32, and with it everything, failed; an engine that is not there has a remedy of its own."""
    if isinstance(error, EngineError):
        return error
    return GateError(f"fp32 does not answer as torch does: {error.problem}", "report this model")


def _rejected(name: str, error: TuneportError, evidence: Evidence | None) -> Rejected:
    if evidence is None:
        return Rejected(name=name, reason=error.problem)
    finite = bool(np.isfinite(evidence.parity.max_abs_diff))
    return Rejected(name=name, reason=error.problem, parity=evidence.parity if finite else None, metric=evidence.metric)


def _write_shared_files(folder: Path, checkpoint: Checkpoint, golden: Sequence[GoldenCase]) -> None:
    backend = checkpoint.tokenizer.backend_tokenizer
    backend.no_truncation()  # serving sets its own; left over settings would make the bytes depend on history
    backend.no_padding()
    backend.save(str(folder / TOKENIZER))
    write_lines(folder / GOLDEN, (case.model_dump(exclude_none=True) for case in golden))


def _processing(checkpoint: Checkpoint) -> Processing:
    return Processing(
        max_length=checkpoint.max_length,
        pad_token_id=checkpoint.tokenizer.pad_token_id or 0,
        problem_type="single_label_classification",
        accepts_pairs=checkpoint.accepts_pairs,
    )


def _provenance(checkpoint: Checkpoint, config: ExportConfig, sample: Sample) -> Provenance:
    run = checkpoint.run
    settings: dict[str, Any] = {"export": config.model_dump(mode="json", exclude={"checkpoint"})}
    runtime = "onnxruntime" if config.device == "cpu" else "onnxruntime-gpu"
    return Provenance(
        base_model=run.config["model"] if run else None,
        checkpoint=str(config.checkpoint.resolve()),
        checkpoint_sha256=checkpoint.hash(),
        data=sample.source,
        config={**(run.config if run else {}), **settings},
        seed=run.seed if run else None,
        git_commit=git_commit(Path(__file__).parent),
        versions={name: version(name) for name in (*LIBRARIES, runtime)},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
