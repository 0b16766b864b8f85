"""`tuneport.Client` and `tuneport.AsyncClient` against real servers, and against answers of a broken one."""

import asyncio
import email.utils
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kit.engines import StalledEngine, wait_until
from kit.scripted import Answer, scripted_server
from kit.servers import KEY
from kit.serving import LocalService, local_service
from kit.texts import random_texts
from kit.versions import make_repository

import tuneport
from tuneport import errors
from tuneport.client import ModelName, ModelVersion, Predictions
from tuneport.client.http_calls import error_of
from tuneport.client.retries import Attempts
from tuneport.errors import RequestError, TuneportError
from tuneport.runtime.predictor import Predictor
from tuneport.schema.artifact import Manifest
from tuneport.stages.serve.process import free_port

TEXTS = [text for text, _ in zip(random_texts(71), range(9), strict=False)] + ["", "Größe 🙂 世界"]
Call = Callable[..., Any]


def call_sync(url: str, method: str, *arguments: Any, **settings: Any) -> Any:
    with tuneport.Client(url, **settings) as client:
        return getattr(client, method)(*arguments)


def call_async(url: str, method: str, *arguments: Any, **settings: Any) -> Any:
    async def run() -> Any:
        async with tuneport.AsyncClient(url, **settings) as client:
            return await getattr(client, method)(*arguments)

    return asyncio.run(run())


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["http", "grpc"])
def address(request: pytest.FixtureRequest, addresses: dict[str, str]) -> str:
    return addresses[request.param]


@pytest.fixture(scope="module")
def service(tiny_artifact: Path) -> Iterator[LocalService]:
    with local_service(tiny_artifact, max_concurrent_requests=1) as local:
        yield local


def test_predictions_are_those_of_the_artifact(
    call: Call, address: str, tiny_artifact: Path, manifest: Manifest
) -> None:
    expected = Predictor(tiny_artifact, "fp32").predict(TEXTS, {"top_k": 2})
    answer = call(address, "predict", TEXTS, {"top_k": 2}, api_key=KEY, model="tiny")
    assert isinstance(answer, Predictions)
    assert len(answer) == len(TEXTS)
    for ours, theirs in zip(answer, expected, strict=True):
        assert [each["label"] for each in ours] == [each["label"] for each in theirs]
        assert [each["score"] for each in ours] == pytest.approx([each["score"] for each in theirs], abs=1e-5)
    assert (answer[-1], answer[:2]) == (answer.values[-1], answer.values[:2])
    assert (answer.model.name, answer.model.version) == ("tiny", manifest.version)
    assert answer.model.variant == (None if address.startswith("grpc") else "fp32")
    assert len(answer.request_id) == 32


def test_explanations_are_the_artifact_s(call: Call, address: str, tiny_artifact: Path) -> None:
    (expected,) = Predictor(tiny_artifact, "fp32").predict(["the bank fell"], {"explain": True})
    (ours,) = call(address, "explain", ["the bank fell"], api_key=KEY, model="tiny")
    assert [each["text"] for each in ours["explanation"]] == [each["text"] for each in expected["explanation"]]
    assert [each["text"] for each in ours["explanation"]] == ["the", "bank", "fell"]


def test_metadata_and_health(call: Call, address: str, manifest: Manifest) -> None:
    metadata = call(address, "metadata", api_key=KEY, model="tiny")
    assert (metadata.name, metadata.versions) == ("tiny", (manifest.version,))
    assert [(each.name, each.datatype, each.shape) for each in metadata.inputs] == [("text", "BYTES", (-1,))]
    assert [each.name for each in metadata.outputs] == ["label", "score", "json"]
    assert call(address, "is_live", model="tiny") is True
    assert call(address, "is_ready", model="tiny") is True
    if address.startswith("http"):
        assert call(address, "metadata", api_key=KEY) == metadata


