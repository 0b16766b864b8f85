"""Which manifest is served, and who signed it: checked before anything of the artifact is opened."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST
from tuneport.signing import SignatureCheck, check_signature

from .settings import Settings


@dataclass(frozen=True)
class Origin:
    """Which manifest it is, and who signed it."""

    manifest_sha256: str | None = None
    signature: SignatureCheck = field(default_factory=lambda: SignatureCheck("unsigned"))

    @classmethod
    def check(cls, artifact: Path, settings: Settings) -> Self:
        """Read an artifact's hash and check its signature as the settings say; raises SignatureError."""
        signature = check_signature(artifact, settings.public_key, is_required=settings.require_signature)
        return cls(sha256(artifact / MANIFEST), signature)
