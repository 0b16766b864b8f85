"""Pin the versions of this environment: in constraints.txt for users, in serve/requirements*.txt for images.

Run it in an environment that has every extra but `gpu` and `tensorrt` and passes the tests: `python deploy/pin.py`. The
pins of `gpu`, which excludes `cpu`, are kept from the file as it is; `python deploy/pin.py --gpu` resolves them again.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
EVERYTHING = "tuneport[cpu,demo,dev,docs,generate,openvino]"
SERVING = (
    "bentoml", "grpcio", "grpcio-health-checking", "grpcio-reflection", "httptools", "numpy", "onnxruntime",
    "opentelemetry-exporter-otlp-proto-http", "openvino", "orjson", "prometheus-client", "protobuf", "psutil",
    "pydantic", "pydantic-settings", "starlette", "tokenizers", "uvicorn", "uvloop",
)  # fmt: skip
"""What the service imports for encoders; the other packages of an image are requirements of these."""
GENERATIVE = (
    *SERVING, "jinja2", "optimum", "optimum-onnx", "scipy", "sentencepiece", "soundfile", "torch", "transformers",
)  # fmt: skip
"""What the service imports for generative models."""
TENSORRT = "tensorrt-cu13-libs==10.16.1.11"
"""The last libnvinfer.so.10. The package downloads it from NVIDIA's own index, so that pip resolves it only there."""


@dataclass(frozen=True)
class Image:
    """What an image installs."""

    packages: tuple[str, ...]
    on_gpu: bool = False
    """Whether ONNX Runtime is the one for GPUs, with CUDA's libraries."""
    extra: tuple[str, ...] = ()
    """Further pins."""

    def pins(self, gpu: list[str]) -> list[str]:
        """Return the pins of all packages; `gpu` are those of the gpu extra."""
        versions = closure(self.packages)
        if not self.on_gpu:
            return lines(versions)
        del versions["onnxruntime"]
        return lines({**versions, **dict(pin.split("==") for pin in (*gpu, *self.extra))})


IMAGES = {
    "requirements.txt": Image(SERVING),
    "requirements-gpu.txt": Image(SERVING, on_gpu=True),
    "requirements-tensorrt.txt": Image(SERVING, on_gpu=True, extra=(TENSORRT,)),
    "requirements-generate.txt": Image(GENERATIVE),
    "requirements-generate-gpu.txt": Image(GENERATIVE, on_gpu=True),
}
"""File in serve/ → what an image installs; `serve/bento.py` chooses among them."""
CONSTRAINTS_HEAD = "# Every version that the tests passed with; written by deploy/pin.py."
GPU_HEAD = "# Only the gpu extra needs these:"
TENSORRT_HEAD = "# Only the tensorrt extra needs this:"
IMAGE_HEAD = "# What a bento installs; written by deploy/pin.py from the same environment as constraints.txt."


def closure(roots: tuple[str, ...]) -> dict[str, str]:
    """Return name → version of requirements and, in turn, of all their requirements in this environment."""
    versions: dict[str, str] = {}
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        text = waiting.pop()
        if text in seen:
            continue
        seen.add(text)
        requirement = Requirement(text)
        try:
            installed = distribution(requirement.name)
        except PackageNotFoundError:
            sys.exit(f"{requirement.name} is not installed; install {EVERYTHING} first")
        versions[canonicalize_name(requirement.name)] = installed.version.partition("+")[0]
        waiting += requirements_of(requirement, installed.requires or [])
    return versions


def requirements_of(requirement: Requirement, declared: list[str]) -> list[str]:
    """Return those of a package's declared requirements that hold here with the extras asked for."""
    extras = [{"extra": extra} for extra in requirement.extras] or [{"extra": ""}]
    return [
        f"{need.name}[{','.join(need.extras)}]" if need.extras else need.name
        for need in map(Requirement, declared)
        if need.marker is None or any(need.marker.evaluate(extra) for extra in extras)
    ]


def gpu_pins(*, resolve: bool) -> list[str]:
    """Return the pins of the gpu extra: those of the file, or what pip resolves now."""
    if not resolve:
        written = CONSTRAINTS.read_text() if CONSTRAINTS.exists() else ""
        return written.partition(GPU_HEAD)[2].partition(TENSORRT_HEAD)[0].split()
    declared = distribution("tuneport").requires or []
    package = next(line.partition(";")[0].strip() for line in declared if line.startswith("onnxruntime-gpu"))
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    command = [sys.executable, "-m", "pip", "install", *options, package]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [each["metadata"] for each in json.loads(done.stdout)["install"]]
    return lines({canonicalize_name(each["name"]): each["version"] for each in found})


def lines(versions: dict[str, str]) -> list[str]:
    """Write pins, sorted by name."""
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def main() -> None:
    """Write all files."""
    everything = closure((EVERYTHING,))
    everything.pop("tuneport")
    gpu = [line for line in gpu_pins(resolve="--gpu" in sys.argv) if line.partition("==")[0] not in everything]
    parts = [CONSTRAINTS_HEAD, *lines(everything), GPU_HEAD, *gpu, TENSORRT_HEAD, TENSORRT]
    CONSTRAINTS.write_text("\n".join(parts) + "\n")
    print(f"{CONSTRAINTS.name}: {len(everything)} pins, and {len(gpu)} for gpu alone")
    for name, image in IMAGES.items():
        pins = image.pins(gpu)
        (ROOT / "serve" / name).write_text("\n".join([IMAGE_HEAD, *pins]) + "\n")
        print(f"serve/{name}: {len(pins)} pins")


if __name__ == "__main__":
    main()
