"""Artifacts in BentoML's store, found by their tags. What bentos pack of them lies there, too, under longer tags."""

from collections.abc import Sequence

import bentoml
from bentoml.exceptions import NotFound

MODEL_NAME = "tuneport"
LATEST = f"{MODEL_NAME}:latest"
"""The artifact that was registered last."""
VARIANTS = "variants"
"""The label by which a part of an artifact is known: the variants that it has."""


def find_artifact(tag: str, *, or_part: bool = False) -> bentoml.Model:
    """Return an artifact of the store by its tag, its beginning, or `LATEST`; raises NotFound.

    BentoML itself would take a part that a bento packs for the artifact that was registered last, and for one that is
    not there any more. In a bento there are parts alone: `or_part` takes one of these if there is nothing else.
    """
    stored = _list()
    exact = [model for model in stored if str(model.tag) == tag]
    wanted = [model for model in stored if tag in (MODEL_NAME, LATEST) or str(model.tag).startswith(tag)]
    artifacts = [model for model in wanted if VARIANTS not in model.info.labels]
    found = exact or artifacts or (wanted if or_part else [])
    if not found:
        raise NotFound(f"BentoML's store has no artifact {tag}")
    return max(found, key=lambda model: model.info.creation_time)


def _list() -> Sequence[bentoml.Model]:
    try:
        return list(bentoml.models.list(MODEL_NAME))
    except NotFound:
        return []
