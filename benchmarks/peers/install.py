"""Make an environment for each peer of the benchmarks.

    python -m tuneport.stages.benchmarks.peers.install DIR [NAME …]

Each environment is a folder below DIR. One that cannot be made is a folder with the reason, which reports repeat.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from .registry import FAILED, PEERS, Peer

TIMEOUT_S = 1200
INSTALLED = [peer for peer in PEERS if peer.requirements]


def install(peer: Peer, folder: Path) -> str | None:
    """Make the environment of a peer in `folder`, in place of one that is there; returns the reason if that fails."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        python = folder / "bin" / "python"
        # pip takes what tuneport's environment has for installed, and adds the rest, in front of it.
        packages = Path(_run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
        own = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (packages / "tuneport-environment.pth").write_text("".join(f"{path}\n" for path in own), encoding="utf-8")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *peer.requirements])
        if peer.alone:
            _run([*pip, "--no-deps", *peer.alone])
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as error:
        return _fail(folder, error)
    return None


def _fail(folder: Path, error: Exception) -> str:
    """Leave the reason in place of the environment, and return it."""
    lines = [line for line in str(getattr(error, "stderr", "") or error).splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "unknown")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / FAILED).write_text(reason[:300] + "\n", encoding="utf-8")
    return reason


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    return done.stdout


def main() -> None:
    """Install all peers, or those that are named; the reason of each that fails goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder of the environments")
    parser.add_argument("names", nargs="*", help=f"of {', '.join(peer.folder for peer in INSTALLED)}; default: all")
    options = parser.parse_args()
    for peer in INSTALLED:
        if not options.names or peer.folder in options.names:
            reason = install(peer, options.out / peer.folder)
            sys.stderr.write(f"{peer.name}: {f'cannot be installed: {reason}' if reason else 'installed'}\n")


if __name__ == "__main__":
    main()
