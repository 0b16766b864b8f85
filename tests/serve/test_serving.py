"""The engine, the self-check at the start, the settings and the model store."""

import errno
import itertools
import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime as ort
import pytest
from helpers import LABELS, change_byte, random_texts, read_rows, write_rows

from tuneport.errors import ArtifactError, EngineError, GateError, InputError, TuneportError
from tuneport.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tuneport.runtime.loading import open_runner
from tuneport.runtime.verify import verify
from tuneport.schema.artifact import MANIFEST, File, Manifest
from tuneport.schema.loading import check_files, load_golden, load_manifest
from tuneport.stages.serve.bento import register
from tuneport.stages.serve.predictor import Predictor
from tuneport.stages.serve.settings import Settings, read_settings


def alter_golden(folder: Path, by: float) -> None:
    """Change torch's answers and the manifest with them, so that only the self-check can notice."""
    rows = read_rows(folder / "golden.jsonl")
    rows[3]["outputs"][0]["logits"][0] += by
    write_rows(folder / "golden.jsonl", rows)
    manifest = load_manifest(folder)
    files = tuple(File.of(folder, file.path) for file in manifest.files)
    manifest.model_copy(update={"files": files}).save(folder)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_cuda_on_a_cpu_onnxruntime_is_refused_with_a_remedy(tiny_artifact: Path, manifest: Manifest) -> None:
    with pytest.raises(EngineError, match="no CUDAExecutionProvider") as caught:
        OnnxRuntimeBackend(tiny_artifact / manifest.variant("fp32").files[0].path, device="cuda")
    assert "tuneport[gpu]" in caught.value.remedy


