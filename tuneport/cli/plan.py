"""`tuneport plan`."""

from dataclasses import asdict

from tuneport.cli.json_output import print_json
from tuneport.cli.options import Json, with_config
from tuneport.extras import require_extras
from tuneport.stages.benchmarks.config import PlanConfig


@with_config(PlanConfig, positional=())
def plan(config: PlanConfig, as_json: Json = False) -> None:
    """Say how many machines a traffic needs, from the measured figures of a bench-endpoint report.

    With --helm-values it also writes them as values of the Helm chart.

    With --json: machine, and servers with capacity (null if the objective was not held), machines and cost_per_hour.

    Example: tuneport plan --rate 500 --p99-ms 50 --report reports/endpoint
    """
    require_extras("the plan", "export")
    from tuneport.cli.tables import print_table
    from tuneport.stages.benchmarks.helm_values import write_helm_values
    from tuneport.stages.benchmarks.plan import plan as make_plan

    found = make_plan(config)
    if config.helm_values:
        write_helm_values(found, config.helm_values)
    if as_json:
        print_json({"machine": found.machine, "servers": [asdict(server) for server in found.servers]})
        return
    header, rows = found.cells()
    print_table(header, rows, found.caption())
