"""Write a software bill of materials (CycloneDX 1.6, JSON) of what an image installs, with the hashes of its wheels.

`python deploy/sbom.py FOLDER` writes one for each kind of image, `python deploy/sbom.py FOLDER TAG` that of a bento.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from pin import IMAGES, ROOT


def write_bom(requirements: Path, target: Path) -> None:
    """Write the bill of materials of a requirements file."""
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(requirements), "--output-reproducible"]
    subprocess.run([*command, "--spec-version", "1.6", "--output-file", str(target)], check=True)


def bento_requirements(tag: str) -> Path:
    """Return the requirements file that a bento packs beside its artifact."""
    import bentoml

    [model] = bentoml.bentos.get(tag).info.all_models
    return Path(model.to_model().resolve().path) / "requirements.txt"


def sources(tags: Iterable[str]) -> dict[str, Path]:
    """Return name → requirements file: of bentos, or of every kind of image if none is named."""
    if found := {tag.replace(":", "-"): bento_requirements(tag) for tag in tags}:
        return found
    return {name.removesuffix(".txt"): ROOT / "serve" / name for name in IMAGES}


def main() -> None:
    """Write all files."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build")
    folder.mkdir(parents=True, exist_ok=True)
    for name, requirements in sources(sys.argv[2:]).items():
        write_bom(requirements, folder / f"{name}.cdx.json")
        print(folder / f"{name}.cdx.json")


if __name__ == "__main__":
    main()
