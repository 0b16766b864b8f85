"""The manifest and the files that it lists: every change is found, and every error names its remedy."""

import json
import shlex
from pathlib import Path

import pytest
from kit.artifacts import change_byte, reseal
from kit.command import tuneport
from kit.encoders import build_checkpoint
from kit.exports import quick_exports

from tuneport.errors import ArtifactError
from tuneport.schema.artifact import MANIFEST, Manifest, Rejected
from tuneport.schema.loading import check_files, load_manifest
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export

FILES = (
    "manifest.json", "tokenizer.json", "golden.jsonl", "README.md", "pareto.png", "onnx/fp32/model.onnx",
    "onnx/int8/model.onnx",
)  # fmt: skip


def load_and_check(folder: Path) -> Manifest:
    manifest = load_manifest(folder)
    check_files(folder, manifest)
    return manifest


def test_the_files_under_test_are_all_that_an_artifact_holds(tiny_artifact: Path) -> None:
    assert {str(path.relative_to(tiny_artifact)) for path in tiny_artifact.rglob("*") if path.is_file()} == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_changed_byte_in_any_file_is_found(artifact: Path, file: str) -> None:
    load_and_check(artifact)
    change_byte(artifact / file)
    with pytest.raises(ArtifactError):
        load_and_check(artifact)


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(artifact: Path, file: str) -> None:
    (artifact / file).unlink()
    with pytest.raises(ArtifactError, match=file.rpartition("/")[2]):
        load_and_check(artifact)


def test_a_longer_file_of_the_same_beginning_is_found(artifact: Path) -> None:
    with (artifact / "README.md").open("a") as file:
        file.write("\n")
    with pytest.raises(ArtifactError, match="SHA-256"):
        load_and_check(artifact)


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_an_unknown_schema_version_is_named_with_a_remedy(artifact: Path, version: object) -> None:
    reseal(artifact, {"schema_version": version})
    with pytest.raises(ArtifactError, match="schema version") as caught:
        load_manifest(artifact)
    assert repr(version) in caught.value.problem
    assert "tuneport" in caught.value.remedy


def test_an_unknown_field_is_refused_though_the_seal_is_right(artifact: Path) -> None:
    reseal(artifact, {"surprise": 1})
    with pytest.raises(ArtifactError, match="surprise"):
        load_manifest(artifact)


def test_a_task_that_is_not_installed_is_named(artifact: Path) -> None:
    reseal(artifact, {"task": "sentence-order"})
    with pytest.raises(ArtifactError, match="'sentence-order', which is not installed; install the package"):
        load_manifest(artifact)


@pytest.mark.parametrize("damage", ["", "[]", "null", "{", '{"schema_version": 2}', "\udcff"])
def test_what_is_no_manifest_is_an_artifact_error(artifact: Path, damage: str) -> None:
    (artifact / MANIFEST).write_bytes(damage.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError):
        load_manifest(artifact)


def test_a_folder_that_is_not_there_is_an_artifact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="does not exist"):
        load_manifest(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="is not a folder"):
        load_manifest(tmp_path / "file")


def test_a_variant_is_found_by_name_and_the_default_without_one(manifest: Manifest) -> None:
    assert manifest.variant("int8").name == "int8"
    assert manifest.variant().name == manifest.default_variant


def test_an_unknown_variant_names_the_others(manifest: Manifest) -> None:
    with pytest.raises(ArtifactError, match="fp32, int8"):
        manifest.variant("fp16")


def test_a_rejected_variant_names_its_reason(manifest: Manifest) -> None:
    fp32 = manifest.variant("fp32")
    without_int8 = manifest.model_copy(
        update={"variants": (fp32,), "rejected": (Rejected(name="int8", reason="agreement 12.00% < 99%"),)}
    )
    with pytest.raises(ArtifactError, match=r"agreement 12\.00% < 99%.*choose one of: fp32"):
        without_int8.variant("int8")


