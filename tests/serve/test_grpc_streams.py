"""ModelStreamInfer: tokens as responses, errors that leave the stream open, cancellation, and a stop."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from kit.serving import count_work, infer_request

from tuneport.runtime.predictor import Predictor
from tuneport.stages.serve import logs
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.grpc import open_inference_pb2 as pb
from tuneport.stages.serve.grpc.server import GrpcServer
from tuneport.stages.serve.grpc.servicer import SERVICE
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.process import free_port
from tuneport.stages.serve.settings import Settings

PARAMETERS = {"max_new_tokens": 12}
TRITON = """
import json, queue, sys
import numpy, tritonclient.grpc as triton

client, answers = triton.InferenceServerClient(f"127.0.0.1:{sys.argv[1]}"), queue.Queue()
assert client.get_model_config("tiny-chat").config.model_transaction_policy.decoupled
assert client.get_model_repository_index().models[0].state == "READY"
client.start_stream(lambda result, error: answers.put((result, error)))
tensor = triton.InferInput("json", [1], "BYTES")
tensor.set_data_from_numpy(numpy.array([json.dumps("one two").encode()], dtype=object))
client.async_stream_infer("tiny-chat", [tensor], request_id="7", parameters={"max_new_tokens": 12})
client.async_stream_infer("other", [tensor], request_id="8")
pieces = []
while True:
    result, error = answers.get(timeout=60)
    if error:
        break
    response = result.get_response()
    assert response.id == "7"
    [content] = result.as_numpy("json")
    pieces.append([response.parameters["triton_final_response"].bool_param, json.loads(content)])
