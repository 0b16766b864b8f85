"""The playground: its page, what it needs to know of the model, the model's card, and answers of other variants."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.errors import NotFound
from tuneport.schema.artifact import CARD, Manifest
from tuneport.tasks import task_spec

from ...tensors import fields_of
from ..predict_body import parse_body
from ..requests import admission_of, frame_of, read_body, unless_disconnected
from ..responses import json_response
from .examples import golden_examples

SCRIPTS = ("request.js", "predictions.js", "snippets.js", "card.js", "start.js")


def assemble(folder: Path = Path(__file__).parent) -> bytes:
    """Return the page with style sheet and scripts in it: one response, whose policy names the script by its hash."""
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    page = (folder / "page.html").read_text(encoding="utf-8")
    return page.replace("/* style.css */\n", style).replace("/* scripts */\n", f'"use strict";\n{script}').encode()


PAGE = assemble()


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
    predictor = admission.inference.predictor
    described = describe(admission.manifest, admission.model)
    more = {
        "has_chat_template": predictor.task.has_chat_template,
        "examples": golden_examples(predictor.folder, fields_of(admission.manifest)),
        "variants": admission.other_variants.names,
    }
    return json_response({**described, **more})


async def card(request: Request) -> Response:
    """Return the artifact's model card as Markdown."""
    path = admission_of(request).inference.predictor.folder / CARD
    if not path.is_file():
        raise NotFound("the artifact has no model card", f"restore {CARD} in its folder", code="no_card")
    return Response(path.read_bytes(), media_type="text/markdown")


async def predict_with_variant(request: Request) -> Response:
    """Answer a request of `/predict` with another variant of the artifact."""
    admission, name = admission_of(request), request.path_params["variant"]
    body = await read_body(request)
    inputs, parameters = await admission.inference.executors.run_if_large(len(body), parse_body, body)
    frame_of(request).inputs = inputs
    admission.check_size(inputs)
    others = admission.other_variants
    results = await unless_disconnected(request, others.infer(name, inputs, parameters))
    return json_response({"predictions": [each.prediction for each in results], "model": others.describe(name)})


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


routes = [
    *(Route(path, each, methods=["GET"]) for path, each in (("/", page), ("/info", info), ("/card", card))),
    Route("/variants/{variant}/predict", predict_with_variant, methods=["POST"]),
]