@pytest.mark.parametrize("part", ["labels", "processing", "tokenizer", "variant"])
def test_the_version_changes_with_all_that_decides_an_answer(manifest: Manifest, part: str) -> None:
    content = manifest.model_dump(mode="json")
    if part == "labels":
        content["labels"].reverse()
    elif part == "processing":
        content["processing"]["max_length"] = 8
    elif part == "tokenizer":
        next(each for each in content["files"] if each["path"] == "tokenizer.json")["sha256"] = "0" * 64
    else:
        content["variants"][0]["execution"]["files"][0]["sha256"] = "0" * 64
    assert Manifest.model_validate(content).version != manifest.version


def test_the_version_does_not_change_with_time_and_speed(manifest: Manifest) -> None:
    content = manifest.model_dump(mode="json")
    content["provenance"]["created"] = "later"
    content["variants"][0]["evidence"]["timing"]["texts_per_s"] = 1
    assert Manifest.model_validate(content).version == manifest.version


def test_a_checkpoint_with_other_labels_has_another_version(manifest: Manifest, tmp_path: Path) -> None:
    build_checkpoint(tmp_path / "other", labels=("x", "y", "z"))
    with quick_exports():
        other = export(ExportConfig(checkpoint=tmp_path / "other", variants=("fp32",)), tmp_path / "out")
    assert other.labels == ("x", "y", "z")
    assert other.version != manifest.version


def test_every_file_carries_its_evidence(manifest: Manifest, tiny_artifact: Path) -> None:
    provenance = manifest.provenance
    assert provenance.data is not None
    assert provenance.data.rows == {"train": 60, "validation": 240, "test": 60}
    assert {"torch", "transformers", "optimum", "onnxruntime"} <= provenance.versions.keys()
    assert len(provenance.checkpoint_sha256) == 64
    for variant in manifest.variants:
        execution, evidence = variant.execution, variant.evidence
        assert evidence.metric is not None
        assert evidence.timing.texts == 200
        assert evidence.parity.texts == 240
        assert evidence.footprint.memory_mib > 0.1
        assert execution.size_bytes == sum((tiny_artifact / file.path).stat().st_size for file in execution.files)
    assert manifest.default_variant in manifest.default_because


def test_the_default_is_the_fastest_that_passed_unless_that_is_no_proof(manifest: Manifest) -> None:
    speeds = {variant.name: variant.evidence.timing.texts_per_s for variant in manifest.variants}
    is_fastest = manifest.default_variant == max(speeds, key=speeds.__getitem__)
    assert is_fastest != ("no proof" in manifest.default_because)


def test_the_card_shows_every_variant_and_the_labels(tiny_artifact: Path, manifest: Manifest) -> None:
    card = (tiny_artifact / "README.md").read_text()
    for word in (
        *(variant.name for variant in manifest.variants),
        *manifest.labels,
        manifest.provenance.checkpoint_sha256,
    ):
        assert word in card


def test_the_usage_in_the_card_works_wherever_the_folder_is(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = artifact.rename(tmp_path / "not the model's name")
    monkeypatch.chdir(moved)
    usage = (moved / "README.md").read_text().partition("## Usage")[2].split("```")[1]
    predict, verify, serve = (shlex.split(line, comments=True)[1:] for line in usage.strip().splitlines())
    assert serve == ["serve", "."]
    for command in (predict, verify):
        answer = tuneport(*command)
        assert answer.code == 0, answer.err
        assert answer.out


@pytest.mark.parametrize("command", ["verify", "inspect", "predict", "build"])
def test_every_command_refuses_a_damaged_manifest_in_one_line(artifact: Path, command: str) -> None:
    content = json.loads((artifact / MANIFEST).read_text())
    content["labels"] = list(reversed(content["labels"]))
    (artifact / MANIFEST).write_text(json.dumps(content))
    answer = tuneport(command, artifact, *(["text"] if command == "predict" else []))
    assert answer.code == 1
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    assert "changed after it was written" in answer.err
