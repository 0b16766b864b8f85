"""Look up known advisories of what images install and of constraints.txt, with pip-audit: `python deploy/audit.py`.

Exits with 1 if there are any, or if the service does not know a package; docs/security-advisories.md says what follows
from those that were known. The advisories come from the package index's service, or with `--vulnerability-service osv`
from OSV.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from pin import CONSTRAINTS, IMAGES, ROOT, pins_of

SKIPPED = "Skip Reason"
"""The head of pip-audit's table of what it has not audited, of which its exit code says nothing."""


def audit(requirements: Path, options: list[str]) -> int:
    """Print the advisories of a file's pins; returns pip-audit's exit code, or 1 if it has skipped a package."""
    print(f"{requirements.name}:", flush=True)
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
    done = subprocess.run(
        [*command, *options, "--requirement", str(requirements)], check=False, stdout=subprocess.PIPE, text=True
    )
    print(done.stdout, end="", flush=True)
    return done.returncode or int(SKIPPED in done.stdout)


def main() -> int:
    """Audit every file."""
    code = 0
    for path in [*(ROOT / "serve" / name for name in IMAGES), CONSTRAINTS]:
        with tempfile.TemporaryDirectory() as folder:
            pins = Path(folder) / path.name
            pins.write_text("\n".join(pins_of(path)))
            code |= audit(pins, sys.argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
