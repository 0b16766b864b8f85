"""`tuneport bench`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tuneport.cli.json_output import json_output, print_json
from tuneport.cli.options import Json, Overwrite, Quiet, with_config
from tuneport.cli.progress import progress_steps
from tuneport.errors import TuneportError
from tuneport.extras import require_extras
from tuneport.stages.benchmarks.config import BenchConfig

Compare = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="OLD NEW", help="Two reports to compare, report.json or its folder, in place of a benchmark."),
]
MaxRegression = Annotated[
    float, typer.Option(min=0, max=1, help="With --compare: what share of a figure may be lost; more exits with 1.")
]
OutUnlessComparing = Annotated[
    Path | None, typer.Option(help="Folder to write; must not exist unless --overwrite. Required without --compare.")
]


@with_config(BenchConfig, positional="artifact", is_required=False)
def bench(
    config: BenchConfig | None,
    out: OutUnlessComparing = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    compare: Compare = None,
    max_regression: MaxRegression = 0.05,
    as_json: Json = False,
) -> None:
    """Time the variants of a device against torch on the same device, in every precision that it has, on real text.

    With --json: the report; with --compare changes and notes.

    Example: tuneport bench artifacts/reviews --out reports/reviews, later tuneport bench --compare reports/reviews
    reports/newer
    """
    require_extras("the benchmark", "export")
    if compare:
        _compare(*compare, max_regression, as_json=as_json)
        return
    if config is None or out is None:
        raise typer.BadParameter("give ARTIFACT and --out, or --compare OLD NEW")
    from tuneport.cli.bench_tables import print_report
    from tuneport.stages.benchmarks.engine import bench as run_bench

    with json_output(enabled=as_json) as print_value, progress_steps(quiet=quiet) as progress:
        report = run_bench(config, out, overwrite=overwrite, progress=progress)
        if as_json:
            print_value(report.model_dump(mode="json"))
            return
    print_report(report)
    print(f"wrote {out}")


def _compare(old: Path, new: Path, max_regression: float, *, as_json: bool) -> None:
    """Print what became better or worse; raises TuneportError if a figure lost more than `max_regression`."""
    from tuneport.cli.bench_tables import print_comparison
    from tuneport.stages.benchmarks.compare import compare

    comparison = compare(old, new)
    if as_json:
        changes = [{**asdict(each), "verdict": each.verdict} for each in comparison.changes]
        print_json({"changes": changes, "notes": comparison.notes})
    else:
        print_comparison(comparison)
    worse = [each for each in comparison.changes if each.is_regression(max_regression)]
    if worse:
        named = ", ".join(f"{each.target} {each.figure} ({each.gain:+.1%})" for each in worse)
        raise TuneportError(f"worse beyond noise and by more than {max_regression:.0%}: {named}", "find what changed")
