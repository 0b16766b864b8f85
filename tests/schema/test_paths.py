"""Paths in files of someone else: none leaves its folder, and none means two files on two systems."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from kit.artifacts import reseal
from kit.command import assert_one_line, tuneport, without_progress

from tuneport.errors import ArtifactError, CheckpointError
from tuneport.schema.artifact import File
from tuneport.schema.loading import check_files, load_manifest
from tuneport.schema.paths import check_distinct, check_relative_path, resolve_inside
from tuneport.stages.export.checkpoint import open_checkpoint

GOOD = (
    "manifest.json", "onnx/fp32/model.onnx", "onnx/a b/model (2).onnx", "größe.json", ".hidden", "a..b", "console.log",
    "com10.json", "中文/模型.onnx", "a/b/c/d/e", "x-y_z+1=2@3#4~5.json",
)  # fmt: skip
BAD = (
    "", "/", "/etc/passwd", "//host/share", "..", "../x", "a/../x", "../../../etc/passwd", "a/..", "./x", "a/./b",
    "a//b", "a/", "a\\b", "..\\x", "C:", "C:/x", "c:\\x", "a:b", "x\0", "x\ny", "x\x7f", "x\x85", "x.", "x ", " x",
    "a./b", "a /b", "a\u00a0", "nul", "NUL", "a/con.json", "Com1", "lpt9.txt", "com¹", "aux .txt", "CONIN$", "a*", "a?",
    'a"', "<a>", "a|b", "e\u0301", "\u212b", "a\u202eb", "a\u200bb", "\ufeffa", "\ud800", "x" * 256,
    "x/" * 600 + "x",
)  # fmt: skip
PROBLEMS = "absolute path|leaves its|empty part|the character|a space|a device|normal form|too long"
COLLISIONS = (
    ("a", "A"), ("onnx/model.onnx", "ONNX/model.onnx"), ("straße", "STRASSE"), ("\ufb01le", "file"), ("x", "x/y"),
    ("X", "x/y"), ("a/b", "A/c"), ("İ", "i̇"),
)  # fmt: skip
"""Pairs of paths that are one file, or a file and a folder, on some system."""


@pytest.mark.parametrize("path", GOOD)
def test_ordinary_paths_are_accepted(path: str) -> None:
    assert check_relative_path(path) == path


@pytest.mark.parametrize("path", BAD)
def test_paths_that_leave_their_folder_or_differ_between_systems_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=PROBLEMS):
        check_relative_path(path)


@pytest.mark.parametrize(("one", "other"), COLLISIONS)
def test_two_paths_that_are_one_file_somewhere_are_refused(one: str, other: str) -> None:
    for pair in ((one, other), (other, one)):
        with pytest.raises(ValueError, match=r"are one file|are one folder|is a file and a folder"):
            check_distinct(pair)
    check_distinct((one, one, "another"))


def test_links_may_not_leave_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "real"
    (root / "data").mkdir(parents=True)
    (root / "data" / "x").touch()
    (tmp_path / "outside").touch()
    (root / "inner").symlink_to("data")
    (root / "out").symlink_to(tmp_path)
    (root / "file").symlink_to("../outside")
    (root / "circle").symlink_to("circle")
    (tmp_path / "link").symlink_to("real")
    for folder in (root, tmp_path / "link"):
        assert resolve_inside(folder, "inner/x") == folder / "inner" / "x"
        for path in ("out/outside", "file", "../outside", "circle"):
            with pytest.raises(ArtifactError):
                resolve_inside(folder, path)


def _list_file(artifact: Path, file: dict[str, Any], *, of_variant: bool) -> None:
    """Add a file to the manifest of an artifact, to those that are shared or to those of the first variant."""
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    if of_variant:
        content["variants"][0]["execution"]["files"].append(file)
        reseal(artifact, {"variants": content["variants"]})
    else:
        reseal(artifact, {"files": [*content["files"], file]})


@pytest.mark.parametrize("command", ["verify", "inspect", "predict", "serve", "build", "bench"])
@pytest.mark.parametrize("of_variant", [False, True])
def test_no_command_reads_a_file_that_is_outside_of_the_artifact(
    artifact: Path, tmp_path: Path, command: str, of_variant: bool
) -> None:
    (tmp_path / "secret").write_text("secret")
    secret = File.of(tmp_path, "secret").model_dump()
    _list_file(artifact, {**secret, "path": "../secret"}, of_variant=of_variant)
    answer = tuneport(command, artifact, *(["--out", tmp_path / "report"] if command == "bench" else []), stdin=b"x")
    assert answer.code == 1
    assert_one_line(without_progress(answer.err), "'../secret' leaves its folder")
    assert not list((Path(os.environ["BENTOML_HOME"]) / "models").rglob("secret"))


@pytest.mark.parametrize("command", ["verify", "predict", "serve", "build"])
def test_no_command_follows_a_link_out_of_the_artifact(artifact: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (artifact / "linked").symlink_to(tmp_path / "secret")
    _list_file(artifact, File.of(artifact, "linked").model_dump(), of_variant=False)
    answer = tuneport(command, artifact, stdin=b"x")
    assert answer.code == 1
    assert_one_line(answer.err, "link out of")


def test_an_artifact_that_is_itself_a_link_is_read(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(artifact)
    check_files(tmp_path / "link", load_manifest(tmp_path / "link"))


PROCESSING = {
    "no length": {"max_length": 0},
    "negative length": {"max_length": -5},
    "negative padding": {"pad_token_id": -1},
    "negative stride": {"doc_stride": -1},
    "cold": {"temperature": 1e-300},
}


@pytest.mark.parametrize("problem", PROCESSING)
def test_processing_that_cannot_work_is_refused(artifact: Path, problem: str) -> None:
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    reseal(artifact, {"processing": {**content["processing"], **PROCESSING[problem]}})
    with pytest.raises(ArtifactError, match="does not fit its schema at processing"):
        load_manifest(artifact)


def test_windows_that_cannot_overlap_so_much_are_one_line(artifact: Path) -> None:
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    reseal(artifact, {"processing": {**content["processing"], "doc_stride": 63}})
    answer = tuneport("predict", artifact, "text")
    assert answer.code == 1
    assert_one_line(answer.err, "windows of 64 tokens cannot share 63")


def test_the_table_shows_names_as_they_are_and_no_control_characters(artifact: Path) -> None:
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    for variant in content["variants"]:
        variant["evidence"]["metric"]["name"] = "[/bold]x"
    reseal(artifact, {"variants": content["variants"], "labels": ["\x1b[31mred", "a", "b"]})
    answer = tuneport("inspect", artifact)
    assert answer.code == 0
    assert "[/bold]x" in answer.out
    assert "\x1b" not in answer.out


PROBLEMS_OF_MANIFESTS = (
    "default", "twice", "manifest", "golden", "hash", "variant", "infinity", "few labels", "generative"
)  # fmt: skip


@pytest.mark.parametrize("problem", PROBLEMS_OF_MANIFESTS)
def test_a_manifest_that_contradicts_itself_is_refused(artifact: Path, problem: str) -> None:
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    files, variants = content["files"], content["variants"]
    changes: dict[str, Any] = {
        "default": {"default_variant": "fp16"},
        "twice": {"files": [*files, {**files[0], "size_bytes": 1}]},
        "manifest": {"files": [*files, {**files[0], "path": "Manifest.json"}]},
        "golden": {"files": [each for each in files if each["path"] != "golden.jsonl"]},
        "hash": {"files": [{**files[0], "sha256": "../x"}, *files[1:]]},
        "variant": {"variants": [*variants, variants[0]]},
        "few labels": {"labels": ["a"]},
        "generative": {"task": "translation"},
        "infinity": {"torch_texts_per_s": float("inf")},
    }[problem]
    reseal(artifact, changes)
    with pytest.raises(ArtifactError):
        load_manifest(artifact)


def test_a_graph_cannot_take_its_weights_from_outside_of_its_folder(artifact: Path, tmp_path: Path) -> None:
    import onnx

    file = artifact / "onnx" / "fp32" / "model.onnx"
    model = onnx.load(file)
    onnx.save_model(model, file, save_as_external_data=True, location="weights", size_threshold=0)
    shutil.move(file.parent / "weights", tmp_path / "weights")
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = os.path.relpath(tmp_path / "weights", file.parent)
    file.write_bytes(model.SerializeToString())
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    content["variants"][0]["execution"]["files"] = [File.of(artifact, "onnx/fp32/model.onnx").model_dump()]
    reseal(artifact, {"variants": content["variants"]})
    answer = tuneport("predict", artifact, "--variant", "fp32", "text")
    assert answer.code == 1
    assert_one_line(answer.err, "cannot load")


@pytest.mark.parametrize(
    ("shards", "words"),
    [({"w": "../model.safetensors"}, "leaves its folder"), ({"w": "other"}, "lacks other"), ({"w": 3}, "does not map")],
)
def test_the_index_of_a_checkpoint_names_files_of_its_folder(
    tiny_checkpoint: Path, tmp_path: Path, shards: dict[str, Any], words: str
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    shutil.move(folder / "model.safetensors", tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(folder)


def test_a_benchmark_runs_a_checkpoints_code_only_if_it_is_told_to(artifact: Path, tmp_path: Path) -> None:
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    folder = Path(shutil.copytree(content["provenance"]["checkpoint"], tmp_path / "checkpoint"))
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Theirs"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    content["provenance"]["checkpoint"] = str(folder)
    content["provenance"]["config"]["export"]["trust_remote_code"] = True
    reseal(artifact, {"provenance": content["provenance"]})
    answer = tuneport("bench", artifact, "--out", tmp_path / "report")
    assert answer.code == 1
    assert_one_line(without_progress(answer.err), "--trust-remote-code")
    assert not (tmp_path / "ran").exists()
