"""Set what libraries read of the environment when they are imported: nothing is sent to their makers.

A value that the user has set stays, but for one that would keep a library from being imported.
"""

import os
import sys

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime
    "BENTOML_DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and what sends through it
    "NNCF_CI": "1",  # its only switch; it has no other effect
}

SENDER = "openvino_telemetry"
"""The package with which OpenVINO sends an event whenever it is imported. It has no switch but a file in the user's
home; without the package OpenVINO sends nothing."""

PROPAGATORS = "OTEL_PROPAGATORS"


def switch_off() -> None:
    """Set the variables of this process and of those that it starts."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault(SENDER, None)  # type: ignore[arg-type]  # an import of it raises ImportError
    drop_unknown_propagators()


def drop_unknown_propagators() -> None:
    """Leave in OTEL_PROPAGATORS those that are installed: OpenTelemetry, which BentoML imports, fails at any other.

    Platforms set the variable for all containers.
    """
    if PROPAGATORS not in os.environ:
        return
    from importlib.metadata import entry_points  # its imports are most of the time that `import tuneport` takes

    known = {each.name for each in entry_points(group="opentelemetry_propagator")}
    asked = [name.strip() for name in os.environ[PROPAGATORS].split(",")]
    os.environ[PROPAGATORS] = ",".join(name for name in asked if name in known) or "tracecontext"
