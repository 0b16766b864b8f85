"""Which manifest is served, and who signed it: checked before anything of the artifact is opened."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tuneport.errors import ArtifactError, SignatureError
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST
from tuneport.schema.loading import load_manifest, load_whole_manifest
from tuneport.schema.selection import SELECTION
from tuneport.signing import SignatureCheck, check_signature

from .settings import Settings


@dataclass(frozen=True)
class Origin:
    """Which manifest it is, and who signed it."""

    manifest_sha256: str | None = None
    signature: SignatureCheck = field(default_factory=lambda: SignatureCheck("unsigned"))

    @classmethod
    def check(cls, artifact: Path, settings: Settings) -> Self:
        """Read an artifact's hash and check its signature as the settings say; raises SignatureError.

        Where a signature is required, a part of an artifact serves the default variant that was signed, or the one that
        the settings name: its selection.json, which chooses among the signed variants, is not signed.
        """
        signature = check_signature(artifact, settings.public_key, is_required=settings.require_signature)
        if settings.require_signature and settings.variant is None:
            _check_default(artifact)
        return cls(sha256(artifact / MANIFEST), signature)


def check_manifest(folder: Path, expected: str) -> None:
    """Raise ArtifactError for a folder that is gone, or has another artifact than when the service began to use it."""
    try:
        is_same = sha256(folder / MANIFEST) == expected
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read any more ({error.strerror})", "put it back") from error
    if not is_same:
        raise ArtifactError(f"{folder} was replaced while it was served", "start the service again")


def _check_default(artifact: Path) -> None:
    signed, selected = load_whole_manifest(artifact).default_variant, load_manifest(artifact).default_variant
    if selected != signed:
        problem = f"{artifact / SELECTION} makes {selected} the default variant, and the signed manifest {signed}"
        raise SignatureError(problem, f"set TUNEPORT_VARIANT={selected}, or build the bento with {signed} first")
