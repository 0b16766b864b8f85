"""The torch side of models that write: greedy `generate`, with how sure it was of each token."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from export.reference import TorchModel
from serve.batcher import Result
from serve.generative import GenerativeModel, end_tokens, judge_answer
from serve.tasks import Task as ServingTask
from serve.tasks.generation import Prompt
from serve.tokenizer import Row

TIMED_ROWS = 40


class TorchWriter(TorchModel):
    """The checkpoint as its author would run it, with transformers' own tokenizer."""

    def outputs(self, serving: ServingTask, given: Sequence[Any], batch_size: int = 16) -> list[list[Result]]:
        """Return each input's `tokens`, without prompt and end token, and `margins`.

        A margin, float32, is what the chosen token's logit was above the next best; the end counts as one. An
        input with a known answer has `losses` and `hits`, too.
        """
        self._serving = serving
        rows = [row for (row,) in serving.encode(given)]
        order = sorted(range(len(given)), key=lambda i: (_limit(rows[i]), len(rows[i])))
        outputs: list[list[Result]] = [[] for _ in given]
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            if len({_limit(rows[i]) for i in chosen}) > 1:  # near the end of the model's positions
                parts = [[i] for i in chosen]
            else:
                parts = [chosen]
            for part in parts:
                made = self._write(self._task.for_torch([given[i] for i in part]), _limit(rows[part[0]]))
                for i, result in zip(part, made, strict=True):
                    outputs[i] = [result | self._judge(rows[i])]
        return outputs

    def run_batch(self, rows: Sequence[Row]) -> Any:
        """Answer rows as a variant does; for timing."""
        return GenerativeModel(self._serving, self.model, self._processing).run_batch(rows)

    def _write(self, feeds: dict[str, Any], limit: int) -> list[Result]:
        with torch.inference_mode():
            made = self.model.generate(
                **feeds, max_new_tokens=limit, do_sample=False, num_beams=1, return_dict_in_generate=True,
                output_scores=True,
            )  # fmt: skip
        count = len(made["scores"])
        new = made["sequences"][:, -count:].numpy()
        best = torch.stack(made["scores"]).float().topk(2, dim=-1).values  # (tokens, rows, 2)
        margins = (best[..., 0] - best[..., 1]).T.numpy()
        ends = end_tokens(self.model)
        results = []
        for ids, sure in zip(new, margins, strict=True):
            places = np.flatnonzero(np.isin(ids, ends))
            length = int(places[0]) if len(places) else count
            results.append({"tokens": ids[:length], "margins": sure[: length + 1].clip(max=1e4)})
        return results

    def _judge(self, row: Row) -> Result:
        return judge_answer(self.model, row) if isinstance(row, Prompt) and row.scored else {}


def rows_to_time(rows: Sequence[Row], expected: Sequence[Sequence[Result]]) -> list[Row]:
    """Make every contender write the same number of tokens, the mean of torch's answers: none wins by brevity."""
    lengths = [len(result["tokens"]) + 1 for each in expected for result in each]
    timed: list[Row] = []
    for row in rows[:TIMED_ROWS]:
        assert isinstance(row, Prompt)
        count = min(row.writing.max_new_tokens, round(float(np.mean(lengths))) if lengths else 16)
        writing = replace(row.writing, max_new_tokens=count, min_new_tokens=count)
        timed.append(replace(row, group=writing, writing=writing, scored=()))
    return timed


def _limit(row: Row) -> int:
    assert isinstance(row, Prompt)
    return row.writing.max_new_tokens
