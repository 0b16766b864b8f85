"""Open Inference Protocol v2 over HTTP: `/v2/…`, tensors as JSON or, in both directions, as binary data."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.schema.artifact import Manifest
from tuneport.version import VERSION

from .. import tensors
from ..open_inference import EXTENSIONS, PLATFORM, infer, versions_of
from .paths import VERSIONS
from .requests import admission_of, frame_of, models_of, read_body, unless_disconnected
from .responses import json_response
from .tensor_json import HEADER_LENGTH, as_object, read_tensors, requested_outputs, split_body, tensor_response


async def live(request: Request) -> Response:
    """Answer that the process is alive."""
    return json_response({"live": True})


async def ready(request: Request) -> Response:
    """Answer whether the server accepts inference requests."""
    is_ready = models_of(request).ready
    return json_response({"ready": is_ready}, 200 if is_ready else 503)


async def model_ready(request: Request) -> Response:
    """Answer whether the model accepts inference requests."""
    manifest, is_ready = admission_of(request).manifest, admission_of(request).ready
    return json_response({"name": manifest.name, "ready": is_ready}, 200 if is_ready else 503)


async def server_metadata(request: Request) -> Response:
    """Return the server's name, version and protocol extensions."""
    return json_response({"name": PLATFORM, "version": VERSION, "extensions": EXTENSIONS})


async def model_metadata(request: Request) -> Response:
    """Return the model's input and output tensors."""
    manifest = admission_of(request).manifest
    inputs = [{"name": name, "datatype": tensors.BYTES, "shape": [-1]} for name in tensors.fields_of(manifest)]
    datatypes = tensors.output_datatypes(manifest)
    outputs = [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in datatypes.items()]
    return json_response(
        {
            "name": manifest.name,
            "versions": versions_of(models_of(request), manifest.name),
            "platform": PLATFORM,
            "inputs": inputs,
            "outputs": outputs,
        }
    )


async def model_infer(request: Request) -> Response:
    """Answer input tensors with output tensors."""
    admission, manifest = admission_of(request), admission_of(request).manifest
    body, header_length = await read_body(request), request.headers.get(HEADER_LENGTH)
    limit = admission.settings.max_client_batch_size
    content, inputs = await admission.inference.executors.run_if_large(
        len(body), _read_request, manifest, body, header_length, limit
    )
    parameters = as_object(content.get("parameters"), "parameters")
    frame_of(request).inputs = inputs
    binary_default = parameters.get("binary_data_output") is True
    is_binary = requested_outputs(content.get("outputs"), binary_default)
    tensors.check_outputs(manifest, [*is_binary])
    outputs = await unless_disconnected(request, infer(admission, inputs, parameters, [*is_binary]))
    response = {"model_name": manifest.name, "model_version": manifest.version}
    if isinstance(content.get("id"), str):
        response["id"] = content["id"]
    return tensor_response(
        response, outputs, {tensor.name: is_binary.get(tensor.name, binary_default) for tensor in outputs}
    )


routes = [
    Route("/v2/health/live", live),
    Route("/v2/health/ready", ready),
    Route("/v2", server_metadata),
    *(
        Route(f"/v2/models/{{model}}{version}{path}", endpoint, methods=methods)
        for version in VERSIONS
        for path, endpoint, methods in (
            ("", model_metadata, ["GET"]),
            ("/ready", model_ready, ["GET"]),
            ("/infer", model_infer, ["POST"]),
        )
    ),
]


def _read_request(manifest: Manifest, body: bytes, header_length: str | None, limit: int) -> tuple[Any, list[Any]]:
    """Return the JSON of a body and the inputs in its tensors, at most `limit`."""
    content, binary = split_body(body, header_length)
    return content, tensors.inputs_from_tensors(manifest, read_tensors(content.get("inputs"), binary, limit))
