"""The endpoint benchmark: whole servers side by side under the same load, `python -m benchmarks.endpoint`.

A round starts one server after the other, so that nothing else runs beside the one that is timed. Each start is
checked against torch's golden answers first; an endpoint that is wrong is not timed.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.endpoint_contenders import left_out
from benchmarks.endpoint_report import EndpointReport, write_endpoint_report
from benchmarks.endpoint_rounds import EndpointBench, EndpointConfig
from benchmarks.report import REPORT
from export.files import TuneportError, check_out, git_commit, new_folder
from export.machine import Machine


def bench_endpoint(
    config: EndpointConfig, out: Path, *, overwrite: bool = False, progress: Callable[[str], object] = lambda _: None
) -> EndpointReport:
    """Time every contender and write report.md, report.json and a picture; returns the report.

    Raises GateError for an endpoint that is wrong and TuneportError for one that does not start.
    """
    check_out(out, marker=REPORT, overwrite=overwrite)
    progress("reading data and models")
    work = EndpointBench(config, progress)
    ceilings = work.ceilings()
    work.rounds()
    report = EndpointReport(
        name=work.manifest.name,
        version=work.manifest.version,
        variant=work.variant.name,
        texts=len(work.sample.inputs),
        mean_tokens=round(work.mean_tokens, 1),
        source=Path(work.sample.source.source).name if work.sample.source else "",
        machine=Machine.here(),
        config=config.model_dump(mode="json"),
        git_commit=git_commit(Path(__file__).parent),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        standings=tuple(work.standing(each.name) for each in work.contenders),
        ceilings=ceilings,
        overload=work.overload(),
        short=work.short(),
        notes=tuple(left_out(work.manifest)),
    )
    with new_folder(out, marker=REPORT, overwrite=overwrite) as folder:
        write_endpoint_report(folder, report)
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, say where the report is; `tuneport bench-endpoint` does the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoint", description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--connections", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--variant")
    parser.add_argument("--data")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--overwrite", action="store_true")
    given = vars(parser.parse_args(arguments))
    out, overwrite = given.pop("out"), given.pop("overwrite")
    given["connections"] = tuple(given["connections"].split(","))
    try:
        bench_endpoint(EndpointConfig(**given), out, overwrite=overwrite, progress=lambda step: _say(step))
    except TuneportError as error:
        _say(f"error: {error}")
        sys.exit(1)
    _say(f"wrote {out}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
