"""Generative models, from a fine-tuning run to a prediction: T5, Marian, BART, GPT-2, Llama (a chat) and Whisper."""

import base64
import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml
import jiwer
import numpy as np
import onnx
import pytest
import sacrebleu
import soundfile
import torch
from kit import ROOT
from kit.artifacts import change_byte, packed_model
from kit.command import tuneport
from kit.data import read_rows, write_splits
from kit.exports import quick_exports
from kit.generative import build_causal, build_seq2seq, build_whisper
from kit.texts import pairs
from kit.tokenizers import CHAT_TEMPLATE, byte_tokenizer
from rouge_score.rouge_scorer import RougeScorer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
)

from tuneport.errors import CheckpointError, GateError, InputError, TuneportError
from tuneport.runtime.golden import check_golden, difference
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.tasks.generation import Prompt
from tuneport.runtime.tasks.text_generation import Task
from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import load_golden
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.footprint import measure_footprint
from tuneport.stages.export.graph import Graph
from tuneport.stages.export.passes.context import BuildContext
from tuneport.stages.export.passes.generative import generative_int4
from tuneport.stages.export.pipeline import export
from tuneport.stages.finetune.audio import read_audio
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune
from tuneport.stages.serve.bento import build
from tuneport.tasks import task_spec

FAMILIES = ("t5", "marian", "bart", "gpt2", "llama", "whisper")
TEXTS = ("eins zwei drei", "", "neun", "zehn unknown Größe 🙂", "vier " * 60)
RECORDINGS = [0, 1, 7]
"""Numbers of those that are inputs."""
METRICS = {
    "translation": "chrf", "summarization": "rougeL", "text-generation": "token_accuracy",
    "automatic-speech-recognition": "wer",
}  # fmt: skip
QUICK = {
    "eval_strategy": "no", "save_strategy": "no", "report_to": [], "bf16": False, "max_steps": 20,
    "learning_rate": 5e-3, "per_device_train_batch_size": 8,
}  # fmt: skip


@dataclass
class Exported:
    """A run, the artifact of it, and inputs for it."""

    family: str
    run: Path
    artifact: Path
    manifest: Manifest
    inputs: list[Any]

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoint"

    @property
    def data(self) -> Path:
        return self.run.parent / "data"

    @functools.cached_property
    def predictor(self) -> Predictor:
        return Predictor(self.artifact, "fp32")


