"""Take a picture of the documentation: `python docs/_site/picture.py playground demo/artifact`, with Chromium."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.process import free_port, running

FOLDER = Path(__file__).parents[1] / "images"
RUN = {"examples": "0", "run": "1", "stream": "0"}  # examples are excerpts of the user's data
PICTURES: dict[str, tuple[dict[str, str], str]] = {
    "playground": ({"text": "Shares rose after the bank raised its forecast for the year", "explain": "1"}, "820,996"),
    "tutorial-topics": (
        {"text": "Shares rose after the bank raised its forecast for the year", "explain": "1", "variant": "fp32"},
        "820,1180",
    ),
    "tutorial-names": ({"text": "Petra Okoye works for Delta Optics in Lyon ."}, "820,720"),
    "tutorial-parcels": (
        {
            "question": "Where did it go?",
            "context": "Vega Motors sent a lamp from Turin to Bergen. Grace Silva signed for the parcel on Monday.",
        },
        "820,1120",
    ),
    "tutorial-related": (
        {"text": "The striker scored twice", "text_pair": "The team won its match"},
        "820,720",
    ),
    "tutorial-translation": ({"text": "Der kleine Vogel hört den alten Lehrer ."}, "820,720"),
    "tutorial-headlines": (
        {
            "text": "In fog the council of Porto met on Friday . After two hours of debate it decided to repair the "
            "theatre . There were ten votes for the plan . Work begins next year ."
        },
        "820,720",
    ),
    "tutorial-helpdesk": ({"text": "How can I cancel my order?"}, "820,760"),
    "tutorial-keys": ({"example": "1"}, "820,620"),
}
"""Picture → the playground's query, and the size of the window in pixels."""


def take_picture(name: str, artifact: Path) -> Path:
    """Serve the artifact, run a text in the playground, and save what it shows; returns the file."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("there is no Chromium; install it")
    (query, size), picture = PICTURES[name], FOLDER / f"{name}.png"
    port = free_port()
    command = serve_command(SERVICE, host="127.0.0.1", port=port, model=register(artifact))
    url = f"http://127.0.0.1:{port}"
    settings = {"TUNEPORT_GRPC_PORT": "0", "TUNEPORT_PLAYGROUND_VARIANTS": str("variant" in query)}
    with running(command, url, settings), tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        sized = [f"--window-size={size}", "--virtual-time-budget=20000", f"--screenshot={picture}"]
        subprocess.run([browser, *flags, *sized, f"{url}/?{urlencode({**query, **RUN})}"], check=True, timeout=120)
    return picture


if __name__ == "__main__":
    take_picture(sys.argv[1], Path(sys.argv[2]))
