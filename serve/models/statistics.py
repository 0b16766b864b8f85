"""The counts and times of models in Triton's words, for both protocols.

They are those of all workers since the start, from the metrics that Prometheus reads.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ..admission import AdmissionController
from ..framing import ENGINE_OPERATIONS
from ..metrics.model import Metrics
from ..metrics.requests import CANCELLED


async def describe_statistics(admissions: Sequence[AdmissionController]) -> list[dict[str, Any]]:
    """Return the counts and times of each version."""
    return await asyncio.to_thread(_read_all_statistics, admissions)  # NVML may take a while


def read_statistics(metrics: Metrics) -> dict[str, Any]:
    """Compute Triton's statistics of a model.

    `success` has the times of all requests, those that failed included, because the metric does not tell them apart;
    `compute_infer` counts batches, and `queue` rows.
    """
    from prometheus_client.parser import text_string_to_metric_families

    counts: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(metrics.page()[0].decode()):
        for sample in family.samples:
            is_of_model = metrics.labels.items() <= sample.labels.items()
            is_inference = sample.labels.get("operation", ENGINE_OPERATIONS[0]) in ENGINE_OPERATIONS
            if is_of_model and is_inference and "le" not in sample.labels:
                name = sample.name.removeprefix("tuneport_")
                if name == "requests_total":
                    name = outcome_of(sample.labels["status"])
                counts[name] += sample.value
    return {
        "inference_count": int(counts["inputs_total"]),
        "execution_count": int(counts["batches_total"]),
        "inference_stats": {
            "success": _duration(counts["success"], counts["request_seconds_sum"]),
            "fail": _duration(counts["fail"], 0),
            "cancel": _duration(counts["cancel"], 0),
            "queue": _duration(counts["queue_seconds_count"], counts["queue_seconds_sum"]),
            "compute_infer": _duration(counts["batch_seconds_count"], counts["batch_seconds_sum"]),
        },
    }


def outcome_of(status: str) -> str:
    """Return the statistic that counts a request with a status of HTTP or gRPC."""
    if status in CANCELLED.values():
        return "cancel"
    return "success" if status == "OK" or status.startswith("2") else "fail"


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": int(seconds * 1e9)}


def _read_all_statistics(admissions: Sequence[AdmissionController]) -> list[dict[str, Any]]:
    return [
        {"name": each.manifest.name, "version": each.manifest.version, **read_statistics(each.metrics)}
        for each in admissions
    ]
