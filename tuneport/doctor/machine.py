"""Checks the processor, the limits of this process, and the GPUs with their driver."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

from tuneport.gpu import TURING, VISIBLE, unknown_entry
from tuneport.host import Host, usable_cores

from .findings import Finding, ok

MIN_MEMORY_GIB = 3.0
"""Fine-tuning and export of the embedded model need about 2 GiB."""
MIN_OPEN_FILES = 1024
MIN_PROCESSES = 256
MIN_CUDA = 13
"""The CUDA version of onnxruntime-gpu's build."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TUNEPORT_THREADS")
CGROUP = Path("/sys/fs/cgroup")
DRIVER_FILES = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia/version"))


def check_machine(host: Host) -> Iterator[Finding]:
    """Yield the findings on processor, memory, limits and GPUs."""
    yield check_processor(host)
    yield check_cores(host.cores, os.cpu_count() or 1)
    yield from check_thread_variables(host.cores)
    yield check_memory(psutil.virtual_memory().available / 2**30, _memory_limit_gib())
    yield from check_limits(resource.getrlimit(resource.RLIMIT_NOFILE)[0], _cgroup_number("pids.max"))
    yield from check_gpus(host, has_driver_files=any(path.exists() for path in DRIVER_FILES))


def check_processor(host: Host) -> Finding:
    """Name the processor and the instruction sets that decide which precision is fast."""
    sets = " ".join(host.instructions) or "no vector instructions that matter here"
    found = f"{host.cpu}, {host.system}, {sets}"
    if host.int8_saturates:
        found += "; without VNNI, so weights of ONNX Runtime's int8 variants get 7 bits"
    elif host.has_bf16:
        found += "; bf16 variants can be built"
    return ok("processor", found)


def check_cores(usable: int, present: int) -> Finding:
    """Say how many processors this process may use, and why not all."""
    if usable == present:
        return ok("processors", f"{usable} usable")
    return ok("processors", f"{usable} usable of {present}: the rest is cut by affinity or the container's quota")


def check_thread_variables(cores: int = 0) -> Iterator[Finding]:
    """Yield a warning for each variable that sets more threads than processors, or no number at all."""
    cores = cores or usable_cores()
    for name in THREAD_VARIABLES:
        value = os.environ.get(name, "")
        first = value.split(",")[0].strip()
        if value and not first.isdigit():
            yield Finding(
                name="threads", status="warning", found=f"{name}={value} is no number", remedy=f"set it to {cores}"
            )
        elif value and int(first) > cores:
            found = f"{name}={value}, and {cores} processors are usable: threads would wait for each other"
            yield Finding(name="threads", status="warning", found=found, remedy=f"unset it, or set it to {cores}")


def check_memory(available_gib: float, limit_gib: float | None) -> Finding:
    """Compare the memory that is left, cut by the container's limit, with what the demo needs."""
    usable = min(available_gib, limit_gib) if limit_gib else available_gib
    limit = f", limited to {limit_gib:.1f} GiB by the container" if limit_gib else ""
    found = f"{available_gib:.1f} GiB available{limit}"
    if usable >= MIN_MEMORY_GIB:
        return ok("memory", found)
    remedy = f"free or grant {MIN_MEMORY_GIB:g} GiB, or lower max_length and per_device_train_batch_size"
    return Finding(name="memory", status="warning", found=found, remedy=remedy)


def check_limits(open_files: int, processes: int | None) -> Iterator[Finding]:
    """Yield a warning for limits that a server reaches: open files, and processes with their threads."""
    if 0 <= open_files < MIN_OPEN_FILES:
        found = f"{open_files} open files are allowed, and each connection of a server is one"
        yield Finding(name="limits", status="warning", found=found, remedy=f"ulimit -n {MIN_OPEN_FILES}")
    if processes is not None and processes < MIN_PROCESSES:
        found = f"the container allows {processes} processes and threads"
        yield Finding(name="limits", status="warning", found=found, remedy=f"raise its pids limit to {MIN_PROCESSES}")


def check_gpus(host: Host, *, has_driver_files: bool) -> Iterator[Finding]:
    """Yield a line for each visible GPU, and what is wrong with the driver."""
    if entry := unknown_entry():
        found = f"{VISIBLE} names {entry}, which is not here"
        yield Finding(name="GPU", status="warning", found=found, remedy=f"correct or unset {VISIBLE}")
    if not host.gpus:
        if has_driver_files and os.environ.get(VISIBLE) is None:
            found = "the driver's files are here, and NVML shows no GPU"
            yield Finding(name="GPU", status="warning", found=found, remedy="see what nvidia-smi prints")
        else:
            yield ok("GPU", "none is visible; everything runs on the processor")
        return
    others = any(gpu.has(TURING) for gpu in host.gpus)
    for gpu in host.gpus:
        found = f"{gpu.name}, {gpu.memory_gib:g} GiB, compute capability {gpu.compute_capability}"
        if gpu.has(TURING):
            yield ok("GPU", found)
        else:
            remedy = "export with --device cpu" if not others else "none: services and exports leave it out"
            remedy = f"{remedy} (CUDA {MIN_CUDA} needs {TURING})"
            yield Finding(name="GPU", status="warning", found=found, remedy=remedy)
    found = f"{host.driver or 'of an unknown version'}, supports CUDA {host.cuda or 'of an unknown version'}"
    if host.cuda and int(host.cuda.split(".")[0]) < MIN_CUDA:
        remedy = f"onnxruntime-gpu is built for CUDA {MIN_CUDA}: install a newer driver"
        yield Finding(name="driver", status="warning", found=found, remedy=remedy)
    else:
        yield ok("driver", found)


def _memory_limit_gib() -> float | None:
    limits = [_cgroup_number("memory.max"), _cgroup_number("memory/memory.limit_in_bytes")]
    small = [limit / 2**30 for limit in limits if limit is not None and limit < 2**60]  # v1 writes 2^63 for no limit
    return min(small, default=None)


def _cgroup_number(file: str) -> int | None:
    """Read a limit of the control group; None without one."""
    try:
        text = (CGROUP / file).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
