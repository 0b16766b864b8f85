"""Write the exact versions of this environment: constraints.txt for people, serve/requirements.txt for the image.

Run it in an environment that has every extra but `gpu` and passes the tests: `python deploy/pin.py`. The pins of
`gpu`, which excludes `cpu`, are kept from the file as it is; `python deploy/pin.py --gpu` resolves them anew.
"""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS, IMAGE = ROOT / "constraints.txt", ROOT / "serve" / "requirements.txt"
WRITING_IMAGE = ROOT / "serve" / "requirements-generate.txt"
SERVING = (
    "bentoml", "grpcio", "grpcio-health-checking", "grpcio-reflection", "httptools", "numpy", "onnxruntime",
    "openvino", "orjson", "prometheus-client", "protobuf", "psutil", "pydantic", "pydantic-settings", "starlette",
    "tokenizers", "uvicorn", "uvloop",
)  # fmt: skip
"""What a bento imports; the rest of its image follows from these."""
WRITING = (
    *SERVING, "jinja2", "optimum", "optimum-onnx", "scipy", "sentencepiece", "soundfile", "torch", "transformers",
)  # fmt: skip
"""What one imports whose model writes."""
GPU_HEAD = "# Only the gpu extra needs these:"


def closure(roots: list[str]) -> dict[str, str]:
    """Return name → version of requirements and all that they need here."""
    found: dict[str, str] = {}
    done: set[str] = set()
    waiting = list(roots)
    while waiting:
        text = waiting.pop()
        if text in done:
            continue
        done.add(text)
        requirement = Requirement(text)
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError:
            sys.exit(f"{requirement.name} is not installed; install tuneport[cpu,demo,dev,generate,openvino] first")
        found[canonicalize_name(requirement.name)] = installed.version.partition("+")[0]
        for need in map(Requirement, installed.requires or []):
            wanted = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
            if need.marker is None or any(need.marker.evaluate(extra) for extra in wanted):
                waiting.append(f"{need.name}[{','.join(need.extras)}]" if need.extras else need.name)
    return found


def gpu_pins(anew: bool) -> list[str]:
    """Return the lines that only the gpu extra needs."""
    if not anew:
        return CONSTRAINTS.read_text().partition(GPU_HEAD)[2].split() if CONSTRAINTS.exists() else []
    wanted = distribution("tuneport").requires or []
    need = next(line.partition(";")[0].strip() for line in wanted if line.startswith("onnxruntime-gpu"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        "-",
        need,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pins = re.findall(r'"name": "([A-Za-z0-9._-]+)", "version": "([^"]+)"', re.sub(r"\s+", " ", done.stdout))
    return [f"{canonicalize_name(name)}=={version}" for name, version in sorted(set(pins))]


def write_image(file: Path, roots: tuple[str, ...]) -> dict[str, str]:
    """Write what a bento installs; returns name → version."""
    image = closure(list(roots))
    head = "# What a bento installs; written by deploy/pin.py from the same environment as constraints.txt."
    file.write_text("\n".join([head, *(f"{name}=={version}" for name, version in sorted(image.items()))]) + "\n")
    return image


def main() -> None:
    """Write all files."""
    everything = closure(["tuneport[cpu,demo,dev,generate,openvino]"])
    everything.pop("tuneport")
    pins = [f"{name}=={version}" for name, version in sorted(everything.items())]
    gpu = [line for line in gpu_pins("--gpu" in sys.argv) if line.partition("==")[0] not in everything]
    head = "# Every version that the tests passed with; written by deploy/pin.py."
    CONSTRAINTS.write_text("\n".join([head, *pins, GPU_HEAD, *gpu]) + "\n")
    image = write_image(IMAGE, SERVING)
    write_image(WRITING_IMAGE, WRITING)
    print(f"{len(pins)} pins, {len(gpu)} for gpu alone, {len(image)} for the image")


if __name__ == "__main__":
    main()
