"""README.md shows the figures of the committed report."""

import pytest
from kit import ROOT
from kit.reports import engine_report, model_result

from tuneport.errors import TuneportError
from tuneport.schema.artifact import Metric
from tuneport.stages.benchmarks.compare import read_report
from tuneport.stages.benchmarks.readme import BEGIN, COMMITTED, END, table_of, with_table
from tuneport.stages.benchmarks.report import Report

ACCURACY = Metric(name="accuracy", value=0.975, torch=0.975)


def test_the_table_of_the_readme_is_that_of_the_committed_report() -> None:
    text, report = (ROOT / "README.md").read_text(encoding="utf-8"), read_report(COMMITTED)
    assert isinstance(report, Report)
    assert with_table(text, table_of(report)) == text


def test_a_table_replaces_the_one_between_the_marks() -> None:
    report = engine_report(
        model_result("torch fp32", metric=ACCURACY), model_result("fp16", metric=ACCURACY, speed_up_interval=(2.4, 2.6))
    )
    table = table_of(report)
    widths = {len(line) for line in table.splitlines()}
    assert len(widths) == 1
    assert "| fp16 *     |   0.9750 |" in table
    assert "2.50 x [2.40, 2.60]" in table
    text = with_table(f"before\n{BEGIN}\n\n| old |\n\n{END}\nafter", table)
    assert text == f"before\n{BEGIN}\n\n{table}\n\n{END}\nafter"
    assert with_table(text, table) == text


@pytest.mark.parametrize("text", ["no marks", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN} {END}"])
def test_a_text_without_one_place_for_the_table_is_refused(text: str) -> None:
    with pytest.raises(TuneportError, match="not one place"):
        with_table(text, "table")
