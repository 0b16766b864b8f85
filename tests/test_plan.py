import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.plan import OVERHEAD, Budget, choose, plan

LENGTHS = st.lists(st.integers(min_value=1, max_value=600), max_size=200)
SOME_LENGTHS = st.lists(st.integers(min_value=1, max_value=128), min_size=1, max_size=12)
BUDGETS = st.builds(
    Budget, st.integers(min_value=1, max_value=2048), st.sampled_from([1, 8, 16]), st.sampled_from([512, 10_000])
)


@given(LENGTHS, BUDGETS)
def test_a_plan_takes_every_row_once(lengths: list[int], budget: Budget) -> None:
    assert sorted(index for batch in plan(lengths, budget) for index in batch) == list(range(len(lengths)))


@given(LENGTHS, BUDGETS)
def test_a_plan_keeps_its_budget_but_for_a_single_longer_row(lengths: list[int], budget: Budget) -> None:
    for batch in plan(lengths, budget):
        assert len(batch) * max(lengths[index] for index in batch) <= budget.tokens or len(batch) == 1


@given(LENGTHS, BUDGETS)
def test_a_plan_groups_like_lengths(lengths: list[int], budget: Budget) -> None:
    batches = plan(lengths, budget)
    for shorter, longer in itertools.pairwise(batches):
        assert max(lengths[index] for index in shorter) <= min(lengths[index] for index in longer)


@given(LENGTHS, BUDGETS)
def test_a_plan_has_no_batch_that_would_have_taken_the_next_row(lengths: list[int], budget: Budget) -> None:
    batches = plan(lengths, budget)
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * budget.padded(lengths[following[0]]) > budget.tokens


@given(SOME_LENGTHS, BUDGETS)
def test_what_runs_next_is_the_best_batch_with_the_first_row(lengths: list[int], budget: Budget) -> None:
    """Against every run of neighbours in length, one by one."""

    def share(rows: list[int]) -> float:
        padded = len(rows) * budget.padded(max(rows))
        return sum(rows) / (padded + OVERHEAD * budget.tokens)

    chosen = [lengths[i] for i in choose(lengths, budget)]
    rows = sorted(lengths)
    candidates = [rows[first:last] for first in range(len(rows)) for last in range(first + 1, len(rows) + 1)]
    allowed = [
        each
        for each in candidates
        if lengths[0] in each and (len(each) == 1 or len(each) * budget.padded(max(each)) <= budget.tokens)
    ]
    assert share(chosen) == pytest.approx(max(map(share, allowed)))


@given(LENGTHS.filter(bool), BUDGETS)
def test_the_first_row_is_always_among_what_runs_next(lengths: list[int], budget: Budget) -> None:
    chosen = choose(lengths, budget)
    assert 0 in chosen
    assert len(set(chosen)) == len(chosen)
    assert len(chosen) * max(lengths[i] for i in chosen) <= budget.tokens or chosen == [0]


def test_a_queue_of_mixed_lengths_is_worked_off_with_little_padding() -> None:
    rng = np.random.default_rng(0)
    source = iter(rng.integers(8, 128, 10_000).tolist())
    budget = Budget(256)
    waiting = [next(source) for _ in range(32)]
    real = padded = 0
    for _ in range(500):
        chosen = choose(waiting, budget)
        real += sum(waiting[i] for i in chosen)
        padded += len(chosen) * max(waiting[i] for i in chosen)
        waiting = [length for i, length in enumerate(waiting) if i not in chosen]
        waiting += [next(source) for _ in chosen]
    assert real / padded > 0.94


@given(st.integers(1, 600), BUDGETS)
def test_lengths_are_padded_to_whole_steps_and_never_beyond_the_model(length: int, budget: Budget) -> None:
    padded = budget.padded(length)
    assert padded >= length
    assert padded % budget.step == 0 or padded in (length, budget.longest)
    assert padded <= max(length, budget.longest)
