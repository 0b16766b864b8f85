"""What is served, and why it may be trusted: the variant's proof, where it was measured, hashes and signature."""

from dataclasses import asdict
from typing import Any

from tuneport.schema.artifact import Provenance

from .inference import Inference

PUBLIC_PROVENANCE = {"base_model", "checkpoint_sha256", "seed", "git_commit", "versions", "created"}
"""Without the folders and settings of the machine that trained, which are no client's business."""


def describe_evidence(inference: Inference) -> dict[str, Any]:
    """Return the response of GET /evidence."""
    predictor, origin = inference.predictor, inference.origin
    manifest, variant = predictor.manifest, predictor.variant
    part = manifest.part_of(variant.name)
    is_default = variant.name == part.default_variant
    return {
        "model": predictor.describe(),
        "task": manifest.task,
        "execution": variant.execution.model_dump(mode="json"),
        "evidence": variant.evidence.model_dump(mode="json"),
        "measured_on": part.host.model_dump(mode="json"),
        "reference": part.torch.model_dump(mode="json"),
        "chosen_because": part.default_because if is_default else None,
        "golden_difference_here": predictor.golden_difference,
        "rejected": {each.name: each.reason for each in part.rejected},
        "files": [file.model_dump(mode="json") for file in manifest.files],
        "provenance": _provenance(part.provenance),
        "manifest_sha256": origin.manifest_sha256,
        "signature": asdict(origin.signature),
    }


def evidence_metadata(inference: Inference) -> tuple[tuple[str, str], ...]:
    """Return the metadata of gRPC's ModelMetadata: the manifest's hash and the state of its signature."""
    origin = inference.origin
    pairs = {
        "manifest-sha256": origin.manifest_sha256,
        "signature-state": origin.signature.state,
        "signature-key-id": origin.signature.key_id,
    }
    return tuple((name, value) for name, value in pairs.items() if value)


def _provenance(provenance: Provenance) -> dict[str, Any]:
    data = provenance.data and provenance.data.model_dump(mode="json", include={"fingerprint", "rows"})
    return {**provenance.model_dump(mode="json", include=PUBLIC_PROVENANCE), "data": data}
