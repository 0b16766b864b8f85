"""One request holds no other one, and costs no more than what is read of it."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest
from kit.engines import StalledEngine, wait_until
from kit.serving import LocalService, assert_error, local_service

from tuneport.errors import MalformedRequest, PayloadTooLarge, ServiceStopping
from tuneport.stages.serve.grpc.wire import check_fields
from tuneport.stages.serve.json_text import MAX_CONTAINERS, MAX_VALUES, parse_json
from tuneport.stages.serve.request_executors import LARGE, RequestExecutors


@pytest.fixture(scope="module")
def service(tiny_artifact: Path) -> Iterator[LocalService]:
    with local_service(tiny_artifact) as opened:
        yield opened


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["bank"], {"parse_input": "loop", "encode_request": "loop", "decode_request": "loop"}),
        (["bank " * 400], {"parse_input": "loop", "encode_request": "small", "decode_request": "loop"}),
        (["bank " * 4000], {"parse_input": "small", "encode_request": "small", "decode_request": "loop"}),
        (
            ["the bank fell " * 200] * 200,
            {"parse_input": "large", "encode_request": "large", "decode_request": "small"},
        ),
    ],
    ids=["short", "quick", "small", "large"],
)
def test_work_that_takes_a_while_is_done_outside_of_the_event_loop(
    service: LocalService, monkeypatch: pytest.MonkeyPatch, texts: list[str], expected: dict[str, str]
) -> None:
    threads: dict[str, str] = {}
    task = service.runner.task

    def spy_on(name: str) -> None:
        inner = getattr(task, name)

        def spied(*arguments: Any) -> Any:
            lane, is_lane, _ = threading.current_thread().name.partition("_requests")
            threads[name] = lane if is_lane else "loop"
            return inner(*arguments)

        monkeypatch.setattr(task, name, spied)

    for name in expected:
        spy_on(name)
    assert service.post(texts).status_code == 200
    assert threads == expected


def test_a_large_request_that_is_read_holds_no_smaller_one(service: LocalService) -> None:
    stalled = threading.Event()
    service.inference.executors._large.submit(stalled.wait, 30)
    large = threading.Thread(target=service.post, args=("bank " * 20_000,))
    large.start()
    try:
        for text in ("bank", "bank " * 1000):
            assert service.post(text).status_code == 200
        assert large.is_alive()
    finally:
        stalled.set()
        large.join()


TOO_MANY = {
    "lists": b'{"inputs":[' + b"[]," * 2_600_000 + b"[]]}",
    "numbers": b'{"inputs":[' + b"1," * 3_900_000 + b"1]}",
    "parameters": b'{"inputs":"a","parameters":{"a":[' + b"{}," * 2_500_000 + b"{}]}}",
    "lists after strings": b'{"inputs":[' + b'"\\"[",[],' * 900_000 + b"[]]}",
}


@pytest.mark.parametrize("kind", TOO_MANY)
@pytest.mark.parametrize("path", ["/predict", "/v2/models/tiny/infer"])
def test_a_body_of_very_many_values_is_413_before_it_is_parsed(
    service: LocalService, monkeypatch: pytest.MonkeyPatch, kind: str, path: str
) -> None:
    parsed: list[int] = []
    monkeypatch.setattr("orjson.loads", lambda text: parsed.append(len(text)))
    response = httpx.post(f"{service.url}{path}", content=TOO_MANY[kind], timeout=60)
    assert response.status_code == 413
    assert f"over {MAX_CONTAINERS} lists and objects" in response.text
    assert not parsed


def test_values_inside_of_strings_do_not_count() -> None:
    for text in ("[{," * 400_000, '\\"[' * 400_000, "\\" * 400_001 + '"' + "[" * MAX_CONTAINERS):
        assert parse_json(orjson.dumps({"inputs": text})) == {"inputs": text}
    lists = [[] for _ in range(MAX_CONTAINERS - 1)]
    assert parse_json(orjson.dumps(lists)) == lists
    assert len(parse_json(orjson.dumps(["a"] * MAX_VALUES))) == MAX_VALUES
    for too_many in ([*lists, []], ["a"] * (MAX_VALUES + 2), [*lists, '"', "\\", []]):
        with pytest.raises(PayloadTooLarge):
            parse_json(orjson.dumps(too_many))
    for malformed in (b'"' + b'\\"' * 1_000_000, b'["' + b"[" * 100_000, b'"\\'):
        with pytest.raises(MalformedRequest):
            parse_json(malformed)


def test_json_tensors_are_counted_together(service: LocalService) -> None:
    data = ["[[]" + ",[]" * 100 + "]"] * 200
    tensor = {"name": "json", "datatype": "BYTES", "shape": [len(data)], "data": data}
    response = httpx.post(f"{service.url}/v2/models/tiny/infer", json={"inputs": [tensor]}, timeout=30)
    assert response.status_code == 413


def test_a_message_of_very_many_fields_is_refused_before_it_is_parsed() -> None:
    element = b"\x42\x00"
    contents = element * 2_000_000
    length = b"\x80\x92\xf4\x01"  # 4,000,000 as a varint
    tensor = b"\x2a" + length + contents  # as one of its inputs
    for raw in (b"\x2a\x00" * 2_000_000, contents, tensor, b"\x08\x01" * 5000):
        with pytest.raises(PayloadTooLarge, match="over 1000 fields"):
            check_fields(raw, 1000)
    for raw in (b"", b"\x0a\x04tiny", b"\x0b" * 5000, b"\x0a\xff", b"\xff" * 5000, element * 1000):
        check_fields(raw, 1000)


def test_a_full_queue_refuses_before_a_request_is_read(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact, max_queue_inputs=1) as service:
        engine = StalledEngine.of(service.runner, stalled=True)
        busy: list[threading.Thread] = []
        while len(busy) < service.runner.streams:
            busy.append(service.post_in_background())
            wait_until(lambda: len(engine.calls) == len(busy))
        busy.append(service.post_in_background())
        wait_until(lambda: service.inference.batcher.waiting == 1)
        try:
            assert_error(service.post("bank"), 429)
            for path in ("/predict", "/v2/models/tiny/infer"):
                assert httpx.post(f"{service.url}{path}", content=b"{").status_code == 429
            assert service.get("/v2/models/tiny").status_code == 200  # needs no engine
            assert service.get("/metrics").status_code == 200
        finally:
            engine.resume()
            for thread in busy:
                thread.join()


def test_memory_returns_after_large_work() -> None:
    process, executors = psutil.Process(), RequestExecutors()
    pins: list[bytes] = []

    def allocate() -> None:
        blocks = [bytes(1000) for _ in range(200_000)]
        pins.append(bytes(1000))  # above them on the heap, which keeps it from shrinking
        del blocks

    before = process.memory_info().rss
    asyncio.run(executors.run(LARGE, allocate))
    assert process.memory_info().rss - before < 100e6
    executors.close()
    with pytest.raises(ServiceStopping):
        asyncio.run(executors.run(1, allocate))
