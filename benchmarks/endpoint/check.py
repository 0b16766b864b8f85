"""Correctness of a server: it must answer as torch does, and under load as it does without."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneport.errors import GateError
from tuneport.runtime.golden import golden_outputs
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import GoldenCase

from ..load.plan import OK, LoadPlan
from .processes import run_load
from .targets import HOST, EndpointTarget

MIN_AGREEMENT = 0.95
"""Below 1 because quantization and bf16 change some predictions near a decision boundary; the report counts them.

A server that runs a variant may agree with torch as seldom, and by this factor more seldom, than the variant alone."""
MIN_COMPARED = 20
"""Fewer compared inputs count as so many, so that a single changed prediction among a handful is allowed."""


@dataclass(frozen=True)
class ExpectedPrediction:
    """An input with torch's prediction."""

    input: Any
    prediction: Any


def expected_predictions(task: RuntimeTask, cases: Sequence[GoldenCase]) -> list[ExpectedPrediction]:
    """Decode torch's outputs on the golden cases as the server does."""
    expected = []
    for case in cases:
        parsed_input = task.parse_input(case.input)
        outputs = [{name: np.asarray(value, np.float32) for name, value in each.items()} for each in case.outputs]
        (rows,) = task.encode([parsed_input])
        expected.append(ExpectedPrediction(case.input, task.decode(parsed_input, rows, outputs, task.parameters())))
    return expected


def request_predictions(target: EndpointTarget, port: int, inputs: Sequence[Any]) -> list[Any]:
    """Request a prediction for each input, one at a time; a GateError if a status is not 200."""
    bodies = tuple(target.encode_request(value) for value in inputs)
    plan = LoadPlan(
        protocol=target.protocol, host=HOST, port=port, path=target.path, bodies=bodies, seconds=0, once=True
    )
    result = run_load(plan)
    if result.statuses != {OK: len(inputs)}:
        raise GateError(
            f"{target.name} answered golden cases with the statuses {result.statuses}",
            "start it by hand and look at its log: an endpoint that is wrong is not timed",
        )
    return [target.decode_response(result.last_bodies[i]) for i in range(len(inputs))]


def variant_agreement(
    runner: ModelRunner, cases: Sequence[GoldenCase], expected: Sequence[ExpectedPrediction]
) -> float:
    """Return the share of golden cases on which a variant, without a server, has torch's prediction.

    A student passes its gate on real inputs; the golden cases also hold unusual ones, on which it differs more often.
    """
    task = runner.task
    parsed = [task.parse_input(case.input) for case in cases]
    predictions = zip(parsed, task.encode(parsed), golden_outputs(runner, cases), strict=True)
    agree = [
        task.is_equivalent(task.decode(*each, task.parameters()), case.prediction)
        for each, case in zip(predictions, expected, strict=True)
    ]
    return float(np.mean(agree))


def check_agreement(
    target: EndpointTarget,
    port: int,
    task: RuntimeTask,
    expected: Sequence[ExpectedPrediction],
    least: float = MIN_AGREEMENT,
) -> float:
    """Return the share of golden cases with torch's prediction; a GateError if it is below `least`."""
    predictions = request_predictions(target, port, [case.input for case in expected])
    pairs = zip(predictions, expected, strict=True)
    agree = [task.is_equivalent(prediction, case.prediction) for prediction, case in pairs]
    share = float(np.mean(agree))
    if share < least:
        first = expected[agree.index(False)]
        raise GateError(
            f"{target.name} agrees with torch on {share:.1%} of the golden cases; "
            f"on {str(first.input)[:40]!r} torch predicts {str(first.prediction)[:80]}",
            "an endpoint that is wrong is not timed",
        )
    return share


def count_changed(
    target: EndpointTarget, task: RuntimeTask, unloaded: Sequence[Any], bodies: Mapping[int, bytes]
) -> int:
    """Count the inputs that get another prediction under load; a GateError if too many do.

    `unloaded` are the predictions for the first inputs without load; `bodies` are responses under load by the index
    of the input.
    """
    compared = [i for i in range(len(unloaded)) if i in bodies]
    changed = [i for i in compared if not task.is_equivalent(target.decode_response(bodies[i]), unloaded[i])]
    if len(changed) > (1 - MIN_AGREEMENT) * max(MIN_COMPARED, len(compared)):
        raise GateError(
            f"under load {target.name} changes {len(changed)} of {len(compared)} predictions",
            "an endpoint that is wrong is not timed",
        )
    return len(changed)
