"""Damage to artifacts, and where bentos keep them."""

import json
from pathlib import Path
from typing import Any

from kit.data import read_rows, write_rows
from tuneport.folders import digest
from tuneport.schema.artifact import Execution, File, Manifest, Variant
from tuneport.schema.loading import load_manifest


def change_byte(file: Path, at: int | None = None) -> None:
    """Flip the lowest bit of one byte, the middle one unless `at` says otherwise."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    file.write_bytes(content)


def reseal(folder: Path, changes: dict[str, Any]) -> None:
    """Change a manifest's fields and seal it again, as another version of the program would have."""
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    content.pop("seal")
    path.write_text(json.dumps({**content, "seal": digest(content)}), encoding="utf-8")


def alter_golden(folder: Path, by: float) -> None:
    """Shift one of torch's logits and seal the artifact again, so that only the check of golden cases can notice."""
    rows = read_rows(folder / "golden.jsonl")
    rows[3]["outputs"][0]["logits"][0] += by
    write_rows(folder / "golden.jsonl", rows)
    manifest = load_manifest(folder)
    files = tuple(File.of(folder, file.path) for file in manifest.files)
    manifest.model_copy(update={"files": files}).save(folder)


def timed_on_another_host(folder: Path, **changes: object) -> Path:
    """Change the host that an artifact was timed on; returns the artifact."""
    host = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["host"]
    reseal(folder, {"host": {**host, **changes}})
    return folder


def of_devices(manifest: Manifest, *executions: tuple[str, dict[str, Any]]) -> Manifest:
    """Return a manifest with a variant of each name and execution: the default first, each faster than the last."""
    source = manifest.variants[0]
    variants = []
    for speed, (name, changes) in enumerate(executions, 1):
        execution = Execution.model_validate({**source.execution.model_dump(), **changes})
        timing = source.evidence.timing.model_copy(update={"texts_per_s": float(speed)})
        evidence = source.evidence.model_copy(update={"timing": timing})
        variants.append(Variant(name=name, execution=execution, evidence=evidence))
    return manifest.model_copy(update={"variants": tuple(variants), "default_variant": executions[0][0]})


def packed_model(bento: Any) -> Path:
    """Return the folder of the artifact that a bento packs."""
    [model] = bento.info.all_models
    return Path(model.to_model().resolve().path)
