"""What a bento packs of an artifact: the variants that serve, and the packages of their image with hashes.

The packed part is a model of its own in BentoML's store. Its requirements.txt lies beside the manifest, where
serve/Dockerfile.j2 finds it, so that `tuneport build` and plain `bentoml build` make the same image.
"""

import os
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import attrs
import bentoml
from bentoml._internal.bento.bento import BentoModelInfo
from bentoml.exceptions import BentoMLException, NotFound
from bentoml.models import BentoModel

from tuneport.errors import ArtifactError, TuneportError
from tuneport.folders import digest, sha256
from tuneport.schema.artifact import MANIFEST, Manifest, Variant
from tuneport.schema.loading import check_distinct_names, check_files, listed_files, load_manifest
from tuneport.schema.selection import SELECTION, PackedVariants
from tuneport.signing import SIGNATURE
from tuneport.tasks import task_spec

from .registered import VARIANTS, find_artifact, tag_of

REQUIREMENTS = "requirements.txt"


@attrs.frozen
class ArtifactModel(BentoModel):
    """The artifact of a service, of which a bento packs the part that serves."""

    variants: str = ""
    """Names of the variants to pack, separated by commas; by default the one that serves and its fallback."""
    beside: tuple[str, ...] = ()
    """Tags of the artifacts that the same bento packs."""

    def to_info(self, alias: str | None = None) -> BentoModelInfo:
        """Pack the part, and return its entry for the bento that is being built."""
        try:
            stored = find_artifact(str(self.tag))
        except NotFound as error:
            remedy = "run `tuneport export … --out ARTIFACT` first, or build with `tuneport build ARTIFACT`"
            raise NotFound(f"{error}; {remedy}") from error
        try:
            tag = pack(str(stored.tag), split_names(self.variants), self.beside)
        except TuneportError as error:
            raise BentoMLException(str(error)) from error
        return BentoModelInfo.from_bento_model(bentoml.models.get(tag), alias)


def artifact_models(tags: Sequence[str], variants: str) -> dict[str, ArtifactModel]:
    """Return the attributes of a service's class with its models; BentoML reads them in alphabetical order."""
    return {f"model_{index:03}": _model(tag, variants, tags) for index, tag in enumerate(tags)}


def _model(tag: str, variants: str, tags: Sequence[str]) -> ArtifactModel:
    beside = tuple(each for each in tags if each != tag)
    # mypy does not see attrs through bentoml.
    return ArtifactModel(tag=tag, variants=variants, beside=beside)  # type: ignore[call-arg]


def split_names(names: str) -> list[str]:
    """Split a list of names that is separated by commas."""
    return [name.strip() for name in names.split(",") if name.strip()]


