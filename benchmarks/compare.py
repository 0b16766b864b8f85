"""Compare two reports: what became better or worse beyond noise."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from tuneport.errors import DataError
from tuneport.schema.artifact import Interval
from tuneport.schema.base import Frozen, first_problem

from .endpoint.results import EndpointReport
from .report import REPORT, ModelResult, Report

ENDPOINT_KIND = re.compile(r'"kind"\s*:\s*"endpoint"')
Figure = tuple[float, Interval | None]
"""A figure with its confidence interval."""
Verdict = Literal["better", "worse", "same"]


@dataclass(frozen=True)
class Change:
    """One figure of one target in two reports."""

    target: str
    figure: str
    old: float
    new: float
    gain: float
    """How much better the new one is, as a share of the old one; negative if it is worse."""
    is_proven: bool
    """Whether the difference is beyond noise: the confidence intervals have no value in common."""

    @property
    def verdict(self) -> Verdict:
        """Say what the difference means."""
        if not self.is_proven or self.gain == 0:
            return "same"
        return "better" if self.gain > 0 else "worse"

    def is_regression(self, threshold: float) -> bool:
        """Tell whether it became worse beyond noise, and by more than a share."""
        return self.verdict == "worse" and -self.gain > threshold


@dataclass(frozen=True)
class Comparison:
    """All that two reports have in common, and what they have not."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Return the table as text: its header, and a row for each figure."""
        rows = [
            [
                each.target,
                each.figure,
                f"{each.old:g}",
                f"{each.new:g}",
                f"{each.gain:+.1%}",
                each.verdict if each.verdict != "same" else "within noise" if each.old != each.new else "same",
            ]
            for each in self.changes
        ]
        return ["", "figure", "old", "new", "gain", "verdict"], rows


def compare(old_file: Path, new_file: Path) -> Comparison:
    """Compare two reports of one benchmark, each report.json or its folder.

    Raises DataError for a file that is no report, for reports of two kinds, and if they have no target in common.
    """
    old, new = read_report(old_file), read_report(new_file)
    if old.kind != new.kind:
        raise DataError(
            f"{old_file} is a report of the {old.kind}, {new_file} of the {new.kind}", "compare like reports"
        )
    is_same_machine = (old.host, old.device) == (new.host, new.device)
    notes = [] if is_same_machine else ["The machines differ: only ratios within a report and quality are compared."]
    if isinstance(old, Report) and isinstance(new, Report):
        changes = list(_engine_changes(old, new, is_same_machine=is_same_machine))
    elif isinstance(old, EndpointReport) and isinstance(new, EndpointReport):
        changes = list(_endpoint_changes(old, new)) if is_same_machine else []
    if not changes:
        raise DataError(f"{old_file} and {new_file} have nothing to compare", "give reports of one model and machine")
    before, after = ({each.name for each in report.results} for report in (old, new))
    notes += [f"Only in the old report: {name}." for name in sorted(before - after)]
    notes += [f"Only in the new report: {name}." for name in sorted(after - before)]
    return Comparison(tuple(changes), tuple(notes))


def read_report(file: Path) -> Report | EndpointReport:
    """Read report.json, given as the file or as its folder; raises DataError if it is none of this version."""
    path = file / REPORT if file.is_dir() else file
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise DataError(f"{path} cannot be read ({reason})", f"give the {REPORT} of a benchmark") from error
    remedy = "repeat the benchmark with this version"
    kind: type[Report | EndpointReport] = EndpointReport if ENDPOINT_KIND.search(text) else Report
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"{file} is no report of this version{first_problem(error)}", remedy) from error


def _engine_changes(old: Report, new: Report, *, is_same_machine: bool) -> Iterator[Change]:
    after = {each.name: each for each in new.results}
    for result in old.results:
        if result.name in after:
            yield from _model_changes(result, after[result.name], is_same_machine=is_same_machine)


def _model_changes(old: ModelResult, new: ModelResult, *, is_same_machine: bool) -> Iterator[Change]:
    """Yield the figures of a model; on two machines only those that do not depend on the machine's speed."""
    one, other = old.timing, new.timing
    if is_same_machine:
        yield _rising(old.name, "texts/s", *_pair(one, other, "texts_per_s"))
        yield _falling(old.name, "p50 ms", *_pair(one, other, "latency_ms_p50"))
    if one.baseline == other.baseline and one.baseline != old.name:
        yield _rising(old.name, f"speed-up against {one.baseline}", *_pair(one, other, "speed_up"))
    if old.metric and new.metric and old.metric.name == new.metric.name:
        sign = -1 if new.metric.lower_is_better else 1
        gain = sign * (new.metric.value - old.metric.value) / max(abs(old.metric.value), 1e-9)
        yield Change(old.name, new.metric.name, old.metric.value, new.metric.value, gain, is_proven=True)


def _endpoint_changes(old: EndpointReport, new: EndpointReport) -> Iterator[Change]:
    after = {(each.name, level.connections): level for each in new.results for level in each.levels}
    for result in old.results:
        for level in result.levels:
            other = after.get((result.name, level.connections))
            if other is None:
                continue
            at = f"at {level.connections}"
            yield _rising(result.name, f"requests/s {at}", *_pair(level, other, "requests_per_s"))
            yield _falling(result.name, f"p50 ms {at}", *_pair(level, other, "latency_ms_p50"))


def _pair(old: Frozen, new: Frozen, field: str) -> tuple[Figure, Figure]:
    """Return a figure of two records, each with its interval."""
    first, second = ((getattr(each, field), getattr(each, f"{field}_interval")) for each in (old, new))
    return first, second


def _rising(target: str, figure: str, old: Figure, new: Figure) -> Change:
    """Compare figures of which more is better."""
    return Change(target, figure, old[0], new[0], new[0] / old[0] - 1, is_proven=_are_apart(old, new))


def _falling(target: str, figure: str, old: Figure, new: Figure) -> Change:
    """Compare figures of which less is better."""
    return Change(target, figure, old[0], new[0], old[0] / new[0] - 1, is_proven=_are_apart(old, new))


def _are_apart(old: Figure, new: Figure) -> bool:
    """Tell whether two intervals have no value in common; without one nothing is proven."""
    if old[1] is None or new[1] is None:
        return False
    return old[1][1] < new[1][0] or new[1][1] < old[1][0]