def test_an_error_is_the_exception_that_the_service_raised(call: Call, address: str) -> None:
    with pytest.raises(errors.Unauthenticated, match="API key") as caught:
        call(address, "predict", ["a"], model="tiny")
    assert caught.value.code == "unauthenticated"
    assert "x-api-key" in caught.value.remedy
    assert caught.value.request_id
    with pytest.raises(errors.InputError, match="top_k"):
        call(address, "predict", ["a"], {"top_k": "many"}, api_key=KEY, model="tiny")
    # gRPC has one status for both.
    with pytest.raises(errors.InputError if address.startswith("grpc") else errors.PayloadTooLarge) as too_large:
        call(address, "predict", ["a"] * 600, api_key=KEY, model="tiny")
    assert too_large.value.code == "too_many_inputs"
    for method, *arguments in (("metadata",), ("predict", ["a"])):
        with pytest.raises(errors.NotFound, match="no model other"):
            call(address, method, *arguments, api_key=KEY, model="other")


def test_what_cannot_be_sent_is_refused_before(call: Call, address: str) -> None:
    with pytest.raises(errors.InputError, match="a list of inputs"):
        call(address, "predict", "one text", api_key=KEY, model="tiny")
    with pytest.raises(errors.InputError, match="not JSON"):
        call(address, "predict", [object()], api_key=KEY, model="tiny")
    if address.startswith("grpc"):
        with pytest.raises(errors.InputError, match="'stop' is of type list"):
            call(address, "predict", ["a"], {"stop": ["a"]}, api_key=KEY, model="tiny")
        with pytest.raises(errors.InputError, match="no streams over gRPC"):
            tuneport.Client(address, model="tiny").stream("a")


@pytest.mark.parametrize(
    ("url", "settings", "words"),
    [
        ("127.0.0.1:3000", {}, "no address"),
        ("ftp://host", {}, "no address"),
        ("http://", {}, "no address"),
        ("http://host:port", {}, "no address"),
        ("grpc://host", {"model": "tiny"}, "no address"),
        ("grpc://127.0.0.1:3001", {}, "without a model's name"),
    ],
)
def test_a_wrong_address_is_refused(url: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TuneportError, match=words):
        tuneport.Client(url, **settings)


@pytest.mark.parametrize("settings", [{"timeout_s": 0}, {"timeout_s": float("inf")}, {"max_retries": -1}])
def test_wrong_limits_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        tuneport.Client(**settings)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_service_that_is_not_there(call: Call, scheme: str) -> None:
    address = f"{scheme}://127.0.0.1:{free_port()}"
    with pytest.raises(errors.Unavailable, match="cannot be reached") as caught:
        call(address, "predict", ["a"], model="tiny", max_retries=1)
    assert "start the service" in caught.value.remedy
    assert call(address, "is_ready", model="tiny") is False


def rejections(service: LocalService) -> float:
    page = service.admission.metrics.page()[0].decode()
    return sum(map(float, re.findall(r"^tuneport_rejected_requests_total\{.*\} (\S+)$", page, re.M)))


def test_a_refused_request_is_sent_again_when_the_service_says(call: Call, service: LocalService) -> None:
    engine = StalledEngine.of(service.runner, stalled=True)
    refused = rejections(service)
    first = service.post_in_background()
    wait_until(lambda: engine.calls)
    with pytest.raises(errors.Overloaded) as caught:
        call(service.url, "predict", ["bank"], max_retries=0)
    assert caught.value.retry_after_s == 1
    with pytest.raises(errors.Overloaded):  # at once: what the service asks for is longer than what is left
        call(service.url, "predict", ["bank"], timeout_s=0.9)
    wait_until(lambda: rejections(service) == refused + 2)  # a refusal is counted after it was sent
    with ThreadPoolExecutor() as pool:
        began = time.monotonic()
        answer = pool.submit(call, service.url, "predict", ["bank"])
        wait_until(lambda: rejections(service) == refused + 3)
        engine.resume()
        assert len(answer.result(30)) == 1
        assert time.monotonic() - began >= 1
    first.join()


def test_no_answer_in_time_is_not_sent_again(call: Call, service: LocalService) -> None:
    engine = StalledEngine.of(service.runner, stalled=True)
    with pytest.raises(errors.DeadlineExceeded, match=r"no answer within 0\.2 s") as caught:
        call(service.url, "predict", ["bank"], timeout_s=0.2)
    assert caught.value.request_id
    engine.resume()
    assert len(engine.calls) == 1


BUSY = Answer(503, b'{"error": {"code": "stopping", "message": "the service is stopping", "remedy": "again"}}')
DONE = Answer(200, b'{"predictions": [1], "model": {"name": "m", "version": "v", "variant": "fp32"}}')


