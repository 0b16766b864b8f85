"""Look up known advisories of what images install and of constraints.txt, with pip-audit: `python deploy/audit.py`.

Exits with 1 if there are any; docs/security-advisories.md says what follows from those that were known. The advisories
come from the package index's service, or with `--vulnerability-service osv` from OSV.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from pin import CONSTRAINTS, IMAGES, ROOT, pins_of


def audit(requirements: Path, options: list[str]) -> int:
    """Print the advisories of a file's pins; returns pip-audit's exit code."""
    print(f"{requirements.name}:", flush=True)
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
    return subprocess.run([*command, *options, "--requirement", str(requirements)], check=False).returncode


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
