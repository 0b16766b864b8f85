"""What Triton adds to the Open Inference Protocol over HTTP: a model's configuration and statistics, and the index."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..models.description import describe_config, describe_index
from ..models.statistics import describe_statistics
from .requests import admission_of, models_of
from .responses import json_response


async def index(request: Request) -> Response:
    """List the versions that are loaded, and those that the model repository has beside them."""
    return json_response(await describe_index(models_of(request)))


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
        for version in ("", "/versions/{version}")
        for path, endpoint in (("/config", model_config), ("/stats", model_statistics))
    ),
]
