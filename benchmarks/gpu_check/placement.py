"""Step `placement`: on which execution provider each node of each variant really runs, from onnxruntime's profile.

    python -m tuneport.stages.benchmarks.gpu_check.placement ARTIFACT DEVICE RESULT

onnxruntime runs a node whose kernel a provider lacks on the CPU and says nothing. Nodes that compute shapes belong
there; the step fails if one that does a model's work is among them. It counts all others, and the copies between host
and device that onnxruntime adds to the graph.
"""

import gc
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnxruntime as ort

from tuneport.runtime.golden import golden_outputs
from tuneport.runtime.loading import open_runner
from tuneport.schema.artifact import GoldenCase, Manifest, Variant
from tuneport.schema.loading import load_golden, load_manifest
from tuneport.schema.torch_setup import TorchDevice

from ..command import one_line_errors
from ..engine import select_device
from .steps import write_result

WORK = (
    "MatMul", "Gemm", "Attention", "Normalization", "Softmax", "Gelu", "Erf", "Tanh", "Conv", "QLinear", "Einsum",
)  # fmt: skip
"""In the names of operators that do a model's work."""
CPU = "CPUExecutionProvider"
COPY = "Memcpy"
"""In the names of the operators that copy between host and device."""


def placement(artifact: Path, device: TorchDevice) -> dict[str, dict[str, dict[str, int]]]:
    """Run the golden cases; returns variant → provider → operator → number of nodes, of onnxruntime's variants."""
    manifest, golden = load_manifest(artifact), load_golden(artifact)
    _, variants, _ = select_device(manifest, device)
    return {
        variant.name: profile(artifact, manifest, variant, golden)
        for variant in variants
        if variant.execution.engine == "onnxruntime"
    }


def profile(
    artifact: Path, manifest: Manifest, variant: Variant, golden: list[GoldenCase]
) -> dict[str, dict[str, int]]:
    """Return provider → operator → number of nodes of one variant."""
    with tempfile.TemporaryDirectory() as folder:
        original = ort.SessionOptions

        class Profiling(original):  # type: ignore[misc,valid-type]
            """Session options that write a profile."""

            def __init__(self) -> None:
                super().__init__()
                self.enable_profiling = True
                self.profile_file_prefix = str(Path(folder) / "profile")

        ort.SessionOptions = Profiling
        try:
            runner = open_runner(artifact, manifest, variant)
        finally:
            ort.SessionOptions = original
        golden_outputs(runner, golden)
        del runner  # a session writes its profile when it ends
        gc.collect()
        events = [event for file in Path(folder).glob("*.json") for event in json.loads(file.read_text())]
    return count_nodes(events)


def count_nodes(events: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return provider → operator → number of nodes, from the events of a profile."""
    nodes = {
        (event["args"].get("provider", ""), event["args"].get("op_name", ""), event["name"])
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    counts: dict[str, Counter[str]] = {}
    for provider, operator, _ in sorted(nodes):
        counts.setdefault(provider, Counter())[operator] += 1
    return {provider: dict(counter) for provider, counter in counts.items()}


def fallbacks(found: dict[str, dict[str, dict[str, int]]]) -> dict[str, list[str]]:
    """Return variant → the operators that do the model's work on the CPU; a variant without a profile counts, too."""
    wrong = {}
    for variant, providers in found.items():
        working = [operator for operator in providers.get(CPU, {}) if any(part in operator for part in WORK)]
        if working or not providers:
            wrong[variant] = working or ["no profile was written"]
    return wrong


def summarize(found: dict[str, dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Return variant → how many nodes it has, how many ran on the CPU, and how many copies."""
    summary = {}
    for variant, providers in found.items():
        counts = [(provider, each, number) for provider, nodes in providers.items() for each, number in nodes.items()]
        summary[variant] = {
            "nodes": sum(number for *_, number in counts),
            "on_cpu": sum(number for provider, _, number in counts if provider == CPU),
            "copies": sum(number for _, operator, number in counts if COPY in operator),
        }
    return summary


def main() -> None:
    """Write the placement; exit with 1 if a variant for a GPU does its work on the CPU."""
    artifact, device, result = sys.argv[1:]
    is_cuda = device == "cuda"
    with one_line_errors():
        found = placement(Path(artifact), "cuda" if is_cuda else "cpu")
    write_result(result, json.dumps({"summary": summarize(found), "nodes": found}))
    if is_cuda and (wrong := fallbacks(found)):
        sys.exit("\n".join(f"{variant} runs on the CPU: {', '.join(each)}" for variant, each in wrong.items()))


if __name__ == "__main__":
    main()
