"""What a refusal costs: an application refuses every request."""

import math
from pathlib import Path

import orjson

from tuneport.schema.loading import load_golden
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.admission_policy import RefusalPacer
from tuneport.stages.serve.http.app import create_app, create_refusal
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.settings import Settings

from ..endpoint.http_cost import discarded_log, http_cpu_us
from ..load.plan import REFUSED


def refusal_cpu_us(artifact: Path, variant: str | None) -> float:
    """Return the mean processor time of one refusal in µs: reading the request, deciding, responding, record and log.

    All requests have the artifact's first golden input. Raises TuneportError for another answer.
    """
    settings = Settings(variant=variant, max_concurrent_requests=1)
    inference = Inference.open(artifact, settings)
    admission = AdmissionController(inference, settings)
    models = ModelRegistry(admission)
    admission.worker.refusal_pacer = RefusalPacer(per_s=math.inf)  # holds none back
    body = orjson.dumps({"inputs": load_golden(artifact)[0].input})
    try:
        with admission.acquire_slot(), discarded_log():
            return http_cpu_us(create_app(models), body, REFUSED, create_refusal(models))
    finally:
        inference.close()
