"""Checks the folders that commands write to, the ports of the service, and the variables of the hub's libraries."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .findings import Finding, ok

LOW_GIB = 3.0
"""The demo writes about 1 GiB, and a bento with its image more."""
FULL_GIB = 0.2
PORTS = {"HTTP": ("127.0.0.1", 3000, "--port"), "gRPC": ("127.0.0.1", 3001, "--grpc-port")}
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
TRUE = {"1", "on", "yes", "true"}
"""What huggingface_hub reads as true, in any case."""


def check_environment() -> Iterator[Finding]:
    """Yield the findings on folders, ports and the hub."""
    yield check_folder("working folder", Path.cwd(), "change to a folder that can be written")
    yield check_temporary_folder()
    yield check_bentoml_home()
    yield check_folder("Hugging Face cache", _data_cache(), "set HF_HOME to a folder that can be written")
    yield check_hub()
    for protocol, (host, port, flag) in PORTS.items():
        yield check_port(protocol, host, port, flag)


def check_folder(name: str, folder: Path, remedy: str) -> Finding:
    """Check that a folder, or the nearest one above it that exists, can be written and has room."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
        free_gib = shutil.disk_usage(there).free / 2**30
    except OSError as error:
        found = f"{folder} cannot be written ({error.strerror})"
        return Finding(name=name, status="error", found=found, remedy=remedy)
    found = f"{folder}, {free_gib:.1f} GiB free"
    if free_gib >= LOW_GIB:
        return ok(name, found)
    status = "error" if free_gib < FULL_GIB else "warning"
    room = f"make room there: {LOW_GIB:g} GiB are enough for a small model; or {remedy}"
    return Finding(name=name, status=status, found=found, remedy=room)  # type: ignore[arg-type]


def check_temporary_folder() -> Finding:
    """Check the folder for temporary files."""
    remedy = "set TMPDIR to a folder that can be written"
    try:
        return check_folder("temporary folder", Path(tempfile.gettempdir()), remedy)
    except OSError as error:
        return Finding(name="temporary folder", status="error", found=str(error), remedy=remedy)


def check_bentoml_home() -> Finding:
    """Check BentoML's folder, to which export, serve and build copy artifacts."""
    remedy = "set BENTOML_HOME to a folder that can be written"
    try:
        home = Path(os.path.expandvars(os.environ.get("BENTOML_HOME", "~/bentoml"))).expanduser()
    except RuntimeError:
        found = "there is no home folder for BentoML's store"
        return Finding(name="BentoML home", status="error", found=found, remedy=remedy)
    return check_folder("BentoML home", home, remedy)


def check_hub() -> Finding:
    """Say whether models and data may come from the hub."""
    offline = [name for name in OFFLINE if os.environ.get(name, "").lower() in TRUE]
    if not offline:
        return ok("hub", f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')} when a name is no path")
    found = f"{', '.join(offline)} set: hub names come from the cache alone"
    return Finding(name="hub", status="note", found=found, remedy="unset it to download")


def check_port(protocol: str, host: str, port: int, flag: str) -> Finding:
    """Check that a port of `tuneport serve` is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just closed is free
        try:
            probe.bind((host, port))
        except OSError as error:
            found = f"{port} cannot be listened on ({error.strerror})"
            return Finding(name=f"{protocol} port", status="warning", found=found, remedy=f"tuneport serve {flag} N")
    return ok(f"{protocol} port", f"{port} is free")


def _data_cache() -> Path:
    """Return the folder to which `datasets` converts every file."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("HF_HOME", f"{cache}/huggingface")
    return Path(os.path.expanduser(os.environ.get("HF_DATASETS_CACHE", f"{home}/datasets")))
