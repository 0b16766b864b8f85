"""Before and after timing: does a server answer as torch does, and under load as alone?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.endpoint_contenders import HOST, Contender
from benchmarks.endpoint_processes import run_load
from benchmarks.load import OK, Plan
from export.files import GateError
from export.manifest import GoldenCase
from serve.tasks import Task

LEAST_AGREEMENT = 0.95
"""With torch, and with itself under load: quantization and bf16 turn some narrow cases, which the report counts."""


@dataclass(frozen=True)
class Expected:
    """An input with torch's prediction."""

    given: Any
    prediction: Any


def expect(task: Task, cases: Sequence[GoldenCase]) -> list[Expected]:
    """Decode torch's outputs on the golden cases as serving would."""
    expected = []
    for case in cases:
        given = task.read(case.input)
        results = [{name: np.asarray(value, np.float32) for name, value in each.items()} for each in case.outputs]
        (rows,) = task.encode([given])
        expected.append(Expected(case.input, task.decode(given, rows, results, task.parameters())))
    return expected


def ask_each(contender: Contender, port: int, inputs: Sequence[Any]) -> list[Any]:
    """Ask for each input once, alone, and return the predictions; a GateError if one is not answered."""
    bodies = tuple(contender.body(each) for each in inputs)
    plan = Plan(protocol=contender.protocol, host=HOST, port=port, path=contender.path, bodies=bodies, seconds=0)
    tally = run_load(plan.model_copy(update={"once": True}))
    if tally.statuses != {OK: len(inputs)}:
        raise GateError(
            f"{contender.name} answered golden cases with the statuses {tally.statuses}",
            "start it by hand and look at its log: an endpoint that is wrong is not timed",
        )
    return [contender.prediction(tally.last_bodies[i]) for i in range(len(inputs))]


def agreement(contender: Contender, port: int, task: Task, expected: Sequence[Expected]) -> float:
    """Return the share of torch's predictions that a server gives, too; a GateError if it is too small."""
    predictions = ask_each(contender, port, [each.given for each in expected])
    same = [task.same(ours, each.prediction) for ours, each in zip(predictions, expected, strict=True)]
    share = float(np.mean(same))
    if share < LEAST_AGREEMENT:
        worst = expected[same.index(False)]
        raise GateError(
            f"{contender.name} agrees with torch on {share:.1%} of the golden cases; "
            f"on {str(worst.given)[:40]!r} torch says {str(worst.prediction)[:80]}",
            "an endpoint that is wrong is not timed",
        )
    return share


def changed(contender: Contender, task: Task, alone: Sequence[Any], bodies: Mapping[int, bytes]) -> int:
    """Count the inputs whose answer under load is not the one alone; a GateError if they are many."""
    asked = [i for i in range(len(alone)) if i in bodies]
    wrong = [i for i in asked if not task.same(contender.prediction(bodies[i]), alone[i])]
    if len(wrong) > (1 - LEAST_AGREEMENT) * max(20, len(asked)):
        raise GateError(
            f"under load {contender.name} changes {len(wrong)} of {len(asked)} answers",
            "an endpoint that is wrong is not timed",
        )
    return len(wrong)
