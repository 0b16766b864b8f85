"""One endpoint benchmark, top to bottom: setup → load generator's ceiling → rounds → overload → short text → report."""

from collections.abc import Callable
from pathlib import Path

from tuneport.folders import check_out, new_folder

from ..config import EndpointConfig
from ..machine import MachineState
from ..origin import origin_here
from ..peers.registry import check_environments
from ..report import REPORT
from .report import write_endpoint_report
from .results import ClientCeiling, EndpointReport, OverloadResult, RateSearch, ShortTextResult, TargetResult
from .rounds import run_rounds
from .scenarios import measure_client_ceilings, measure_overload, measure_short_text, search_rates
from .setup import EndpointSetup, prepare
from .targets import absent_targets


def bench_endpoint(
    config: EndpointConfig, out: Path, *, overwrite: bool = False, progress: Callable[[str], object] = lambda _: None
) -> EndpointReport:
    """Time every server and write report.md, report.json, report.html and report.png into `out`; returns the report.

    Only one server runs at a time. Each start is checked against torch's golden predictions first. Raises GateError
    for a server that is wrong, TuneportError for one that does not start or answers nothing.
    """
    check_out(out, marker=REPORT, overwrite=overwrite)
    check_environments(config.peers)
    progress("reading data and models")
    setup = prepare(config)
    progress("measuring the load generator against a server that does no work")
    ceilings = measure_client_ceilings(setup)
    results, left_out = run_rounds(setup, progress)
    progress("overload: twice the highest throughput")
    overload = measure_overload(setup, results[0])
    slo = config.slo_p99_ms
    if slo is not None:
        progress(f"searching the highest rates with p99 within {slo:g} ms")
    rate_searches = search_rates(setup, results, slo) if slo is not None else ()
    progress("one short text")
    short_text = measure_short_text(setup)
    report = build_report(setup, results, ceilings, overload, rate_searches, short_text, left_out)
    with new_folder(out, marker=REPORT, overwrite=overwrite) as folder:
        write_endpoint_report(folder, report)
    return report


def build_report(
    setup: EndpointSetup,
    results: tuple[TargetResult, ...],
    ceilings: tuple[ClientCeiling, ...],
    overload: OverloadResult,
    rate_searches: tuple[RateSearch, ...],
    short_text: ShortTextResult | None,
    left_out: tuple[str, ...],
) -> EndpointReport:
    """Put what was measured together with what it was measured on."""
    source = setup.workload.source
    return EndpointReport(
        name=setup.manifest.name,
        version=setup.manifest.version,
        variant=setup.variant.name,
        num_inputs=len(setup.inputs),
        mean_tokens=round(setup.mean_tokens, 1),
        source=Path(source.source).name if source else "",
        device=setup.device,
        **origin_here(),
        config=setup.config.model_dump(mode="json"),
        results=results,
        client_ceilings=ceilings,
        overload=overload,
        rate_searches=rate_searches,
        machine=MachineState.now(),
        short_text=short_text,
        notes=(*absent_targets(setup.manifest, setup.device), *setup.absent_peers, *left_out),
    )
