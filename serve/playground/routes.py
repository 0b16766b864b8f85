"""`GET /` is the page, `GET /info` what it must know of the model."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from export.manifest import Manifest
from serve.predictor import Predictor
from serve.tasks import task_class

PAGE = Path(__file__).with_name("page.html").read_bytes()


def policy(page: bytes) -> str:
    """Write the Content-Security-Policy under which only the page's own script runs, and asks only this service."""
    script = page.partition(b"<script>")[2].partition(b"</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


HEADERS = {
    "Content-Security-Policy": policy(PAGE),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


async def page(_: Request) -> Response:
    """Answer with the page; it holds nothing that a key would have to protect."""
    return Response(PAGE, headers=HEADERS, media_type="text/html")


async def info(request: Request) -> Response:
    """Describe the model as far as the page needs it."""
    predictor: Predictor = request.app.state.desk.predictor
    return Response(orjson.dumps(describe(predictor.manifest, predictor.describe())), media_type="application/json")


def describe(manifest: Manifest, model: dict[str, str]) -> dict[str, Any]:
    """Return the model's names, its task and labels, and what a request may ask for."""
    generation = manifest.processing.generation
    return {
        **model,
        "task": manifest.task,
        "labels": manifest.labels,
        "accepts_pairs": manifest.processing.accepts_pairs,
        "max_length": manifest.processing.max_length,
        "max_new_tokens": generation.max_new_tokens if generation else None,
        "parameters": sorted(task_class(manifest.task).parameters.model_fields),
    }


routes = [Route("/", page, methods=["GET"]), Route("/info", info, methods=["GET"])]
