"""Build a bento's image and prove it where no Docker engine runs: `make container-test`, or with an ARTIFACT's folder.

Needs root, debootstrap and buildah. A stand-in for the base image is made with debootstrap, since a registry of images
may be out of reach; the packages come from pip's index. Isolation is chroot and the storage driver vfs, which work
within other containers. PIP_INDEX_URL and the like are passed on to the build, and the host's own certificate
authorities in /usr/local/share/ca-certificates are added to the stand-in.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx

from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.grpc import open_inference_pb2 as pb
from tuneport.stages.serve.process import free_port

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "container"
BASE, IMAGE = "docker.io/library/python:3.11-slim-bookworm", "localhost/tuneport:test"
PACKAGES = "ca-certificates,python3,python3-pip,python3-venv"
AUTHORITIES = Path("usr/local/share/ca-certificates")
MAX_MB = {"onnxruntime": 700, "openvino": 950}
"""Size of an encoder's image for CPUs, by the engine of its default variant."""
FORBIDDEN = ("gcc", "cc", "g++", "make", "git", "uv")
WRITABLE = {"/tmp", "/var/tmp", "/run/lock", "/var/lock"}
"""What the user of the image may write to; a read-only root takes all but the first, which is mounted."""
TEXTS = ["Shares rose after the bank raised its forecast", "The band won an award", "Größe 🙂"]
PIP_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")


def environment(work: Path) -> dict[str, str]:
    """Write buildah's storage configuration; returns the environment of all commands."""
    work.mkdir(parents=True, exist_ok=True)
    storage = work / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{work}/storage"\nrunroot = "{work}/run"\n')
    return {
        **os.environ,
        "BENTOML_HOME": str(work / "bentoml"),
        "BUILDAH_FORMAT": "docker",  # OCI's own format has no health check
        "BUILDAH_ISOLATION": "chroot",
        "CONTAINERS_STORAGE_CONF": str(storage),
        "STORAGE_DRIVER": "vfs",
    }