@pytest.mark.parametrize(
    "failure",
    [
        BUSY,
        Answer(429, b"<html>busy</html>"),
        Answer(502, b"<html>bad gateway</html>"),
        Answer(None),
        Answer(200, b'{"predictions"', missing=9),
    ],
)
def test_what_may_pass_is_tried_again_under_one_id(call: Call, failure: Answer) -> None:
    with scripted_server(failure, failure, DONE) as server:
        assert list(call(server.url, "predict", ["a"])) == [1]
    assert len(server.request_ids) == 3
    assert len(set(server.request_ids)) == 1


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (Answer(500, b'{"error": {"code": "internal", "message": "failed", "remedy": "r"}}'), errors.ServiceFailed),
        (Answer(503, b'{"error": {"code": "timeout", "message": "late", "remedy": "r"}}'), errors.DeadlineExceeded),
        (Answer(422, b'{"error": {"code": "wrong_input", "message": "no", "remedy": "r"}}'), errors.InputError),
        (Answer(418, b"[]"), errors.MalformedRequest),
        (Answer(200, b"<html>"), errors.ServiceFailed),
        (Answer(200, b"[]"), errors.ServiceFailed),
    ],
)
def test_what_another_try_cannot_cure_is_raised_at_once(call: Call, failure: Answer, kind: type[RequestError]) -> None:
    with scripted_server(failure) as server:
        with pytest.raises(kind) as caught:
            call(server.url, "predict", ["a"])
        assert type(caught.value) is kind
    assert len(server.request_ids) == 1


def test_retries_are_bounded(call: Call) -> None:
    with scripted_server(BUSY) as server:
        with pytest.raises(errors.Unavailable, match="stopping"):
            call(server.url, "predict", ["a"], max_retries=2)
        assert len(server.request_ids) == 3
        with pytest.raises((errors.Unavailable, errors.DeadlineExceeded)):  # the last attempt may run out of time
            call(server.url, "predict", ["a"], max_retries=100, timeout_s=0.3)
    assert len(server.request_ids) < 12


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_may_be_a_number_or_a_date(as_date: bool) -> None:
    value = email.utils.formatdate(time.time() + 60, usegmt=True) if as_date else "60"
    with scripted_server(Answer(429, headers={"Retry-After": value})) as server:
        with pytest.raises(errors.Overloaded) as caught:
            call_sync(server.url, "predict", ["a"])  # not again: 60 s are more than the call has
    assert caught.value.retry_after_s == pytest.approx(60, abs=3)
    assert len(server.request_ids) == 1


def test_delays_grow_and_never_undercut_retry_after() -> None:
    attempts = Attempts(timeout_s=1000, max_retries=20)
    busy = errors.Unavailable("p", "r")
    delays = [attempts.delay_s(busy) for _ in range(12)]
    assert all(0.05 * 2**n <= delay <= 0.1 * 2**n for n, delay in enumerate(delays[:5]))
    assert all(2.5 <= delay <= 5 for delay in delays[6:])
    busy.retry_after_s = 7
    assert attempts.delay_s(busy) == 7


def test_threads_and_tasks_may_share_a_client(addresses: dict[str, str]) -> None:
    for url in addresses.values():
        with tuneport.Client(url, api_key=KEY, model="tiny") as client, ThreadPoolExecutor(8) as pool:
            expected = client.predict(TEXTS).values
            single = list(pool.map(lambda text: client.predict([text])[0], TEXTS))
        assert [each["label"] for each in single] == [each["label"] for each in expected]

        async def gather(url: str = url) -> list[Any]:
            async with tuneport.AsyncClient(url, api_key=KEY, model="tiny") as client:
                return [answer[0] for answer in await asyncio.gather(*(client.predict([text]) for text in TEXTS))]

        assert [each["label"] for each in asyncio.run(gather())] == [each["label"] for each in expected]


