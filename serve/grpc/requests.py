"""Read and check an inference request, of ModelInfer and of ModelStreamInfer."""

from typing import Any, NamedTuple

from tuneport.runtime.tasks.inputs import check_number
from tuneport.schema.artifact import Manifest

from .. import tensors
from ..framing import RequestFrame
from ..models.registry import ModelRegistry
from ..open_inference import check_output_parameters
from ..settings import Settings
from . import open_inference_pb2 as pb
from .messages import parse_message, read_parameters, read_tensors
from .wire import check_fields

EXTRA_FIELDS = 1024
"""Fields that a message may have beside the elements of its tensors."""


class InferRequest(NamedTuple):
    """A request that is well formed."""

    message: Any
    inputs: list[Any]
    parameters: dict[str, Any]
    outputs: list[str]
    """Names of the output tensors that are asked for; all if there is none."""


def parse_request(settings: Settings, kind: Any, raw: bytes) -> Any:
    """Parse a message of any call, unless it has too many fields."""
    check_fields(raw, EXTRA_FIELDS + 4 * settings.max_client_batch_size)
    return parse_message(kind, raw)


def use_model(models: ModelRegistry, frame: RequestFrame, name: str, version: str) -> None:
    """Let the version that a message names answer; raises NotFound."""
    default = models.default
    if name != default.name or version or default.candidate is not None:
        frame.use(models.find(name, version, frame.headers))


async def read_request(models: ModelRegistry, raw: bytes, frame: RequestFrame) -> InferRequest:
    """Parse and check an inference request, and let the model that it names answer."""
    request = parse_request(models.worker.settings, pb.ModelInferRequest, raw)
    use_model(models, frame, request.model_name, request.model_version)
    return await check_request(request, frame)


async def check_request(request: Any, frame: RequestFrame) -> InferRequest:
    """Check a message and read its tensors; its inputs are kept in the frame for the record."""
    admission, manifest = frame.admission, frame.admission.manifest
    frame.inputs = await admission.inference.executors.run_if_large(
        request.ByteSize(), _read_inputs, manifest, request, admission.settings.max_client_batch_size
    )
    parameters = read_parameters(request.parameters)
    check_number(len(request.outputs), "outputs")
    for output in request.outputs:
        check_output_parameters(output.name, output.parameters)
    output_names = [output.name for output in request.outputs]
    tensors.check_outputs(manifest, output_names)
    return InferRequest(request, frame.inputs, parameters, output_names)


def _read_inputs(manifest: Manifest, request: Any, limit: int) -> list[Any]:
    """Return the inputs in a request's tensors, at most `limit`."""
    return tensors.inputs_from_tensors(manifest, read_tensors(request, limit))
