"""Values of the Helm chart from a plan: as many pods as it needs machines, each with the resources of one.

Measure in a container that is limited to what a pod may have: a node keeps a part of its processors for itself and its
daemons, so a pod that asks for all of them is never scheduled.
"""

import math
from pathlib import Path

from tuneport.errors import TuneportError

from .endpoint.results import GRPC, HTTP, EndpointReport
from .plan import Plan, ServerPlan

MIN_REPLICAS = 2
"""A node may be drained at any time."""
MEMORY_FACTOR = 1.5
"""Memory of a pod over the largest that was measured: other inputs may be longer, and /tmp counts, too."""
MEMORY_STEP_MIB = 256


def write_helm_values(found: Plan, file: Path) -> None:
    """Write values for deploy/helm/tuneport; raises TuneportError if tuneport's server is not part of the plan."""
    server = _server(found)
    lines = [f"# {line}" for line in (f"{server.name} in {found.config.report}:", *found.caption().split(". "))]
    lines += _warning(found.report)
    replicas = max(server.machines, MIN_REPLICAS)
    lines += [f"replicas: {replicas}", "autoscaling:", f"  minReplicas: {MIN_REPLICAS}", f"  maxReplicas: {replicas}"]
    report = found.report
    if report.device == "cuda":
        lines += ["gpu:", "  enabled: true", f"  count: {max(1, len(report.host.gpus))}"]
    machine = f'{{cpu: "{report.host.cores}", memory: {_memory_mib(found, server)}Mi}}'
    lines += ["resources:", f"  requests: {machine}", f"  limits: {machine}"]
    try:
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise TuneportError(f"{file} cannot be written ({error.strerror})", "choose another file") from error


def _warning(report: EndpointReport) -> list[str]:
    """Return a comment for figures that were measured with all processors of a machine."""
    cores = report.host.cores
    if report.machine is None or report.machine.processors != cores:
        return []
    return [
        f"# WARNING: measured on all {cores} processors of the machine. No node of that kind has room for such a pod,",
        "# because it keeps a part of them for itself. Measure in a container limited to what a pod may have.",
    ]


def _server(found: Plan) -> ServerPlan:
    """Return tuneport's server over the protocol that needs more machines."""
    able = [each for each in found.servers if each.name in (HTTP, GRPC) and each.capacity]
    if not able:
        problem = f"neither {HTTP} nor {GRPC} of {found.config.report} holds p99 within {found.config.p99_ms:g} ms"
        raise TuneportError(problem, "raise --p99-ms, or leave out --helm-values")
    return max(able, key=lambda each: each.machines)


def _memory_mib(found: Plan, server: ServerPlan) -> int:
    """Return the memory of a pod."""
    measured = next(each.total_mib for each in found.report.results if each.name == server.name)
    return math.ceil(measured * MEMORY_FACTOR / MEMORY_STEP_MIB) * MEMORY_STEP_MIB
