"""What Triton adds to the Open Inference Protocol over HTTP: a model's configuration and statistics, and the index."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.errors import InputError

from ..json_text import parse_json
from ..models.description import describe_config, describe_index
from ..models.statistics import describe_statistics
from .paths import VERSIONS
from .requests import admission_of, models_of, read_body
from .responses import json_response


async def index(request: Request) -> Response:
    """List the versions that are loaded, and unless the body asks for these alone, those of the model repository."""
    body = await read_body(request) if request.method == "POST" else b""
    content = parse_json(body) if body else {}
    only_ready = content.get("ready", False) if isinstance(content, dict) else None
    if not isinstance(only_ready, bool):
        raise InputError('the body has no "ready" that is true or false', 'send {"ready": true}, or no body')
    return json_response(await describe_index(models_of(request), only_ready=only_ready))


async def model_config(request: Request) -> Response:
    """Return the model's tensors and limits, and the execution of the variant that serves."""
    return json_response(describe_config(admission_of(request)))


async def model_statistics(request: Request) -> Response:
    """Return the counts and times of a model, or of all, since the start."""
    admissions = (admission_of(request),) if "model" in request.path_params else models_of(request).versions
    return json_response({"model_stats": await describe_statistics(admissions)})


routes = [
    Route("/v2/repository/index", index, methods=["GET", "POST"]),
    Route("/v2/models/stats", model_statistics),
    *(
        Route(f"/v2/models/{{model}}{version}{path}", endpoint)
        for version in VERSIONS
        for path, endpoint in (("/config", model_config), ("/stats", model_statistics))
    ),
]
