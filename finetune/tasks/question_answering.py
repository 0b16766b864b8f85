"""Extractive question answering: the span of a `context` that answers a `question`, or that there is none."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, PreTrainedModel

from tuneport.data.answers import find_answer_problems, read_answers
from tuneport.data.reader import Data
from tuneport.data.rows import Problems, check_strings, numbered_rows
from tuneport.metrics.spans import answer_f1_each, answer_metrics, exact_match_each
from tuneport.runtime.spans import OUTSIDE, best_span

from ..config import FinetuneConfig
from ..evaluate import Evaluation, Mistake, largest_losses
from ..loading import check_input_size, load_aligned_tokenizer, load_pretrained
from ..losses import Loss, span_loss
from .base import FinetuneTask


class Task(FinetuneTask):
    """Rows of `context`, `question` and `answers`.

    A long context becomes several windows, each an example of its own, that share `doc_stride` tokens.
    """

    target_columns: ClassVar[tuple[str, ...]] = ("start_positions", "end_positions")

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check that every row has its texts, and that every answer is where `answer_start` says."""
        super().__init__(data, config)
        self.data = data
        problems = Problems("correct these rows, or rename columns with --columns answers=YOUR_COLUMN")
        for split, rows in data.splits.items():
            check_strings(rows, data.files[split], problems, ("context", "question"))
            for number, row in numbered_rows(rows):
                for problem in find_answer_problems(row):
                    problems.add(f"{data.files[split]} row {number}", problem)
        problems.raise_if_any()
        train = numbered_rows(data.splits["train"])
        self.has_unanswerable = any(not list(read_answers(row["answers"])) for _, row in train)

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer; raises DataError for questions that leave too few tokens for their context."""
        tokenizer = load_aligned_tokenizer(source, self.config)
        available = self.config.max_length - tokenizer.num_special_tokens_to_add(pair=True)
        problems = Problems(
            f"raise max_length = {self.config.max_length} or lower doc_stride = {self.config.doc_stride}"
        )
        for split, rows in self.data.splits.items():
            for number, row in numbered_rows(rows.select_columns("question")):
                length = len(tokenizer(row["question"], add_special_tokens=False, verbose=False)["input_ids"])
                if available - length <= self.config.doc_stride:
                    left = max(0, available - length)
                    problem = f"{length} tokens of question leave {left} of a window to its context"
                    problems.add(f"{self.data.files[split]} row {number}", problem)
        problems.raise_if_any()
        return tokenizer

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the encoder with a new head that gives each token a logit as start and one as end.

        `has_unanswerable` in the checkpoint's configuration says whether it may answer "no answer".
        """
        model = load_pretrained(
            AutoModelForQuestionAnswering,
            source,
            self.config,
            ignore_mismatched_sizes=True,
            has_unanswerable=self.has_unanswerable,
        )
        check_input_size(model, source, self.config)
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize into windows; the targets are the first and the last token of the answer.

        `row` is the position of a window's row, `cls` that of the token which stands for "no answer here", and
        `offset_mapping` has each token's characters in the context, or `OUTSIDE` twice for tokens outside of it.
        Windows without the answer are kept for training, too, as examples of "no answer here".
        """

        def encode_batch(batch: dict[str, list[Any]], positions: list[int]) -> dict[str, Any]:
            encoded = processor(
                batch["question"],
                batch["context"],
                truncation="only_second",
                max_length=self.config.max_length,
                stride=self.config.doc_stride,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            sources = encoded.pop("overflow_to_sample_mapping")
            cls_positions = [_cls_position(ids, processor.cls_token_id) for ids in encoded["input_ids"]]
            offsets = [
                _context_offsets(window, encoded.sequence_ids(i)) for i, window in enumerate(encoded["offset_mapping"])
            ]
            answers = [list(read_answers(row_answers)) for row_answers in batch["answers"]]
            targets = [
                _target(window, answers[source], cls)
                for window, source, cls in zip(offsets, sources, cls_positions, strict=True)
            ]
            return {
                **encoded,
                "offset_mapping": offsets,
                "row": [positions[source] for source in sources],
                "cls": cls_positions,
                "start_positions": [start for start, _ in targets],
                "end_positions": [end for _, end in targets],
                "length": [len(ids) for ids in encoded["input_ids"]],
            }

        return rows.map(
            encode_batch, batched=True, with_indices=True, remove_columns=rows.column_names, desc="tokenize"
        )

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad to the longest window of the batch."""
        return DataCollatorWithPadding(processor)

    def loss(self) -> Loss:
        """Return the loss that ignores padding."""
        return span_loss

    def reduce_logits(self, logits: Any, labels: Any) -> Any:
        """Keep the logits of starts and of ends, float32 (windows, tokens): the best span needs all of them."""
        return logits[0].float(), logits[1].float()

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score answers by exact match and F1; a mistake's loss is 1 - F1.

        `outputs` are the logits of starts and of ends, each (windows, tokens).
        """
        predicted = self._predict(np.asarray(outputs[0]), np.asarray(outputs[1]), rows, features)
        expected = [_texts(row["answers"]) for _, row in numbered_rows(rows.select_columns("answers"))]
        exact, f1 = exact_match_each(predicted, expected), answer_f1_each(predicted, expected)
        is_answerable = np.array([any(texts) for texts in expected])
        mistakes = tuple(
            Mistake(
                row=i + 1,
                input=f"{rows[i]['question']} ⟂ {rows[i]['context']}",
                expected=" | ".join(dict.fromkeys(expected[i])) or "no answer",
                predicted=predicted[i] or "no answer",
                loss=float(1 - f1[i]),
            )
            for i in largest_losses(1 - f1, exact == 0)
        )
        return Evaluation(metrics=answer_metrics(exact, f1, is_answerable), mistakes=mistakes)

    def _predict(self, starts: npt.NDArray[Any], ends: npt.NDArray[Any], rows: Dataset, features: Dataset) -> list[str]:
        """Predict each row's answer from its windows; "" where "no answer" has a higher score than the best span.

        The score of "no answer" is the sum of the CLS logits in the window where it is lowest, since a window without
        the answer rightly gives it a high one. It is a choice only if train has unanswerable questions.
        """
        best: dict[int, tuple[float, int, int]] = {}
        no_answer: dict[int, float] = {}
        windows = numbered_rows(features.select_columns(["row", "cls", "offset_mapping"]))
        for start, end, (_, window) in zip(starts, ends, windows, strict=True):
            row, cls = window["row"], window["cls"]
            span = best_span(start, end, np.asarray(window["offset_mapping"], np.int64))
            if row not in best or span.score > best[row][0]:
                best[row] = span.score, span.start, span.end
            no_answer[row] = min(no_answer.get(row, np.inf), float(start[cls]) + float(end[cls]))
        answers = []
        for position, (_, row) in enumerate(numbered_rows(rows.select_columns("context"))):
            score, first, last = best[position]
            is_unanswered = self.has_unanswerable and no_answer[position] > score
            answers.append("" if is_unanswered else row["context"][first:last].strip())
        return answers


def token_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Find the first and the last token of characters `start` to `end`; None if a window lacks some of them.

    `offsets` has the characters of each token in the context, `OUTSIDE` for tokens outside of it.
    """
    inside = [i for i, (first, last) in enumerate(offsets) if first != OUTSIDE and last > start and first < end]
    context = [i for i, (first, _) in enumerate(offsets) if first != OUTSIDE]
    if not inside or offsets[context[0]][0] > start or offsets[context[-1]][1] < end:
        return None
    return inside[0], inside[-1]


def _texts(answers: Any) -> list[str]:
    return [text for text, _ in read_answers(answers)] or [""]


def _cls_position(ids: list[int], cls_id: int | None) -> int:
    """Find the CLS token: first in most models, last in XLNet; without one the first token is used."""
    return ids.index(cls_id) if cls_id in ids else 0


def _context_offsets(offsets: list[tuple[int, int]], sequences: list[int | None]) -> list[tuple[int, int]]:
    return [
        offset if sequence == 1 else (OUTSIDE, OUTSIDE) for offset, sequence in zip(offsets, sequences, strict=True)
    ]


def _target(offsets: list[tuple[int, int]], answers: list[tuple[str, int]], cls: int) -> tuple[int, int]:
    """Return the token span of the first answer that the window contains whole; CLS if there is none."""
    spans = (token_span(offsets, start, start + len(text)) for text, start in answers)
    return next((span for span in spans if span), (cls, cls))
