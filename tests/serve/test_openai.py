"""Streams of /predict and OpenAI's /v1, over a real server, with the public `openai` client."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from kit.exports import export_tiny
from kit.generative import build_whisper
from kit.serving import assert_error, count_work
from starlette.testclient import TestClient

from tuneport.errors import InputError
from tuneport.runtime.audio import read_sound
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.tasks.sampling import GenerationParameters
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.http.app import create_app
from tuneport.stages.serve.http.uploads import read_upload
from tuneport.stages.serve.inference import Inference, InferenceResult
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.process import free_port, running
from tuneport.stages.serve.settings import Settings
from tuneport.stages.serve.text_stream import stream_text

NAME = "tiny-chat"
CHAT: Any = [{"role": "user", "content": "one two"}]
KEY = "secret"


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    return export_tiny(build_whisper(folder / "whisper", ["low", "high"]), folder / "artifact", "whisper")


@pytest.fixture(scope="module")
def url(chat: Path) -> Iterator[str]:
    port = free_port()
    command = serve_command(SERVICE, host="127.0.0.1", port=port, model=register(chat))
    with running(command, f"http://127.0.0.1:{port}", {"TUNEPORT_API_KEYS": KEY}):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def predictor(chat: Path) -> Predictor:
    return Predictor(chat)


@contextmanager
def _local(predictor: Predictor, **settings: Any) -> Iterator[TestClient]:
    """Serve in this process."""
    chosen = Settings(log_requests=False, **settings)
    inference = Inference(predictor, chosen)
    with TestClient(create_app(ModelRegistry(AdmissionController(inference, chosen)))) as client:
        yield client
    inference.close()


def _post(url: str, content: Any) -> httpx.Response:
    return httpx.post(f"{url}/predict", json=content, headers={"x-api-key": KEY}, timeout=60)


def _events(answer: httpx.Response) -> list[Any]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]


def test_a_chat_is_answered_as_predict_answers_it(client: openai.OpenAI, predictor: Predictor) -> None:
    response = client.chat.completions.create(model=NAME, messages=CHAT, max_tokens=12, temperature=0)
    (expected,) = predictor.predict([{"messages": CHAT}], {"max_new_tokens": 12})
    assert response.choices[0].message.content == expected["text"]
    assert response.choices[0].message.role == "assistant"
    assert response.choices[0].finish_reason == expected["finish_reason"] == "length"
    assert response.usage
    assert response.usage.completion_tokens == 12
    assert response.usage.total_tokens == response.usage.prompt_tokens + 12
    in_parts = client.chat.completions.create(
        model=NAME, messages=[{"role": "user", "content": [{"type": "text", "text": "one two"}]}], max_tokens=12
    )
    assert in_parts.choices[0].message.content == expected["text"]


def test_a_streamed_chat_is_the_same_text_in_pieces(client: openai.OpenAI, predictor: Predictor) -> None:
    stream = client.chat.completions.create(
        model=NAME, messages=CHAT, max_completion_tokens=30, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    (expected,) = predictor.predict([{"messages": CHAT}], {"max_new_tokens": 30})
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert "".join(text or "" for text in texts) == expected["text"]
    assert len(texts) > 5
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == expected["finish_reason"]
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 30


def test_prompts_are_completed_one_or_several(client: openai.OpenAI, predictor: Predictor) -> None:
    prompts = ["one two", "three"]
    response = client.completions.create(model=NAME, prompt=prompts, max_tokens=7)
    expected = predictor.predict(prompts, {"max_new_tokens": 7})
    assert [choice.text for choice in response.choices] == [each["text"] for each in expected]
    assert [choice.index for choice in response.choices] == [0, 1]
    stream = client.completions.create(model=NAME, prompt="one two", max_tokens=7, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == expected[0]["text"]


def test_draws_repeat_with_a_seed_whatever_else_runs(client: openai.OpenAI) -> None:
    def draw(seed: int) -> str:
        options: Any = {"max_tokens": 8, "temperature": 1.5, "top_p": 0.9, "seed": seed}
        return str(client.completions.create(model=NAME, prompt="one", **options).choices[0].text)

    assert draw(1) == draw(1) != draw(2)


def test_a_developer_speaks_as_the_system(client: openai.OpenAI) -> None:
    def answer(role: str) -> Any:
        chat: Any = [{"role": role, "content": "be brief"}, *CHAT]
        return client.chat.completions.create(model=NAME, messages=chat, max_tokens=5).choices

    assert answer("system") == answer("developer")


def test_a_stream_whose_client_leaves_is_counted_as_cancelled(url: str) -> None:
    def cancelled() -> float:
        page = httpx.get(f"{url}/metrics", headers={"x-api-key": KEY}).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith("tuneport_cancelled"))

    before, limit = cancelled(), time.monotonic() + 30
    content = {"inputs": "one two", "parameters": {"stream": True, "max_new_tokens": 400}}
    while cancelled() == before:  # once may be too late: the model is quick
        assert time.monotonic() < limit
        with httpx.stream("POST", f"{url}/predict", json=content, headers={"x-api-key": KEY}, timeout=60) as answer:
            next(answer.iter_lines())
        time.sleep(0.2)


def test_the_rows_of_a_seeded_request_wait_one_by_one(predictor: Predictor) -> None:
    parsed_inputs = predictor.parse_inputs(["one", "two"])
    seeded, plain = (
        [rows[0] for rows in predictor.task.encode_request(parsed_inputs, parameters)]
        for parameters in (GenerationParameters(temperature=1.0, seed=1), GenerationParameters(temperature=1.0))
    )
    assert plain[0].group == plain[1].group
    assert seeded[0].group != seeded[1].group


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
        client.chat.completions.create(model="gpt-4", messages=CHAT)


def test_what_is_not_offered_is_refused(url: str, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="n: Input should be 1"):
        client.chat.completions.create(model=NAME, messages=CHAT, n=2)
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(model=NAME, messages=CHAT, tools=[])
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="the prompt has over") as truncated:
            client.completions.create(model=NAME, prompt="one two " * 3000, stream=stream)
        assert truncated.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="a message has the role") as refused:
        client.chat.completions.create(model=NAME, messages=[{"role": "nobody", "content": "a"}])  # type: ignore[list-item]
    assert (refused.value.type, refused.value.code) == ("invalid_request_error", "wrong_input")
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_predict_streams_events(url: str, predictor: Predictor) -> None:
    parameters = {"max_new_tokens": 20, "stop": "\n"}
    events = _events(_post(url, {"inputs": "one two", "parameters": {**parameters, "stream": True}}))
    (expected,) = predictor.predict(["one two"], parameters)
    assert events[-1]["prediction"] == expected
    assert events[-1]["model"] == predictor.describe()
    assert "".join(event["delta"] for event in events[:-1]) == expected["text"]


def test_what_cannot_be_streamed_has_a_status(url: str) -> None:
    for content, status in (
        ({"inputs": ["a", "b"], "parameters": {"stream": True}}, 422),
        ({"inputs": 3, "parameters": {"stream": True}}, 422),
        ({"inputs": "a", "parameters": {"stream": True, "num_beams": 2}}, 422),
        ({"inputs": "a", "parameters": {"stream": True, "stop": 7}}, 422),
    ):
        answer = _post(url, content)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"code", "message", "remedy"}


def test_concurrent_requests_of_different_parameters_do_not_mix(url: str, predictor: Predictor) -> None:
    asked = [("one two", {"max_new_tokens": 5 + i % 3, "num_beams": 1 + i % 2}) for i in range(24)]
    expected = [predictor.predict([text], parameters)[0] for text, parameters in asked]

    async def all_at_once() -> list[Any]:
        async with httpx.AsyncClient(base_url=url, headers={"x-api-key": KEY}, timeout=60) as client:
            posts = [client.post("/predict", json={"inputs": text, "parameters": each}) for text, each in asked]
            return [answer.json()["predictions"][0] for answer in await asyncio.gather(*posts)]

    assert asyncio.run(all_at_once()) == expected


def test_a_stream_keeps_the_limits_of_every_request(predictor: Predictor) -> None:
    """With `stream` a request is refused with the same status as without, before its first event."""
    prompt = "one two three four"
    tokens = len(predictor.task.encode(predictor.parse_inputs([prompt]))[0][0])
    contents: list[tuple[str, dict[str, Any]]] = [
        ("/predict", {"inputs": prompt, "parameters": {"max_new_tokens": 2}}),
        ("/v1/completions", {"model": NAME, "prompt": prompt, "max_tokens": 2}),
    ]
    for limits, code in (
        ({"max_tokens": tokens - 1}, "too_many_tokens"),
        ({"max_chars": len(prompt) - 1}, "too_many_chars"),
        ({"max_tokens": tokens}, None),
    ):
        with _local(predictor, **limits) as client:
            for path, content in contents:
                streamed = {**content, "stream": True}
                if path == "/predict":
                    streamed = {**content, "parameters": {**content["parameters"], "stream": True}}
                for response in (client.post(path, json=content), client.post(path, json=streamed)):
                    assert response.status_code == (413 if code else 200)
                    assert not code or response.json()["error"]["code"] == code


def test_a_stream_without_a_token_in_time_is_503(chat: Path) -> None:
    own = Predictor(chat)
    released = threading.Event()
    run_batch = own.runner.run_batch

    def stalled(rows: Any) -> Any:
        assert released.wait(30)
        return run_batch(rows)

    own.runner.run_batch = stalled  # type: ignore[method-assign]
    with _local(own, request_timeout_s=0.1) as client:
        response = client.post("/predict", json={"inputs": "one", "parameters": {"stream": True}})
        assert_error(response, 503, "no token within 0.1 s")
        released.set()


def test_of_several_models_the_one_for_chats_answers_by_its_name(chat: Path, tiny_artifact: Path) -> None:
    settings = Settings(log_requests=False)
    first = AdmissionController(Inference.open(tiny_artifact, settings), settings)
    second = AdmissionController(Inference.open(chat, settings), settings, worker=first.worker)
    body = {"messages": CHAT, "max_tokens": 3}
    try:
        with TestClient(create_app(ModelRegistry(first, second))) as client:
            assert [each["id"] for each in client.get("/v1/models").json()["data"]] == [NAME]
            answered = client.post("/v1/chat/completions", json={"model": NAME, **body})
            assert answered.status_code == 200, answered.text
            assert answered.json()["usage"]["completion_tokens"] == 3
            refused = client.post("/v1/chat/completions", json={"model": "tiny", **body})
            assert refused.status_code == 404
            assert first.active_requests == second.active_requests == 0
    finally:
        first.inference.close()
        second.inference.close()


def test_a_stream_that_nobody_reads_any_more_ends_its_row(chat: Path) -> None:
    async def leave() -> int:
        admission = AdmissionController(Inference.open(chat, Settings()), Settings())
        batches, steps = count_work(admission)
        stream = stream_text(admission, "one two", {"max_new_tokens": 120})
        began = asyncio.get_running_loop().time()
        await anext(stream)
        await stream.aclose()
        while not batches:
            await asyncio.sleep(0.005)
            assert asyncio.get_running_loop().time() - began < 30
        admission.inference.close()
        return len(steps)

    assert 0 < asyncio.run(leave()) < 100


@pytest.mark.parametrize("stop", ["e", "two", "\ufffd"])
def test_pieces_never_show_what_a_stop_takes_back(stop: str, predictor: Predictor) -> None:
    async def collect() -> tuple[list[str], InferenceResult]:
        inference = Inference(predictor, Settings())
        *texts, result = [
            piece
            async for piece in stream_text(
                AdmissionController(inference, Settings()), "one", {"max_new_tokens": 40, "stop": [stop]}
            )
        ]
        inference.close()
        assert isinstance(result, InferenceResult)
        return [str(text) for text in texts], result

    texts, result = asyncio.run(collect())
    assert "".join(texts) == result.prediction["text"]
    assert stop not in result.prediction["text"]


def test_recordings_are_uploaded_as_they_are_or_in_a_form(whisper: Path, tmp_path: Path) -> None:
    wave = np.random.default_rng(1).normal(0, 0.2, 8000)
    for kind in ("wav", "flac"):
        soundfile.write(tmp_path / f"a.{kind}", wave, 16_000)
    own = Predictor(whisper)
    content = (tmp_path / "a.wav").read_bytes()
    (expected,) = own.predict([{"audio": content}])
    with _local(own) as local:
        raw = local.post("/predict", content=content, headers={"Content-Type": "audio/wav"})
        flac = local.post("/predict", files={"file": ("a.flac", (tmp_path / "a.flac").read_bytes(), "audio/flac")})
        both = local.post(
            "/predict", files=[("file", content), ("file", content)], data={"parameters": '{"max_new_tokens": 2}'}
        )
        broken = local.post("/predict", content=content[:20], headers={"Content-Type": "audio/wav"})
        path = local.post("/predict", json={"inputs": {"audio": str(tmp_path / "a.wav")}})
        elsewhere = local.get("/v1/models")
    assert raw.json()["predictions"] == flac.json()["predictions"] == [expected]
    assert len(both.json()["predictions"]) == 2
    assert (broken.status_code, path.status_code, elsewhere.status_code) == (422, 422, 404)


def test_a_recording_that_would_not_end_is_read_no_further(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", np.zeros(16_000 * 120), 16_000)
    assert read_sound((tmp_path / "long.flac").read_bytes(), 16_000, 30).shape == (31 * 16_000,)
    for name, samples, rate in (("many", np.zeros((9, 9)), 16_000), ("slow", np.zeros(9), 10)):
        soundfile.write(tmp_path / f"{name}.wav", samples, rate)
        with pytest.raises(InputError, match="the recording has"):
            read_sound((tmp_path / f"{name}.wav").read_bytes(), 16_000, 30)


def test_a_form_carries_any_bytes() -> None:
    content = bytes(np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8)) + b"\r\n\n\r--x\x00"
    body = b'--cut\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + content + b"\r\n--cut--\r\n"
    assert read_upload(body, "multipart/form-data; boundary=cut") == ([{"audio": content}], None)
