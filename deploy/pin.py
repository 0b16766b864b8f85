"""Pin the versions of this environment: in constraints.txt for users, in serve/requirements*.txt for images.

Run it in an environment that has every extra but `gpu` and `tensorrt` and passes the tests, with `uv` on the path:
`python deploy/pin.py`. The pins of `gpu`, which excludes `cpu`, are kept from the file as it is; `python deploy/pin.py
--gpu` resolves them again. `--images` writes the files for images alone, from constraints.txt as it is.
"""

import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
EVERYTHING = "tuneport[all,cpu,demo,dev,docs]"
SERVING = (
    "bentoml", "grpcio", "grpcio-health-checking", "grpcio-reflection", "httptools", "numpy",
    "opentelemetry-exporter-otlp-proto-http", "orjson", "prometheus-client", "protobuf", "psutil", "py-minisign",
    "pydantic", "pydantic-settings", "starlette", "tokenizers", "uvicorn", "uvloop",
)  # fmt: skip
"""What the service imports for encoders beside their engine."""
GENERATIVE = ("jinja2", "optimum", "optimum-onnx", "scipy", "sentencepiece", "soundfile", "torch", "transformers")
"""What the service imports for generative models, too."""
ON_GPU = "onnxruntime-gpu[cuda,cudnn]==1.31.1"
TENSORRT = "tensorrt-cu13-libs==10.16.1.11"
"""The last libnvinfer.so.10. The package downloads it from NVIDIA's own index, so that pip resolves it only there."""
PYTHON = 11
"""The minor version of Python 3 in images."""
PROCESSORS = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Image:
    """What an image installs."""

    packages: tuple[str, ...]
    """Its requirements; their own are resolved with the versions of constraints.txt."""
    unresolved: tuple[str, ...] = ()
    """Pins of packages whose requirements no ordinary index has."""


IMAGES = {
    "requirements.txt": Image((*SERVING, "onnxruntime")),
    "requirements-openvino.txt": Image((*SERVING, "onnxruntime", "openvino")),
    "requirements-gpu.txt": Image((*SERVING, ON_GPU)),
    "requirements-tensorrt.txt": Image((*SERVING, ON_GPU), unresolved=(TENSORRT,)),
    "requirements-generate.txt": Image((*SERVING, *GENERATIVE, "onnxruntime")),
    "requirements-generate-gpu.txt": Image((*SERVING, *GENERATIVE, ON_GPU)),
}
"""File in serve/ → what an image installs; `serve/packing.py` chooses among them."""
CONSTRAINTS_HEAD = "# Every version that the tests passed with; written by deploy/pin.py."
GPU_HEAD = "# Only the gpu extra needs these:"
TENSORRT_HEAD = "# Only the tensorrt extra needs this:"
IMAGE_HEAD = """\
# What an image installs: the versions of constraints.txt, with the hashes of their wheels for Linux (x86_64, aarch64).
# Written by deploy/pin.py.
--require-hashes
--only-binary :all:"""


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


def gpu_pins(tested: dict[str, str], *, again: bool) -> list[str]:
    """Return the pins of gpu beyond the `tested` versions: those of the file or, `again`, as uv resolves them.

    Torch's build for CUDA wants exact versions of CUDA's libraries, and onnxruntime-gpu takes a range: resolved
    together they give one set that serves with torch and without.
    """
    if not again:
        written = CONSTRAINTS.read_text() if CONSTRAINTS.exists() else ""
        return written.partition(GPU_HEAD)[2].partition(TENSORRT_HEAD)[0].split()
    found = {package["name"]: package["version"] for package in resolve((ON_GPU, "torch"), "\n".join(lines(tested)))}
    return lines({name: version for name, version in found.items() if name not in tested})


def lines(versions: dict[str, str]) -> list[str]:
    """Write pins, sorted by name."""
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def locked(image: Image) -> list[str]:
    """Return an image's pins with hashes, a line each, as uv resolves them."""
    found = resolve(image.packages, CONSTRAINTS.read_text())
    if image.unresolved:
        found += resolve(image.unresolved, "", "--no-deps")
    return [pin(package) for package in sorted(found, key=lambda package: str(package["name"]))]


def resolve(packages: tuple[str, ...], constraints: str, *options: str) -> list[dict[str, Any]]:
    """Resolve requirements under constraints; returns the packages of the lock file in PEP 751's format."""
    command = ["uv", "pip", "compile", "--quiet", "--format", "pylock.toml", "--python-version", f"3.{PYTHON}"]
    command += ["--python-platform", "linux", "--no-header", *options, "-"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(constraints)
        file.flush()
        done = subprocess.run(
            [*command, "--constraint", file.name],
            input="\n".join(packages),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        sys.exit(done.stderr)
    packages_found: list[dict[str, Any]] = tomllib.loads(done.stdout)["packages"]
    return packages_found


def pin(package: dict[str, Any]) -> str:
    """Write a package's pin with the hashes of its wheels that fit the image; of its source if it has no wheel."""
    hashes = [each["hashes"]["sha256"] for each in package.get("wheels", ()) if fits(file_name(each))]
    options = ""
    if not hashes:
        hashes, options = [package["sdist"]["hashes"]["sha256"]], f"--no-binary {package['name']}\n"
    lines = [f"{package['name']}=={package['version']}", *(f"--hash=sha256:{each}" for each in sorted(hashes))]
    return options + " \\\n    ".join(lines)


def file_name(file: dict[str, Any]) -> str:
    """Return the name of a file of the lock, which may be given by its address alone."""
    return str(file.get("name") or file["url"].rpartition("/")[2])


def fits(wheel: str) -> bool:
    """Tell whether a wheel is for the image's Python on one of its processors."""
    return any(
        (tag.interpreter in ("py3", f"py3{PYTHON}", f"cp3{PYTHON}") or _is_older_abi3(tag.interpreter, tag.abi))
        and (tag.platform == "any" or ("manylinux" in tag.platform and tag.platform.endswith(PROCESSORS)))
        for tag in parse_wheel_filename(wheel)[3]
    )


def _is_older_abi3(interpreter: str, abi: str) -> bool:
    return abi == "abi3" and interpreter.startswith("cp3") and int(interpreter[3:]) <= PYTHON


def pins_of(requirements: Path) -> list[str]:
    """Return the pins of a requirements file, without hashes and options."""
    lines = [line.removesuffix("\\").strip() for line in requirements.read_text().splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "--"))]


def write_constraints() -> None:
    """Write constraints.txt from this environment."""
    everything = closure((EVERYTHING,))
    del everything["tuneport"], everything["pip"]  # pip, which pip-audit requires, is not for us to choose
    gpu = gpu_pins(everything, again="--gpu" in sys.argv)
    parts = [CONSTRAINTS_HEAD, *lines(everything), GPU_HEAD, *gpu, TENSORRT_HEAD, TENSORRT]
    CONSTRAINTS.write_text("\n".join(parts) + "\n")
    print(f"{CONSTRAINTS.name}: {len(everything)} pins, and {len(gpu)} for gpu alone")


def main() -> None:
    """Write all files."""
    if "--images" not in sys.argv:
        write_constraints()
    for name, image in IMAGES.items():
        pins = locked(image)
        (ROOT / "serve" / name).write_text("\n".join([IMAGE_HEAD, *pins]) + "\n")
        print(f"serve/{name}: {len(pins)} pins")


if __name__ == "__main__":
    main()
