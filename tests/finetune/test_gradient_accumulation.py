"""A step of several batches has the gradient of one large batch: for every task, loss, head and family of models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from kit.data import write_splits
from kit.encoders import tiny_encoder
from kit.generative import build_causal, build_decoder, build_seq2seq, build_whisper
from kit.texts import pairs, random_texts
from kit.tokenizers import llama_tokenizer
from transformers import TrainerCallback

from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.setup import Prepared, load_model, make_trainer, prepare, with_settings
from tuneport.stages.finetune.strategies import adalora

ROWS = 14
"""Batches of four, four, four and two: the last one must not weigh as much as the others."""
DECODERS = ("llama", "mistral", "qwen2", "gemma", "gpt2")
TEXTS = [text for text, _ in zip(random_texts(3), range(ROWS), strict=False)]
NAMES = ("film", "vote", "song")
TAGS = ("O", "B-LOC", "B-PER")


def _write_tones(folder: Path) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(ROWS):
        file = folder / f"{i}.wav"
        soundfile.write(file, np.sin(np.arange(4800) * 0.02 * (i + 1)), 16_000)
        rows.append({"audio": str(file), "target": " ".join(["low", "high"][: 1 + i % 2] * (1 + i % 3))})
    return rows


DATA: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "label": lambda _: [{"text": t, "label": NAMES[i % 4 % 3]} for i, t in enumerate(TEXTS)],
    "labels": lambda _: [{"text": t, "labels": list(NAMES[: i % 4])} for i, t in enumerate(TEXTS)],
    # -100 is a score here, and the target that a loss over labels ignores.
    "score": lambda _: [{"text": t, "score": -100.0 if i % 5 == 0 else i / 7} for i, t in enumerate(TEXTS)],
    "scores": lambda _: [{"text": t, "text_pair": "the", "score": [i / 7, -i]} for i, t in enumerate(TEXTS)],
    "tags": lambda _: [
        {"tokens": t.split(), "tags": [TAGS[(i + k) % 3] for k, _ in enumerate(t.split())]} for i, t in enumerate(TEXTS)
    ],
    "answers": lambda _: [
        {
            "context": f"{t} river",
            "question": "what was big ?",
            "answers": {"text": ["river"][: i % 3], "answer_start": [len(t) + 1][: i % 3]},
        }
        for i, t in enumerate(" ".join(text.split()[:8]) for text in TEXTS)  # one window each
    ],
    "targets": lambda _: pairs(ROWS),
    "text": lambda _: [{"text": t} for t in TEXTS],
    "audio": _write_tones,
}
TASKS = {
    "label": "text-classification", "labels": "text-classification", "score": "regression", "scores": "regression",
    "tags": "token-classification", "answers": "question-answering", "targets": "translation",
    "text": "text-generation", "audio": "automatic-speech-recognition",
}  # fmt: skip


def _build(family: str, data: str, folder: Path) -> Path:
    if family in ("t5", "bart"):
        return build_seq2seq(folder, family)
    if family == "whisper":
        return build_whisper(folder, ["low", "high"])
    if data == "text":
        return build_causal(folder, family, llama_tokenizer())
    return build_decoder(folder, family) if family in DECODERS else tiny_encoder(folder, family)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Prepared]:
    """Prepare a model of a family and data of a form; both are made once, and so are the encoded rows."""
    known: dict[tuple[str, str], Prepared] = {}
    folder = tmp_path_factory.mktemp("accumulation")

    def make(family: str, data: str, **changes: Any) -> Prepared:
        values: dict[str, Any] = {
            "task": TASKS[data], "max_steps": 1, "max_length": 48, "max_grad_norm": 0, "bf16": False, "dropout": 0.0,
            "eval_strategy": "no", "save_strategy": "no", "report_to": [], "per_device_train_batch_size": 16,
        }  # fmt: skip
        values |= {"answers": {"doc_stride": 8}, "audio": {"max_target_length": 12}}.get(data, {})
        if data == "audio":
            del values["max_length"]
        if (family, data) not in known:
            rows = DATA[data](folder / "audio")
            source = write_splits(folder / data, train=rows, validation=rows[:6])
            model = _build(family, data, folder / f"{family}-{data}")
            known[family, data] = prepare(load_config(flags={**values, "model": str(model), "data": str(source)}))
        first = known[family, data]
        return _with(first, **changes)

    return make


def _with(prepared: Prepared, **changes: Any) -> Prepared:
    return with_settings(prepared, load_config(flags={**prepared.config.model_dump(exclude_unset=True), **changes}))


class _GradientRecorder(TrainerCallback):
    """Keeps the gradient that the optimizer's step uses."""

    def __init__(self) -> None:
        self.gradient = torch.empty(0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trained = [p for p in kwargs["model"].parameters() if p.requires_grad]
        self.gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])


def _gradient(prepared: Prepared, out: Path) -> tuple[torch.Tensor, float]:
    """Train one step; returns its gradient and the loss that is logged."""
    trainer = make_trainer(_with(prepared, logging_steps=1), out, load_model(prepared))
    recorder = _GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    return recorder.gradient, trainer.state.log_history[0]["loss"]


def _assert_same_gradient(prepared: Prepared, out: Path) -> None:
    whole, loss = _gradient(prepared, out)
    parts, loss_of_parts = _gradient(_with(prepared, per_device_train_batch_size=4, gradient_accumulation_steps=4), out)
    assert len(prepared.features["train"]) <= 16
    assert whole.norm() > 0
    assert (whole - parts).norm() / whole.norm() < 1e-5
    assert loss == pytest.approx(loss_of_parts, rel=1e-4)