def run(*command: str | Path, **options: Any) -> str:
    """Run a command; returns what it printed to stdout."""
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=False, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))[:200]} failed with {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout.strip()


def make_base(work: Path, env: dict[str, str]) -> None:
    """Make the stand-in for the base image, unless an earlier run has made it."""
    if run("buildah", "images", "--quiet", "--filter", f"reference={BASE}", env=env):
        return
    root = work / "base"
    shutil.rmtree(root, ignore_errors=True)
    run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", root)
    (root / AUTHORITIES).mkdir(parents=True, exist_ok=True)
    for authority in Path("/", AUTHORITIES).glob("*.crt"):
        shutil.copy(authority, root / AUTHORITIES)
    run("chroot", root, "sh", "-c", "update-ca-certificates && apt-get clean && rm -rf /var/lib/apt/lists/*")
    container = run("buildah", "from", "scratch", env=env)
    run("buildah", "add", "--quiet", container, root, "/", env=env)
    run("buildah", "commit", "--quiet", container, BASE, env=env)
    run("buildah", "rm", container, env=env)
    shutil.rmtree(root)


def make_image(artifact: Path, env: dict[str, str]) -> None:
    """Build bento and image."""
    tuneport = Path(sys.executable).with_name("tuneport")
    tag = run(tuneport, "build", artifact, env=env).split("built ")[1].partition(";")[0]
    arguments = {"PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}
    arguments |= {name: env[name] for name in PIP_VARIABLES if name in env}
    options = [option for name, value in arguments.items() for option in ("--opt", f"build-arg={name}={value}")]
    run(tuneport, "containerize", tag, "--backend", "buildah", "-t", IMAGE, *options, env=env)


def check_image(artifact: Path, env: dict[str, str]) -> None:
    """Check the image's configuration, its size, and what is in it."""
    inspected = json.loads(run("buildah", "inspect", "--type", "image", IMAGE, env=env))
    config, manifest = inspected["Docker"]["config"], load_manifest(artifact)
    uid = config["User"].partition(":")[0]
    assert uid.isdigit(), config["User"]
    assert uid != "0"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.title"] == manifest.name
    assert config["Labels"]["org.opencontainers.image.version"] == manifest.version
    listed = json.loads(run("buildah", "images", "--json", env=env))
    sizes = {name: each["size"] for each in listed for name in each["names"] or ()}
    print(f"image: {sizes[IMAGE]}, of which the stand-in for the base: {sizes[BASE]}")
    number, unit = sizes[IMAGE].split()
    assert unit == "MB"
    assert float(number) <= MAX_MB[manifest.variant().execution.engine]


@contextmanager
def container(env: dict[str, str]) -> Iterator[tuple[str, int, int]]:
    """Run the image's entry point as its own user; yields the container and its ports for HTTP and gRPC."""
    name, http, rpc = run("buildah", "from", IMAGE, env=env), free_port(), free_port()
    settings = ["--env", f"BENTOML_PORT={http}", "--env", f"TUNEPORT_GRPC_PORT={rpc}"]
    entry = "/home/bentoml/bento/env/docker/entrypoint.sh"
    command = ["buildah", "run", "--isolation", "chroot", *settings, name, "--", entry, "--host", "127.0.0.1"]
    process = subprocess.Popen(command, env=env, stderr=(WORK / "log").open("w"), start_new_session=True)
    began = time.monotonic()
    try:
        while not _is_ready(http):
            if process.poll() is not None or time.monotonic() - began > 120:
                sys.exit((WORK / "log").read_text()[-2000:])
            time.sleep(0.1)
        print(f"ready after {time.monotonic() - began:.1f} s")
        yield name, http, rpc
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        run("buildah", "rm", name, env=env)


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def check_answers(artifact: Path, http: int, rpc: int, env: dict[str, str]) -> None:
    """Compare the answers over both protocols with those of `tuneport predict`."""
    tuneport = Path(sys.executable).with_name("tuneport")
    evidence = httpx.get(f"http://127.0.0.1:{http}/evidence").json()
    variant = evidence["model"]["variant"]
    lines = run(tuneport, "predict", artifact, "--variant", variant, *TEXTS, env=env).splitlines()
    expected = [json.loads(line) for line in lines]
    body = httpx.post(f"http://127.0.0.1:{http}/predict", json={"inputs": TEXTS}, timeout=60).json()
    assert body["predictions"] == expected, body
    request = pb.ModelInferRequest(model_name=body["model"]["name"])
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(TEXTS)])
    tensor.contents.bytes_contents.extend(text.encode() for text in TEXTS)
    request.outputs.add(name="json")
    with grpc.insecure_channel(f"127.0.0.1:{rpc}") as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        [output] = infer(request, timeout=60).outputs
    assert [json.loads(each) for each in output.contents.bytes_contents] == expected, output
    print(f"{variant} gives the answers of tuneport predict over HTTP and gRPC")


def check_inside(name: str, http: int, env: dict[str, str]) -> None:
    """Check what the user finds in the container: no tools, nothing to write to, and a health check that passes."""

    def inside(*command: str) -> str:
        port = ["--env", f"BENTOML_PORT={http}"]
        return run("buildah", "run", "--isolation", "chroot", *port, name, "--", *command, env=env)

    find = "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/tmp/*' -not -path '/dev/*'"
    written = {line for line in inside("sh", "-c", f"{find} 2>/dev/null || true").splitlines() if line}
    assert written <= WRITABLE, written - WRITABLE
    found = inside("sh", "-c", f"for each in {' '.join(FORBIDDEN)}; do command -v $each || true; done")
    assert not found, found
    inside("python", "-I", "/home/bentoml/bento/src/serve/healthcheck.py")
    print("no compiler or git, nothing but temporary folders to write to, healthy")


def main() -> None:
    """Run all steps."""
    artifact = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "demo" / "artifact").absolute()
    missing = [tool for tool in ("debootstrap", "buildah") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        sys.exit(f"needs root, debootstrap and buildah; missing: {', '.join(missing) or 'root'}")
    env = environment(WORK)
    make_base(WORK, env)
    make_image(artifact, env)
    check_image(artifact, env)
    with container(env) as (name, http, rpc):
        check_answers(artifact, http, rpc, env)
        check_inside(name, http, env)


if __name__ == "__main__":
    main()
