"""`GET /evidence`."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..evidence import describe_evidence
from .requests import admission_of
from .responses import json_response


async def evidence(request: Request) -> Response:
    """Return the serving variant's proof, hashes, provenance and the state of its signature."""
    return json_response(describe_evidence(admission_of(request).inference))


routes = [Route("/evidence", evidence)]
