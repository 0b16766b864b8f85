"""Send a copy of answered requests to another version, and count where its answers differ; no answer waits for it."""

import asyncio
import logging
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .. import logs
from ..admission import AdmissionController
from ..drift import observations
from ..inference import InferenceResult, count_chars
from ..observing import Observing

MAX_PENDING_INPUTS = 256
MAX_PENDING_CHARS = 2**20
"""Inputs, and their characters, that may wait for the shadow: what comes meanwhile is dropped."""


class Shadow:
    """An observer of the version that serves; see `AdmissionController.observe`."""

    def __init__(self, shadow: AdmissionController, share: float = 1.0) -> None:
        """Compare a `share` of the requests, chosen at random."""
        self._shadow = shadow
        self._share = share
        self._pending_inputs = self._pending_chars = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_failed = False

    def __call__(self, inputs: Sequence[Any], parameters: Any, results: list[InferenceResult]) -> None:
        """Take an answered request, or drop it; returns at once."""
        if random.random() >= self._share:
            return
        chars = count_chars(inputs, with_audio=True)
        if (
            self._pending_inputs + len(inputs) > MAX_PENDING_INPUTS
            or self._pending_chars + chars > MAX_PENDING_CHARS
            or not self._shadow.ready
        ):
            self._shadow.metrics.traffic.shadowed("dropped", len(inputs))
            return
        self._pending_inputs += len(inputs)
        self._pending_chars += chars
        task = asyncio.get_running_loop().create_task(self._compare(inputs, parameters, results, chars))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(
        self, inputs: Sequence[Any], parameters: Any, results: list[InferenceResult], chars: int
    ) -> None:
        shadow, traffic = self._shadow, self._shadow.metrics.traffic
        shadow.active_requests += 1
        try:
            deadline = asyncio.get_running_loop().time() + shadow.settings.request_timeout_s
            answers = await shadow.inference.run(inputs, parameters, deadline=deadline)
        except Exception as error:  # whatever it is, it is the shadow's and no user's
            self._log_first(error)
            traffic.shadowed("failed", len(inputs))
        else:
            with Observing("the shadow's answers"):
                for ours, theirs in zip(results, answers, strict=True):
                    is_equal, difference = self._difference(ours.prediction, theirs.prediction)
                    traffic.shadowed("agree" if is_equal else "disagree", 1, difference)
        finally:
            shadow.active_requests -= 1
            self._pending_inputs -= len(inputs)
            self._pending_chars -= chars

    def _log_first(self, error: Exception) -> None:
        """Log the first failure; the metric has the number of all."""
        if not self._has_failed:
            self._has_failed = True
            logs.log("shadow failed", logging.WARNING, exc_info=error, model=self._shadow.model)

    def _difference(self, ours: Any, theirs: Any) -> tuple[bool, float | None]:
        """Tell whether two predictions agree, and the absolute difference of their first scores where there are any."""
        is_multi_label = self._shadow.manifest.processing.problem_type == "multi_label_classification"
        if not is_multi_label and _is_ranking(ours) and _is_ranking(theirs):  # of top_k, the first one is the answer
            ours, theirs = ours[0], theirs[0]
        is_equal = self._shadow.inference.predictor.task.is_equivalent(theirs, ours)
        scores = [
            seen.value if seen.value is not None else seen.confidence
            for each in (ours, theirs)
            for seen in [next(iter(observations(each)))]
        ]
        difference = None
        with suppress(TypeError):  # no scores
            difference = abs(scores[0] - scores[1])  # type: ignore[operator]
        return is_equal, difference


def _is_ranking(prediction: Any) -> bool:
    return isinstance(prediction, list) and bool(prediction) and "label" in prediction[0]
