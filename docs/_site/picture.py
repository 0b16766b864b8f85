"""Take the README's picture of the playground: `python docs/_site/picture.py demo/artifact`, with Chromium."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.process import free_port, running

PICTURE = Path(__file__).parents[1] / "images" / "playground.png"
QUERY = {
    "text": "Shares rose after the bank raised its forecast for the year",
    "explain": "1",
    "examples": "0",  # excerpts of the user's data
    "run": "1",
}


def take_picture(artifact: Path) -> Path:
    """Serve the artifact, run a text in the playground, and save what it shows; returns the file."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("there is no Chromium; install it")
    port = free_port()
    command = serve_command(SERVICE, host="127.0.0.1", port=port, model=register(artifact))
    url = f"http://127.0.0.1:{port}"
    with running(command, url, {"TUNEPORT_GRPC_PORT": "0"}), tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        size = ["--window-size=820,996", "--virtual-time-budget=8000", f"--screenshot={PICTURE}"]
        subprocess.run([browser, *flags, *size, f"{url}/?{urlencode(QUERY)}"], check=True, timeout=120)
    return PICTURE


if __name__ == "__main__":
    take_picture(Path(sys.argv[1]))
