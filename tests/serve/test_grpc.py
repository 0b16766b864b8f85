"""The gRPC server in this process: answers, and everything that may be wrong about a call."""

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit.encoders import LABELS
from kit.engines import StalledEngine, fail_with, until
from kit.failures import ARENA_FULL, LOST
from kit.reference import TorchReference
from kit.serving import infer_request
from kit.texts import random_texts

from tuneport import __version__
from tuneport.errors import TuneportError
from tuneport.schema.artifact import Manifest
from tuneport.stages.serve import logs
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.grpc import open_inference_pb2 as messages
from tuneport.stages.serve.grpc.server import GrpcServer
from tuneport.stages.serve.grpc.servicer import SERVICE
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.process import free_port
from tuneport.stages.serve.settings import Settings

TEXTS = [text for text, _ in zip(random_texts(41), range(20), strict=False)] + ["", "Größe 🙂 世界", "bank " * 200]
Code = grpc.StatusCode
Conversation = Callable[["Client"], Awaitable[Any]]


class Client:
    """Calls methods by name over one channel."""

    def __init__(self, channel: Any, admission: AdmissionController, server: GrpcServer | None = None) -> None:
        self.channel = channel
        self.admission = admission
        self.server = server

    async def call(self, method: str, request: Any, **options: Any) -> Any:
        answer = getattr(messages, f"{method}Response")
        send = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda each: each if isinstance(each, bytes) else each.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return await send(request, timeout=options.pop("timeout", 30), **options)

    async def infer(self, request: Any, **options: Any) -> Any:
        return await self.call("ModelInfer", request, **options)

    async def refused(self, request: Any, code: Code, *words: str, **options: Any) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.infer(request, **options)
        assert caught.value.code() is code, caught.value.details()
        for word in words:
            assert word in (caught.value.details() or "")
        return caught.value


@pytest.fixture(scope="module")
def call_server(tiny_artifact: Path) -> Callable[..., Any]:
    """Returns a function that runs a conversation of a client with a server of its own."""

    def call(conversation: Conversation, **chosen: Any) -> Any:
        async def run() -> Any:
            defaults = {"variant": "fp32", "grpc_port": free_port(), "grpc_host": "127.0.0.1", "log_requests": False}
            limits = Settings(**{**defaults, **chosen})
            inference = Inference.open(tiny_artifact, limits)
            admission = AdmissionController(inference, limits)
            server = GrpcServer(ModelRegistry(admission))
            port = await server.start()
            try:
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    return await conversation(Client(channel, admission, server))
            finally:
                await server.stop(1)
                inference.close()
                logs.write_pending()

        return asyncio.run(run())

    return call


