"""Reading an artifact: its manifest, its golden cases, and the hashes of its files; and the record of a run."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from tuneport.errors import ArtifactError, CheckpointError, TuneportError
from tuneport.folders import digest, sha256
from tuneport.schema.artifact import GOLDEN, MANIFEST, SCHEMA_VERSION, File, GoldenCase, Manifest
from tuneport.schema.base import first_problem, parse_json
from tuneport.schema.paths import resolve_inside
from tuneport.schema.run import RUN, Run
from tuneport.schema.selection import SELECTION, PackedVariants
from tuneport.tasks import task_spec


def load_manifest(folder: Path) -> Manifest:
    """Read an artifact's manifest, of a part of an artifact with the variants that it holds.

    An ArtifactError says what to do about a bad one.
    """
    manifest = load_whole_manifest(folder)
    if not (folder / SELECTION).exists():
        return manifest
    try:
        return manifest.with_only(PackedVariants.model_validate_json((folder / SELECTION).read_bytes()).variants)
    except (OSError, ValidationError) as error:
        raise ArtifactError(f"{folder / SELECTION} cannot be read ({error})", "build the bento again") from error


def load_whole_manifest(folder: Path) -> Manifest:
    """Read an artifact's manifest as it was written, also where the folder holds a part of the variants."""
    path = folder / MANIFEST
    if not path.is_file():
        is_there = "is not a folder" if folder.exists() else "does not exist"
        problem = "has no manifest.json" if folder.is_dir() else is_there
        raise ArtifactError(f"{folder} {problem}", "give the folder that `tuneport export … --out` wrote")
    again = "export it again or restore it from its source"
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        version, seal = content.get("schema_version"), content.pop("seal", None)
        is_sealed = seal == digest(content)
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a manifest ({error})", again) from error
    if version != SCHEMA_VERSION:
        known = f"schema version {version!r}, and this tuneport reads {SCHEMA_VERSION}"
        raise ArtifactError(f"{path} has {known}", "use the tuneport that wrote it, or export the checkpoint again")
    if not is_sealed:
        raise ArtifactError(f"{path} was changed after it was written", again)
    try:
        task_spec(str(content.get("task")))
    except ValueError as error:
        problem = f"{path} is for the task {content.get('task')!r}, which is not installed"
        raise ArtifactError(problem, "install the package that provides the task") from error
    try:
        return Manifest.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise ArtifactError(f"{path} does not fit its schema{first_problem(error)}", again) from error


def listed_files(manifest: Manifest, variant: str | None = None) -> tuple[File, ...]:
    """List the shared files and those of one variant, or of every variant, each once though variants share it."""
    chosen = manifest.variants if variant is None else (manifest.variant(variant),)
    return tuple(dict.fromkeys((*manifest.files, *(file for each in chosen for file in each.execution.files))))


def find_files(folder: Path, manifest: Manifest, variant: str | None = None) -> list[tuple[File, Path]]:
    """Return the files that `listed_files` lists with their paths; an ArtifactError unless each has its size."""
    found = []
    for file in listed_files(manifest, variant):
        path = resolve_inside(folder, file.path)
        if not path.is_file():
            raise ArtifactError(f"{path} is missing", "restore it or export again")
        if path.stat().st_size != file.size_bytes:
            raise _other_file(path)
        found.append((file, path))
    return found


def check_files(folder: Path, manifest: Manifest, variant: str | None = None) -> None:
    """Compare size and hash of the shared files and of one variant's, or of every variant's."""
    for file, path in find_files(folder, manifest, variant):
        if sha256(path) != file.sha256:
            raise _other_file(path)


def _other_file(path: Path) -> ArtifactError:
    problem = f"{path} is not the file that passed the gate: its SHA-256 differs from the manifest's"
    return ArtifactError(problem, "restore it or export again")


def load_golden(folder: Path) -> list[GoldenCase]:
    """Read golden.jsonl."""
    try:
        with (folder / GOLDEN).open(encoding="utf-8") as file:
            cases = [GoldenCase.model_validate_json(line) for line in file]
    except (OSError, ValueError) as error:
        problem = f"{folder / GOLDEN} does not hold golden cases ({str(error).splitlines()[0]})"
        raise ArtifactError(problem, "restore it or export again") from error
    if not cases:
        raise ArtifactError(f"{folder / GOLDEN} is empty", "restore it or export again")
    return cases


def load_run(folder: Path) -> Run:
    """Read the record of a finished run; a CheckpointError if there is none, or none of this version."""
    path = folder / RUN
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return Run.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        problem = f"{path} is not the record of a run of this version{first_problem(error)}"
        raise CheckpointError(problem, "fine-tune again with `tuneport finetune`") from error
    except (OSError, ValueError) as error:
        remedy = "give the folder of a finished run of `tuneport finetune`"
        raise CheckpointError(f"{path} cannot be read ({error})", remedy) from error


def check_distinct_names(artifacts: Sequence[Path]) -> None:
    """Raise TuneportError for two artifacts of one name."""
    names: dict[str, Path] = {}
    for artifact in artifacts:
        name = load_manifest(artifact).name
        if name in names:
            problem = f"{names[name]} and {artifact} are both named {name}"
            raise TuneportError(problem, "export one of them with another --name")
        names[name] = artifact
