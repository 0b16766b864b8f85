"""Random damage to manifest.json and run.json: an error of one line, or a record that says what the file says."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from kit.fuzzing import is_subset, mutate_bytes, mutate_value, parsed
from kit.runs import run_record

from tuneport.cli.tables import print_artifact
from tuneport.errors import ArtifactError, CheckpointError, TuneportError
from tuneport.folders import digest
from tuneport.runtime.predictor import Predictor
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.loading import check_files, load_manifest, load_run
from tuneport.schema.run import RUN
from tuneport.stages.export.card import evidence
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.tasks.windows import stride_of

OPENED = 40
"""Of the mutations that are accepted, every n-th is opened."""
COUNTS = pytest.mark.parametrize(
    "count", [pytest.param(400, id="short"), pytest.param(60_000, id="long", marks=pytest.mark.slow)]
)


def assert_one_line(error: TuneportError) -> None:
    assert "\n" not in str(error)
    assert "Traceback" not in str(error)


@COUNTS
def test_damaged_bytes_of_a_manifest_are_always_found(artifact: Path, count: int) -> None:
    generator = random.Random(1)
    original = (artifact / MANIFEST).read_bytes()
    for _ in range(count):
        damaged = mutate_bytes(original, generator)
        (artifact / MANIFEST).write_bytes(damaged)
        try:
            load_manifest(artifact)
        except ArtifactError as error:
            assert_one_line(error)
        else:
            assert parsed(damaged) == parsed(original)


@COUNTS
def test_a_sealed_manifest_of_wrong_values_is_refused_or_harmless(artifact: Path, count: int) -> None:
    generator = random.Random(2)
    original = json.loads((artifact / MANIFEST).read_bytes())
    del original["seal"]
    accepted = 0
    for _ in range(count):
        content = mutate_value(original, generator)
        if _seal(artifact, content):
            accepted += _is_accepted(artifact, content, opens=accepted % OPENED == 0)
    assert 0 < accepted < count / 2


def _seal(artifact: Path, content: Any) -> bool:
    """Write a manifest with its seal, as an attacker would; False for what cannot be written as UTF-8."""
    try:
        sealed = {**content, "seal": digest(content)} if isinstance(content, dict) else content
        (artifact / MANIFEST).write_text(json.dumps(sealed), encoding="utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_accepted(artifact: Path, content: Any, *, opens: bool) -> bool:
    """Load a manifest and use it; an error other than a TuneportError fails the test."""
    try:
        manifest = load_manifest(artifact)
    except ArtifactError as error:
        assert_one_line(error)
        return False
    assert is_subset(content, manifest.model_dump(mode="json"))
    _assert_consistent(artifact, manifest)
    try:
        evidence(manifest, manifest.default_variant)
        check_files(artifact, manifest)
        if opens:
            print_artifact(artifact)
            Predictor(artifact).predict(["The parcel came two days late."])
    except TuneportError as error:
        assert_one_line(error)
    return True


def _assert_consistent(artifact: Path, manifest: Manifest) -> None:
    root = artifact.resolve()
    paths = [file.path for each in manifest.variants for file in each.execution.files]
    paths += [file.path for file in manifest.files]
    assert all((root / path).resolve().is_relative_to(root) for path in paths)
    assert len({path.casefold() for path in paths}) == len(set(paths))
    assert {"golden.jsonl", "tokenizer.json"} <= set(paths)
    assert manifest.variant().name == manifest.default_variant
    assert len(manifest.version) == 12


@COUNTS
def test_a_damaged_run_is_refused_or_says_what_its_file_says(tiny_checkpoint: Path, tmp_path: Path, count: int) -> None:
    generator = random.Random(3)
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    original = run_record()
    text = json.dumps(original).encode()
    accepted = 0
    for number in range(count):
        damaged = mutate_bytes(text, generator) if number % 3 == 0 else _encoded(mutate_value(original, generator))
        (tmp_path / RUN).write_bytes(damaged)
        try:
            run = load_run(tmp_path)
        except CheckpointError as error:
            assert_one_line(error)
            continue
        assert is_subset(parsed(damaged), run.model_dump(mode="json"))
        accepted += 1
        if accepted % OPENED == 1:
            try:
                stride_of(open_checkpoint(tmp_path))
            except TuneportError as error:
                assert_one_line(error)
    assert 0 < accepted < count / 2


def _encoded(content: Any) -> bytes:
    return json.dumps(content).encode()
