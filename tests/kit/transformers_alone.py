"""What transformers alone generates from a checkpoint, and the gate's metrics by the libraries that define them."""

from typing import Any

import jiwer
import numpy as np
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    AutoTokenizer,
)

from tuneport.runtime.backends.generative import GenerativeRunner
from tuneport.runtime.golden import check_golden
from tuneport.runtime.predictor import Predictor
from tuneport.schema.loading import load_golden
from tuneport.stages.finetune.audio import read_audio

from .data import read_rows
from .generative import MAX_NEW_TOKENS
from .generative_exports import RECORDINGS, TEXTS, Exported

METRICS = {
    "translation": "chrf", "summarization": "rougeL", "text-generation": "token_accuracy",
    "automatic-speech-recognition": "wer",
}  # fmt: skip


def generate_with_transformers(model: Exported, inputs: list[Any], **settings: Any) -> list[str]:
    """Generate with transformers alone from the checkpoint, one input at a time."""
    tokenizer = AutoTokenizer.from_pretrained(model.checkpoint)
    is_causal = model.manifest.task == "text-generation"
    if is_causal:
        tokenizer.truncation_side = "left"
    auto_class = AutoModelForCausalLM if is_causal else AutoModelForSeq2SeqLM
    torch_model = auto_class.from_pretrained(model.checkpoint).eval()
    prefix = "say it : " if model.family == "t5" else ""
    limit, new_tokens = model.manifest.processing.max_length, MAX_NEW_TOKENS if is_causal else 16
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


def assert_fp32_generates_the_same(model: Exported) -> None:
    """Compare the fp32 variant's evidence and texts with transformers'."""
    fp32 = model.manifest.variant("fp32").evidence
    assert fp32.parity.agreement == 1
    assert fp32.parity.max_abs_diff < 1e-3
    assert fp32.parity.texts == (16 if model.manifest.task == "text-generation" else 8)
    predictions = model.predictor.predict(model.inputs)
    assert [each["text"] for each in predictions] == expected_texts(model)
    assert [bool(each.get("truncated")) for each in predictions] == [value == TEXTS[-1] for value in model.inputs]


def assert_the_metric_is_the_same(model: Exported) -> None:
    """Compare the gate's metric with that of what transformers generates."""
    metric = model.manifest.variant("fp32").evidence.metric
    assert metric
    assert abs(metric.torch - expected_metric(model)) < 1e-6
    assert metric.value == metric.torch
    assert metric.name == METRICS[model.manifest.task]
    assert metric.lower_is_better == (model.family == "whisper")


def assert_batches_change_nothing(model: Exported) -> None:
    """Predict inputs together, one by one and in the opposite order."""
    predictor = model.predictor
    together = predictor.predict(model.inputs)
    assert together == [predictor.predict([value])[0] for value in model.inputs]
    assert together[::-1] == predictor.predict(model.inputs[::-1])


def assert_io_binding_changes_nothing(model: Exported) -> None:
    """Generate with the past kept where the model runs, as on a GPU: tokens, likelihoods, beams and golden cases."""
    bound = Predictor(model.artifact, "fp32")
    assert isinstance(bound.runner, GenerativeRunner)
    assert not bound.runner.model.use_io_binding  # on a CPU there is nothing to gain
    bound.runner.model.use_io_binding = True
    cases, variant = load_golden(model.artifact), model.manifest.variant("fp32")
    assert check_golden(bound.runner, cases, variant) == check_golden(model.predictor.runner, cases, variant)
    for parameters in ({}, {"num_beams": 2}):
        assert bound.predict(model.inputs, parameters) == model.predictor.predict(model.inputs, parameters)


def assert_golden_cases_hold_margins(model: Exported) -> None:
    """Every golden case has its tokens, and a margin for each of them and for the end of the text."""
    cases = read_rows(model.artifact / "golden.jsonl")
    for case in cases:
        (output,) = case["outputs"]
        assert len(output["margins"]) in (len(output["tokens"]), len(output["tokens"]) + 1)
        assert all(isinstance(token, int) for token in output["tokens"])
    assert len({case["batch"] for case in cases}) >= 4
