"""The documents show the figures of the committed reports."""

import re

import pytest
from kit.reports import endpoint_report, engine_report, level, model_result, server

from tuneport.errors import TuneportError
from tuneport.schema.artifact import Metric
from tuneport.stages.benchmarks.compare import read_report
from tuneport.stages.benchmarks.readme import END, ENDPOINT, ENGINE, Place, place_of, table_of, with_table

ACCURACY = Metric(name="accuracy", value=0.975, torch=0.975)
BEGIN = ENGINE.begin


SHOWN = [place for place in (ENGINE, ENDPOINT) if place.begin in place.document.read_text(encoding="utf-8")]


def test_every_committed_report_is_shown() -> None:
    assert ENGINE in SHOWN
    assert ENDPOINT.committed.exists() == (ENDPOINT in SHOWN)


@pytest.mark.parametrize("place", SHOWN)
def test_the_table_of_a_document_is_that_of_the_committed_report(place: Place) -> None:
    text, report = place.document.read_text(encoding="utf-8"), read_report(place.committed)
    assert place_of(report) == place
    assert with_table(text, table_of(report), place.begin) == text
    assert not re.search(r'"(/|~)', place.committed.read_text(encoding="utf-8"))  # no folder of a machine


def test_a_table_replaces_the_one_between_the_marks() -> None:
    report = engine_report(
        model_result("torch fp32", metric=ACCURACY), model_result("fp16", metric=ACCURACY, speed_up_interval=(2.4, 2.6))
    )
    table = table_of(report)
    widths = {len(line) for line in table.splitlines()}
    assert len(widths) == 1
    assert "| fp16 *     |   0.9750 |" in table
    assert "2.50 x [2.40, 2.60]" in table
    text = with_table(f"before\n{BEGIN}\n\n| old |\n\n{END}\nafter", table, BEGIN)
    assert text == f"before\n{BEGIN}\n\n{table}\n\n{END}\nafter"
    assert with_table(text, table, BEGIN) == text


def test_the_table_of_servers_has_their_rates_by_connections() -> None:
    report = endpoint_report(server("tuneport HTTP", level(1, 60.4, 20), level(32, 301, None)))
    header, _, row = table_of(report).splitlines()
    found = dict(zip(*([cell.strip() for cell in line.strip("|").split("|")] for line in (header, row)), strict=True))
    assert found == {
        "": "tuneport HTTP", "requests/s at 1": "60", "requests/s at 32": "301", "p99 ms at 32": "–",
        "CPU ms/request": "1.0", "ready s": "2.0", "MiB": "200", "agreement": "100%",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["no marks", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN} {END}"])
def test_a_text_without_one_place_for_the_table_is_refused(text: str) -> None:
    with pytest.raises(TuneportError, match="not one place"):
        with_table(text, "table", BEGIN)
