"""What `generate` calls after each token: the end of rows at stop strings, pauses, and the callbacks of streams."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from tuneport.runtime.backends.device_guard import DeviceGuard
from tuneport.runtime.tasks.generation import GenerationTask, Prompt
from tuneport.runtime.tasks.sampling import SamplingParams

MAX_TOKENS_PER_CHAR = 4
"""A character has four bytes at most, and a token at least one."""


class EndOfRow(StoppingCriteria):
    """Ends a row at a stop string, or when its callback is cancelled."""

    def __init__(self, rows: Sequence[Prompt], sampling: SamplingParams, task: GenerationTask) -> None:
        """Watch a batch of rows that share sampling parameters."""
        self._rows = rows
        self._stop = sampling.stop
        self._task = task
        # A stop string ends within so many of the last tokens.
        self._tail = MAX_TOKENS_PER_CHAR * max(map(len, sampling.stop), default=0) + 1
        self._prompt_length: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return for each sequence, (rows x beams, length), whether it has ended: bool (rows x beams,)."""
        if self._prompt_length is None:  # first called after the first new token
            self._prompt_length = input_ids.shape[1] - 1
        beams = len(input_ids) // len(self._rows)
        return torch.tensor(
            [self._has_ended(i // beams, ids) for i, ids in enumerate(input_ids)], device=input_ids.device
        )

    def _has_ended(self, index: int, ids: torch.Tensor) -> bool:
        callback = self._rows[index].callback
        if callback and callback.cancelled:
            return True
        if not self._stop:
            return False
        new = ids[self._prompt_length :].tolist()
        text = self._task.processor.decode(new[-self._tail :])
        return any(each in text for each in self._stop)


class PauseForCaptures(StoppingCriteria):
    """Ends no row; lets the capture of another model's CUDA graph, if one waits, go before the next token."""

    def __init__(self, guard: DeviceGuard) -> None:
        """Give way within the `running` context of a guard."""
        self._guard = guard

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return False for each sequence: bool (rows x beams,)."""
        self._guard.pause()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class CallbackStreamer(BaseStreamer):
    """Passes each row's tokens to its callback; transformers' own streamers support a single row."""

    def __init__(self, rows: Sequence[Prompt]) -> None:
        """Pass on the tokens of a batch of rows."""
        self._rows = rows
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Pass on the next token of each row, int64 (rows,); the first call has the prompts and is ignored."""
        if self._is_prompt:
            self._is_prompt = False
            return
        for row, token in zip(self._rows, value.tolist(), strict=True):
            if row.callback:
                row.callback.on_token(token)

    def end(self) -> None:
        """Do nothing: the end of a text is in the runner's outputs."""