client.stop_stream()
assert client.get_inference_statistics("tiny-chat").model_stats[0].inference_stats.success.count == 1
print(json.dumps([pieces, str(error)]))
"""
"""In a process of its own, because the stubs of the public client and of this project cannot share one."""
Conversation = Callable[[Any, AdmissionController, GrpcServer], Awaitable[Any]]


def converse(artifact: Path, conversation: Conversation, **chosen: Any) -> Any:
    """Run a conversation over a channel with a server of its own."""

    async def run() -> Any:
        defaults = {"grpc_port": free_port(), "grpc_host": "127.0.0.1", "log_requests": False}
        settings = Settings(**{**defaults, **chosen})
        admission = AdmissionController(Inference.open(artifact, settings), settings)
        server = GrpcServer(ModelRegistry(admission))
        port = await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stream = channel.stream_stream(
                    f"/{SERVICE}/ModelStreamInfer",
                    request_serializer=lambda each: each.SerializeToString(),
                    response_deserializer=pb.ModelStreamInferResponse.FromString,
                )
                return await asyncio.wait_for(conversation(stream, admission, server), 60)
        finally:
            await server.stop(1)
            admission.inference.close()
            logs.write_pending()

    return asyncio.run(run())


def chat_request(text: str, **parameters: int) -> Any:
    request = pb.ModelInferRequest(model_name="tiny-chat", id="7")
    request.inputs.add(name="json", datatype="BYTES", shape=[1]).contents.bytes_contents.append(
        json.dumps(text).encode()
    )
    for name, value in (parameters or PARAMETERS).items():
        request.parameters[name].int64_param = value
    return request


def content_of(response: Any) -> tuple[bool, Any]:
    """Return whether a response is the final one, and its prediction or piece."""
    assert not response.error_message, response.error_message
    [content] = response.infer_response.outputs[0].contents.bytes_contents
    return response.infer_response.parameters["triton_final_response"].bool_param, json.loads(content)


async def read_answer(call: Any) -> list[Any]:
    """Read the pieces of one request, then its prediction."""
    contents: list[Any] = []
    is_final = False
    while not is_final:
        is_final, content = content_of(await call.read())
        contents.append(content)
    return contents


def test_each_request_of_a_stream_is_answered_piece_by_piece(chat: Path) -> None:
    [expected] = Predictor(chat).predict(["one two"], PARAMETERS)

    async def conversation(stream: Any, admission: AdmissionController, _: GrpcServer) -> None:
        call = stream()
        for _ in range(2):
            await call.write(chat_request("one two"))
            *pieces, last = await read_answer(call)
            assert len(pieces) > 1
            assert "".join(piece["delta"] for piece in pieces) == last["text"] == expected["text"]
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        page = admission.metrics.page()[0].decode()
        assert 'operation="infer",protocol="grpc",status="OK"} 2.0' in page

    converse(chat, conversation)


def test_an_error_is_a_response_and_the_stream_goes_on(chat: Path) -> None:
    two = chat_request("one two")
    two.inputs[0].shape[0] = 2
    two.inputs[0].contents.bytes_contents.append(b'"three"')
    wrong = [
        (pb.ModelInferRequest(model_name="other", id="7"), "there is no model other"),
        (two, "2 inputs cannot be streamed"),
        (chat_request("one", max_new_tokens=-1), "max_new_tokens"),
    ]

    async def conversation(stream: Any, admission: AdmissionController, _: GrpcServer) -> None:
        call = stream()
        for request, words in wrong:
            await call.write(request)
            response = await call.read()
            assert words in response.error_message
            assert response.infer_response.parameters["triton_final_response"].bool_param
        await call.write(chat_request("one two"))
        assert await read_answer(call)
        call.cancel()

    converse(chat, conversation)


def test_an_encoder_answers_with_one_response(tiny_artifact: Path) -> None:
    async def conversation(stream: Any, *_: Any) -> None:
        call = stream()
        await call.write(infer_request(["bank", "won"], id="5"))
        response = await call.read()
        assert response.infer_response.id == "5"
        assert response.infer_response.parameters["triton_final_response"].bool_param
        assert len(response.infer_response.outputs[0].contents.bytes_contents) == 2
        call.cancel()

    converse(tiny_artifact, conversation, variant="fp32")


def test_a_stream_without_a_key_ends_at_once(tiny_artifact: Path) -> None:
    async def conversation(stream: Any, admission: AdmissionController, _: GrpcServer) -> None:
        call = stream()
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
        assert 'status="UNAUTHENTICATED"} 1.0' in admission.metrics.page()[0].decode()
        call = stream(metadata=(("x-api-key", "secret"),))
        await call.write(infer_request(["bank"]))
        assert not (await call.read()).error_message
        call.cancel()

    converse(tiny_artifact, conversation, variant="fp32", api_keys="secret")


def test_a_client_that_does_not_read_keeps_no_place(tiny_artifact: Path) -> None:
    async def conversation(stream: Any, admission: AdmissionController, _: GrpcServer) -> None:
        call = stream()
        writing = asyncio.ensure_future(_write_without_reading(call))
        while 'status="DEADLINE_EXCEEDED"} 1.0' not in admission.metrics.page()[0].decode():
            await asyncio.sleep(0.05)
        assert not admission.active_requests
        call.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    converse(tiny_artifact, conversation, variant="fp32", body_timeout_s=1)


def test_a_client_that_leaves_while_a_response_waits_is_no_error(tiny_artifact: Path) -> None:
    async def conversation(stream: Any, admission: AdmissionController, _: GrpcServer) -> None:
        call = stream()
        writing = asyncio.ensure_future(_write_without_reading(call))
        answered = -1
        while (now := _answered(admission)) != answered or not answered:  # the last response does not fit
            answered = now
            await asyncio.sleep(0.5)
        call.cancel()
        while "CANCELLED" not in (page := admission.metrics.page()[0].decode()):
            await asyncio.sleep(0.01)
        assert "INTERNAL" not in page
        await asyncio.gather(writing, return_exceptions=True)

    converse(tiny_artifact, conversation, variant="fp32")


async def _write_without_reading(call: Any) -> None:
    for _ in range(400):
        await call.write(infer_request(["bank"], id="x" * 60_000))  # the response has it, too


def _answered(admission: AdmissionController) -> int:
    lines = admission.metrics.page()[0].decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("tuneport_inputs_total"))


def test_a_cancelled_stream_stops_its_generation(chat: Path) -> None:
    async def conversation(stream: Any, admission: AdmissionController, _: GrpcServer) -> int:
        batches, steps = count_work(admission)
        call = stream()
        await call.write(chat_request("one two", max_new_tokens=120))
        await call.read()
        call.cancel()
        while not batches or "CANCELLED" not in admission.metrics.page()[0].decode():
            await asyncio.sleep(0.005)
        assert not admission.active_requests
        return len(steps)

    assert 0 < converse(chat, conversation) < 100


def test_a_stream_that_waits_does_not_hold_up_a_stop(tiny_artifact: Path) -> None:
    async def conversation(stream: Any, _: AdmissionController, server: GrpcServer) -> None:
        call = stream()
        await call.write(infer_request(["bank"]))
        await call.read()
        await asyncio.wait_for(server.stop(60), 20)
        assert await call.code() is grpc.StatusCode.UNAVAILABLE

    converse(tiny_artifact, conversation, variant="fp32")


def test_tritonclient_streams(chat: Path) -> None:
    [expected] = Predictor(chat).predict(["one two"], PARAMETERS)

    async def conversation(stream: Any, admission: AdmissionController, _: GrpcServer) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", TRITON, str(admission.settings.grpc_port), stdout=subprocess.PIPE
        )
        out, _errors = await process.communicate()
        assert process.returncode == 0
        return out.decode()

    pieces, error = json.loads(converse(chat, conversation))
    assert [is_final for is_final, _ in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1][1]["text"] == expected["text"]
    assert "there is no model other" in error
