"""`tuneport bench-endpoint`."""

from tuneport.cli.json_output import json_output
from tuneport.cli.options import Json, Out, Overwrite, Quiet, with_config
from tuneport.cli.progress import progress_steps
from tuneport.extras import require_extras
from tuneport.stages.benchmarks.config import EndpointConfig


@with_config(EndpointConfig, positional="artifact")
def bench_endpoint(
    config: EndpointConfig, out: Out, overwrite: Overwrite = False, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Time whole servers under load: tuneport over HTTP and gRPC, BentoML's batcher, and BentoML over torch.

    With --json: the report.

    Example: tuneport bench-endpoint artifacts/reviews --out reports/endpoint --seconds 5
    """
    require_extras("the benchmark", "export")
    from tuneport.stages.benchmarks.endpoint.main import bench_endpoint as run_bench
    from tuneport.stages.benchmarks.report import TABLE

    with json_output(enabled=as_json) as print_value, progress_steps(quiet=quiet) as progress:
        report = run_bench(config, out, overwrite=overwrite, progress=progress)
        if as_json:
            print_value(report.model_dump(mode="json"))
            return
    print((out / TABLE).read_text(encoding="utf-8"))
    print(f"wrote {out}")
