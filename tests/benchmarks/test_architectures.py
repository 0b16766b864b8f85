"""The table of architectures in the docs is what exporting a tiny model of each one gives."""

import pytest
from kit import ROOT
from kit.exports import quick_exports

from tuneport.stages.benchmarks.architectures.__main__ import table_row
from tuneport.stages.benchmarks.architectures.sweep import try_architecture
from tuneport.stages.benchmarks.architectures.tiny_models import encoder_architectures

FEW = {"big_bird": "its answer depends on the inputs that it saw before", "fnet": "aten::fft_fftn", "esm": ""}
"""Architectures of the default run, each with a part of the reason why it is refused."""


def documented() -> dict[str, list[str]]:
    """Return the cells of the documented table by architecture."""
    lines = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row for row in rows[1:]}


def test_the_table_has_every_encoder_of_transformers_and_no_wrong_answer() -> None:
    rows = documented()
    assert list(rows) == encoder_architectures()
    assert {row[1] for row in rows.values()} == {"yes", "no"}
    assert all((row[1] == "yes") == (row[6] == "") for row in rows.values())


@pytest.mark.parametrize(
    "model_type",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in encoder_architectures()],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_row_of_the_table_is_true(model_type: str, capfd: pytest.CaptureFixture[str]) -> None:
    with quick_exports():
        outcome = try_architecture(model_type)
    now, then = [cell.strip() for cell in table_row(outcome).strip("|").split("|")], documented()[model_type]
    assert [now[i] for i in (0, 1, 3, 4, 5)] == [then[i] for i in (0, 1, 3, 4, 5)]
    assert FEW.get(model_type, "") in outcome.refusal
    assert "\n" not in outcome.refusal
    assert capfd.readouterr().out == ""  # torch's tracer would print the graph of a model that fails