def pack(tag: str, names: Sequence[str] = (), beside: Sequence[str] = ()) -> str:
    """Store the part of a registered artifact that a bento packs, as a model of its own; returns its tag.

    A damaged copy in the store is written again. The packages are those of the artifacts `beside` it, too, because a
    bento has one image.

    Raises ArtifactError for a damaged file or an unknown variant, TuneportError for two artifacts of one name and where
    no image has all engines.
    """
    source, *others = (Path(find_artifact(each).path) for each in (tag, *beside))
    check_distinct_names([source, *others])
    manifest = load_manifest(source)
    part = _part(manifest, names)
    check_files(source, part)
    requirements = read_requirements(part, *(_part(load_manifest(each), names) for each in others))
    selection = PackedVariants(variants=tuple(variant.name for variant in part.variants))
    identity = digest([selection.variants, requirements, _signature_hash(source)])[:8]
    packed = f"{tag_of(source, manifest)}-{identity}"
    try:
        check_files(Path(bentoml.models.get(packed).path), part)
        return packed
    except NotFound:
        pass
    except ArtifactError:
        bentoml.models.delete(packed)
    labels = {**model_labels(source, manifest), VARIANTS: ",".join(selection.variants)}
    with bentoml.models.create(packed, labels=labels) as stored:
        folder = Path(stored.path)
        copy_artifact(source, part, folder, may_link=True)
        (folder / SELECTION).write_text(selection.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (folder / REQUIREMENTS).write_text(requirements, encoding="utf-8")
        folder.chmod(0o755)  # BentoML's is private; in the image another user reads it
    return packed


def _part(manifest: Manifest, names: Sequence[str]) -> Manifest:
    """Return the manifest of what is packed."""
    return manifest.with_only(tuple(dict.fromkeys(names)) or serving_variants(manifest))


def copy_artifact(source: Path, manifest: Manifest, target: Path, *, may_link: bool = False) -> None:
    """Copy the files that a manifest lists, the manifest itself and its signature; link them where that is possible."""
    signature = [SIGNATURE] if (source / SIGNATURE).is_file() else []
    selection = [SELECTION] if (source / SELECTION).is_file() else []
    for file in [MANIFEST, *signature, *selection, *(file.path for file in listed_files(manifest))]:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        copy = os.link if may_link and file not in (SIGNATURE, SELECTION) else shutil.copyfile
        try:
            copy(source / file, target / file)
        except OSError:
            if copy is shutil.copyfile:
                raise
            shutil.copyfile(source / file, target / file)


def model_labels(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return the identity of an artifact, for the labels of its model, its bento and its image."""
    return {
        "name": manifest.name,
        "version": manifest.version,
        "task": manifest.task,
        "manifest_sha256": sha256(folder / MANIFEST),
        "default_variant": manifest.default_variant,
    }


def serving_variants(manifest: Manifest) -> tuple[str, ...]:
    """Name the variant that serves by default and, if there is one, what serves where that does not run."""
    default = manifest.variant()
    fallback = fallback_of(manifest, default)
    return (default.name, fallback.name) if fallback else (default.name,)


def fallback_of(manifest: Manifest, default: Variant) -> Variant | None:
    """Return the variant that runs on every processor with the engine of the default variant, or None.

    That is fp32 for CPUs. Another engine, and the size of its packages, is only worth it if the same has none.
    """
    if (default.execution.device, default.execution.precision) == ("cpu", "fp32"):
        return None
    able = [
        variant
        for variant in manifest.variants
        if (variant.execution.device, variant.execution.precision) == ("cpu", "fp32")
        and (default.execution.device == "cpu" or variant.execution.engine == "onnxruntime")
    ]
    same_engine = [variant for variant in able if variant.execution.engine == default.execution.engine]
    return manifest.best([variant.name for variant in same_engine or able])


def requirements_for(*parts: Manifest) -> str:
    """Return the file in serve/ with what an image of the variants of all `parts` installs.

    ONNX Runtime for GPUs runs variants for CPUs as well. Raises TuneportError for variants of which no image has all
    engines.
    """
    is_generative = any(task_spec(part.task).is_generative for part in parts)
    variants = [variant for part in parts for variant in part.variants]
    devices = {variant.execution.device for variant in variants}
    target = "tensorrt" if "tensorrt" in devices else "gpu" if "cuda" in devices else ""
    if target == "tensorrt" and is_generative:
        raise TuneportError("there is no image for generative models on TensorRT", "export with --device cuda")
    if any(variant.execution.engine == "openvino" for variant in variants):
        if target or is_generative:
            remedy = "name other variants in --variants"
            raise TuneportError("there is no image with OpenVINO beside CUDA or for generative models", remedy)
        target = "openvino"
    words = ["requirements", *(["generate"] if is_generative else []), *([target] if target else [])]
    return f"{'-'.join(words)}.txt"


def read_requirements(*parts: Manifest) -> str:
    """Return what an image of the variants of all `parts` installs: pins with hashes."""
    file = files("tuneport").joinpath("stages", "serve", requirements_for(*parts))
    if not file.is_file():  # a bento's source, where the stage lies beside the core
        file = Path(__file__).with_name(requirements_for(*parts))
    return file.read_text(encoding="utf-8")


def _signature_hash(folder: Path) -> str | None:
    return sha256(folder / SIGNATURE) if (folder / SIGNATURE).is_file() else None