Export = Callable[[str], Exported]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Train and export a family on first use; T5 and Llama with every variant."""
    done: dict[str, Exported] = {}

    def export_once(family: str) -> Exported:
        if family not in done:
            done[family] = train_and_export(family, tmp_path_factory.mktemp(family))
        return done[family]

    return export_once


def train_and_export(family: str, folder: Path) -> Exported:
    prepare_data = {"gpt2": texts_data, "llama": chat_data, "whisper": speech_data}.get(family, pairs_data)
    task, base, data, sizes, inputs = prepare_data(family, folder)
    run = folder / "run"
    finetune(load_config(flags={**QUICK, **sizes, "task": task, "model": str(base), "data": str(data)}), run)
    variants = () if family in ("t5", "llama") else ("fp32",)
    config = ExportConfig(checkpoint=run, name=family, max_drop=0.1, variants=variants)
    with quick_exports():
        manifest = export(config, folder / "artifact")
    return Exported(family, run, folder / "artifact", manifest, inputs)


def pairs_data(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = pairs(16)
    data = write_splits(folder / "data", train=rows, validation=rows[:8], test=rows[:8])
    sizes = {"max_length": 32, "max_target_length": 16, "source_prefix": "say it : " if family == "t5" else ""}
    task = "summarization" if family == "bart" else "translation"
    return task, build_seq2seq(folder / "base", family), data, sizes, list(TEXTS)


def texts_data(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = [{"text": f"one two three four {word}"} for word in ("one", "two", "five", "six") * 4]
    base = build_causal(folder / "base", family, byte_tokenizer([row["text"] for row in rows]))
    return "text-generation", base, same_splits(folder / "data", rows), {"max_length": 64}, list(TEXTS)


def chat_data(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = [
        {"messages": [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": f"it is {word}"}]}
        for word in ("one", "two", "five", "six") * 4
    ]
    tokenizer = byte_tokenizer([json.dumps(row) for row in rows])
    tokenizer.chat_template = CHAT_TEMPLATE
    base = build_causal(folder / "base", family, tokenizer)
    inputs = [{"messages": row["messages"][:1]} for row in rows[:3]] + ["it is"]
    return "text-generation", base, same_splits(folder / "data", rows), {"max_length": 64}, inputs


def speech_data(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = []
    (folder / "data").mkdir()
    for i, (word, hertz) in enumerate([("low", 300), ("high", 4000)] * 4):
        rate = 16_000 if i % 2 else 44_100
        wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * (0.2 + i / 10))) / rate)
        soundfile.write(folder / "data" / f"{i}.wav", wave, rate)
        rows.append({"audio": f"{i}.wav", "target": f"{word} tone"})
    base = build_whisper(folder / "base", ["low", "high"])
    data = same_splits(folder / "data", rows)
    inputs = [{"audio": base64.b64encode((data / f"{i}.wav").read_bytes()).decode()} for i in RECORDINGS]
    return "automatic-speech-recognition", base, data, {"max_target_length": 12}, inputs


def same_splits(folder: Path, rows: list[Any]) -> Path:
    return write_splits(folder, train=rows, validation=rows, test=rows)


def generate_with_transformers(model: Exported, inputs: list[Any], **settings: Any) -> list[str]:
    """Generate with transformers alone from the checkpoint, one input at a time."""
    tokenizer = AutoTokenizer.from_pretrained(model.checkpoint)
    is_causal = model.manifest.task == "text-generation"
    if is_causal:
        tokenizer.truncation_side = "left"
    auto_class = AutoModelForCausalLM if is_causal else AutoModelForSeq2SeqLM
    torch_model = auto_class.from_pretrained(model.checkpoint).eval()
    prefix = "say it : " if model.family == "t5" else ""
    limit, new_tokens = model.manifest.processing.max_length, 64 if is_causal else 16
    texts = []
    for value in inputs:
        if isinstance(value, dict):
            prompt = tokenizer.apply_chat_template(value["messages"], tokenize=False, add_generation_prompt=True)
            ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(prefix + value, truncation=True, max_length=limit)["input_ids"] or [tokenizer.bos_token_id]
        with torch.inference_mode():
            out = torch_model.generate(
                input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                **{"max_new_tokens": new_tokens, "do_sample": False, "num_beams": 1, **settings},
            )[0]  # fmt: skip
        text = tokenizer.decode(out[len(ids) if is_causal else 1 :], skip_special_tokens=True)
        texts.append(text if is_causal else text.strip())
    return texts


def transcribe_with_transformers(model: Exported, recordings: list[int]) -> list[str]:
    processor = AutoProcessor.from_pretrained(model.checkpoint)
    torch_model = AutoModelForSpeechSeq2Seq.from_pretrained(model.checkpoint).eval()
    sounds = [read_audio(model.data / f"{i}.wav", 16_000) for i in recordings]
    features = processor(sounds, sampling_rate=16_000, return_tensors="pt")["input_features"]
    with torch.inference_mode():
        tokens = torch_model.generate(features, max_new_tokens=12, do_sample=False, num_beams=1)
    return [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]


def expected_texts(model: Exported) -> list[str]:
    if model.family == "whisper":
        return transcribe_with_transformers(model, RECORDINGS)
    return generate_with_transformers(model, model.inputs)


def expected_metric(model: Exported) -> float:
    """Compute the gate's metric with the libraries that define it, on what transformers alone generates."""
    rows = read_rows(model.data / "validation.jsonl")
    if model.manifest.task == "text-generation":
        return expected_token_accuracy(model, rows)
    targets = [row["target"] for row in rows]
    if model.family == "whisper":
        return float(jiwer.wer(targets, transcribe_with_transformers(model, list(range(len(rows))))))
    texts = generate_with_transformers(model, [row["source"] for row in rows])
    if model.family != "bart":
        return float(sacrebleu.corpus_chrf(texts, [targets]).score) / 100
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return float(np.mean([scorer.score(*pair)["rougeL"].fmeasure for pair in zip(targets, texts, strict=True)]))


