"""`tuneport doctor`."""

import shutil
import textwrap
from collections.abc import Iterator

import typer

from tuneport.cli.json_output import print_json
from tuneport.cli.options import Json
from tuneport.doctor.findings import Finding, ok
from tuneport.errors import TuneportError
from tuneport.stages.serve.settings import PREFIX, read_settings, unknown_variables

INDENT = 8 * " "


def doctor(as_json: Json = False) -> None:
    """Check the machine, engines, packages and environment; says for each finding what to do about it.

    Exits with 1 if something prevents fine-tuning, export or serving. With --json: ok, and findings.

    Example: tuneport doctor
    """
    from tuneport.doctor.diagnose import diagnose

    findings = []
    for finding in diagnose({"service": check_service}):
        findings.append(finding)
        if not as_json:
            print(fit(finding.line()), flush=True)
    is_ok = all(finding.status != "error" for finding in findings)
    if as_json:
        print_json({"ok": is_ok, "findings": [each.model_dump() for each in findings]})
    raise typer.Exit(0 if is_ok else 1)


def fit(line: str) -> str:
    """Break a line at the width of the terminal, or at 80 columns without one; what follows is indented."""
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)


def check_service() -> Iterator[Finding]:
    """Yield the findings on the variables that set up the service."""
    try:
        read_settings()
    except TuneportError as error:
        yield Finding(name="service", status="error", found=error.problem, remedy=error.remedy)
        return
    unknown = unknown_variables()
    if unknown:
        found = f"{', '.join(unknown)}: no setting of that name"
        yield Finding(name="service", status="warning", found=found, remedy="correct or unset them")
    else:
        yield ok("service", f"{PREFIX}… variables are valid")