def test_triton_s_calls_say_what_http_says(call_server: Any, manifest: Manifest) -> None:
    async def conversation(client: Client) -> None:
        config = (await client.call("ModelConfig", messages.ModelConfigRequest(name="tiny"))).config
        assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 512)
        assert [(each.name, each.data_type, each.dims) for each in config.input] == [
            ("text", messages.TYPE_STRING, [-1])
        ]
        assert [each.data_type for each in config.output] == [
            messages.TYPE_STRING, messages.TYPE_FP32, messages.TYPE_STRING,
        ]  # fmt: skip
        assert config.parameters["variant"].string_value == "fp32"
        assert not config.model_transaction_policy.decoupled
        assert config.instance_group[0].kind == messages.ModelInstanceGroup.KIND_CPU
        await client.infer(infer_request(["bank", "won"]))
        [model] = (await client.call("ModelStatistics", messages.ModelStatisticsRequest())).model_stats
        assert (model.name, model.version, model.inference_count) == ("tiny", manifest.version, 2)
        assert model.inference_stats.success.count == 1
        assert model.inference_stats.queue.count == 2
        assert model.inference_stats.compute_infer.ns > 0
        [entry] = (await client.call("RepositoryIndex", messages.RepositoryIndexRequest())).models
        assert (entry.name, entry.version, entry.state) == ("tiny", manifest.version, "READY")
        client.admission.worker.is_serving = False
        assert not (await client.call("RepositoryIndex", messages.RepositoryIndexRequest(ready=True))).models
        for method in ("ModelConfig", "ModelStatistics"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.call(method, getattr(messages, f"{method}Request")(name="other"))
            assert caught.value.code() is Code.NOT_FOUND

    call_server(conversation)


@pytest.mark.parametrize("raw", [False, True])
def test_tensors_get_torch_s_answers(call_server: Any, tiny_checkpoint: Path, raw: bool) -> None:
    answer = call_server(lambda client: client.infer(infer_request(TEXTS, raw=raw, id="7")))
    torch = TorchReference(tiny_checkpoint).probabilities(TEXTS)
    assert (answer.model_name, answer.id) == ("tiny", "7")
    assert [(each.name, each.datatype, list(each.shape)) for each in answer.outputs] == [
        ("label", "BYTES", [len(TEXTS)]),
        ("score", "FP32", [len(TEXTS)]),
        ("json", "BYTES", [len(TEXTS)]),
    ]
    if raw:
        scores = struct.unpack(f"<{len(TEXTS)}f", answer.raw_output_contents[1])
    else:
        scores = tuple(answer.outputs[1].contents.fp32_contents)
        labels = [each.decode() for each in answer.outputs[0].contents.bytes_contents]
        assert labels == [LABELS[row.argmax()] for row in torch]
    assert scores == pytest.approx(torch.max(-1).tolist(), abs=2e-4)


def test_concurrent_callers_get_their_own_answers(call_server: Any, tiny_checkpoint: Path) -> None:
    expected = TorchReference(tiny_checkpoint).probabilities(TEXTS).max(-1)

    async def conversation(client: Client) -> None:
        async def one(i: int) -> None:
            chosen = [(i + step) % len(TEXTS) for step in range(1 + i % 4)]
            answer = await client.infer(infer_request([TEXTS[j] for j in chosen]))
            scores = list(answer.outputs[1].contents.fp32_contents)
            assert scores == pytest.approx([expected[j] for j in chosen], abs=2e-4)

        await asyncio.gather(*(one(i) for i in range(60)))

    call_server(conversation)


def test_metadata_readiness_health_and_reflection(call_server: Any, manifest: Manifest) -> None:
    async def conversation(client: Client) -> None:
        assert (await client.call("ServerLive", messages.ServerLiveRequest())).live
        assert (await client.call("ServerReady", messages.ServerReadyRequest())).ready
        assert (await client.call("ModelReady", messages.ModelReadyRequest(name="tiny"))).ready
        named = await client.call("ServerMetadata", messages.ServerMetadataRequest())
        assert (named.name, named.version) == ("tuneport", __version__)
        request = messages.ModelMetadataRequest(name="tiny", version=manifest.version)
        model = await client.call("ModelMetadata", request)
        assert [each.name for each in model.inputs] == ["text"]
        assert [each.name for each in model.outputs] == ["label", "score", "json"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.call("ModelReady", messages.ModelReadyRequest(name="other"))
        assert caught.value.code() is Code.NOT_FOUND
        health = health_pb2_grpc.HealthStub(client.channel)
        for name in ("", SERVICE):
            status = (await health.Check(health_pb2.HealthCheckRequest(service=name))).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([listing])):
            assert SERVICE in {each.name for each in answer.list_services_response.service}
        client.admission.worker.is_serving = False
        assert not (await client.call("ServerReady", messages.ServerReadyRequest())).ready

    call_server(conversation)


def test_parameters_and_chosen_outputs_pass_through(call_server: Any) -> None:
    request = infer_request(["bank"])
    request.parameters["top_k"].int64_param = 2
    request.parameters["sequence_id"].string_param = "ignored"
    request.outputs.add(name="json")
    answer = call_server(lambda client: client.infer(request))
    assert [each.name for each in answer.outputs] == ["json"]
    assert answer.outputs[0].contents.bytes_contents[0].count(b"label") == 2


def malformed() -> dict[str, tuple[Any, Code]]:
    """Calls that are wrong, by what is wrong about them."""

    def changed(change: Callable[[Any], Any], raw: bool = False) -> Any:
        request = infer_request(["bank", "team"], raw=raw)
        change(request)
        return request

    def shape(*sizes: int) -> Callable[[Any], Any]:
        def change(request: Any) -> None:
            del request.inputs[0].shape[:]
            request.inputs[0].shape.extend(sizes)

        return change

    def raw_to(*contents: bytes) -> Callable[[Any], Any]:
        def change(request: Any) -> None:
            del request.raw_input_contents[:]
            request.raw_input_contents.extend(contents)

        return change

    wrong = Code.INVALID_ARGUMENT
    return {
        "datatype": (changed(lambda each: setattr(each.inputs[0], "datatype", "FP32")), wrong),
        "no datatype": (changed(lambda each: setattr(each.inputs[0], "datatype", "")), wrong),
        "name": (changed(lambda each: setattr(each.inputs[0], "name", "txt")), wrong),
        "no inputs": (changed(lambda each: each.ClearField("inputs")), wrong),
        "no shape": (changed(shape()), wrong),
        "too few": (changed(shape(3)), wrong),
        "too many": (changed(shape(1)), wrong),
        "negative": (changed(shape(-1)), wrong),
        "two columns": (changed(shape(1, 2)), wrong),
        "huge": (changed(shape(2**62)), wrong),
        "huge raw": (changed(shape(2**62), raw=True), wrong),
        "three axes": (changed(shape(2, 1, 1)), wrong),
        "length prefix": (changed(raw_to(b"\xff\xff\xff\xff" + b"bank"), raw=True), wrong),
        "half a prefix": (changed(raw_to(b"\x01"), raw=True), wrong),
        "rest": (changed(raw_to(b"\x00\x00\x00\x00" * 3), raw=True), wrong),
        "raw for none": (changed(raw_to(b"", b""), raw=True), wrong),
        "raw and typed": (changed(raw_to(b"\x00\x00\x00\x00" * 2)), wrong),
        "not UTF-8": (changed(raw_to(b"\x01\x00\x00\x00\xff" * 2), raw=True), wrong),
        "output": (changed(lambda each: each.outputs.add(name="logits")), wrong),
        "output twice": (changed(lambda each: [each.outputs.add(name="json") for _ in range(2)]), wrong),
        "outputs": (changed(lambda each: [each.outputs.add(name="json") for _ in range(50_000)]), wrong),
        "inputs": (changed(lambda each: [each.inputs.add(name="a", datatype="BYTES") for _ in range(50_000)]), wrong),
        "parameters": (changed(lambda each: [each.parameters[str(i)] for i in range(50_000)]), wrong),
        "long name": (
            changed(lambda each: each.parameters["p" * 20_000].MergeFrom(messages.InferParameter(int64_param=1))),
            wrong,
        ),
        "timeout": (
            changed(lambda each: each.parameters["timeout"].MergeFrom(messages.InferParameter(string_param="²"))),
            wrong,
        ),
        "parameter": (
            changed(lambda each: each.parameters["topk"].MergeFrom(messages.InferParameter(int64_param=1))),
            wrong,
        ),
        "no parameter": (changed(lambda each: each.parameters["top_k"].MergeFrom(messages.InferParameter())), wrong),
        "model": (changed(lambda each: setattr(each, "model_name", "other")), Code.NOT_FOUND),
        "version": (changed(lambda each: setattr(each, "model_version", "0")), Code.NOT_FOUND),
        "no message": (b"\xff\xff\xff", wrong),
    }


def test_malformed_calls_are_refused_and_the_next_is_answered(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        for name, (request, code) in malformed().items():
            error = await client.refused(request, code)
            assert error.details(), name
            assert len((await client.infer(infer_request(["bank"]))).outputs) == 3, name

    call_server(conversation)


def test_random_messages_never_end_the_server(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
        @given(st.binary(max_size=200), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3), st.binary(max_size=40))
        def collect(raw: bytes, shape: list[int], element: bytes) -> None:
            request = messages.ModelInferRequest(model_name="tiny", raw_input_contents=[raw])
            request.inputs.add(name="text", datatype="BYTES", shape=shape)
            typed = messages.ModelInferRequest(model_name="tiny")
            typed.inputs.add(name="json", datatype="BYTES", shape=[1]).contents.bytes_contents.append(element)
            requests.extend([request, typed, raw])

        requests: list[Any] = []
        collect()
        for request in requests:
            [answer] = await asyncio.gather(client.infer(request), return_exceptions=True)
            if isinstance(answer, Exception):
                assert isinstance(answer, grpc.aio.AioRpcError)
                assert answer.code() in (Code.INVALID_ARGUMENT, Code.NOT_FOUND), answer.details()
        assert len((await client.infer(infer_request(["bank"]))).outputs) == 3

    call_server(conversation)


def test_a_compressed_message_is_answered_and_its_size_bounded(call_server: Any) -> None:
    """grpc checks the size while it decompresses."""

    async def conversation(client: Client) -> Any:
        compression = grpc.Compression.Gzip
        answer = await client.infer(infer_request(["bank " * 50]), compression=compression)
        bomb = infer_request(["x" * 2**26])
        await client.refused(bomb, Code.RESOURCE_EXHAUSTED, "larger than max", compression=compression)
        return answer

    before = psutil.Process().memory_info().rss
    assert len(call_server(conversation, max_body_bytes=1000).outputs[0].contents.bytes_contents) == 1
    assert psutil.Process().memory_info().rss - before < 3 * 2**26  # the client's own message, twice


def test_a_message_over_the_limit_is_refused(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        await client.refused(infer_request(["x" * 200_000]), Code.RESOURCE_EXHAUSTED)
        await client.infer(infer_request(["bank"]))

    call_server(conversation, max_body_bytes=100_000)


@pytest.mark.parametrize(
    ("limit", "texts"),
    [({"max_client_batch_size": 2}, ["bank"] * 3), ({"max_tokens": 10}, ["bank fell", "team won", "a b c"])],
)
def test_more_than_the_limits_is_invalid(call_server: Any, limit: dict[str, int], texts: list[str]) -> None:
    name = next(iter(limit)).upper()
    call_server(
        lambda client: client.refused(infer_request(texts), Code.INVALID_ARGUMENT, "limit", f"TUNEPORT_{name}"), **limit
    )


@pytest.mark.parametrize("metadata", [(("authorization", "Bearer second"),), (("x-api-key", "first"),)])
def test_a_key_is_asked_for_but_not_by_health(call_server: Any, metadata: Any) -> None:
    async def conversation(client: Client) -> None:
        await client.refused(infer_request(["bank"]), Code.UNAUTHENTICATED, "no API key")
        await client.refused(infer_request(["bank"]), Code.UNAUTHENTICATED, "wrong", metadata=(("x-api-key", "firs"),))
        await client.infer(infer_request(["bank"]), metadata=metadata)
        assert (await client.call("ServerReady", messages.ServerReadyRequest())).ready
        await health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest())

    call_server(conversation, api_keys="first, second")


def test_what_a_cancelled_or_late_caller_sent_is_not_computed(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        inference = client.admission.inference
        runner = inference.predictor.runner
        engine = StalledEngine.of(runner, stalled=True)
        first = [asyncio.ensure_future(client.infer(infer_request(["bank"]))) for _ in range(runner.streams)]
        await engine.called(runner.streams)
        cancelled = asyncio.ensure_future(client.infer(infer_request(["team"])))
        await until(lambda: inference.batcher.waiting)
        cancelled.cancel()
        await client.refused(infer_request(["game"]), Code.DEADLINE_EXCEEDED, timeout=0.1)
        await until(lambda: not inference.batcher.waiting)
        engine.resume()
        await asyncio.gather(*first)
        assert len(engine.calls) == runner.streams

    call_server(conversation)


async def stalled_call(client: Client, call: Awaitable[Any]) -> tuple[StalledEngine, asyncio.Future[Any]]:
    """Make a call, and return it with the engine that holds its answer back."""
    engine = StalledEngine.of(client.admission.inference.predictor.runner, stalled=True)
    accepted = asyncio.ensure_future(call)
    await engine.called()
    return engine, accepted


def test_an_overloaded_server_is_resource_exhausted_and_says_when_to_retry(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        engine, first = await stalled_call(client, client.infer(infer_request(["bank"])))
        error = await client.refused(infer_request(["team"]), Code.RESOURCE_EXHAUSTED, "at most 1")
        assert dict(error.trailing_metadata())["retry-after"] == "1"
        engine.resume()
        await first
        page = client.admission.metrics.page()[0].decode()
        assert any(
            line.startswith("tuneport_rejected_requests_total{") and 'protocol="grpc"' in line
            for line in page.splitlines()
        )

    call_server(conversation, max_concurrent_requests=1)


def test_a_stopping_service_is_unavailable_and_no_overload(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        client.admission.inference.batcher.close()
        error = await client.refused(infer_request(["bank"]), Code.UNAVAILABLE, "the service is stopping")
        metadata = dict(error.trailing_metadata())
        assert metadata["error-code"] == "stopping"
        assert "retry-after" not in metadata
        assert "tuneport_rejected_requests_total{" not in client.admission.metrics.page()[0].decode()

    call_server(conversation)


def test_a_stop_answers_what_it_has_accepted_refuses_the_rest_and_closes_idle_connections(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        assert client.server
        engine, accepted = await stalled_call(client, client.infer(infer_request(["bank"])))
        address = f"127.0.0.1:{client.admission.settings.grpc_port}"
        async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            idle = Client(channel, client.admission)
            await idle.call("ServerLive", messages.ServerLiveRequest())
            stopping = asyncio.ensure_future(client.server.stop(60))
            await until(lambda: channel.get_state() is not grpc.ChannelConnectivity.READY)
            for each in (idle, client):
                await each.refused(infer_request(["bank"]), Code.UNAVAILABLE)
        assert not stopping.done()
        engine.resume()
        assert (await accepted).outputs
        await stopping

    call_server(conversation)


def test_a_call_that_takes_longer_than_the_grace_time_is_unavailable(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        assert client.server
        refused = client.refused(infer_request(["bank"]), Code.UNAVAILABLE)
        engine, accepted = await stalled_call(client, refused)
        stopping = asyncio.ensure_future(client.server.stop(60))
        await client.refused(infer_request(["bank"]), Code.UNAVAILABLE)
        await client.server.stop(0)  # as a second signal does
        await accepted
        await stopping
        engine.resume()

    call_server(conversation)


def test_clients_that_go_on_calling_do_not_hold_a_stop(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        assert client.server
        engine, accepted = await stalled_call(client, client.infer(infer_request(["bank"])))
        stopping = asyncio.ensure_future(client.server.stop(60))

        async def call_on() -> None:
            while not stopping.done():
                await client.refused(infer_request(["bank"]), Code.UNAVAILABLE)

        calling = [asyncio.ensure_future(call_on()) for _ in range(4)]
        await asyncio.sleep(0.5)
        assert not stopping.done()
        engine.resume()
        assert (await accepted).outputs
        await asyncio.wait_for(asyncio.gather(stopping, *calling), 30)

    call_server(conversation)


def test_a_model_that_fails_is_internal_without_its_words(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        fail_with(client.admission.inference.predictor.runner, RuntimeError("secret"))
        error = await client.refused(infer_request(["bank"]), Code.INTERNAL, "RuntimeError")
        assert "secret" not in (error.details() or "")

    call_server(conversation)


@pytest.mark.parametrize(
    ("text", "code"), [(ARENA_FULL, "device_out_of_memory"), (LOST["illegal access"], "device_lost")]
)
def test_a_device_that_fails_is_unavailable(call_server: Any, text: str, code: str) -> None:
    async def conversation(client: Client) -> None:
        fail_with(client.admission.inference.predictor.runner, RuntimeError(text))
        for _ in range(2):
            error = await client.refused(infer_request(["bank"]), Code.UNAVAILABLE, "the device")
            assert dict(error.trailing_metadata())["error-code"] == code

    call_server(conversation)


def test_the_number_of_classes_of_an_output_is_refused(call_server: Any) -> None:
    async def conversation(client: Client) -> None:
        request = infer_request(["bank"])
        output = request.outputs.add(name="label")
        output.parameters["classification"].int64_param = 2
        await client.refused(request, Code.INVALID_ARGUMENT, "classification", "top_k")

    call_server(conversation)


@pytest.mark.parametrize("min_ping_s", [0.01, 60.0])
def test_a_long_call_may_be_kept_alive_by_pings_as_often_as_the_setting_says(
    call_server: Any, min_ping_s: float
) -> None:
    options = [
        ("grpc.keepalive_time_ms", 50),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]

    async def conversation(client: Client) -> None:
        engine = StalledEngine.of(client.admission.inference.predictor.runner, stalled=True)
        address = f"127.0.0.1:{client.admission.settings.grpc_port}"
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            call = asyncio.ensure_future(Client(channel, client.admission).infer(infer_request(["bank"])))
            await engine.called()
            if min_ping_s < 1:
                await asyncio.sleep(1.0)
                engine.resume()
                assert (await call).outputs
            else:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await asyncio.wait_for(call, 30)
                engine.resume()
                assert caught.value.code() is Code.UNAVAILABLE

    call_server(conversation, grpc_min_ping_s=min_ping_s)


def test_a_taken_port_is_an_error_that_names_the_variable(tiny_artifact: Path) -> None:
    async def run() -> None:
        chosen = Settings(variant="fp32", grpc_port=free_port(), grpc_host="127.0.0.1")
        inference = Inference.open(tiny_artifact, chosen)
        first = GrpcServer(ModelRegistry(AdmissionController(inference, chosen)))
        await first.start()
        with pytest.raises(TuneportError, match="cannot listen") as caught:
            await GrpcServer(ModelRegistry(AdmissionController(inference, chosen))).start()
        assert "TUNEPORT_GRPC_PORT" in caught.value.remedy
        await first.stop(0)
        inference.close()

    asyncio.run(run())


def test_inference_is_recorded_and_health_is_not(call_server: Any, capfd: pytest.CaptureFixture[str]) -> None:
    async def conversation(client: Client) -> None:
        await client.call("ServerLive", messages.ServerLiveRequest())
        await client.infer(infer_request(["bank"]), metadata=(("x-request-id", "one"),))
        await client.refused(messages.ModelInferRequest(model_name="other"), Code.NOT_FOUND)

    call_server(conversation, log_requests=True, log_inputs=True)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"event":"request"' in line]
    assert [(line["protocol"], line["operation"], line["status"]) for line in lines] == [
        ("grpc", "infer", "OK"),
        ("grpc", "infer", "NOT_FOUND"),
    ]
    assert (lines[0]["request_id"], lines[0]["inputs"]) == ("one", ["bank"])