SMOOTHED, WEIGHTED = {"label_smoothing_factor": 0.2}, {"class_weights": "balanced"}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("bert", "label", {**SMOOTHED, **WEIGHTED}),
    ("bert", "labels", {**SMOOTHED, **WEIGHTED}),
    ("bert", "tags", SMOOTHED),
    ("bert", "answers", {}),
    ("llama", "label", {}),
    ("llama", "labels", WEIGHTED),
    ("llama", "score", {}),
    ("llama", "tags", {}),
    ("gpt2", "text", SMOOTHED),
    ("t5", "targets", SMOOTHED),
    ("bert", "label", {"adversarial_epsilon": 0.5}),
]
"""One of each loss, task and kind of signature; all others are slow."""
SLOW: list[tuple[str, str, dict[str, Any]]] = [
    *(("bert", data, changes) for data in ("label", "labels") for changes in ({}, SMOOTHED, WEIGHTED)),
    *(("bert", "label", {"pooling": pooling, **WEIGHTED}) for pooling in ("cls", "mean", "attention")),
    *(("bert", data, {"pooling": "mean"}) for data in ("labels", "score")),
    *(("bert", data, {}) for data in ("score", "scores", "tags")),
    *(
        (family, data, {})
        for family in ("roberta", "distilbert", "deberta-v2", "electra", "modernbert", "xlnet", *DECODERS)
        for data in ("label", "score", "tags")
        if family != "llama"
    ),
    *((family, "answers", {}) for family in ("xlnet", "llama")),
    *((family, "labels", {}) for family in ("llama", "modernbert", "xlnet")),
    *((family, "text", {}) for family in ("gpt2", "llama")),
    ("llama", "text", SMOOTHED),
    *((family, "targets", {}) for family in ("t5", "bart")),
    ("bart", "targets", SMOOTHED),
    ("whisper", "audio", {}),
    *(("bert", "label", {"strategy": s, **more}) for s in ("lora", "adalora", "prefix") for more in ({}, SMOOTHED)),
    ("bert", "label", {"strategy": "adapter"}),
    ("llama", "text", {"strategy": "prefix", **SMOOTHED}),
    *(("llama", "text", {"strategy": strategy}) for strategy in ("adapter", "adalora")),
    ("llama", "text", {"adversarial_epsilon": 0.5}),
]


@pytest.mark.parametrize(
    ("family", "data", "changes"),
    [
        pytest.param(*case, id="-".join([*case[:2], *map(str, case[2].values())]), marks=marks)
        for cases, marks in ((CASES, ()), (SLOW, pytest.mark.slow))
        for case in cases
    ],
)
def test_accumulated_batches_have_the_gradient_of_one(
    prepared: Callable[..., Prepared], tmp_path: Path, family: str, data: str, changes: dict[str, Any]
) -> None:
    _assert_same_gradient(prepared(family, data, **changes), tmp_path)


@pytest.mark.parametrize(
    ("family", "data", "strategy"),
    [
        ("llama", "text", "prefix"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("bert", "label", "full"), ("bert", "tags", "full"), ("t5", "targets", "full"),
                ("gpt2", "text", "full"), ("llama", "text", "full"), ("llama", "text", "lora"),
                ("llama", "text", "adapter"),
            )
        ),
    ],
)  # fmt: skip
def test_smoothing_by_a_tiny_factor_is_the_models_own_loss(
    prepared: Callable[..., Prepared], tmp_path: Path, family: str, data: str, strategy: str
) -> None:
    """Above all the same targets: those of a causal model are the next tokens, whatever class wraps it."""
    plain = _gradient(prepared(family, data, strategy=strategy), tmp_path)
    smoothed = _gradient(prepared(family, data, strategy=strategy, label_smoothing_factor=1e-6), tmp_path)
    assert (plain[0] - smoothed[0]).norm() / plain[0].norm() < 1e-3
    assert plain[1] == pytest.approx(smoothed[1], rel=1e-3)


def test_adalora_is_regularized_under_every_loss(prepared: Callable[..., Prepared], tmp_path: Path) -> None:
    """Peft's classes for generative models add the term to a model's own loss; elsewhere the Trainer does."""
    ids = torch.tensor([[2, 10, 3]])
    for family, data in (("bert", "label"), ("llama", "text")):
        labels = torch.tensor([1]) if data == "label" else ids
        for changes in ({}, SMOOTHED):
            first = prepared(family, data, strategy="adalora", **changes)
            trainer = make_trainer(first, tmp_path, load_model(first))
            with torch.no_grad():
                loss, outputs = trainer.compute_loss(
                    trainer.model.eval(), {"input_ids": ids, "labels": labels}, return_outputs=True
                )
                term = adalora.regularization(trainer.model)
                logits, targets = (
                    (outputs.logits[:, :-1].flatten(0, 1), ids[0, 1:]) if data == "text" else (outputs.logits, labels)
                )
                own = torch.nn.functional.cross_entropy(
                    logits, targets, label_smoothing=changes.get("label_smoothing_factor", 0.0)
                )
            assert float(term) > 0.01
            assert float(loss) == pytest.approx(float(own + term), rel=1e-5)
    assert adalora.regularization(trainer.model.get_base_model()) == 0.0


def test_a_batch_without_targets_adds_nothing(prepared: Callable[..., Prepared], tmp_path: Path) -> None:
    first = prepared("bert", "tags")
    trainer = make_trainer(first, tmp_path, load_model(first))
    ids = torch.tensor([[2, 10, 11, 3]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.full_like(ids, -100)}
    loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=torch.tensor(5))
    loss.backward()
    assert float(loss.detach()) == 0.0
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    assert gradients
    assert not any(each.any() for each in gradients)