def test_a_provider_that_falls_back_is_refused(
    tiny_artifact: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime only logs when CUDA's libraries are missing, and takes the CPU."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        ort,
        "InferenceSession",
        lambda path, options, providers: real(path, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(EngineError, match="CPUExecutionProvider was given"):
        OnnxRuntimeBackend(tiny_artifact / manifest.variant("fp32").files[0].path, device="cuda")


def test_bound_outputs_are_the_plain_ones(tiny_artifact: Path, manifest: Manifest) -> None:
    """On a device outputs are bound to it; binding them to the processor shows that the way is right."""
    engine = OnnxRuntimeBackend(tiny_artifact / manifest.variant("fp32").files[0].path)
    for shape in ((1, 3), (4, 17)):
        ids = np.arange(np.prod(shape), dtype=np.int64).reshape(shape) % 50
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        plain, bound = engine.run(feeds), engine._run_bound(feeds)
        assert bound.keys() == plain.keys()
        np.testing.assert_array_equal(bound["logits"], plain["logits"])


def test_a_file_that_is_no_graph_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot load"):
        OnnxRuntimeBackend(tmp_path / "model.onnx")


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_a_predictor_answers_alone_as_in_a_list(tiny_artifact: Path, variant: str) -> None:
    predictor = Predictor(tiny_artifact, Settings(variant=variant))
    texts = ["bank", "", "the team won the game " * 30, "no"] * 10
    together = predictor.predict(texts)
    assert [each["label"] for each in together] == [predictor.predict([text])[0]["label"] for text in texts]
    assert predictor.predict([]) == []
    assert predictor.describe()["variant"] == variant


def test_a_small_token_budget_changes_no_answer(tiny_artifact: Path) -> None:
    texts = ["bank fell", "the", "team " * 50] * 5
    large, small = (
        Predictor(tiny_artifact, Settings(variant="fp32", max_batch_tokens=budget)).predict(texts)
        for budget in (4096, 1)
    )
    assert [each["label"] for each in large] == [each["label"] for each in small]
    np.testing.assert_allclose([each["score"] for each in large], [each["score"] for each in small], atol=1e-4)


def test_a_damaged_file_stops_the_start(artifact: Path) -> None:
    change_byte(artifact / "onnx" / "int8" / "model.onnx")
    assert Predictor(artifact, Settings(variant="fp32")).variant.name == "fp32"
    with pytest.raises(ArtifactError, match="SHA-256"):
        Predictor(artifact, Settings(variant="int8"))


def test_a_variant_that_answers_otherwise_here_stops_the_start(artifact: Path) -> None:
    alter_golden(artifact, 0.01)
    case = str(load_golden(artifact)[3].input)[:20]
    with pytest.raises(GateError, match=r"differs from torch by 0\.01") as caught:
        Predictor(artifact, Settings(variant="fp32"))
    assert case in caught.value.problem
    assert Predictor(artifact, Settings(variant="int8")).variant.name == "int8"


def test_a_nan_in_the_golden_cases_stops_the_start(artifact: Path) -> None:
    alter_golden(artifact, float("nan"))
    with pytest.raises(GateError):
        Predictor(artifact, Settings(variant="fp32"))


def test_a_variant_for_another_device_is_refused(tiny_artifact: Path) -> None:
    with pytest.raises(TuneportError, match="is for cpu, and cuda was asked for"):
        Predictor(tiny_artifact, Settings(device="cuda"))


def test_verify_goes_through_every_variant(tiny_artifact: Path) -> None:
    found = {name: (difference, tolerance) for name, difference, tolerance in verify(tiny_artifact)}
    assert found.keys() == {"fp32", "int8"}
    assert all(difference <= tolerance for difference, tolerance in found.values())
    assert found["fp32"][1] == 1e-3


def test_half_a_surrogate_pair_is_wrong_input(tiny_artifact: Path) -> None:
    with pytest.raises(InputError, match=r"inputs\[1\].*surrogate"):
        Predictor(tiny_artifact, Settings()).predict(["bank", "\ud800"])


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_MAX_CLIENT_BATCH_SIZE", "7")
    monkeypatch.setenv("TUNEPORT_VARIANT", "int8")
    assert read_settings() == Settings(max_client_batch_size=7, variant="int8")


def test_every_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_MAX_CLIENT_BATCH_SIZE", "0")
    monkeypatch.setenv("TUNEPORT_REQUEST_TIMEOUT_S", "soon")
    with pytest.raises(TuneportError, match=r"TUNEPORT_MAX_CLIENT_BATCH_SIZE.*TUNEPORT_REQUEST_TIMEOUT_S"):
        read_settings()


def test_registering_twice_keeps_one_copy(tiny_artifact: Path, manifest: Manifest) -> None:
    tag = register(tiny_artifact)
    stored = Path(bentoml.models.get(tag).path)
    before = (stored / MANIFEST).stat().st_ino
    assert tag.startswith(f"tuneport:{manifest.version}-")
    assert tag == register(tiny_artifact)
    assert (stored / MANIFEST).stat().st_ino == before


def test_another_export_of_the_same_model_stands_beside_the_old(artifact: Path, tiny_artifact: Path) -> None:
    """A bento that names the old one must not serve another variant from one day to the next."""
    tag = register(tiny_artifact)
    load_manifest(artifact).model_copy(update={"default_variant": "int8"}).save(artifact)
    other = register(artifact)
    assert other.partition("-")[0] == tag.partition("-")[0]
    assert [load_manifest(Path(bentoml.models.get(each).path)).default_variant for each in (tag, other)] == [
        load_manifest(tiny_artifact).default_variant,
        "int8",
    ]


def test_a_damaged_copy_in_the_store_is_made_anew(artifact: Path) -> None:
    load_manifest(artifact).model_copy(update={"default_because": "chosen"}).save(artifact)
    (artifact / "stranger").write_text("not listed")
    stored = Path(bentoml.models.get(register(artifact)).path)
    assert not (stored / "stranger").exists()
    change_byte(stored / "onnx" / "fp32" / "model.onnx")
    assert Path(bentoml.models.get(register(artifact)).path) == stored
    check_files(stored, load_manifest(stored))


def test_a_store_without_room_is_one_line(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_manifest(artifact).model_copy(update={"default_because": "no room"}).save(artifact)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(TuneportError, match=r"cannot be copied into BentoML's store .No space left"):
        register(artifact)


def test_a_damaged_artifact_is_not_registered(artifact: Path) -> None:
    change_byte(artifact / "tokenizer.json")
    with pytest.raises(ArtifactError):
        register(artifact)


def test_labels_are_those_of_the_checkpoint(manifest: Manifest) -> None:
    assert manifest.labels == LABELS


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_an_answer_does_not_depend_on_who_else_asks(tiny_artifact: Path, manifest: Manifest, variant: str) -> None:
    model = open_runner(tiny_artifact, manifest, manifest.variant(variant))
    texts = ["bank", *itertools.islice(random_texts(5), 20)]
    rows = [windows[0] for windows in model.task.encode(texts)]
    alone = [model.run_batch([row])[0]["logits"] for row in rows]
    together = [result["logits"] for result in model.run_batch(rows)]
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_dynamic_int8_is_found_to_depend_on_its_batch(manifest: Manifest) -> None:
    assert {each.name: each.alone for each in manifest.variants} == {"fp32": False, "int8": True}
