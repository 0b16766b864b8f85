"""Extractive question answering: the span of a `context` that answers a `question`, or that there is none."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, PreTrainedModel

from finetune.config import FinetuneConfig, refuse_unused
from finetune.data import Data, Problems, check_strings, rows_of
from finetune.evaluate import Evaluation, Mistake, worst
from finetune.loading import check_input, load_aligned_tokenizer, load_pretrained
from finetune.spans import answer_f1, exact_match, read_answers, token_span, wrong_answers
from serve.spans import OUTSIDE, best_span

COLUMNS = ("context", "question")


class Task:
    """Checks, encodes and scores rows of `context`, `question` and `answers`.

    A long context becomes several windows, each an example of its own, that share `doc_stride` tokens.
    """

    required: ClassVar[tuple[str, ...]] = ("context", "question", "answers")
    optional: ClassVar[tuple[str, ...]] = ()
    best_metric: ClassVar[str] = "f1"
    greater_is_better: ClassVar[bool] = True
    generates: ClassVar[bool] = False
    labels: tuple[str, ...] = ()

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check that every row has its texts, and every answer stands where it says."""
        refuse_unused(config, by=("task",))
        self.config = config
        self.data = data
        problems = Problems("correct these rows, or rename columns with --columns answers=YOUR_COLUMN")
        for split, rows in data.splits.items():
            check_strings(rows, data.files[split], problems, COLUMNS)
            for number, row in rows_of(rows):
                for problem in wrong_answers(row):
                    problems.add(f"{data.files[split]} row {number}", problem)
        problems.raise_if_any()
        self.has_unanswerable = any(not list(read_answers(row["answers"])) for _, row in rows_of(data.splits["train"]))

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer; a DataError for questions that leave no room for their context."""
        tokenizer = load_aligned_tokenizer(source, self.config)
        room = self.config.max_length - tokenizer.num_special_tokens_to_add(pair=True)
        problems = Problems(
            f"raise max_length = {self.config.max_length} or lower doc_stride = {self.config.doc_stride}"
        )
        for split, rows in self.data.splits.items():
            for number, row in rows_of(rows.select_columns("question")):
                taken = len(tokenizer(row["question"], add_special_tokens=False, verbose=False)["input_ids"])
                if room - taken <= self.config.doc_stride:
                    said = f"{taken} tokens of question leave {max(0, room - taken)} of a window to its context"
                    problems.add(f"{self.data.files[split]} row {number}", said)
        problems.raise_if_any()
        return tokenizer

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the encoder under a new head that gives each token a logit as start and one as end.

        `has_unanswerable` in the checkpoint's configuration says whether "no answer" may be its answer.
        """
        model = load_pretrained(
            AutoModelForQuestionAnswering,
            source,
            self.config,
            ignore_mismatched_sizes=True,
            has_unanswerable=self.has_unanswerable,
        )
        check_input(model, source, self.config)
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize into windows; targets are `start_positions` and `end_positions`, inclusive.

        `row` is the index of a window's row, `cls` the place of "no answer here", `offset_mapping` a token's
        characters in the context, or `OUTSIDE` twice for tokens that are not the context's. Training, too, keeps
        windows without the answer: they teach what "no answer here" looks like.
        """

        def encode_batch(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
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
            places = [_cls_place(ids, processor.cls_token_id) for ids in encoded["input_ids"]]
            offsets = [_of_context(each, encoded.sequence_ids(i)) for i, each in enumerate(encoded["offset_mapping"])]
            answers = [list(read_answers(each)) for each in batch["answers"]]
            spans = [
                _target(each, answers[source], place)
                for each, source, place in zip(offsets, sources, places, strict=True)
            ]
            return {
                **encoded,
                "offset_mapping": offsets,
                "row": [indices[source] for source in sources],
                "cls": places,
                "start_positions": [start for start, _ in spans],
                "end_positions": [end for _, end in spans],
                "length": [len(ids) for ids in encoded["input_ids"]],
            }

        return rows.map(
            encode_batch, batched=True, with_indices=True, remove_columns=rows.column_names, desc="tokenize"
        )

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad to the longest window of the batch."""
        return DataCollatorWithPadding(processor)

    def loss(self) -> None:
        """Leave the loss to the model."""

    def reduce(self, logits: Any, labels: Any) -> Any:
        """Keep the logits of starts and of ends, float32 (windows, tokens); all of them count for the best span."""
        return logits[0].float(), logits[1].float()

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score answers by exact match and F1; a mistake's loss is 1 - F1.

        `outputs` are the logits of starts and of ends, each (windows, tokens).
        """
        predicted = self._answers(np.asarray(outputs[0]), np.asarray(outputs[1]), rows, features)
        expected = [_texts(row["answers"]) for _, row in rows_of(rows.select_columns("answers"))]
        pairs = list(zip(predicted, expected, strict=True))
        exact = np.array([exact_match(*pair) for pair in pairs])
        f1 = np.array([answer_f1(*pair) for pair in pairs])
        metrics = {"exact_match": float(exact.mean()), "f1": float(f1.mean())}
        has = np.array([any(texts) for texts in expected])
        if has.any() and not has.all():
            metrics |= {"exact_match_has_answer": float(exact[has].mean()), "f1_has_answer": float(f1[has].mean())}
            metrics["exact_match_no_answer"] = float(exact[~has].mean())
        mistakes = tuple(
            Mistake(
                row=i + 1,
                input=f"{rows[i]['question']} ⟂ {rows[i]['context']}",
                expected=" | ".join(dict.fromkeys(expected[i])) or "no answer",
                predicted=predicted[i] or "no answer",
                loss=float(1 - f1[i]),
            )
            for i in worst(1 - f1, exact == 0)
        )
        return Evaluation(metrics=metrics, mistakes=mistakes)

    def _answers(self, starts: npt.NDArray[Any], ends: npt.NDArray[Any], rows: Dataset, features: Dataset) -> list[str]:
        """Choose each row's answer among its windows; an empty text where none is better than the best span.

        "No answer" scores what its CLS logits add up to in the window that believes in it least, since a window
        without the answer says so rightly. It is a choice only if train has unanswerable questions.
        """
        best: dict[int, tuple[float, int, int]] = {}
        nothing: dict[int, float] = {}
        windows = rows_of(features.select_columns(["row", "cls", "offset_mapping"]))
        for start, end, (_, window) in zip(starts, ends, windows, strict=True):
            row, cls = window["row"], window["cls"]
            span = best_span(start, end, np.asarray(window["offset_mapping"], np.int64))
            if row not in best or span.score > best[row][0]:
                best[row] = span.score, span.start, span.end
            nothing[row] = min(nothing.get(row, np.inf), float(start[cls]) + float(end[cls]))
        answers = []
        for index, (_, row) in enumerate(rows_of(rows.select_columns("context"))):
            score, left, right = best[index]
            is_none = self.has_unanswerable and nothing[index] > score
            answers.append("" if is_none else row["context"][left:right].strip())
        return answers


def _texts(answers: Any) -> list[str]:
    return [text for text, _ in read_answers(answers)] or [""]


def _cls_place(ids: list[int], cls_id: int | None) -> int:
    """Find the CLS token: first for most, last for XLNet; a tokenizer without one lends its first token."""
    return ids.index(cls_id) if cls_id in ids else 0


def _of_context(offsets: list[tuple[int, int]], sequences: list[int | None]) -> list[tuple[int, int]]:
    return [
        offset if sequence == 1 else (OUTSIDE, OUTSIDE) for offset, sequence in zip(offsets, sequences, strict=True)
    ]


def _target(offsets: list[tuple[int, int]], answers: list[tuple[str, int]], cls: int) -> tuple[int, int]:
    """Place the first answer that the window holds whole; CLS if there is none."""
    spans = (token_span(offsets, start, start + len(text)) for text, start in answers)
    return next((span for span in spans if span), (cls, cls))
