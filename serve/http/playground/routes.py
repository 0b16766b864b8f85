"""The playground: `GET /` returns the page, `GET /info` what the page needs to know of the model."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

from ...tensors import fields_of
from ..requests import admission_of
from ..responses import json_response

PAGE = Path(__file__).with_name("page.html").read_bytes()


def policy(page: bytes) -> str:
    """Return a Content-Security-Policy that lets only the page's own script run, and connect only to this service."""
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
    """Return the page, which holds nothing that needs a key."""
    return Response(PAGE, headers=HEADERS, media_type="text/html")


async def info(request: Request) -> Response:
    """Describe the model as far as the page needs it."""
    admission = admission_of(request)
    return json_response(describe(admission.manifest, admission.model))


def describe(manifest: Manifest, model: dict[str, str]) -> dict[str, Any]:
    """Return the model's names, its task, input fields and labels, and the parameters that a request may have."""
    spec, generation = task_spec(manifest.task), manifest.processing.generation
    return {
        **model,
        "task": manifest.task,
        "fields": fields_of(manifest) if spec.input_fields else [],
        "streams": spec.streams,
        "is_chat": spec.is_chat,
        "labels": manifest.labels,
        "max_new_tokens": generation.max_new_tokens if generation else None,
        "parameters": sorted(spec.task_class("runtime").parameters.model_fields),
    }


routes = [Route("/", page, methods=["GET"]), Route("/info", info, methods=["GET"])]
