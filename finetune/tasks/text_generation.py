"""Text generation: a causal model on `text`, all of it, or on the answers in chats (`messages`)."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel

from export.files import CheckpointError, DataError, TuneportError
from finetune.chat import answers_of, check_messages, encode_chat, load_template
from finetune.config import FinetuneConfig, refuse_unused
from finetune.data import Data, Problems, rows_of, short
from finetune.evaluate import WORST, Evaluation, Mistake
from finetune.generation import make_consistent
from finetune.loading import load_pretrained, load_tokenizer
from finetune.sizes import check_sizes
from finetune.tasks import first_output


class Task:
    """Checks, encodes and scores rows of `text` or `messages`.

    An input is one row, cut at max_length tokens; rows are not packed together. The checkpoint generates with
    the base model's own settings.
    """

    required: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ("text", "messages")
    best_metric: ClassVar[str] = "perplexity"
    greater_is_better: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    labels: tuple[str, ...] = ()

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check every row: a text with something in it, or messages of known roles with an answer."""
        refuse_unused(config, by=("task",))
        self.config = config
        columns = data.splits["train"].column_names
        if ("text" in columns) == ("messages" in columns):
            has = "both text and messages" if "text" in columns else "neither text nor messages"
            raise DataError(f"{data.files['train']} has {has}", "give one of them, or rename with --columns text=YOURS")
        self.column = "messages" if "messages" in columns else "text"
        if config.chat_template and self.column == "text":
            raise TuneportError("chat_template is for rows of messages, and these are of text", "leave it out")
        # By fingerprint and not by object: what `encode` keeps in reach is hashed by datasets.
        self.files = {rows._fingerprint: data.files[name] for name, rows in data.splits.items()}
        problems = Problems(f"correct these rows, or rename columns with --columns {self.column}=YOURS")
        for split, rows in data.splits.items():
            if self.column not in rows.column_names:
                raise DataError(f"{data.files[split]} has no column {self.column}", "give all splits the same columns")
            for number, row in rows_of(rows):
                if problem := self._problem(row[self.column]):
                    problems.add(f"{data.files[split]} row {number}", problem)
        problems.raise_if_any()

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer; chats need its template."""
        tokenizer = load_tokenizer(source, self.config)
        if self.column == "messages":
            load_template(tokenizer, source, self.config)
        return tokenizer

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the language model; one that sees what it should predict is refused."""
        model = load_pretrained(AutoModelForCausalLM, source, self.config)
        check_sizes(model, self.load_processor(source), source, max_length=self.config.max_length)
        if _sees_the_future(model):
            raise CheckpointError(
                f"{source} ({type(model).__name__}) sees the tokens that it should predict, so it cannot generate",
                "give a causal model, such as GPT-2, Llama or Qwen",
            )
        make_consistent(model)
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `labels` are -100 on what is not learnt; `row` counts from 0, since rows without targets go.

        A text ends with the end token where it is not cut. A chat whose answers lie beyond max_length is left out.
        """
        encode_row = _encode_chat if self.column == "messages" else _encode_text
        features = rows.map(
            encode_row,
            with_indices=True,
            fn_kwargs={"tokenizer": processor, "max_length": self.config.max_length},
            remove_columns=rows.column_names,
            desc="tokenize",
        )
        file = self.files.get(rows._fingerprint, "train" if train else "the data")
        problems = Problems("correct these rows, or the tokenizer's chat template")
        for _, row in rows_of(features.select_columns(["row", "problem"])):
            if row["problem"]:
                problems.add(f"{file} row {row['row'] + 1}", row["problem"])
        problems.raise_if_any()
        kept = features.remove_columns("problem").filter(lambda targets: targets > 0, input_columns="targets")
        if not len(kept):
            raise DataError(f"{file} has no row with a target among its first tokens", "raise max_length")
        return kept

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad on the right, whatever side the tokenizer would take for generation."""
        return PadRight(processor.pad_token_id or 0)

    def loss(self) -> Any:
        """Leave the loss to the model."""
        return None

    def reduce(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Logits (rows, tokens, vocabulary) → float64 (rows, 3): the sum of losses, tokens right, tokens."""
        logits = first_output(logits)
        targets = labels[:, 1:]
        sums = []
        for row, expected in zip(logits[:, :-1], targets, strict=True):  # float32 of one row at a time
            counted = expected != -100
            guesses, right = row[counted].float(), expected[counted]
            loss = torch.nn.functional.cross_entropy(guesses, right, reduction="sum").double()
            sums.append(torch.stack([loss, (guesses.argmax(-1) == right).sum().double(), counted.sum().double()]))
        return torch.stack(sums)

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score the sums that `reduce` made; a mistake's loss is the mean over its row's tokens."""
        losses, right, counts = np.asarray(outputs, np.float64).T
        metrics = {
            # The cap keeps it a number in JSON.
            "perplexity": math.exp(min(losses.sum() / counts.sum(), 700.0)),
            "token_accuracy": float(right.sum() / counts.sum()),
        }
        means = losses / counts
        mistakes = []
        for i in np.argsort(-means, kind="stable")[:WORST]:
            row = features[int(i)]["row"]
            said = f"{int(right[i])} of {int(counts[i])} tokens right"
            given, expected = self._show(rows[row])
            mistakes.append(Mistake(row=row + 1, input=given, expected=expected, predicted=said, loss=float(means[i])))
        return Evaluation(metrics=metrics, mistakes=tuple(mistakes))

    def _problem(self, value: Any) -> str | None:
        if self.column == "messages":
            return check_messages(value)
        return None if isinstance(value, str) and value.strip() else f"text is {short(value)}"

    def _show(self, row: dict[str, Any]) -> tuple[str, str]:
        return answers_of(row["messages"]) if self.column == "messages" else ("", str(row["text"]))


class PadRight:
    """Pads `input_ids`, `attention_mask` and `labels` on the right to the longest of a batch."""

    def __init__(self, pad: int) -> None:
        """`pad` is the padding token; it is never attended to and never learnt, be it the end token, too."""
        self.pad = pad

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return int64 tensors of shape (rows, tokens)."""
        longest = max(len(example["input_ids"]) for example in examples)
        fills = {"input_ids": self.pad, "attention_mask": 0, "labels": -100}
        return {
            name: torch.tensor([[*example[name], *[fill] * (longest - len(example[name]))] for example in examples])
            for name, fill in fills.items()
        }


def _encode_text(row: dict[str, Any], index: int, tokenizer: Any, max_length: int) -> dict[str, Any]:
    ids = tokenizer(row["text"], verbose=False)["input_ids"]
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids = [*ids, tokenizer.eos_token_id]
    return _features(ids, [-100, *ids[1:]], index, max_length)


def _encode_chat(row: dict[str, Any], index: int, tokenizer: Any, max_length: int) -> dict[str, Any]:
    try:
        ids, labels = encode_chat(row["messages"], tokenizer)
    except DataError as error:
        return {**_features([], [], index, max_length), "problem": error.problem}
    return _features(ids, labels, index, max_length)


def _features(ids: list[int], labels: list[int], index: int, max_length: int) -> dict[str, Any]:
    kept, learnt = ids[:max_length], labels[:max_length]
    return {
        "input_ids": kept,
        "attention_mask": [1] * len(kept),
        "labels": learnt,
        "length": len(kept),
        "row": index,
        "targets": sum(label != -100 for label in learnt),
        "cut": len(ids) > max_length,
        "problem": "",
    }


def _sees_the_future(model: PreTrainedModel) -> bool:
    """Find out whether a token changes what is predicted before it."""
    device = model.get_input_embeddings().weight.device
    last = model.get_input_embeddings().weight.shape[0] - 1
    pair = torch.tensor([[0, 1, 2], [0, 1, last]], device=device)
    was_training = model.training
    with torch.inference_mode():
        logits = model.eval()(input_ids=pair, attention_mask=torch.ones_like(pair)).logits[:, :2]
    model.train(was_training)
    return not torch.allclose(logits[0], logits[1], atol=1e-4, rtol=1e-3)
