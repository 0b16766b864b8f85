"""The routes that managed platforms call: `/invocations` and `/ping` (SageMaker, MLflow).

`/invocations` is `/predict` by another name. Vertex AI, whose bodies have `instances`, calls any routes it is given.
"""

from starlette.requests import Request
from starlette.responses import Response

from .requests import models_of


async def ping(request: Request) -> Response:
    """Answer whether the service accepts requests, with an empty body."""
    return Response(status_code=200 if models_of(request).ready else 503)
