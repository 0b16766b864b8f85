"""Text generation: a causal language model, trained on all tokens of `text`, or on the answers of `messages`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel

from tuneport.data.reader import Data
from tuneport.data.rows import Problems, numbered_rows, preview, row_number
from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.metrics.text import perplexity

from ..chat import encode_chat, find_message_problem, format_chat, load_template
from ..config import FinetuneConfig
from ..evaluate import MAX_MISTAKES, Evaluation, Mistake
from ..generation import drop_conflicting_settings
from ..loading import load_pretrained, load_tokenizer
from ..losses import IGNORED, Loss, TokenLoss, count_targets
from ..model_limits import check_sizes, is_causal
from .base import FinetuneTask, first_output


class Task(FinetuneTask):
    """Rows of `text` or `messages`.

    An input is one row, truncated at max_length tokens; rows are not packed together. Evaluation is by teacher
    forcing. The checkpoint keeps the base model's generation settings.
    """

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check every row: a non-empty text, or messages of known roles with an answer."""
        super().__init__(data, config)
        columns = data.splits["train"].column_names
        if ("text" in columns) == ("messages" in columns):
            own = ", ".join(map(repr, data.columns))
            found = "both text and messages" if "text" in columns else f"neither text nor messages, only {own}"
            remedy = "give one of them, or rename with --columns text=YOURS"
            raise DataError(f"{data.files['train']} has {found}", remedy)
        self.column = "messages" if "messages" in columns else "text"
        if config.chat_template and self.column == "text":
            raise TuneportError("chat_template is for rows of messages, and these are of text", "leave it out")
        # By fingerprint and not by split: datasets hashes everything that the function of `encode` can reach.
        self.files = {rows._fingerprint: data.files[name] for name, rows in data.splits.items()}
        problems = Problems(f"correct these rows, or rename columns with --columns {self.column}=YOURS")
        for split, rows in data.splits.items():
            if self.column not in rows.column_names:
                raise DataError(f"{data.files[split]} has no column {self.column}", "give all splits the same columns")
            for number, row in numbered_rows(rows):
                if problem := self._find_problem(row[self.column]):
                    problems.add(f"{data.files[split]} row {number}", problem)
        problems.raise_if_any()

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer, for chats with its template."""
        tokenizer = load_tokenizer(source, self.config)
        if self.column == "messages":
            load_template(tokenizer, source, self.config)
        return tokenizer

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the language model; raises CheckpointError for one that attends to the tokens it has to predict."""
        model = load_pretrained(AutoModelForCausalLM, source, self.config)
        check_sizes(model, self.load_processor(source), source, max_length=self.config.max_length)
        if not is_causal(model):
            raise CheckpointError(
                f"{source} ({type(model).__name__}) sees the tokens that it should predict, so it cannot generate",
                "give a causal model, such as GPT-2, Llama or Qwen",
            )
        drop_conflicting_settings(model)
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `labels` are `IGNORED` on tokens that are not learnt, `row` is the row's position, from 0.

        A text ends with the end token unless it is truncated. Rows whose targets all lie beyond max_length are left
        out.
        """
        features = rows.map(
            _encode_chat if self.column == "messages" else _encode_text,
            with_indices=True,
            fn_kwargs={"tokenizer": processor, "max_length": self.config.max_length},
            remove_columns=rows.column_names,
            desc="tokenize",
        )
        file = self.files.get(rows._fingerprint, "train" if train else "the data")
        problems = Problems("correct these rows, or the tokenizer's chat template")
        for _, row in numbered_rows(features.select_columns(["row", "problem"])):
            if row["problem"]:
                problems.add(f"{file} row {row_number(rows, row['row'])}", row["problem"])
        problems.raise_if_any()
        kept = features.remove_columns("problem").filter(lambda targets: targets > 0, input_columns="targets")
        if not len(kept):
            raise DataError(f"{file} has no row with a target among its first tokens", "raise max_length")
        return kept

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad on the right, also where the tokenizer pads on the left for generation."""
        return PadRight(processor.pad_token_id or 0)

    def loss(self) -> Loss | None:
        """Return the loss for label smoothing; the model's own has none."""
        smoothing = self.config.label_smoothing_factor
        return TokenLoss(smoothing, predicts_next=True) if smoothing else None

    def count_targets(self, batch: dict[str, Any]) -> torch.Tensor:
        """Count the tokens that are predicted from others, all targets but those of the first token."""
        return count_targets(batch["labels"][:, 1:])

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Logits (rows, tokens, vocabulary) → float64 (rows, 3): the sum of losses, right tokens, all tokens."""
        logits = first_output(logits)
        targets = labels[:, 1:]
        sums = []
        for row_logits, row_targets in zip(logits[:, :-1], targets, strict=True):  # float32 of one row at a time
            is_target = row_targets != IGNORED
            predicted, expected = row_logits[is_target].float(), row_targets[is_target]
            loss = torch.nn.functional.cross_entropy(predicted, expected, reduction="sum").double()
            right = (predicted.argmax(-1) == expected).sum().double()
            sums.append(torch.stack([loss, right, is_target.sum().double()]))
        return torch.stack(sums)

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score the sums of `reduce_logits`; a mistake's loss is the mean over its row's tokens."""
        losses, right, counts = np.asarray(outputs, np.float64).T
        metrics = {
            "perplexity": perplexity(losses.sum(), counts.sum()),
            "token_accuracy": float(right.sum() / counts.sum()),
        }
        means = losses / counts
        mistakes = []
        for i in np.argsort(-means, kind="stable")[:MAX_MISTAKES]:
            position = features[int(i)]["row"]
            prompt, expected = self._format(rows[position])
            predicted = f"{int(right[i])} of {int(counts[i])} tokens right"
            mistake = Mistake(
                row=position + 1, input=prompt, expected=expected, predicted=predicted, loss=float(means[i])
            )
            mistakes.append(mistake)
        return Evaluation(metrics=metrics, mistakes=tuple(mistakes))

    def _find_problem(self, value: Any) -> str | None:
        if self.column == "messages":
            return find_message_problem(value)
        return None if isinstance(value, str) and value.strip() else f"text is {preview(value)}"

    def _format(self, row: dict[str, Any]) -> tuple[str, str]:
        """Format a row for the report: its prompt, and what was to be generated."""
        return format_chat(row["messages"]) if self.column == "messages" else ("", str(row["text"]))


