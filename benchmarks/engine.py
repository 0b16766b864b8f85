"""The engine benchmark: every variant against torch, on the same real rows, in one process and one run."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import Field

from benchmarks.baselines import find_origin
from benchmarks.report import REPORT, Report, Result, write_report
from export.files import DataError, check_out, git_commit, new_folder
from export.gate import Gate
from export.machine import Frozen, Machine
from export.manifest import Manifest, check_files, load_golden, load_manifest
from export.measure import Contender, budgets, time_side_by_side
from export.sample import Sample, read_sample
from export.tasks import Task
from serve.model import check_golden, open_model, open_task
from serve.plan import Budget

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
    origin = find_origin(manifest, config.checkpoint)
    workload = read_workload(manifest, origin.task, config)
    golden = load_golden(config.artifact)
    torchs = origin.torch_models()
    variants = {each.name: open_model(config.artifact, manifest, each) for each in manifest.variants}
    for variant in manifest.variants:
        check_golden(variants[variant.name], golden, variant)

    progress("comparing answers")
    serving = open_task(config.artifact, manifest.task, manifest.labels, manifest.processing)
    given = [serving.read(each) for each in workload.inputs]
    gate = Gate(origin.task, serving, golden, workload, torchs[BASELINE].outputs(serving, given))
    evidence = {name: gate.compare_torch(model) for name, model in torchs.items()}
    evidence |= {name: gate.examine(model) for name, model in variants.items()}
    tried = (Budget(),) if manifest.processing.generation else budgets(Budget(), "cpu")
    contenders = {name: Contender(model.run_batch, budgets=tried) for name, model in torchs.items()}
    contenders |= {each.name: Contender.of(variants[each.name], each.device) for each in manifest.variants}
    timings = time_side_by_side(
        contenders,
        gate.rows_to_time(len(gate.rows)),
        baseline=BASELINE,
        rounds=config.rounds,
        progress=progress,
    )
    sizes = {each.name: each.size_bytes for each in manifest.variants}
    report = Report(
        name=manifest.name,
        version=manifest.version,
        default_variant=manifest.default_variant,
        data=workload.source,
        split=workload.split,
        mean_tokens=round(float(np.mean([len(row) for row in gate.rows])), 1),
        machine=Machine.here(),
        config=config.model_dump(mode="json"),
        git_commit=git_commit(Path(__file__).parent),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        results=tuple(
            Result(
                name=name,
                metric=proven.metric,
                agreement=proven.parity.agreement,
                size_bytes=sizes.get(name),
                timing=timings[name],
            )
            for name, proven in evidence.items()
        ),
    )
    with new_folder(out, marker=REPORT, overwrite=overwrite) as folder:
        write_report(folder, report)
    return report


def read_workload(manifest: Manifest, task: Task, config: BenchConfig) -> Sample:
    """Read real, labelled inputs: the test split of the user's data or of what the variants were judged with."""
    data = config.data or manifest.provenance.data
    if data is None:
        raise DataError(f"{manifest.name} was exported without data", "give labelled data with --data")
    return read_sample(
        task, data=data, columns=config.columns, seed=0, splits=("test", "validation"), count=config.texts
    )
