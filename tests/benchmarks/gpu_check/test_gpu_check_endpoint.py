"""The endpoint step of the GPU check: its floors, its load generators, and the answers of what it serves."""

from pathlib import Path

import pytest
from kit.gpu_check import endpoint_figures

from tuneport.errors import TuneportError
from tuneport.stages.benchmarks.endpoint.processes import start_server
from tuneport.stages.benchmarks.endpoint.targets import null_target
from tuneport.stages.benchmarks.gpu_check.answers import compare_answers
from tuneport.stages.benchmarks.gpu_check.clients import Clients, check_answered, rate_per_s
from tuneport.stages.benchmarks.gpu_check.config import SCALES


def test_the_endpoint_has_floors_on_its_throughput_and_on_what_it_adds_to_the_engine() -> None:
    assert endpoint_figures().missed() == {}
    assert endpoint_figures(requests_per_s=7999.0).missed() == {"requests_per_s": "7999, the floor is at least 8,000"}
    assert endpoint_figures(short_ms_p50=1.26).missed() == {"added_ms": "1.01, the floor is at most 1"}
    assert endpoint_figures().unmet() == []
    unmeasured = endpoint_figures(short_ms_p50=None, requests_per_s=7999.0)
    assert unmeasured.unmet() == [
        "missed: requests_per_s is 7999, the floor is at least 8,000", "not measured: added_ms",
    ]  # fmt: skip
    limited = endpoint_figures(requests_per_s=5000.0, client_ceiling_per_s=6000.0).missed()["requests_per_s"]
    assert "the load generator itself reaches 6000" in limited
    assert endpoint_figures(device="cpu", requests_per_s=1.0, short_ms_p50=None).unmet() == []


def test_several_load_generators_share_the_connections() -> None:
    clients = Clients(processes=2, connections=3, seconds=0.2)
    with start_server(null_target()) as server:
        loads = clients.load(null_target(), server.port, ["a", "b", "c"])
        check_answered(loads)
    assert [len(load.last_bodies) for load in loads] == [3, 3]
    slow = loads[0].model_copy(update={"answered_by_slice": (9, *[2] * 9), "seconds": 0.5})
    assert rate_per_s([slow, slow]) == 80.0
    with pytest.raises(TuneportError, match=r"statuses \{200: 5, 503: 1\}"):
        check_answered([slow.model_copy(update={"statuses": statuses}) for statuses in ({200: 5}, {503: 1})])


@pytest.mark.slow
def test_answers_of_a_served_artifact_are_torch_s(tiny_artifact: Path, tiny_checkpoint: Path) -> None:
    found = compare_answers(tiny_artifact, tiny_checkpoint, "cpu")
    assert found["variant"] in {"fp32", "int8"}
    assert found["compared"] > SCALES["cpu"].bench_inputs
    assert found["gpu_memory_mib"] is None
    assert min(found["agreement"].values()) >= 0.95
