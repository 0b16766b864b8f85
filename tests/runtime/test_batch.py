"""Batches: what the graph is fed, and which outputs belong to which row."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tuneport.runtime.batch import EncodedInput, packed_batch, padded_batch
from tuneport.schema.artifact import Processing

ROWS = st.lists(st.lists(st.integers(1, 30_000), min_size=1, max_size=20), min_size=1, max_size=8)
PROCESSING = Processing(max_length=20, pad_token_id=7)


def encoded(rows: list[list[int]]) -> list[EncodedInput]:
    return [EncodedInput(ids, [i % 2 for i in ids], False) for ids in rows]


@given(ROWS)
def test_a_packed_batch_has_the_tokens_of_the_padded_one_and_no_others(rows: list[list[int]]) -> None:
    packed, padded = packed_batch(encoded(rows)), padded_batch(encoded(rows), PROCESSING)
    mask = padded.feeds["attention_mask"].astype(bool)
    for name in ("input_ids", "token_type_ids"):
        np.testing.assert_array_equal(packed.feeds[name][0], padded.feeds[name][mask])
    positions = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    np.testing.assert_array_equal(packed.feeds["position_ids"][0], positions[mask])
    np.testing.assert_array_equal(packed.feeds["attention_mask"], padded.feeds["attention_mask"])
    offset = packed.feeds["token_offset"]
    assert offset.shape == mask.shape
    flat = offset.reshape(-1)
    np.testing.assert_array_equal(flat[: mask.sum()], np.flatnonzero(mask))
    np.testing.assert_array_equal(np.sort(flat), np.arange(mask.size))
    np.testing.assert_array_equal(np.diff(packed.feeds["cumulative_lengths"]), [len(ids) for ids in rows])
    np.testing.assert_array_equal(packed.feeds["row_starts"], packed.feeds["cumulative_lengths"][:-1])
    assert {each.dtype for name, each in packed.feeds.items() if name != "attention_mask"} == {np.dtype(np.int32)}


@given(ROWS)
def test_outputs_of_tokens_go_to_their_rows_in_both_layouts(rows: list[list[int]]) -> None:
    """With a graph that answers each token with its id."""
    for batch in (packed_batch(encoded(rows)), padded_batch(encoded(rows), PROCESSING)):
        ids: Any = batch.feeds["input_ids"]
        outputs = {"logits": (ids[0] if batch.layout == "packed" else ids).astype(np.float32)}
        assert [each["logits"].tolist() for each in batch.split(outputs, per_token=True)] == rows


@given(ROWS)
def test_outputs_of_rows_go_to_their_rows_in_both_layouts(rows: list[list[int]]) -> None:
    for batch in (packed_batch(encoded(rows)), padded_batch(encoded(rows), PROCESSING)):
        outputs = {"logits": np.arange(len(rows) + 2, dtype=np.float32)}  # with rows of padding at the end
        assert [int(each["logits"]) for each in batch.split(outputs, per_token=False)] == list(range(len(rows)))
