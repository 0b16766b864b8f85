"""What is served, and why it may be trusted: the variant's proof, where it was measured, hashes and signature."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST, Provenance
from tuneport.signing import SignatureCheck, check_signature

from .settings import Settings

if TYPE_CHECKING:
    from .inference import Inference

PUBLIC_PROVENANCE = {"base_model", "checkpoint_sha256", "seed", "git_commit", "versions", "created"}
"""Without the folders and settings of the machine that trained, which are no client's business."""


@dataclass(frozen=True)
class Origin:
    """Which manifest it is, and who signed it."""

    manifest_sha256: str | None = None
    signature: SignatureCheck = field(default_factory=lambda: SignatureCheck("unsigned"))

    @classmethod
    def check(cls, artifact: Path, settings: Settings) -> Self:
        """Read an artifact's hash and check its signature as the settings say; raises SignatureError."""
        signature = check_signature(artifact, settings.public_key, is_required=settings.require_signature)
        path = artifact / MANIFEST
        return cls(sha256(path) if path.is_file() else None, signature)


def describe_evidence(inference: "Inference") -> dict[str, Any]:
    """Return the response of GET /evidence."""
    predictor, origin = inference.predictor, inference.origin
    manifest, variant = predictor.manifest, predictor.variant
    is_default = variant.name == manifest.default_variant
    content = {
        "model": predictor.describe(),
        "task": manifest.task,
        "execution": variant.execution.model_dump(mode="json"),
        "evidence": variant.evidence.model_dump(mode="json"),
        "measured_on": manifest.host.model_dump(mode="json"),
        "reference": manifest.torch.model_dump(mode="json"),
        "chosen_because": manifest.default_because if is_default else None,
        "golden_difference_here": predictor.golden_difference,
        "rejected": {each.name: each.reason for each in manifest.rejected},
        "files": [file.model_dump(mode="json") for file in manifest.files],
        "provenance": _provenance(manifest.provenance),
        "manifest_sha256": origin.manifest_sha256,
        "signature": asdict(origin.signature),
    }
    return content


def _provenance(provenance: Provenance) -> dict[str, Any]:
    data = provenance.data and provenance.data.model_dump(mode="json", include={"fingerprint", "rows"})
    return {**provenance.model_dump(mode="json", include=PUBLIC_PROVENANCE), "data": data}
