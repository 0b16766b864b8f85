"""The engine benchmark: every variant against torch, on the same real rows, in one process and one run."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import Field

from benchmarks.baselines import torch_baselines
from benchmarks.report import REPORT, Report, Result, write_report
from export.files import DataError, check_out, git_commit, new_folder
from export.machine import Frozen, Machine
from export.manifest import TOKENIZER, Manifest, Variant, check_files, load_golden, load_manifest
from export.measure import Contender, time_side_by_side
from export.sample import Sample, read_sample
from serve.engines import Output, open_engine
from serve.predictor import Model, check_golden
from serve.tokenizer import TextTokenizer

BASELINE = "torch fp32"


class BenchConfig(Frozen):
    """One benchmark."""

    artifact: Path
    data: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    checkpoint: Path | None = None
    """Unset: the folder that the artifact was exported from."""
    texts: int = 300
    rounds: int = 3
    max_batch_tokens: int = 1024


def bench(
    config: BenchConfig, out: Path, *, overwrite: bool = False, progress: Callable[[str], object] = lambda _: None
) -> Report:
    """Time every variant and write report.md, report.json and a picture; returns the report.

    Files and golden cases are checked first: a wrong model is not timed.
    """
    check_out(out, marker=REPORT, overwrite=overwrite)
    manifest = load_manifest(config.artifact)
    check_files(config.artifact, manifest)
    progress("reading data and models")
    workload = read_workload(manifest, config)
    baselines = torch_baselines(manifest, config.checkpoint)
    tokenizer = TextTokenizer(config.artifact / TOKENIZER, manifest.processing)
    variants = {each.name: _open(config.artifact, manifest, each, tokenizer) for each in manifest.variants}

    progress("comparing answers")
    expected = baselines[BASELINE].logits(workload.texts)
    answers = {name: model.logits(workload.texts) for name, model in (baselines | variants).items()}
    rows = tokenizer.encode(workload.texts)
    contenders: dict[str, Contender] = {name: model.run_batch for name, model in (baselines | variants).items()}
    timings = time_side_by_side(
        contenders,
        rows,
        baseline=BASELINE,
        max_batch_tokens=config.max_batch_tokens,
        rounds=config.rounds,
        progress=progress,
    )
    sizes = {each.name: each.file.size_bytes for each in manifest.variants}
    report = Report(
        name=manifest.name,
        version=manifest.version,
        default_variant=manifest.default_variant,
        data=workload.source,
        split=workload.split,
        mean_tokens=round(float(np.mean([len(row) for row in rows])), 1),
        machine=Machine.here(),
        config=config.model_dump(mode="json"),
        git_commit=git_commit(Path(__file__).parent),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        results=tuple(
            Result(
                name=name,
                accuracy=_accuracy(answers[name], workload),
                label_agreement=float((answers[name].argmax(-1) == expected.argmax(-1)).mean()),
                size_bytes=sizes.get(name),
                timing=timings[name],
            )
            for name in contenders
        ),
    )
    with new_folder(out, marker=REPORT, overwrite=overwrite) as folder:
        write_report(folder, report)
    return report


def read_workload(manifest: Manifest, config: BenchConfig) -> Sample:
    """Read real, labelled text: the test split of the user's data or of what the variants were judged with."""
    data = config.data or manifest.provenance.data
    if data is None:
        raise DataError(f"{manifest.name} was exported without data", "give labelled text with --data")
    return read_sample(
        manifest.labels,
        accepts_pairs=manifest.processing.accepts_pairs,
        data=data,
        columns=config.columns,
        seed=0,
        splits=("test", "validation"),
        count=config.texts,
    )


def _open(folder: Path, manifest: Manifest, variant: Variant, tokenizer: TextTokenizer) -> Model:
    model = Model(tokenizer, open_engine(folder, variant), manifest.processing.pad_token_id)
    check_golden(model, load_golden(folder), variant)
    return model


def _accuracy(logits: Output, workload: Sample) -> float:
    return float((logits.argmax(-1) == np.array(workload.targets)).mean())
