"""Load a checkpoint's bottleneck adapter in a form that the ONNX exporter accepts."""

import functools
from pathlib import Path
from typing import Any

from tuneport.modeling.adapters import load_adapter


def with_adapter(model: Any, folder: Path) -> Any:
    """Activate the adapter in a checkpoint's folder, if there is one, and return the model.

    A bottleneck adapter is not linear, so it is exported as layers of its own instead of being merged.
    """
    original_class = type(model)
    model = load_adapter(model, folder)
    adapter_class = type(model)
    if adapter_class is original_class:
        return model

    # The adapters package replaces the class by one whose forward has no named inputs, which exporters need.
    @functools.wraps(original_class.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return adapter_class.forward(self, *args, **kwargs)

    attributes = {"forward": forward, "__module__": original_class.__module__}
    model.__class__ = type(original_class.__name__, (adapter_class,), attributes)
    return model
