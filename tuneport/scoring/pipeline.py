"""Score a file: find its chunks, score those that the journal lacks, and join the parts in their order."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tuneport.errors import DataError, TuneportError
from tuneport.folders import digest, full_disk_is_an_error, sha256
from tuneport.gpu import visible_gpus
from tuneport.host import usable_cores
from tuneport.runtime.availability import fit_gpus, variant_here
from tuneport.schema.artifact import Manifest, Variant
from tuneport.schema.loading import load_manifest
from tuneport.scoring.config import ScoreConfig
from tuneport.scoring.inputs import input_columns
from tuneport.scoring.journal import Journal, Part, folder_of, move_staged, open_journal
from tuneport.scoring.plan import Plan
from tuneport.scoring.rows import Chunk, Source
from tuneport.scoring.sources import open_source, output_format
from tuneport.scoring.workers import run_here, run_in_processes
from tuneport.scoring.writers import join_parts, make_layout, prediction_parts
from tuneport.tasks import task_spec
from tuneport.version import VERSION

WINDOW_ROWS = {"encoder": 2048, "generative": 64}
"""Rows of a chunk: enough that little is padded, and few enough that a run which is killed loses seconds of work."""


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    done_rows: int
    total_rows: int
    rejected: int


@dataclass(frozen=True)
class ScoreResult:
    """What was written."""

    scored: int
    rejected: int
    continued: int
    """Rows that an earlier, interrupted run had done."""
    rejects: Path
    """The side file with the rows that could not be scored; absent if there are none."""


def score(
    config: ScoreConfig,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], object] = lambda _: None,
) -> ScoreResult:
    """Score every row of a file and write `out`: the rows with their predictions, in the order of the input.

    A row that cannot be scored goes to a side file with its number and the reason. A run that was interrupted continues
    with the same arguments, and refuses others. Raises DataError for an input that cannot be read or of whose first
    rows none can be scored, ArtifactError and EngineError as `Predictor` does, and TuneportError if `out` exists.
    """
    manifest = load_manifest(config.artifact)
    source = open_source(config.input)
    _check_apart(config.input, out)
    plan = make_plan(config, manifest, source, out)
    if out.exists() and not overwrite and not folder_of(out).exists():
        raise TuneportError(f"{out} exists", "choose another --out, or pass --overwrite to replace it")
    rows = config.window_rows or WINDOW_ROWS[task_spec(manifest.task).family]
    remedy = "free some space; the same command continues"
    with (
        full_disk_is_an_error(out, remedy),
        open_journal(out, _job(plan, manifest, rows), overwrite=overwrite) as journal,
    ):
        if journal.is_published:
            move_staged(_staged(journal, out))
            return _result(journal, out, continued=0)
        chunks = list(source.index(rows))
        if not chunks:
            raise DataError(f"{config.input} has no rows", "give a file with rows")
        _check_first_row(source, plan, chunks[0])
        continued = sum(part.scored + part.rejected for part in journal.parts.values())
        for part in _run(plan, manifest, _missing(chunks, journal)):
            _check_first_part(part, plan)
            journal.add(part)
            progress(_progress(chunks, journal))
        _publish(journal, chunks, plan, out)
        return _result(journal, out, continued=continued)


def _check_apart(source: Path, out: Path) -> None:
    """Raise TuneportError for an input that the output, or the side file beside it, would replace."""
    for written in (out, rejects_of(out)):
        if written.exists() and written.samefile(source):
            raise TuneportError(f"{written}, which is written, is the input", "choose another --out")


def make_plan(config: ScoreConfig, manifest: Manifest, source: Source, out: Path) -> Plan:
    """Check the settings against the artifact and the input's columns, and return what workers need to know."""
    columns = input_columns(manifest, config.columns)
    kind = output_format(config.input, out)
    copies = config.input.suffix.lower() == out.suffix.lower()
    layout = make_layout(
        kind, copies=copies, available=source.columns, keep=config.keep, prediction=config.prediction_column
    )
    if kind != "jsonl":
        layout = replace(layout, parts=prediction_parts(manifest, config.parameter_values))
        layout = replace(layout, delimiter=getattr(source, "delimiter", ","))
    if source.columns is not None:
        columns.check(source.columns, str(config.input))
        if taken := [name for name in layout.added if name in (layout.columns or ())]:
            remedy = "give another name with --prediction-column, or leave it out with --keep"
            raise DataError(f"{config.input} has a column {taken[0]!r} already", remedy)
    variant = _choose_variant(config, manifest).name
    threads = config.threads
    resolved = config.model_copy(update={"artifact": config.artifact.resolve(), "input": config.input.resolve()})
    return Plan(resolved, variant, columns, layout, folder_of(out.resolve()), threads)


