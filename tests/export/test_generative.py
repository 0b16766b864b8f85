"""Models that write, from a fine-tuning run to an answer: T5, Marian, BART, GPT-2, Llama (a chat) and Whisper."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from helpers import ROOT, change_byte, read_rows, tuneport, write_rows
from tiny_generative import (
    CHAT_TEMPLATE,
    build_causal,
    build_seq2seq,
    build_whisper,
    byte_tokenizer,
    pairs,
    write_pairs,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
)

from tuneport.errors import CheckpointError, GateError, InputError, TuneportError
from tuneport.runtime.golden import END, difference
from tuneport.runtime.loading import open_runner
from tuneport.runtime.tasks.generation import Prompt
from tuneport.schema.artifact import Footprint, Manifest
from tuneport.schema.loading import load_golden, load_manifest
from tuneport.stages.export.pipeline import ExportConfig, export
from tuneport.stages.finetune.audio import read_audio
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune
from tuneport.stages.serve.predictor import Predictor
from tuneport.stages.serve.settings import Settings

FAMILIES = ("t5", "marian", "bart", "gpt2", "llama", "whisper")
TEXTS = ("eins zwei drei", "", "neun", "zehn unknown Größe 🙂", "vier " * 60)
QUICK = {
    "eval_strategy": "no", "save_strategy": "no", "report_to": [], "bf16": False, "max_steps": 20,
    "learning_rate": 5e-3, "per_device_train_batch_size": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A run, the artifact of it, and inputs that it takes."""

    family: str
    run: Path
    artifact: Path
    manifest: Manifest
    inputs: list[Any]

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoint"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """Train and export a family on first use; T5 and Llama with every variant, Marian with a real footprint."""
    kept: dict[str, Made] = {}

    def make(family: str) -> Made:
        if family not in kept:
            kept[family] = _make(family, tmp_path_factory.mktemp(family))
        return kept[family]

    return make


def _make(family: str, folder: Path) -> Made:
    task, base, data, sizes, inputs = {"gpt2": _text, "llama": _chat, "whisper": _speech}.get(family, _pairs)(
        family, folder
    )
    run = folder / "run"
    finetune(load_config(flags={**QUICK, **sizes, "task": task, "model": str(base), "data": str(data)}), run)
    variants = () if family in ("t5", "llama") else ("fp32",)
    config = ExportConfig(checkpoint=run, name=family, max_drop=1, variants=variants)
    with pytest.MonkeyPatch.context() as patch:
        if family != "marian":  # a process of its own takes seconds, and is the same for all
            patch.setattr(
                "tuneport.stages.export.build.measure_footprint",
                lambda *_: Footprint(memory_mib=1.0, cold_start_ms=1.0),
            )
        manifest = export(config, folder / "artifact")
    return Made(family, run, folder / "artifact", manifest, inputs)


def _pairs(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    data = write_pairs(folder / "data", pairs(16), pairs(16)[:8])
    sizes = {"max_length": 32, "max_target_length": 16, "source_prefix": "say it : " if family == "t5" else ""}
    task = "summarization" if family == "bart" else "translation"
    return task, build_seq2seq(folder / "base", family), data, sizes, list(TEXTS)


def _text(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = [{"text": f"one two three four {word}"} for word in ("one", "two", "five", "six") * 4]
    base = build_causal(folder / "base", family, byte_tokenizer([row["text"] for row in rows]))
    return "text-generation", base, _splits(folder / "data", rows), {"max_length": 64}, list(TEXTS)


def _chat(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = [
        {"messages": [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": f"it is {word}"}]}
        for word in ("one", "two", "five", "six") * 4
    ]
    tokenizer = byte_tokenizer([json.dumps(row) for row in rows])
    tokenizer.chat_template = CHAT_TEMPLATE
    base = build_causal(folder / "base", family, tokenizer)
    inputs = [{"messages": row["messages"][:1]} for row in rows[:3]] + ["it is"]
    return "text-generation", base, _splits(folder / "data", rows), {"max_length": 64}, inputs


def _speech(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = []
    (folder / "data").mkdir()
    for i, (word, hertz) in enumerate([("low", 300), ("high", 4000)] * 4):
        rate = 16_000 if i % 2 else 44_100
        wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * (0.2 + i / 10))) / rate)
        soundfile.write(folder / "data" / f"{i}.wav", wave, rate)
        rows.append({"audio": f"{i}.wav", "target": f"{word} tone"})
    base = build_whisper(folder / "base", ["low", "high"])
    data = _splits(folder / "data", rows)
    inputs = [{"audio": base64.b64encode((data / f"{i}.wav").read_bytes()).decode()} for i in (0, 1, 7)]
    return "automatic-speech-recognition", base, data, {"max_target_length": 12}, inputs


def _splits(folder: Path, rows: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


def _by_transformers(made: Made, **asked: Any) -> list[str]:
    """What transformers alone makes of the checkpoint, one input at a time."""
    if made.family == "whisper":
        return _heard(made)
    tokenizer = AutoTokenizer.from_pretrained(made.checkpoint)
    is_causal = made.manifest.task == "text-generation"
    if is_causal:
        tokenizer.truncation_side = "left"
    kind = AutoModelForCausalLM if is_causal else AutoModelForSeq2SeqLM
    model = kind.from_pretrained(made.checkpoint).eval()
    prefix = "say it : " if made.family == "t5" else ""
    limit, new = made.manifest.processing.max_length, 64 if is_causal else 16
    texts = []
    for value in made.inputs:
        if isinstance(value, dict):
            prompt = tokenizer.apply_chat_template(value["messages"], tokenize=False, add_generation_prompt=True)
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(prefix + value, truncation=True, max_length=limit)["input_ids"] or [tokenizer.bos_token_id]
        with torch.inference_mode():
            out = model.generate(
                input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                **{"max_new_tokens": new, "do_sample": False, "num_beams": 1, **asked},
            )[0]  # fmt: skip
        text = tokenizer.decode(out[len(ids) if is_causal else 1 :], skip_special_tokens=True)
        texts.append(text if is_causal else text.strip())
    return texts


def _heard(made: Made) -> list[str]:
    processor = AutoProcessor.from_pretrained(made.checkpoint)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(made.checkpoint).eval()
    sounds = [read_audio(made.run.parent / "data" / f"{i}.wav", 16_000) for i in (0, 1, 7)]
    features = processor(sounds, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.inference_mode():
        written = model.generate(features, max_new_tokens=12, do_sample=False, num_beams=1)
    return [text.strip() for text in processor.batch_decode(written, skip_special_tokens=True)]


def _predictor(made: Made, variant: str = "fp32") -> Predictor:
    return Predictor(made.artifact, Settings(variant=variant))


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_writes_what_transformers_writes(family: str, made: Callable[[str], Made]) -> None:
    it = made(family)
    fp32 = it.manifest.variant("fp32")
    assert fp32.parity.agreement == 1
    assert fp32.parity.max_abs_diff < 1e-3
    assert fp32.parity.texts == 16 if it.manifest.task == "text-generation" else fp32.parity.texts == 8
    assert fp32.metric
    assert fp32.metric.value == fp32.metric.torch
    assert 0 <= fp32.metric.value
    predictions = _predictor(it).predict(it.inputs)
    assert [each["text"] for each in predictions] == _by_transformers(it)
    assert [bool(each.get("truncated")) for each in predictions] == [value == TEXTS[-1] for value in it.inputs]


@pytest.mark.parametrize("family", ["marian", "gpt2", "whisper"])
def test_alone_in_a_batch_and_permuted_the_answers_are_the_same(family: str, made: Callable[[str], Made]) -> None:
    it = made(family)
    predictor = _predictor(it)
    together = predictor.predict(it.inputs)
    assert together == [predictor.predict([value])[0] for value in it.inputs]
    assert together[::-1] == predictor.predict(it.inputs[::-1])


def test_every_file_is_in_the_manifest_and_a_changed_one_is_found(made: Callable[[str], Made], tmp_path: Path) -> None:
    it = made("whisper")
    listed = {file.path for file in it.manifest.files} | {f.path for v in it.manifest.variants for f in v.files}
    there = {path.relative_to(it.artifact).as_posix() for path in it.artifact.rglob("*") if path.is_file()}
    assert listed == there - {"manifest.json"}
    assert {"processor/tokenizer.json", "processor/preprocessor_config.json"} <= listed
    for name in ("encoder_model.onnx", "decoder_model_merged.onnx", "config.json", "generation_config.json"):
        assert f"onnx/fp32/{name}" in listed
    assert it.manifest.inputs[0].name == "input_features"
    assert [each.name for each in it.manifest.outputs] == ["logits"]


def test_variants_that_fit_and_their_evidence(made: Callable[[str], Made]) -> None:
    it = made("t5")
    assert [variant.name for variant in it.manifest.variants] == ["fp32", "int8", "int4"]
    assert it.manifest.variant("int4").size_bytes < it.manifest.variant("fp32").size_bytes
    for variant in it.manifest.variants:
        assert variant.timing
        assert variant.timing.texts_per_s > 0
    footprint = made("marian").manifest.variants[0].footprint
    assert footprint
    assert footprint.memory_mib > 10
    assert "MatMulNBits" in _operators(it.artifact / "onnx/int4/decoder_model_merged.onnx")
    assert "MatMulInteger" in _operators(it.artifact / "onnx/int8/encoder_model.onnx")
    assert "MatMulNBits" in _operators(made("llama").artifact / "onnx/int4/model.onnx")
    answer = tuneport("verify", it.artifact)
    assert answer.code == 0
    assert [line.split(":")[0] for line in answer.out.splitlines()] == ["fp32", "int8", "int4"]
    assert "chrf" in tuneport("inspect", it.artifact).out


def test_gpt2_has_int4_weights_though_its_layers_are_gemms(made: Callable[[str], Made], tmp_path: Path) -> None:
    from tuneport.stages.export.generative.to_onnx import quantize_generative_int4

    graph = made("gpt2").artifact / "onnx/fp32/model.onnx"
    assert quantize_generative_int4(graph, ["model.onnx"], tmp_path) == ["model.onnx"]
    assert _operators(tmp_path / "model.onnx").count("MatMulNBits") == 8


def _operators(graph: Path) -> list[str]:
    import onnx

    found = []

    def collect(each: Any) -> None:
        for node in each.node:
            found.append(node.op_type)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    collect(attribute.g)

    collect(onnx.load(str(graph)).graph)
    return found


def test_a_broken_model_is_found_at_the_start(made: Callable[[str], Made], tmp_path: Path) -> None:
    it = made("gpt2")
    manifest = load_manifest(it.artifact)
    cases = load_golden(it.artifact)
    model = open_runner(it.artifact, manifest, manifest.variant("fp32"))
    from tuneport.runtime.golden import check_golden

    assert check_golden(model, cases, manifest.variant("fp32")) < 1e-3
    wrong = [case.model_copy(update={"outputs": ({**case.outputs[0], "tokens": [1, 2]},)}) for case in cases]
    with pytest.raises(GateError, match="differs from torch by"):
        check_golden(model, wrong, manifest.variant("fp32"))


def test_a_difference_counts_positions_and_forgives_ties() -> None:
    def gap(ours: list[int], theirs: list[int], margins: list[float]) -> float:
        mine, right = np.array(ours), {"tokens": theirs, "margins": margins}
        return difference([{"tokens": mine}], [right])

    assert gap([5, 6, 7], [5, 6, 7], [1, 1, 1, 1]) == 0
    assert gap([5, 9, 7], [5, 6, 7], [1, 1, 1, 1]) == 1 / 4
    assert gap([5, 9, 8], [5, 6, 7], [1, 1e-3, 1, 1]) == 0
    assert gap([4, 9, 8], [5, 6, 7], [1, 1e-3, 1, 1]) == 3 / 4
    assert gap([5, 6], [5, 6, 7], [1, 1, 1, 1]) == 2 / 4
    assert gap([5, 6], [5, 6, 7], [1, 1, 1e-4, 1]) == 0
    assert gap([], [], [1]) == 0
    assert END < 0


def test_parameters_do_what_they_say(made: Callable[[str], Made]) -> None:
    it = made("llama")
    predictor, ask = _predictor(it), it.inputs[:1]

    def text(**parameters: Any) -> dict[str, Any]:
        return predictor.predict(ask, parameters)[0]

    plain = text()
    three = text(max_new_tokens=3)
    assert three["finish_reason"] == "length"
    assert plain["text"].startswith(three["text"])
    assert text(temperature=0, top_p=0.5) == text(temperature=1e-45) == plain
    drawn = [text(temperature=5.0, seed=seed, max_new_tokens=8) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert text(top_k=1, max_new_tokens=3) == three
    stopped = text(stop=plain["text"][2:4])
    assert stopped == {"text": plain["text"][: plain["text"].index(plain["text"][2:4])], "finish_reason": "stop"}
    beams = made("marian")
    assert [each["text"] for each in _predictor(beams).predict(beams.inputs[:3], {"num_beams": 3})] == _by_transformers(
        Made(beams.family, beams.run, beams.artifact, beams.manifest, beams.inputs[:3]), num_beams=3
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_new_tokens": 0}, {"num_beams": 99}, {"temperature": -1}, {"top_p": 0}, {"stop": [""]}, {"stop": [1]},
        {"num_beams": 2, "temperature": 1.0}, {"num_beams": 2, "stream": True}, {"do_sample": True}, {"seed": "a"},
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(parameters: dict[str, Any], made: Callable[[str], Made]) -> None:
    with pytest.raises(InputError, match="wrong parameters"):
        _predictor(made("gpt2")).predict(["one"], parameters)


def test_rows_of_other_parameters_or_less_room_have_another_group(made: Callable[[str], Made]) -> None:
    from tuneport.runtime.tasks.text_generation import Task

    it = made("gpt2")
    task = _predictor(it).model.task
    assert isinstance(task, Task)
    (short,), (long,) = task.encode([task.parse_input("one"), task.parse_input("one two " * 40)])
    assert isinstance(short, Prompt)
    assert isinstance(long, Prompt)
    parameters = [task.parameters.model_validate(each) for each in ({}, {}, {"temperature": 1.0}, {"top_k": 3})]
    groups = [task.ask([short], each)[0].group for each in parameters]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3
    assert long.truncated
    most = task.ask([long], task.parameters.model_validate({"max_new_tokens": 10_000}))[0]
    assert isinstance(most, Prompt)
    assert most.writing.max_new_tokens + len(most) == 128  # positions of the tiny model


def test_a_known_answer_is_judged(made: Callable[[str], Made]) -> None:
    it = made("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(it.checkpoint)
    model = AutoModelForCausalLM.from_pretrained(it.checkpoint).eval()
    ids = torch.tensor([tokenizer("one two three four")["input_ids"]])
    labels = ids.clone()
    labels[:, : len(tokenizer("one two")["input_ids"])] = -100
    with torch.inference_mode():
        expected = float(torch.exp(model(input_ids=ids, labels=labels).loss))
    (answer,) = _predictor(it).predict([{"text": "one two", "answer": " three four"}])
    assert answer["answer_perplexity"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [3, {"messages": []}, {"messages": [{"role": "x", "content": "a"}]}, {"text": 1}])
def test_wrong_inputs_of_a_text_model_are_named(value: Any, made: Callable[[str], Made]) -> None:
    with pytest.raises(InputError):
        _predictor(made("llama")).predict([value])


def test_messages_need_a_chat_template(made: Callable[[str], Made]) -> None:
    with pytest.raises(InputError, match="has no chat template"):
        _predictor(made("gpt2")).predict([{"messages": [{"role": "user", "content": "hi"}]}])


def test_recordings_come_as_paths_on_the_command_line_alone(made: Callable[[str], Made], tmp_path: Path) -> None:
    it = made("whisper")
    data = it.run.parent / "data"
    answer = tuneport("predict", it.artifact, data / "0.wav", data / "1.wav", "--variant", "fp32")
    assert [json.loads(line)["text"] for line in answer.out.splitlines()] == _by_transformers(it)[:2]
    assert tuneport("predict", it.artifact, tmp_path / "gone.wav").code == 1
    predictor = _predictor(it)
    for value in (str(data / "0.wav"), {"audio": "no base64"}, {"audio": base64.b64encode(b"no sound").decode()}, 3):
        with pytest.raises(InputError):
            predictor.predict([value])


def test_bench_compares_with_torch(made: Callable[[str], Made], tmp_path: Path) -> None:
    answer = tuneport("bench", made("marian").artifact, "--out", tmp_path / "report", "--rounds", "1", "--texts", "4")
    assert answer.code == 0, answer.err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    names = [each["name"] for each in report["results"]]
    assert names[0] == "torch fp32"
    assert names[-1] == "fp32"
    assert all(each["timing"]["texts_per_s"] > 0 for each in report["results"])


def test_golden_cases_hold_tokens_and_how_sure_torch_was(made: Callable[[str], Made]) -> None:
    for family in ("t5", "whisper"):
        cases = read_rows(made(family).artifact / "golden.jsonl")
        for case in cases:
            (output,) = case["outputs"]
            assert len(output["margins"]) in (len(output["tokens"]), len(output["tokens"]) + 1)
            assert all(isinstance(token, int) for token in output["tokens"])
        assert len({case["batch"] for case in cases}) >= 4


def test_an_architecture_that_leaves_the_task_open_asks_for_it(tmp_path: Path) -> None:
    build_seq2seq(tmp_path / "t5", "t5")
    build_seq2seq(tmp_path / "marian", "marian")
    with pytest.raises(CheckpointError, match="may be for translation or summarization; say which: --task translation"):
        export(ExportConfig(checkpoint=tmp_path / "t5"), tmp_path / "out")
    with pytest.raises(CheckpointError, match="T5ForConditionalGeneration, which cannot do text-generation"):
        export(ExportConfig(checkpoint=tmp_path / "t5", task="text-generation"), tmp_path / "out")
    with pytest.raises(CheckpointError, match="cannot do text-classification"):
        export(ExportConfig(checkpoint=tmp_path / "marian", task="text-classification"), tmp_path / "out")
    with pytest.raises(TuneportError, match="fused is for models that write nothing"):
        export(ExportConfig(checkpoint=tmp_path / "marian", variants=("fused",)), tmp_path / "out")
    with pytest.raises(CheckpointError, match="at most 128 tokens, and 129 were asked for"):
        export(ExportConfig(checkpoint=tmp_path / "marian", max_length=129), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_variant_that_is_not_the_file_that_passed_is_refused(made: Callable[[str], Made], tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(made("gpt2").artifact, tmp_path / "copy"))
    change_byte(copy / "processor" / "tokenizer.json")
    answer = tuneport("verify", copy)
    assert answer.code == 1
    assert "tokenizer.json is not the file" in answer.err


def test_the_bento_of_a_model_that_writes_has_torch(made: Callable[[str], Made]) -> None:
    import bentoml

    from tuneport.stages.serve.bento import build

    bento = bentoml.bentos.get(build(made("gpt2").artifact).tag)
    packed = (Path(bento.path) / "env" / "python" / "requirements.txt").read_text()
    assert "torch==" in packed
    assert "optimum-onnx==" in packed
    assert (ROOT / "serve" / "requirements-generate.txt").read_text().count("\n") > 50
