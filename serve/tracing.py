"""Export a span for each request, as OpenTelemetry's own variables configure it; without them nothing is imported.

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) exports over HTTP; `OTEL_TRACES_EXPORTER=console` prints, and
`none` exports nothing, like `OTEL_SDK_DISABLED=true`. Spans continue the trace of a `traceparent` header. The service
serves without traces where an exporter cannot be used.
"""

import atexit
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from . import logs

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SDK_DISABLED = "OTEL_SDK_DISABLED"
USERS_SDK_DISABLED = "TUNEPORT_USERS_OTEL_SDK_DISABLED"
"""Variable with the user's own value of `OTEL_SDK_DISABLED`; the supervisor sets it."""
FLUSH_MS = 1000
"""Time at the end of the process for the spans that were not sent yet."""
Record = Callable[[str, float, dict[str, Any], str | None], None]
"""Called with a span's name, its start as of `time.perf_counter`, its attributes and the caller's `traceparent`."""


def keep_bentoml_from_tracing() -> None:
    """Disable the SDK for BentoML, which would make spans of its own for each request, and keep the user's value."""
    os.environ.setdefault(USERS_SDK_DISABLED, os.environ.get(SDK_DISABLED, ""))
    os.environ[SDK_DISABLED] = "true"


def recorder(service_name: str) -> Record | None:
    """Return a function that records a span that ends now; None where no exporter is configured, or none works."""
    is_disabled = os.environ.get(USERS_SDK_DISABLED, os.environ.get(SDK_DISABLED, "")).strip().lower() == "true"
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    has_endpoint = any(os.environ.get(name) for name in ENDPOINTS)
    if is_disabled or exporter == "none" or not (has_endpoint or exporter == "console"):
        return None
    try:
        return _recorder(service_name, is_console=exporter == "console")
    except Exception as error:  # a missing package, or a variable that the SDK refuses
        logs.log("no traces", logging.WARNING, reason=f"{type(error).__name__}: {str(error)[:200]}")
        return None


def _recorder(service_name: str, *, is_console: bool) -> Record:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    name = os.environ.get("OTEL_SERVICE_NAME", service_name)
    provider = _provider(Resource.create({"service.name": name}))
    processor = BatchSpanProcessor(_exporter(is_console=is_console))
    provider.add_span_processor(processor)
    # The provider's own way of ending waits half a minute for a collector that does not answer.
    atexit.register(processor.force_flush, FLUSH_MS)
    tracer, propagator = provider.get_tracer("tuneport"), TraceContextTextMapPropagator()

    def record(operation: str, began: float, attributes: dict[str, Any], traceparent: str | None) -> None:
        end = time.time_ns()
        start = end - int((time.perf_counter() - began) * 1e9)
        context = propagator.extract({"traceparent": traceparent}) if traceparent else None
        tracer.start_span(operation, context, SpanKind.SERVER, attributes, start_time=start).end(end)

    return record


def _provider(resource: Any) -> Any:
    """Return a provider whose spans are exported, though the SDK is disabled for BentoML."""
    from opentelemetry.sdk.trace import TracerProvider

    disabled = os.environ.pop(SDK_DISABLED, None)
    try:
        return TracerProvider(resource=resource, shutdown_on_exit=False)
    finally:
        if disabled is not None:
            os.environ[SDK_DISABLED] = disabled


def _exporter(*, is_console: bool) -> Any:
    if is_console:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stdout)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()
