"""The scheduler, against its definition and, for the next batch, against every possible choice."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneport.runtime.scheduler import OVERHEAD, BatchLimits, pack_batches, select_batch
from tuneport.schema.artifact import Layout

LENGTHS = st.lists(st.integers(min_value=1, max_value=600), max_size=200)
SOME_LENGTHS = st.lists(st.integers(min_value=1, max_value=128), min_size=1, max_size=12)
LIMITS = st.builds(
    BatchLimits, st.integers(min_value=1, max_value=2048), st.sampled_from([1, 8, 16]), st.sampled_from([512, 10_000])
)
PACKED = st.builds(BatchLimits, st.integers(min_value=1, max_value=2048), layout=st.just("packed"))


@given(LENGTHS, LIMITS | PACKED)
def test_batches_take_every_row_once(lengths: list[int], limits: BatchLimits) -> None:
    assert sorted(index for batch in pack_batches(lengths, limits) for index in batch) == list(range(len(lengths)))


@given(LENGTHS, LIMITS)
def test_batches_keep_the_token_limit_except_for_a_single_longer_row(lengths: list[int], limits: BatchLimits) -> None:
    for batch in pack_batches(lengths, limits):
        assert len(batch) * max(lengths[index] for index in batch) <= limits.tokens or len(batch) == 1


@given(LENGTHS, LIMITS)
def test_batches_group_similar_lengths(lengths: list[int], limits: BatchLimits) -> None:
    batches = pack_batches(lengths, limits)
    for shorter, longer in itertools.pairwise(batches):
        assert max(lengths[index] for index in shorter) <= min(lengths[index] for index in longer)


@given(LENGTHS, LIMITS)
def test_no_batch_would_have_held_the_next_row(lengths: list[int], limits: BatchLimits) -> None:
    batches = pack_batches(lengths, limits)
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * limits.padded(lengths[following[0]]) > limits.tokens


@given(LENGTHS, PACKED)
def test_packed_batches_keep_the_limit_of_real_tokens_and_are_full(lengths: list[int], limits: BatchLimits) -> None:
    batches = pack_batches(lengths, limits)
    for batch in batches:
        assert sum(lengths[index] for index in batch) <= limits.tokens or len(batch) == 1
    for batch, following in itertools.pairwise(batches):
        assert sum(lengths[index] for index in [*batch, following[0]]) > limits.tokens


@given(LENGTHS.filter(bool), PACKED)
def test_the_next_packed_batch_takes_rows_in_their_order_as_long_as_they_fit(
    lengths: list[int], limits: BatchLimits
) -> None:
    chosen = select_batch(lengths, limits)
    tokens = sum(lengths[i] for i in chosen)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert tokens <= limits.tokens or chosen == [0]
    # A row that waits on was too long for what was left, given the rows before it.
    for i in set(range(len(lengths))) - set(chosen):
        assert sum(lengths[j] for j in chosen if j < i) + lengths[i] > limits.tokens


@pytest.mark.parametrize(("layout", "cost"), [("padded", 3 * 40), ("packed", 17 + 1 + 40)])
def test_a_batch_costs_its_padding_only_where_there_is_some(layout: Layout, cost: int) -> None:
    assert BatchLimits(layout=layout).cost([17, 1, 40]) == cost


@given(SOME_LENGTHS, LIMITS)
def test_the_next_batch_is_the_best_one_with_the_first_row(lengths: list[int], limits: BatchLimits) -> None:
    """Against every run of neighbours in length, one by one."""

    def share(rows: list[int]) -> float:
        padded = len(rows) * limits.padded(max(rows))
        return sum(rows) / (padded + OVERHEAD * limits.tokens)

    chosen = [lengths[i] for i in select_batch(lengths, limits)]
    rows = sorted(lengths)
    candidates = [rows[first:last] for first in range(len(rows)) for last in range(first + 1, len(rows) + 1)]
    allowed = [
        each
        for each in candidates
        if lengths[0] in each and (len(each) == 1 or len(each) * limits.padded(max(each)) <= limits.tokens)
    ]
    assert share(chosen) == pytest.approx(max(map(share, allowed)))


@given(LENGTHS.filter(bool), LIMITS)
def test_the_first_row_is_always_in_the_next_batch(lengths: list[int], limits: BatchLimits) -> None:
    chosen = select_batch(lengths, limits)
    assert 0 in chosen
    assert len(set(chosen)) == len(chosen)
    assert len(chosen) * max(lengths[i] for i in chosen) <= limits.tokens or chosen == [0]


def test_a_queue_of_mixed_lengths_runs_with_little_padding() -> None:
    rng = np.random.default_rng(0)
    source = iter(rng.integers(8, 128, 10_000).tolist())
    limits = BatchLimits(256)
    waiting = [next(source) for _ in range(32)]
    real = padded = 0
    for _ in range(500):
        chosen = select_batch(waiting, limits)
        real += sum(waiting[i] for i in chosen)
        padded += len(chosen) * max(waiting[i] for i in chosen)
        waiting = [length for i, length in enumerate(waiting) if i not in chosen]
        waiting += [next(source) for _ in chosen]
    assert real / padded > 0.94


@given(st.integers(1, 600), LIMITS)
def test_lengths_are_padded_to_a_multiple_and_never_beyond_the_model(length: int, limits: BatchLimits) -> None:
    padded = limits.padded(length)
    assert padded >= length
    assert padded % limits.length_multiple == 0 or padded in (length, limits.longest)
    assert padded <= max(length, limits.longest)