def _choose_variant(config: ScoreConfig, manifest: Manifest) -> Variant:
    """Return the variant that is named, else the best one for where the rows are scored."""
    if config.ray is None or config.variant is not None or len(manifest.variants) == 1:
        return variant_here(manifest, config.variant)
    from tuneport.scoring.ray_data import variant_on_ray

    return variant_on_ray(manifest, config.ray)


def _job(plan: Plan, manifest: Manifest, window_rows: int) -> dict[str, str]:
    """Return hashes of all that decides the output's content."""
    config, layout = plan.config, plan.layout
    settings = {
        "columns": plan.columns.names,
        "layout": [layout.format, layout.columns, layout.prediction, layout.parts, layout.delimiter],
        "parameters": config.parameter_values,
        "window_rows": window_rows,
    }
    return {
        "artifact": digest(manifest.model_dump(mode="json")),
        "variant": plan.variant,
        "input": sha256(config.input),
        "settings": digest(settings),
        "version": VERSION,
    }


def _run(plan: Plan, manifest: Manifest, chunks: Sequence[Chunk]) -> Iterator[Part]:
    config = plan.config
    execution = manifest.variant(plan.variant).execution
    if not chunks:
        return iter(())
    if config.ray is not None:
        from tuneport.scoring.ray_data import run_on_ray

        return run_on_ray(plan, chunks, config.ray, config.workers, execution.device)
    gpus = () if execution.device == "cpu" else fit_gpus(execution, visible_gpus())
    workers = min(config.workers or max(1, len(gpus)), len(chunks))
    if workers == 1:
        return run_here(plan, chunks)
    threads = plan.threads or max(1, usable_cores() // workers)
    return run_in_processes(replace(plan, threads=threads), chunks, workers, gpus)


def _missing(chunks: Sequence[Chunk], journal: Journal) -> list[Chunk]:
    """Return the chunks without a complete part."""
    for part in journal.parts.values():
        part.check(journal.folder)
    return [chunk for chunk in chunks if chunk.number not in journal.parts]


def _check_first_row(source: Source, plan: Plan, chunk: Chunk) -> None:
    """Raise DataError if the first row of a file without a header lacks the model's columns."""
    if source.columns is None:
        row = next((row for row in source.read(chunk).rows if row.problem is None), None)
        if row is not None:
            plan.columns.check(row.fields, f"the first row of {source.path}")


def _check_first_part(part: Part, plan: Plan) -> None:
    """Raise DataError if none of the first rows could be scored: the file is not what the settings say."""
    if part.chunk == 0 and part.rejected and not part.scored:
        with part.rejects(plan.folder).open(encoding="utf-8") as file:
            first = file.readline().strip()[:300]
        problem = f"none of the first {part.rejected} rows of {plan.config.input} can be scored: {first}"
        raise DataError(problem, "correct the file, or name its columns with --columns")


def _progress(chunks: Sequence[Chunk], journal: Journal) -> Progress:
    done = sum(chunks[number].rows for number in journal.parts)
    return Progress(done, sum(c.rows for c in chunks), sum(part.rejected for part in journal.parts.values()))


def _publish(journal: Journal, chunks: Sequence[Chunk], plan: Plan, out: Path) -> None:
    """Join the parts, and move the output and the side file to their places."""
    parts = [journal.parts[chunk.number] for chunk in chunks]
    for part in parts:
        part.check(journal.folder)
    staged = _staged(journal, out)
    output, rejects = staged
    with output.open("wb") as file:
        join_parts((part.output(journal.folder) for part in parts), file, plan.layout)
        file.flush()
        os.fsync(file.fileno())
    if any(part.rejected for part in parts):
        with rejects.open("wb") as file:
            join_parts((part.rejects(journal.folder) for part in parts), file, replace(plan.layout, format="jsonl"))
            os.fsync(file.fileno())
    else:
        staged[rejects].unlink(missing_ok=True)
    journal.publish(staged)


def _staged(journal: Journal, out: Path) -> dict[Path, Path]:
    """Return the joined files in the run's folder, with their places."""
    return {journal.folder / "output": out, journal.folder / "rejected": rejects_of(out)}


def rejects_of(out: Path) -> Path:
    """Return the side file of an output."""
    return out.with_name(f"{out.name}.rejected.jsonl")


def _result(journal: Journal, out: Path, *, continued: int) -> ScoreResult:
    parts = journal.parts.values()
    return ScoreResult(
        sum(part.scored for part in parts), sum(part.rejected for part in parts), continued, rejects_of(out)
    )
