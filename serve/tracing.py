"""Export a span for each request, as OpenTelemetry's own variables configure it; without them nothing is imported.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) exports over HTTP and needs the package
opentelemetry-exporter-otlp-proto-http; `OTEL_TRACES_EXPORTER=console` prints. Spans continue the trace of a
`traceparent` header.
"""

import os
import time
from collections.abc import Callable
from typing import Any

from tuneport.errors import TuneportError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
Record = Callable[[str, float, dict[str, Any], str | None], None]
"""Called with a span's name, its start as of `time.perf_counter`, its attributes and the caller's `traceparent`."""


def recorder(model: dict[str, str]) -> Record | None:
    """Return a function that records a span that ends now; None where no exporter is configured."""
    exporter = _exporter()
    if exporter is None:
        return None
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # It is set to keep BentoML's own spans out of the request path, and would disable these as well.
    os.environ.pop("OTEL_SDK_DISABLED", None)
    name = os.environ.get("OTEL_SERVICE_NAME", model["name"])
    attributes = {f"model.{key}": value for key, value in model.items()}
    provider = TracerProvider(resource=Resource.create({"service.name": name, **attributes}))
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