def expected_token_accuracy(model: Exported, rows: list[dict[str, Any]]) -> float:
    """Return the share of the answers' tokens that the torch model finds likeliest after the right ones before."""
    tokenizer = AutoTokenizer.from_pretrained(model.checkpoint)
    torch_model = AutoModelForCausalLM.from_pretrained(model.checkpoint).eval()
    hits: list[bool] = []
    for row in rows:
        if "messages" in row:
            prompt = tokenizer.apply_chat_template(row["messages"][:1], tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        else:
            words = row["text"].split(" ")
            prompt, whole = " ".join(words[: len(words) // 2]), row["text"]
        ids = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
        start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        with torch.inference_mode():
            likeliest = torch_model(input_ids=ids).logits[0, start - 1 : -1].argmax(-1)
        hits += (likeliest == ids[0, start:]).tolist()
    return float(np.mean(hits))


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_generates_what_transformers_generates(family: str, exported: Export) -> None:
    model = exported(family)
    fp32 = model.manifest.variant("fp32").evidence
    assert fp32.parity.agreement == 1
    assert fp32.parity.max_abs_diff < 1e-3
    assert fp32.parity.texts == (16 if model.manifest.task == "text-generation" else 8)
    predictions = model.predictor.predict(model.inputs)
    assert [each["text"] for each in predictions] == expected_texts(model)
    assert [bool(each.get("truncated")) for each in predictions] == [value == TEXTS[-1] for value in model.inputs]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_metric_is_that_of_what_transformers_generates(family: str, exported: Export) -> None:
    model = exported(family)
    metric = model.manifest.variant("fp32").evidence.metric
    assert metric
    assert metric.torch == pytest.approx(expected_metric(model), abs=1e-6)
    assert metric.value == metric.torch
    assert metric.name == METRICS[model.manifest.task]
    assert metric.lower_is_better == (family == "whisper")


def test_rouge_l_counts_the_words_in_order(exported: Export) -> None:
    checkpoint = open_checkpoint(exported("bart").run)
    task = task_spec("summarization").task_class("export")(checkpoint)
    assert task.score_texts(["two one three"], ["one two three"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("family", ["marian", "gpt2", "whisper"])
def test_alone_in_a_batch_and_permuted_the_predictions_are_the_same(family: str, exported: Export) -> None:
    model = exported(family)
    predictor = model.predictor
    together = predictor.predict(model.inputs)
    assert together == [predictor.predict([value])[0] for value in model.inputs]
    assert together[::-1] == predictor.predict(model.inputs[::-1])


def test_every_file_is_in_the_manifest(exported: Export) -> None:
    model = exported("whisper")
    of_variants = {file.path for variant in model.manifest.variants for file in variant.execution.files}
    listed = {file.path for file in model.manifest.files} | of_variants
    found = {path.relative_to(model.artifact).as_posix() for path in model.artifact.rglob("*") if path.is_file()}
    assert listed == found - {"manifest.json"}
    assert {"processor/tokenizer.json", "processor/preprocessor_config.json"} <= listed
    for name in ("encoder_model.onnx", "decoder_model_merged.onnx", "config.json", "generation_config.json"):
        assert f"onnx/fp32/{name}" in listed
    assert model.manifest.inputs[0].name == "input_features"
    assert [each.name for each in model.manifest.outputs] == ["logits"]


def test_variants_that_fit_and_their_evidence(exported: Export) -> None:
    model = exported("t5")
    assert [variant.name for variant in model.manifest.variants] == ["fp32", "int8", "int4"]
    fp32, _, int4 = model.manifest.variants
    assert int4.execution.size_bytes < fp32.execution.size_bytes
    assert all(variant.evidence.timing.texts_per_s > 0 for variant in model.manifest.variants)
    assert "MatMulNBits" in operators(model.artifact / "onnx/int4/decoder_model_merged.onnx")
    assert "MatMulInteger" in operators(model.artifact / "onnx/int8/encoder_model.onnx")
    assert "MatMulNBits" in operators(exported("llama").artifact / "onnx/int4/model.onnx")
    answer = tuneport("verify", model.artifact)
    assert answer.code == 0
    assert [line.split(":")[0] for line in answer.out.splitlines()] == ["fp32", "int8", "int4"]
    assert "chrf" in tuneport("inspect", model.artifact).out


def test_the_footprint_is_that_of_a_process_with_torch(exported: Export) -> None:
    model = exported("marian")
    manifest = model.manifest
    (execution,) = [variant.execution for variant in manifest.variants]
    footprint = measure_footprint(model.artifact, manifest.task, (), manifest.processing, execution, model.inputs[:2])
    assert footprint.memory_mib > 10
    assert footprint.cold_start_ms > 10


def test_gpt2_has_int4_weights_though_its_layers_are_gemms(exported: Export, tmp_path: Path) -> None:
    graph = Graph(exported("gpt2").artifact / "onnx" / "fp32", ("model.onnx",))
    context = BuildContext(graph, (), "minmax", smoothquant=False, model_type="gpt2", num_heads=4, hidden_size=32)
    assert generative_int4(graph, context, tmp_path).files == ("model.onnx",)
    assert operators(tmp_path / "model.onnx").count("MatMulNBits") == 8


def operators(file: Path) -> list[str]:
    """List the operators of a graph and of the graphs within it."""
    found = []

    def collect(graph: Any) -> None:
        for node in graph.node:
            found.append(node.op_type)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    collect(attribute.g)

    collect(onnx.load(str(file)).graph)
    return found


def test_golden_cases_find_a_model_that_generates_other_tokens(exported: Export) -> None:
    model = exported("gpt2")
    runner, fp32 = model.predictor.runner, model.manifest.variant("fp32")
    cases = load_golden(model.artifact)
    assert check_golden(runner, cases, fp32) < 1e-3
    wrong = [case.model_copy(update={"outputs": ({**case.outputs[0], "tokens": [1, 2]},)}) for case in cases]
    with pytest.raises(GateError, match="differs from torch by"):
        check_golden(runner, wrong, fp32)


def test_a_difference_counts_positions_and_ignores_ties() -> None:
    def gap(ours: list[int], theirs: list[int], margins: list[float]) -> float:
        return difference([{"tokens": np.array(ours)}], [{"tokens": theirs, "margins": margins}])

    assert gap([5, 6, 7], [5, 6, 7], [1, 1, 1, 1]) == 0
    assert gap([5, 9, 7], [5, 6, 7], [1, 1, 1, 1]) == 1 / 4
    assert gap([5, 9, 8], [5, 6, 7], [1, 1e-3, 1, 1]) == 0
    assert gap([4, 9, 8], [5, 6, 7], [1, 1e-3, 1, 1]) == 3 / 4
    assert gap([5, 6], [5, 6, 7], [1, 1, 1, 1]) == 2 / 4
    assert gap([5, 6], [5, 6, 7], [1, 1, 1e-4, 1]) == 0
    assert gap([], [], [1]) == 0
    # The end of an answer is no token: an answer that goes on with any token, the first included, differs there.
    assert gap([5, 6], [5, 6, 0], [1, 1, 1, 1]) == 2 / 4
    assert gap([], [0], [1, 1]) == 1


def test_parameters_do_what_they_say(exported: Export) -> None:
    model = exported("llama")
    predictor, ask = model.predictor, model.inputs[:1]

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


def test_beams_are_those_of_transformers(exported: Export) -> None:
    model = exported("marian")
    predictions = model.predictor.predict(model.inputs[:3], {"num_beams": 3})
    expected = generate_with_transformers(model, model.inputs[:3], num_beams=3)
    assert [each["text"] for each in predictions] == expected


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_new_tokens": 0}, {"num_beams": 99}, {"temperature": -1}, {"top_p": 0}, {"stop": [""]}, {"stop": [1]},
        {"num_beams": 2, "temperature": 1.0}, {"num_beams": 2, "stream": True}, {"do_sample": True}, {"seed": "a"},
    ],
)  # fmt: skip
def test_wrong_parameters_are_named(parameters: dict[str, Any], exported: Export) -> None:
    with pytest.raises(InputError, match="wrong parameters"):
        exported("gpt2").predictor.predict(["one"], parameters)


def test_rows_of_other_parameters_or_fewer_positions_have_another_group(exported: Export) -> None:
    task = exported("gpt2").predictor.task
    assert isinstance(task, Task)
    (short,), (long,) = task.encode([task.parse_input("one"), task.parse_input("one two " * 40)])
    assert isinstance(short, Prompt)
    assert isinstance(long, Prompt)
    parameters = [task.parameters.model_validate(each) for each in ({}, {}, {"temperature": 1.0}, {"top_k": 3})]
    groups = [task.request_rows("", [short], each)[0].group for each in parameters]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3
    assert long.truncated
    (longest,) = task.request_rows("", [long], task.parameters.model_validate({"max_new_tokens": 10_000}))
    assert isinstance(longest, Prompt)
    assert longest.sampling.max_new_tokens + len(longest) == 128  # positions of the tiny model


def test_a_reference_answer_gets_its_perplexity(exported: Export) -> None:
    model = exported("gpt2")
    tokenizer = AutoTokenizer.from_pretrained(model.checkpoint)
    torch_model = AutoModelForCausalLM.from_pretrained(model.checkpoint).eval()
    ids = torch.tensor([tokenizer("one two three four")["input_ids"]])
    labels = ids.clone()
    labels[:, : len(tokenizer("one two")["input_ids"])] = -100
    with torch.inference_mode():
        expected = float(torch.exp(torch_model(input_ids=ids, labels=labels).loss))
    (answer,) = model.predictor.predict([{"text": "one two", "answer": " three four"}])
    assert answer["answer_perplexity"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", [3, {"messages": []}, {"messages": [{"role": "x", "content": "a"}]}, {"text": 1}])
def test_wrong_inputs_of_a_text_model_are_named(value: Any, exported: Export) -> None:
    with pytest.raises(InputError):
        exported("llama").predictor.predict([value])


def test_messages_need_a_chat_template(exported: Export) -> None:
    with pytest.raises(InputError, match="has no chat template"):
        exported("gpt2").predictor.predict([{"messages": [{"role": "user", "content": "hi"}]}])


def test_recordings_come_as_paths_on_the_command_line_alone(exported: Export, tmp_path: Path) -> None:
    model = exported("whisper")
    data = model.data
    answer = tuneport("predict", model.artifact, data / "0.wav", data / "1.wav", "--variant", "fp32")
    expected = transcribe_with_transformers(model, [0, 1])
    assert [json.loads(line)["text"] for line in answer.out.splitlines()] == expected
    assert tuneport("predict", model.artifact, tmp_path / "gone.wav").code == 1
    predictor = model.predictor
    for value in (str(data / "0.wav"), {"audio": "no base64"}, {"audio": base64.b64encode(b"no sound").decode()}, 3):
        with pytest.raises(InputError):
            predictor.predict([value])


def test_bench_compares_with_torch(exported: Export, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "report", "--rounds", "1", "--num-inputs", "4")
    answer = tuneport("bench", exported("marian").artifact, *options)
    assert answer.code == 0, answer.err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    names = [each["name"] for each in report["results"]]
    assert names[0] == "torch fp32"
    assert names[-1] == "fp32"
    assert all(each["timing"]["texts_per_s"] > 0 for each in report["results"])


def test_golden_cases_hold_tokens_and_their_margins(exported: Export) -> None:
    for family in ("t5", "whisper"):
        cases = read_rows(exported(family).artifact / "golden.jsonl")
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
    with pytest.raises(TuneportError, match="fused is for encoder models"):
        export(ExportConfig(checkpoint=tmp_path / "marian", variants=("fused",)), tmp_path / "out")
    with pytest.raises(CheckpointError, match="at most 128 tokens, and 129 were asked for"):
        export(ExportConfig(checkpoint=tmp_path / "marian", max_length=129), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_variant_that_is_not_the_file_that_passed_is_refused(exported: Export, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(exported("gpt2").artifact, tmp_path / "copy"))
    change_byte(copy / "processor" / "tokenizer.json")
    answer = tuneport("verify", copy)
    assert answer.code == 1
    assert "tokenizer.json is not the file" in answer.err


def test_the_bento_of_a_generative_model_has_torch(exported: Export) -> None:
    bento = bentoml.bentos.get(build(exported("gpt2").artifact).tag)
    installed = (packed_model(bento) / "requirements.txt").read_text()
    assert installed == (ROOT / "serve" / "requirements-generate.txt").read_text()
    assert "\ntorch==" in installed
    assert "\noptimum-onnx==" in installed
