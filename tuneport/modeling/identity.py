"""The hash of a checkpoint: a run records it, and an export compares it and passes it on."""

from pathlib import Path

from tuneport.folders import digest, sha256

from .adapters import NAME as ADAPTER

HASHED_SUFFIXES = {".json", ".safetensors", ".txt", ".model", ".spm", ".jinja"}


def hash_checkpoint(folder: Path) -> str:
    """Hash the files that determine the model's outputs: configuration, weights, tokenizer, adapter."""
    files = sorted(path for path in folder.iterdir() if path.suffix in HASHED_SUFFIXES and path.is_file())
    files += sorted((folder / ADAPTER).glob("*"))
    return digest([(path.relative_to(folder).as_posix(), sha256(path)) for path in files])
