"""A span for each request, sent where OpenTelemetry's own variables say; nothing is imported unless they do.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) sends over HTTP and needs opentelemetry-exporter-otlp-proto-http;
`OTEL_TRACES_EXPORTER=console` prints. Spans continue the trace of a `traceparent` header.
"""

import os
import time
from collections.abc import Callable
from typing import Any

from export.files import TuneportError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
Record = Callable[[str, float, dict[str, Any], str | None], None]
"""Takes a span's name, its start as of `time.perf_counter`, its attributes and the caller's `traceparent`."""


def recorder(model: dict[str, str]) -> Record | None:
    """Return what records a span that ends now; None where no exporter is configured."""
    exporter = _exporter()
    if exporter is None:
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # Set to keep BentoML's own spans out of the request path; these here were asked for.
    os.environ.pop("OTEL_SDK_DISABLED", None)
    name = os.environ.get("OTEL_SERVICE_NAME", model["name"])
    about = {f"model.{key}": value for key, value in model.items()}
    provider = TracerProvider(resource=Resource.create({"service.name": name, **about}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer, propagator = provider.get_tracer("tuneport"), TraceContextTextMapPropagator()

    def record(operation: str, began: float, attributes: dict[str, Any], traceparent: str | None) -> None:
        end = time.time_ns()
        start = end - int((time.perf_counter() - began) * 1e9)
        context = propagator.extract({"traceparent": traceparent}) if traceparent else None
        tracer.start_span(operation, context, SpanKind.SERVER, attributes, start_time=start).end(end)

    return record


def _exporter() -> Any:
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise TuneportError(
            "an OTLP endpoint is set and its exporter is not installed",
            "pip install opentelemetry-exporter-otlp-proto-http, or unset OTEL_EXPORTER_OTLP_ENDPOINT",
        ) from error
    return OTLPSpanExporter()
