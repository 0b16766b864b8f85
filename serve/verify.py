"""`tuneport verify`: the hashes of every file, and the golden cases of every variant, on this machine."""

from collections.abc import Iterator
from pathlib import Path

from export.manifest import TOKENIZER, check_files, load_golden, load_manifest
from serve.engines import open_engine
from serve.predictor import Model, check_golden
from serve.tokenizer import TextTokenizer


def verify(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield each variant that is right: name, largest |Δlogit| from torch, tolerance.

    Raises ArtifactError for a damaged file, GateError for a variant that answers otherwise here.
    """
    manifest = load_manifest(folder)
    check_files(folder, manifest)
    golden = load_golden(folder)
    tokenizer = TextTokenizer(folder / TOKENIZER, manifest.processing)
    for variant in manifest.variants:
        model = Model(tokenizer, open_engine(folder, variant), manifest.processing.pad_token_id)
        yield variant.name, check_golden(model, golden, variant), variant.tolerance
