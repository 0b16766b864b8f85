"""`tuneport plan`."""

from tuneport.cli.options import with_config
from tuneport.extras import require_extras
from tuneport.stages.benchmarks.config import PlanConfig


@with_config(PlanConfig, positional=())
def plan(config: PlanConfig) -> None:
    """Say how many machines a traffic needs, from the measured figures of a bench-endpoint report.

    Example: tuneport plan --rate 500 --p99-ms 50 --report reports/endpoint
    """
    require_extras("the plan", "export")
    from tuneport.cli.tables import print_table
    from tuneport.stages.benchmarks.plan import plan as make_plan

    found = make_plan(config)
    header, rows = found.cells()
    print_table(header, rows, found.caption())
