"""Generate with a checkpoint in torch, greedily, and record how much each token's logit exceeds the second best."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tuneport.runtime.backends.generative import GenerativeRunner, end_tokens, score_reference, to_model
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.generation import Prompt

from ..reference import TorchModel
from ..torch_device import TorchOutOfMemory, as_out_of_memory, kernels

MAX_TIMED_ROWS = 40
DEFAULT_NEW_TOKENS = 16
"""Tokens to generate in a benchmark without data."""
MAX_MARGIN = 1e4
"""Replaces infinite margins, of tokens that generation forces."""


class TorchGenerator(TorchModel):
    """A generative checkpoint in torch, with transformers' own tokenizer and `generate`."""

    def outputs(
        self, runtime_task: RuntimeTask, parsed_inputs: Sequence[Any], batch_size: int = 16
    ) -> list[list[RowOutputs]]:
        """Return each input's `tokens`, int64 without prompt and end token, and `margins`, float32.

        A margin is the difference between the logit of a generated token, the end token included, and the second
        best. An input with a reference answer also has its `losses` and `hits`.
        """
        self.runtime_task = runtime_task
        rows = [row for (row,) in runtime_task.encode(parsed_inputs)]
        order = sorted(range(len(parsed_inputs)), key=lambda i: (_limit(rows[i]), len(rows[i])))
        outputs: list[list[RowOutputs]] = [[] for _ in parsed_inputs]
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            # Long prompts leave fewer positions; rows with different limits cannot share a call of generate.
            has_one_limit = len({_limit(rows[i]) for i in batch}) == 1
            for group in [batch] if has_one_limit else [[i] for i in batch]:
                generated = self._generate_halved([parsed_inputs[i] for i in group], _limit(rows[group[0]]))
                for i, each in zip(group, generated, strict=True):
                    outputs[i] = [each | self._score_reference(rows[i])]
        return outputs

    def run_batch(self, rows: Sequence[EncodedInput]) -> Any:
        """Generate from rows as a variant does; for timing."""
        assert self.runtime_task is not None
        with kernels(self.setup), as_out_of_memory(self.setup, f"1 input of {max(map(len, rows))} tokens"):
            return GenerativeRunner(self.runtime_task, self.model, self._processing).run_batch(rows)

    def _generate_halved(self, parsed_inputs: Sequence[Any], limit: int) -> list[RowOutputs]:
        """Generate, in parts if the device's memory is too small; TorchOutOfMemory if one input does not fit."""
        count = len(parsed_inputs)
        try:
            with as_out_of_memory(self.setup, f"{count} input(s) and {limit} new tokens", count):
                return self._generate(self._task.torch_inputs(parsed_inputs), limit)
        except TorchOutOfMemory:
            if count == 1:
                raise
        # Outside of the handler: the exception holds the tensors of the batch that failed.
        halves = parsed_inputs[: count // 2], parsed_inputs[count // 2 :]
        return [row for half in halves for row in self._generate_halved(half, limit)]

    def _generate(self, feeds: dict[str, Any], limit: int) -> list[RowOutputs]:
        feeds = {name: to_model(values, self.model) for name, values in feeds.items()}
        with torch.inference_mode(), kernels(self.setup):
            generated = self.model.generate(
                **feeds, max_new_tokens=limit, do_sample=False, num_beams=1, return_dict_in_generate=True,
                output_scores=True,
            )  # fmt: skip
        count = len(generated["scores"])
        new_ids = generated["sequences"][:, -count:].cpu().numpy()
        best_two = torch.stack(generated["scores"]).float().topk(2, dim=-1).values  # (tokens, rows, 2)
        margins = (best_two[..., 0] - best_two[..., 1]).T.cpu().numpy()
        ends = end_tokens(self.model)
        outputs = []
        for ids, row_margins in zip(new_ids, margins, strict=True):
            positions = np.flatnonzero(np.isin(ids, ends))
            length = int(positions[0]) if len(positions) else count
            outputs.append({"tokens": ids[:length], "margins": row_margins[: length + 1].clip(max=MAX_MARGIN)})
        return outputs

    def _score_reference(self, row: EncodedInput) -> RowOutputs:
        if not isinstance(row, Prompt) or not row.scored:
            return {}
        with kernels(self.setup), as_out_of_memory(self.setup, f"1 reference answer of {len(row.scored)} tokens"):
            return score_reference(self.model, row)


def timed_rows(rows: Sequence[EncodedInput], expected: Sequence[Sequence[RowOutputs]]) -> list[EncodedInput]:
    """Make all rows generate the mean number of tokens of torch's outputs, so that every target generates as many."""
    lengths = [len(outputs["tokens"]) + 1 for each in expected for outputs in each]
    mean_length = round(float(np.mean(lengths))) if lengths else DEFAULT_NEW_TOKENS
    timed: list[EncodedInput] = []
    for row in rows[:MAX_TIMED_ROWS]:
        assert isinstance(row, Prompt)
        count = min(row.sampling.max_new_tokens, mean_length)
        sampling = replace(row.sampling, max_new_tokens=count, min_new_tokens=count)
        timed.append(replace(row, group=sampling, sampling=sampling, scored=()))
    return timed


def _limit(row: EncodedInput) -> int:
    assert isinstance(row, Prompt)
    return row.sampling.max_new_tokens
