"""Artifacts in BentoML's store, found by their tags. What bentos pack of them lies there, too, under longer tags."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException, NotFound

from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST, Manifest

MODEL_NAME = "tuneport"
LATEST = f"{MODEL_NAME}:latest"
"""The artifact that was registered last."""
VARIANTS = "variants"
"""The label by which a part of an artifact is known: the variants that it has."""


def find_artifact(tag: str, *, or_part: bool = False) -> bentoml.Model:
    """Return an artifact of the store by its tag, its beginning, or `LATEST`.

    BentoML's own lookup may return a part that a bento packs: for `LATEST`, and for an artifact that was deleted, whose
    tag is the beginning of the part's. A bento holds nothing but parts: `or_part` accepts one where there is no
    artifact. Raises NotFound, and BentoMLException for the beginning of several artifacts' tags.
    """
    if exact := find_exactly(tag):
        return exact
    is_latest = tag in (MODEL_NAME, LATEST)
    wanted = [model for model in _complete() if is_latest or str(model.tag).startswith(tag)]
    artifacts = [model for model in wanted if VARIANTS not in model.info.labels]
    if len(artifacts) > 1 and not is_latest:
        raise BentoMLException(f"several artifacts begin with {tag}: {', '.join(str(each.tag) for each in artifacts)}")
    found = artifacts or (wanted if or_part else [])
    if not found:
        raise NotFound(f"BentoML's store has no artifact {tag}")
    return max(found, key=lambda model: os.stat(model.path).st_mtime_ns)


def find_exactly(tag: str) -> bentoml.Model | None:
    """Return a model by its whole tag; None if there is none, or it is not complete."""
    try:
        model = bentoml.models.get(tag)
    except BentoMLException:
        return None
    return model if str(model.tag) == tag else None


def tag_of(folder: Path, manifest: Manifest) -> str:
    """Return the tag of an artifact in a folder: `tuneport:<version>-<hash of its manifest>`."""
    return f"{MODEL_NAME}:{manifest.version}-{sha256(folder / MANIFEST)[:8]}"


def folder_of(tag: str) -> Path:
    """Return where the store has, or would have, a model."""
    return Path(BentoMLContainer.model_store_dir.get(), *tag.split(":", 1))


def mark_registered(model: bentoml.Model) -> None:
    """Make it the one that was registered last: the time of its folder says when that was."""
    os.utime(model.path)


def _complete() -> Iterator[bentoml.Model]:
    """Yield the models of the store, without those that are being written, or were not to their end."""
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted(folder_of(MODEL_NAME).iterdir()):
            if folder.is_dir() and (model := find_exactly(f"{MODEL_NAME}:{folder.name}")):
                yield model
