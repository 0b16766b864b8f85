"""The paths that more than one module knows, and what a path means: its operation, and the model that it names."""

VERSIONS = ("", "/versions/{version}")
"""What may follow the name of a model."""
PREDICT_PATHS = ("/predict", "/invocations")
"""Two names of one route: managed platforms (SageMaker, MLflow) call the second."""
PING = "/ping"
"""The health check of the same platforms. Vertex AI, whose bodies have `instances`, calls any routes it is given."""
TEI_PREDICT = "/tei/predict"
RERANK_PATHS = ("/rerank", "/tei/rerank")
TEI_PATHS = (TEI_PREDICT, *RERANK_PATHS)
"""Routes of Text Embeddings Inference."""
PUBLIC_PATHS = ("/", PING, "/v2/health/live", "/v2/health/ready")
"""Served without a key and whatever the load: the playground's page, and health checks."""
INFER_PATHS = ("/infer", "/generate", "/generate_stream")
"""Ends of the paths below /v2 that the model answers."""


def named_model(path: str) -> tuple[str, str | None] | None:
    """Return the model and the version that a path names: `/v2/models/M/versions/V/…`, or `/models/M/…`."""
    if not path.startswith(("/v2/models/", "/models/")) or path == "/v2/models/stats":
        return None
    name, *rest = path.partition("/models/")[2].split("/")
    version = rest[1] if len(rest) > 1 and rest[0] == "versions" else None
    return name, version or None


def operation_of(path: str) -> str | None:
    """Return the operation of a path for the record, one of a few words; None for a public path."""
    if path in PREDICT_PATHS or path == TEI_PREDICT:
        return "predict"
    if path in PUBLIC_PATHS:
        return None
    if path in RERANK_PATHS:
        return "rerank"
    if path.startswith("/models/"):
        return "predict" if path.endswith("/predict") else "other"
    if path.startswith("/v2"):
        return "infer" if path.endswith(INFER_PATHS) else "v2"
    return "openai" if path.startswith("/v1/") and path.endswith("completions") else "other"
