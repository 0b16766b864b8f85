"""BentoML's adaptive batching in place of tuneport's batcher: the same predictions, other batches."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tuneport.errors import ServiceStopping
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.scheduler import BatchLimits
from tuneport.stages.benchmarks.peers.bento_batcher import BentoBatcher
from tuneport.stages.serve.batcher import Batcher, BatchReport, MakeBatcher
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.settings import Settings


def row(value: int, group: object = None) -> EncodedInput:
    return EncodedInput([value] * 3, [0] * 3, False, group=group)


def double(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
    assert len({row.group for row in rows}) == 1
    if any(row.ids[0] < 0 for row in rows):
        raise ValueError("a bad row")
    return [{"value": np.array(2 * row.ids[0], np.float32)} for row in rows]


def test_callers_share_batches_and_get_their_own_outputs() -> None:
    reports: list[BatchReport] = []

    async def run() -> list[list[RowOutputs] | BaseException]:
        batcher = BentoBatcher(double, limits=BatchLimits(), report=reports.append)
        for i in range(12):  # BentoML estimates the engine's speed from the first requests
            await batcher.submit([row(i)])
        requests = [batcher.submit([row(i, group=i % 2), row(100 + i, group=i % 2)]) for i in range(20)]
        results = await asyncio.gather(*requests, batcher.submit([row(-1)]), return_exceptions=True)
        batcher.close()
        return results

    *results, error = asyncio.run(run())
    for i, outputs in enumerate(results):
        assert isinstance(outputs, list)
        assert [int(output["value"]) for output in outputs] == [2 * i, 200 + 2 * i]
    assert isinstance(error, ValueError)
    assert sum(report.rows for report in reports) == 12 + 41
    assert max(report.rows for report in reports) > 2


def test_a_closed_batcher_refuses_rows() -> None:
    async def run() -> None:
        batcher = BentoBatcher(double, limits=BatchLimits())
        batcher.close()
        with pytest.raises(ServiceStopping):
            batcher.check_capacity()
        with pytest.raises(ServiceStopping, match="stopping"):
            await batcher.submit([row(1)])

    asyncio.run(run())


def test_the_batcher_changes_no_prediction(tiny_artifact: Path) -> None:
    texts = ["bank", "the team won " * 10, "a film of the year", "election"]

    async def predict(make_batcher: MakeBatcher) -> list[str]:
        inference = Inference.open(tiny_artifact, Settings(variant="fp32"), streams=1, make_batcher=make_batcher)
        results = await asyncio.gather(*(inference.run([text]) for text in texts))
        inference.close()
        return [result.prediction["label"] for (result,) in results]

    assert asyncio.run(predict(BentoBatcher)) == asyncio.run(predict(Batcher))
