"""Switch off what libraries send to their makers, before they are imported. A value that the user has set stays."""

import os

OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime
    "BENTOML_DO_NOT_TRACK": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, and what sends through it
    "NNCF_CI": "1",  # its only switch; it has no other effect
}


def switch_off() -> None:
    """Set the variables of this process and of those that it starts."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
