"""What is the same for all generative models: how answers are compared, and which task a checkpoint is for."""

from pathlib import Path

import numpy as np
import pytest
from kit.generative import build_seq2seq

from tuneport.errors import CheckpointError, TuneportError
from tuneport.runtime.golden import difference
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export


def test_a_difference_counts_positions_and_ignores_ties() -> None:
    def gap(ours: list[int], theirs: list[int], margins: list[float]) -> float:
        return difference([{"tokens": np.array(ours)}], [{"tokens": theirs, "margins": margins}])

    assert gap([5, 6, 7], [5, 6, 7], [1, 1, 1, 1]) == 0
    assert gap([5, 9, 7], [5, 6, 7], [1, 1, 1, 1]) == 1 / 4
    assert gap([5, 9, 8], [5, 6, 7], [1, 1e-3, 1, 1]) == 0
    assert gap([4, 9, 8], [5, 6, 7], [1, 1e-3, 1, 1]) == 3 / 4
    assert gap([5, 6], [5, 6, 7], [1, 1, 1, 1]) == 2 / 4
    assert gap([5, 6], [5, 6, 7], [1, 1, 1e-4, 1]) == 0
    assert gap([], [], [1]) == 0
    # The end of an answer is no token: an answer that goes on with any token, the first included, differs there.
    assert gap([5, 6], [5, 6, 0], [1, 1, 1, 1]) == 2 / 4
    assert gap([], [0], [1, 1]) == 1


def test_an_architecture_that_leaves_the_task_open_asks_for_it(tmp_path: Path) -> None:
    build_seq2seq(tmp_path / "t5", "t5")
    build_seq2seq(tmp_path / "marian", "marian")
    with pytest.raises(CheckpointError, match="may be for translation or summarization; say which: --task translation"):
        export(ExportConfig(checkpoint=tmp_path / "t5"), tmp_path / "out")
    with pytest.raises(CheckpointError, match="T5ForConditionalGeneration, which cannot do text-generation"):
        export(ExportConfig(checkpoint=tmp_path / "t5", task="text-generation"), tmp_path / "out")
    with pytest.raises(CheckpointError, match="cannot do text-classification"):
        export(ExportConfig(checkpoint=tmp_path / "marian", task="text-classification"), tmp_path / "out")
    with pytest.raises(TuneportError, match="fused is for encoder models"):
        export(ExportConfig(checkpoint=tmp_path / "marian", variants=("fused",)), tmp_path / "out")
    with pytest.raises(CheckpointError, match="at most 128 tokens, and 129 were asked for"):
        export(ExportConfig(checkpoint=tmp_path / "marian", max_length=129), tmp_path / "out")
    assert not (tmp_path / "out").exists()
