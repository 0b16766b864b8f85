"""Open Inference Protocol v2 at the HTTP door: `/v2/…`, tensors as JSON or, in both directions, as binary data."""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from export.manifest import Manifest
from serve.desk import Desk
from serve.errors import Refused
from serve.protocol import tensors
from serve.protocol.tensors import Tensor
from serve.tasks.inputs import InputError, check_number

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data",)
PLATFORM = "tuneport"


async def live(request: Request) -> Response:
    """Say that the process answers."""
    return Response()


async def ready(request: Request) -> Response:
    """Say whether it would answer inference requests."""
    return Response(status_code=200 if _desk(request).ready else 503)


async def model_ready(request: Request) -> Response:
    """Say the same of one model."""
    _check_model(request)
    return await ready(request)


async def server(request: Request) -> Response:
    """Name the server and its extensions."""
    content = {"name": PLATFORM, "version": _desk(request).predictor.manifest.version, "extensions": EXTENSIONS}
    return _json(content)


async def model(request: Request) -> Response:
    """Describe the model's tensors."""
    manifest = _check_model(request)
    inputs = [{"name": name, "datatype": tensors.BYTES, "shape": [-1]} for name in tensors.fields_of(manifest)]
    outputs = [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in tensors.outputs_of(manifest).items()]
    return _json(
        {
            "name": manifest.name,
            "versions": [manifest.version],
            "platform": PLATFORM,
            "inputs": inputs,
            "outputs": outputs,
        }
    )


async def infer(request: Request) -> Response:
    """Answer tensors with tensors."""
    from serve.http import read_body, unless_left

    desk, manifest = _desk(request), _check_model(request)
    content, binary = _split(await read_body(request), request.headers.get(HEADER_LENGTH))
    parameters = _object(content.get("parameters"), "parameters")
    inputs = tensors.inputs_of(manifest, _read_tensors(content.get("inputs"), binary, desk.settings.max_inputs))
    request.state.inputs = inputs
    is_binary = _wanted(content.get("outputs"), parameters.get("binary_data_output") is True)
    tensors.tensors_of(manifest, [], [*is_binary])  # before the work is done
    timeout_s = tensors.timeout_of(parameters)
    predictions = await unless_left(request, desk.answer(inputs, tensors.task_parameters(parameters), timeout_s))
    made = tensors.tensors_of(manifest, predictions, [*is_binary])
    default = parameters.get("binary_data_output") is True
    answer = {"model_name": manifest.name, "model_version": manifest.version}
    if isinstance(content.get("id"), str):
        answer["id"] = content["id"]
    return _write(answer, made, {tensor.name: is_binary.get(tensor.name, default) for tensor in made})


routes = [
    Route("/v2/health/live", live),
    Route("/v2/health/ready", ready),
    Route("/v2", server),
    *(
        Route(f"/v2/models/{{model}}{version}{path}", endpoint, methods=methods)
        for version in ("", "/versions/{version}")
        for path, endpoint, methods in (
            ("", model, ["GET"]),
            ("/ready", model_ready, ["GET"]),
            ("/infer", infer, ["POST"]),
        )
    ),
]


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _check_model(request: Request) -> Manifest:
    manifest = _desk(request).predictor.manifest
    tensors.check_model(manifest, request.path_params["model"], request.path_params.get("version"))
    return manifest


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """Cut a body into its JSON and the binary data behind it."""
    size = len(body)
    if header_length is not None:
        is_number = header_length.isascii() and header_length.isdigit() and len(header_length) <= len(str(size))
        if not is_number or int(header_length) > size:
            problem = f"{HEADER_LENGTH} is {header_length[:40]!r} for a body of {size} bytes"
            raise Refused(400, "wrong_length", problem, "send the length of the JSON in bytes")
        size = int(header_length)
    try:
        content = orjson.loads(body[:size])
    except orjson.JSONDecodeError as error:
        raise Refused(400, "not_json", f"the body is not JSON: {error}", 'send {"inputs": […]} as UTF-8') from error
    return _object(content, "the body"), memoryview(body)[size:]


def _read_tensors(given: Any, binary: memoryview, max_inputs: int) -> list[Tensor]:
    if not isinstance(given, list) or not given:
        raise InputError('"inputs" is not a list of tensors', "send at least one")
    check_number(len(given), "inputs")
    found = []
    for each in given:
        fields = _object(each, "an input")
        name, datatype, shape = fields.get("name"), fields.get("datatype"), fields.get("shape")
        if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list):
            raise InputError("an input lacks name, datatype or shape", "send all three")
        count = tensors.check_count(name, datatype, shape, max_inputs)
        size = _object(fields.get("parameters"), "parameters").get("binary_data_size")
        if size is None:
            elements = _read_data(name, fields.get("data"), count)
        else:
            if type(size) is not int or not 0 <= size <= len(binary):
                raise InputError(f"tensor {name[:40]!r} claims binary data that is not there", "mend its size")
            elements = tensors.split_bytes(name, bytes(binary[:size]), count)
            binary = binary[size:]
        found.append(Tensor(name, datatype, tuple(shape), elements))
    if len(binary):
        raise InputError(f"the body has {len(binary)} bytes of binary data too many", "mend binary_data_size")
    return found


def _read_data(name: str, data: Any, count: int) -> list[bytes]:
    """Read elements from JSON: strings, alone or each in a list of its own."""
    if not isinstance(data, list):
        raise InputError(f"tensor {name[:40]!r} has no data", 'send "data", or "binary_data_size"')
    flat = [each[0] if isinstance(each, list) and len(each) == 1 else each for each in data]
    if len(flat) != count or not all(isinstance(each, str) for each in flat):
        raise InputError(f"tensor {name[:40]!r} is not {count} string(s)", "send as many as its shape says")
    return [each.encode() for each in flat]


def _wanted(outputs: Any, default: bool) -> dict[str, bool]:
    """Return the outputs that are asked for by name, each with whether it is wanted as binary data."""
    if outputs is None:
        return {}
    if not isinstance(outputs, list):
        raise InputError('"outputs" is not a list', "name outputs, or leave it out")
    check_number(len(outputs), "outputs")
    wanted = {}
    for each in outputs:
        fields = _object(each, "an output")
        if not isinstance(fields.get("name"), str):
            raise InputError("an output lacks its name", "name it")
        wanted[fields["name"]] = _object(fields.get("parameters"), "parameters").get("binary_data", default) is True
    return wanted


def _write(answer: dict[str, Any], made: list[Tensor], is_binary: Mapping[str, bool]) -> Response:
    """Write tensors, those in binary form behind the JSON."""
    outputs, behind = [], []
    for tensor in made:
        fields: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if is_binary[tensor.name]:
            behind.append(tensors.join_elements(tensor))
            fields["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            is_text = tensor.datatype == tensors.BYTES
            fields["data"] = [each.decode() for each in tensor.elements] if is_text else list(tensor.elements)
        outputs.append(fields)
    header = orjson.dumps({**answer, "outputs": outputs})
    if not behind:
        return Response(header, media_type="application/json")
    body = b"".join([header, *behind])
    return Response(body, headers={HEADER_LENGTH: str(len(header))}, media_type="application/octet-stream")


def _object(value: Any, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{what} is not an object", "send a JSON object")
    return value


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