class PadRight:
    """Pads `input_ids`, `attention_mask` and `labels` on the right to the longest row of a batch."""

    def __init__(self, pad_token_id: int) -> None:
        """Padding is masked and never a target, even where its token is the end token, too."""
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return int64 tensors of shape (rows, tokens)."""
        longest = max(len(example["input_ids"]) for example in examples)
        fills = {"input_ids": self.pad_token_id, "attention_mask": 0, "labels": IGNORED}
        return {
            name: torch.tensor([[*example[name], *[fill] * (longest - len(example[name]))] for example in examples])
            for name, fill in fills.items()
        }


def _encode_text(row: dict[str, Any], index: int, tokenizer: Any, max_length: int) -> dict[str, Any]:
    ids = tokenizer(row["text"], verbose=False)["input_ids"]
    if tokenizer.eos_token_id is not None and ids[-1:] != [tokenizer.eos_token_id]:
        ids = [*ids, tokenizer.eos_token_id]
    return _features(ids, [IGNORED, *ids[1:]], index, max_length)


def _encode_chat(row: dict[str, Any], index: int, tokenizer: Any, max_length: int) -> dict[str, Any]:
    try:
        ids, labels = encode_chat(row["messages"], tokenizer)
    except DataError as error:
        return {**_features([], [], index, max_length), "problem": error.problem}
    return _features(ids, labels, index, max_length)


def _features(ids: list[int], labels: list[int], index: int, max_length: int) -> dict[str, Any]:
    kept, targets = ids[:max_length], labels[:max_length]
    return {
        "input_ids": kept,
        "attention_mask": [1] * len(kept),
        "labels": targets,
        "length": len(kept),
        "row": index,
        "targets": sum(label != IGNORED for label in targets),
        "truncated": len(ids) > max_length,
        "problem": "",
    }