def read_stream(url: str, kind: str, value: Any, parameters: dict[str, Any]) -> tuple[list[str], Any, Any]:
    if kind == "sync":
        with tuneport.Client(url) as client, client.stream(value, parameters) as stream:
            return list(stream), stream.prediction, stream.model

    async def run() -> Any:
        async with tuneport.AsyncClient(url) as client, client.stream(value, parameters) as stream:
            return [piece async for piece in stream], stream.prediction, stream.model

    return asyncio.run(run())  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_text_is_streamed(kind: str, generator: LocalService) -> None:
    pieces, prediction, model = read_stream(generator.url, kind, "one two", {"max_new_tokens": 9})
    (expected,) = call_sync(generator.url, "predict", ["one two"], {"max_new_tokens": 9})
    assert prediction == expected
    assert "".join(pieces) == expected["text"]
    assert len(pieces) > 1
    assert model is not None
    assert model.variant == "fp32"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_that_cannot_begin_raises(kind: str, service: LocalService, generator: LocalService) -> None:
    with pytest.raises(errors.InputError, match="does not stream"):
        read_stream(service.url, kind, "one", {})
    with pytest.raises(errors.InputError):
        read_stream(generator.url, kind, "one", {"max_new_tokens": -1})


EVENT = b'data: {"delta": "one"}\n\n'
LAST = b'data: {"prediction": {"text": "one"}, "model": {"name": "m", "version": "v", "variant": "fp32"}}\n\n'


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_is_sent_again_only_before_its_first_piece(kind: str) -> None:
    with scripted_server(BUSY, Answer(200, EVENT + LAST)) as server:
        assert read_stream(server.url, kind, "a", {})[:2] == (["one"], {"text": "one"})
    for broken in (Answer(200, EVENT), Answer(200, EVENT, missing=40)):
        with scripted_server(broken, Answer(200, EVENT + LAST)) as server:
            with pytest.raises(errors.Unavailable):
                read_stream(server.url, kind, "a", {})
        assert len(server.request_ids) == 1
    failed = b'data: {"error": {"code": "internal", "message": "the model failed", "remedy": "r"}}\n\n'
    with scripted_server(Answer(200, EVENT + failed)) as server, pytest.raises(errors.ServiceFailed, match="failed"):
        read_stream(server.url, kind, "a", {})


def test_the_client_loads_little_and_lives_beside_tritonclient(addresses: dict[str, str]) -> None:
    """Each in a fresh interpreter: protobuf has one pool of messages for a process."""
    script = """
import json, sys, tuneport
before = [name for name in ("httpx", "grpc") if name in sys.modules]
tuneport.Client
names = ("torch", "numpy", "pydantic", "grpc", "google.protobuf", "tuneport.stages", "tuneport.runtime")
print(json.dumps([before, [name for name in names if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]
    script = f"""
import tuneport
for order in range(2):
    client = tuneport.Client({addresses["grpc"]!r}, api_key={KEY!r}, model="tiny")
    assert len(client.predict(["bank"])) == 1
    client.close()
    import tritonclient.grpc
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Clint"):
        tuneport.Clint  # noqa: B018


def test_an_error_whose_body_has_no_code_has_that_of_its_header() -> None:
    content = {"error": "another change of the models is under way; try again"}
    error = error_of(409, {"error-code": "change_under_way"}, content)
    assert isinstance(error, errors.ModelNotLoaded)
    assert (error.code, error.remedy) == ("change_under_way", "try again")


def test_models_are_listed_loaded_and_unloaded(call: Call, tiny_artifact: Path, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repository", tiny_artifact)
    v0, v1 = repository.versions["v0"], repository.versions["v1"]

    def state() -> str:
        found = {each.version: each for each in call(local.url, "list_models", api_key="admin")}
        return f"{found[v1].state} {found[v1].reason}"

    with local_service(tiny_artifact, admin_keys="admin", model_repository=repository.folder) as local:
        assert call(local.url, "list_models")[0] == ModelVersion("tiny", v0, "READY", "")
        assert state() == "UNAVAILABLE not loaded"
        assert call(local.url, "load_model", "tiny", v1, api_key="admin") == ModelName("tiny", v1, "fp32")
        assert state() == "READY "
        assert local.post().json()["model"]["version"] == v1
        call(local.url, "load_model", "other", api_key="admin")
        call(local.url, "unload_model", "other", api_key="admin")
        with pytest.raises(errors.ModelNotLoaded, match="answers requests"):
            call(local.url, "unload_model", "tiny", api_key="admin")
        with pytest.raises(errors.Unauthenticated):
            call(local.url, "load_model", "tiny")
    with pytest.raises(errors.InputError, match="over HTTP"):
        call("grpc://127.0.0.1:1", "list_models", model="tiny")
