"""Tries each engine in a process of its own, so that one that crashes or hangs is a finding."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from tuneport.host import Host
from tuneport.runtime.backends.libraries import TENSORRT_PACKAGE

from .findings import Finding, Status, ok

TIMEOUT_S = 120.0
GPU_REMEDY = "pip uninstall onnxruntime, then install tuneport[gpu] instead of tuneport[cpu]"


@dataclass(frozen=True)
class Probe:
    """An engine on a device, and what it means if it does not run."""

    engine: str
    device: str
    if_broken: Status
    remedy: str

    @property
    def name(self) -> str:
        """The name of the finding."""
        return f"{self.engine} on {self.device}"


def check_engines(host: Host) -> Iterator[Finding]:
    """Yield a finding for each engine that is installed, and for those that are missing."""
    probes, missing = probes_for(host)
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(run_probe, probes)
    yield from missing


def probes_for(host: Host) -> tuple[list[Probe], list[Finding]]:
    """Return the probes of what is installed, and findings for what is not."""
    has_gpu = bool(host.gpus)
    runtimes = [name for name in ("onnxruntime", "onnxruntime-gpu") if is_installed(name)]
    missing = []
    if not runtimes:
        found = "neither onnxruntime nor onnxruntime-gpu is installed"
        remedy = f"pip install 'tuneport[{'gpu' if has_gpu else 'cpu'}]'"
        missing.append(Finding(name="onnxruntime", status="error", found=found, remedy=remedy))
    if len(runtimes) == 2:
        found = "onnxruntime and onnxruntime-gpu are both installed, and share one folder"
        remedy = "pip uninstall both, then install tuneport[cpu] or tuneport[gpu]"
        missing.append(Finding(name="onnxruntime", status="warning", found=found, remedy=remedy))
    probes = [Probe("onnxruntime", "cpu", "error", "pip install --force-reinstall onnxruntime")] if runtimes else []
    if "onnxruntime-gpu" in runtimes and has_gpu:
        probes.append(Probe("onnxruntime", "cuda", "warning", "check the driver with nvidia-smi"))
        if is_installed(TENSORRT_PACKAGE):
            probes.append(Probe("onnxruntime", "tensorrt", "warning", "pip install 'tuneport[tensorrt]'"))
    elif has_gpu and runtimes:
        found = "a GPU is visible, and this onnxruntime is for processors alone"
        missing.append(Finding(name="onnxruntime on cuda", status="warning", found=found, remedy=GPU_REMEDY))
    if is_installed("openvino"):
        probes.append(Probe("openvino", "cpu", "warning", "pip install --force-reinstall openvino"))
    else:
        remedy = "pip install 'tuneport[openvino]' for its variants, often the fastest on a processor"
        missing.append(Finding(name="openvino", status="note", found="not installed", remedy=remedy))
    if is_installed("torch"):
        probes.append(Probe("torch", "cpu", "error", "pip install --force-reinstall torch"))
        if has_gpu:
            remedy = "install torch with CUDA, or train with CUDA_VISIBLE_DEVICES=''"
            probes.append(Probe("torch", "cuda", "warning", remedy))
    return probes, missing


def run_probe(probe: Probe, timeout_s: float = TIMEOUT_S) -> Finding:
    """Run a probe in a new process."""
    command = [sys.executable, "-P", "-m", "tuneport.doctor.probe", probe.engine, probe.device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return _broken(probe, f"no answer in {timeout_s:g} s", "")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        cause = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        last = (done.stderr.strip().splitlines() or ["nothing on stderr"])[-1]
        return _broken(probe, f"{cause}: {last[:200]}", "")
    answer = json.loads(lines[-1])
    if "found" in answer:
        return ok(probe.name, answer["found"])
    return _broken(probe, answer["problem"], answer["remedy"])


def _broken(probe: Probe, found: str, remedy: str) -> Finding:
    return Finding(name=probe.name, status=probe.if_broken, found=found, remedy=remedy or probe.remedy)


def is_installed(package: str) -> bool:
    """Tell whether a package is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
