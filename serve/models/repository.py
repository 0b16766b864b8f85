"""The folder that models are loaded from: `DIR/<anything>/manifest.json` or `DIR/<model>/<version>/manifest.json`.

A request names a model and a version and never a path, so that it reaches nothing outside of the folder.
"""

from dataclasses import dataclass
from pathlib import Path

from tuneport.errors import ArtifactError, ModelNotLoaded
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.loading import load_manifest


@dataclass(frozen=True, slots=True)
class Available:
    """An artifact that can be loaded."""

    folder: Path
    manifest: Manifest


def list_available(repository: Path | None) -> list[Available]:
    """List the artifacts of the folder, the newest last; those that cannot be read are left out."""
    if repository is None:
        return []
    found = []
    for path in sorted([*repository.glob(f"*/{MANIFEST}"), *repository.glob(f"*/*/{MANIFEST}")], key=_changed_at):
        try:
            found.append(Available(path.parent, load_manifest(path.parent)))
        except ArtifactError:
            continue
    return found


def find_available(repository: Path | None, name: str, version: str | None) -> Available:
    """Return a version of a model, by default the newest; ModelNotLoaded if it is not there."""
    if repository is None:
        raise ModelNotLoaded("there is no folder to load models from", "start the service with --model-repository DIR")
    of_model = [each for each in list_available(repository) if each.manifest.name == name]
    matching = [each for each in of_model if version in (None, each.manifest.version)]
    if not matching:
        asked = f"{name[:80]}{f', version {version[:40]}' if version else ''}"
        known = ", ".join(sorted({each.manifest.version for each in of_model})) or "no version of it"
        remedy = f"put the artifact into the model repository; it has {known}"
        raise ModelNotLoaded(f"the model repository has no {asked} that can be read", remedy)
    return matching[-1]


def _changed_at(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, str(path)
    except OSError:
        return 0.0, str(path)
