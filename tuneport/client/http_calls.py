"""Calls over HTTP as values: the request, and the function that reads its response."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import orjson

from tuneport.client.errors import read_retry_after, to_exception
from tuneport.client.results import ModelMetadata, ModelName, ModelVersion, Predictions, TensorMetadata
from tuneport.errors import ERROR_CODE_HEADER, InputError, RequestError, ServiceFailed

Result = TypeVar("Result")
Reader = Callable[[Any, str], Result]
"""Takes the JSON of a response and the request's id."""
END_OF_EVENT = b"\n\n"
DATA = b"data: "


@dataclass(frozen=True, slots=True)
class HttpCall(Generic[Result]):
    """A request, and how its response is read."""

    method: str
    path: str
    read: Reader[Result]
    body: bytes | None = None


def predict(inputs: Sequence[Any], parameters: Mapping[str, Any], model: str | None = None) -> HttpCall[Predictions]:
    """`POST /predict`, or that of a model of the service by its name."""
    return HttpCall("POST", _predict_path(model), _predictions, _body(list(inputs), parameters))


def stream(value: Any, parameters: Mapping[str, Any], model: str | None = None) -> HttpCall[None]:
    """`POST /predict` with `stream`; the transport reads its events."""
    return HttpCall("POST", _predict_path(model), lambda *_: None, _body(value, {**parameters, "stream": True}))


def is_live() -> HttpCall[bool]:
    """`GET /v2/health/live`."""
    return HttpCall("GET", "/v2/health/live", lambda content, _: bool(content["live"]))


def is_ready() -> HttpCall[bool]:
    """`GET /v2/health/ready`; a service that is not ready answers 503."""
    return HttpCall("GET", "/v2/health/ready", lambda content, _: bool(content["ready"]))


def model_name() -> HttpCall[ModelName]:
    """`GET /info`, which names the model, its version and its variant."""
    return HttpCall("GET", "/info", lambda content, _: _model(content))


def metadata(name: str) -> HttpCall[ModelMetadata]:
    """`GET /v2/models/NAME`."""
    return HttpCall("GET", f"/v2/models/{quote(name, safe='')}", lambda content, _: _metadata(content))


def _predict_path(model: str | None) -> str:
    return "/predict" if model is None else f"/models/{quote(model, safe='')}/predict"


def list_models() -> HttpCall[tuple[ModelVersion, ...]]:
    """`GET /v2/repository/index`."""
    return HttpCall("GET", "/v2/repository/index", lambda content, _: tuple(ModelVersion(**each) for each in content))


def load_parameters(
    version: str | None, traffic: str | float, shadow_share: float, *, accept_changes: bool
) -> dict[str, Any]:
    """Return the parameters of `load_model`."""
    return {
        "version": version,
        "traffic": traffic,
        "shadow_share": shadow_share,
        "accept_changes": accept_changes,
    }


def load_model(name: str, parameters: Mapping[str, Any]) -> HttpCall[ModelName]:
    """`POST /v2/repository/models/NAME/load`."""
    return HttpCall("POST", _repository_path(name, "load"), lambda content, _: _model(content), _change(parameters))


def unload_model(name: str, parameters: Mapping[str, Any]) -> HttpCall[None]:
    """`POST /v2/repository/models/NAME/unload`."""
    return HttpCall("POST", _repository_path(name, "unload"), lambda *_: None, _change(parameters))


def _repository_path(name: str, action: str) -> str:
    return f"/v2/repository/models/{quote(name, safe='')}/{action}"


def _change(parameters: Mapping[str, Any]) -> bytes:
    """Return the body of a change; parameters that are None are left to the service."""
    return orjson.dumps({"parameters": {name: value for name, value in parameters.items() if value is not None}})


def _body(inputs: Any, parameters: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps({"inputs": inputs, "parameters": dict(parameters)})
    except TypeError as error:  # orjson's JSONEncodeError is one
        raise InputError(f"the inputs are not JSON ({error})", "send strings, numbers, lists and objects") from error


def _predictions(content: Any, request_id: str) -> Predictions:
    return Predictions(content["predictions"], _model(content["model"]), request_id)


def _model(content: Any) -> ModelName:
    return ModelName(content["name"], content["version"], content.get("variant"))


def _metadata(content: Any) -> ModelMetadata:
    tensors = {
        side: tuple(TensorMetadata(each["name"], each["datatype"], tuple(each["shape"])) for each in content[side])
        for side in ("inputs", "outputs")
    }
    return ModelMetadata(content["name"], tuple(content["versions"]), **tensors)


def read_response(call: HttpCall[Result], status: int, headers: Mapping[str, str], body: bytes, sent_id: str) -> Result:
    """Return the result in a response; raises the RequestError that it holds."""
    request_id = headers.get("x-request-id", sent_id)
    try:
        content = orjson.loads(body)
        if status == 200:
            return call.read(content, request_id)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if status == 200:
            problem = f"the answer to {call.method} {call.path} is not a tuneport service's"
            raise _with_id(ServiceFailed(problem, "correct the address"), request_id) from error
        content = None
    raise _with_id(error_of(status, headers, content), request_id)


def error_of(status: int, headers: Mapping[str, str], content: Any) -> RequestError:
    """Return the exception for an error response, which may be a proxy's."""
    error = content.get("error") if isinstance(content, dict) else None
    retry_after_s = read_retry_after(headers.get("retry-after"))
    if isinstance(error, dict):
        code, problem, remedy = (str(error.get(name, "")) for name in ("code", "message", "remedy"))
        return to_exception(status, code, problem, remedy, retry_after_s=retry_after_s)
    problem, _, remedy = error.partition("; ") if isinstance(error, str) else (f"status {status}", "", "")
    remedy = remedy or "see the service's log"
    return to_exception(status, headers.get(ERROR_CODE_HEADER), problem, remedy, retry_after_s=retry_after_s)


def _with_id(error: RequestError, request_id: str) -> RequestError:
    error.request_id = request_id
    return error


@dataclass(slots=True)
class TextEvents:
    """Reads the server-sent events of a streamed text from the pieces in which they arrive."""

    request_id: str
    prediction: Any = None
    """Of the last event: what a call without stream would have returned."""
    model: ModelName | None = None
    _buffer: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[str]:
        """Return the pieces of text that are complete; raises the RequestError that ends a stream."""
        self._buffer += data
        texts = []
        *events, rest = self._buffer.split(END_OF_EVENT)
        self._buffer = bytearray(rest)
        for event in events:
            content = orjson.loads(bytes(event).removeprefix(DATA))
            if "error" in content:
                raise _with_id(error_of(500, {}, content), self.request_id)
            if "prediction" in content:
                self.prediction, self.model = content["prediction"], _model(content["model"])
            else:
                texts.append(content["delta"])
        return texts
