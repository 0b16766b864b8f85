"""BentoML's adaptive batching as a setting: the same answers, other batches."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from serve.batcher import BatchReport, Overloaded, Result
from serve.bento_batcher import BentoBatcher
from serve.plan import Budget
from serve.predictor import Predictor
from serve.settings import Settings
from serve.tokenizer import Row


def row(value: int, group: object = None) -> Row:
    return Row([value] * 3, [0] * 3, False, group=group)


def double(rows: Sequence[Row]) -> list[Result]:
    assert len({row.group for row in rows}) == 1
    if any(row.ids[0] < 0 for row in rows):
        raise ValueError("a bad row")
    return [{"value": np.array(2 * row.ids[0], np.float32)} for row in rows]


def test_callers_share_batches_and_get_their_own_answers() -> None:
    reports: list[BatchReport] = []

    async def run() -> list[list[Result] | BaseException]:
        feeding = BentoBatcher(double, budget=Budget(), report=reports.append)
        for i in range(12):  # which BentoML learns its engine by
            await feeding.submit([row(i)])
        asked = [feeding.submit([row(i, group=i % 2), row(100 + i, group=i % 2)]) for i in range(20)]
        answers = await asyncio.gather(*asked, feeding.submit([row(-1)]), return_exceptions=True)
        feeding.close()
        return answers

    *answers, bad = asyncio.run(run())
    for i, answer in enumerate(answers):
        assert isinstance(answer, list)
        assert [int(each["value"]) for each in answer] == [2 * i, 200 + 2 * i]
    assert isinstance(bad, ValueError)
    assert sum(report.rows for report in reports) == 12 + 41
    assert max(report.rows for report in reports) > 2


def test_a_closed_one_refuses() -> None:
    async def run() -> None:
        feeding = BentoBatcher(double, budget=Budget())
        feeding.close()
        with pytest.raises(Overloaded, match="stopping"):
            await feeding.submit([row(1)])

    asyncio.run(run())


def test_the_setting_changes_no_answer(tiny_artifact: Path) -> None:
    texts = ["bank", "the team won " * 10, "a film of the year", "election"]

    async def ask(chosen: Settings) -> list[str]:
        predictor = Predictor(tiny_artifact, chosen)
        answers = await asyncio.gather(*(predictor.answer([text]) for text in texts))
        predictor.close()
        return [answer[0]["label"] for answer in answers]

    own = asyncio.run(ask(Settings(variant="fp32")))
    assert asyncio.run(ask(Settings(variant="fp32", batcher="bentoml"))) == own
