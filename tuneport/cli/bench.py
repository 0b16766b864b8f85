"""`tuneport bench`."""

from tuneport.cli.options import Out, Overwrite, with_config
from tuneport.cli.progress import progress_steps
from tuneport.extras import require_extras
from tuneport.stages.benchmarks.config import BenchConfig


@with_config(BenchConfig, positional="artifact")
def bench(config: BenchConfig, out: Out, overwrite: Overwrite = False) -> None:
    """Time the variants of a device against torch on the same device, in every precision that it has, on real text."""
    require_extras("the benchmark", "export")
    from tuneport.cli.tables import print_report
    from tuneport.stages.benchmarks.engine import bench as run_bench

    with progress_steps() as progress:
        report = run_bench(config, out, overwrite=overwrite, progress=progress)
    print_report(report)
    print(f"wrote {out}")
