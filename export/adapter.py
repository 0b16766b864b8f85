"""A bottleneck adapter that a run left beside its weights, put back into the model so that exporters know it."""

import functools
from pathlib import Path
from typing import Any

from finetune.bottleneck import load_adapter


def with_adapter(model: Any, folder: Path) -> Any:
    """Give a model the adapter that is in a checkpoint's folder; without one it stays as it is.

    It is no linear map, so it is exported as layers of its own, not merged.
    """
    before = type(model)
    model = load_adapter(model, folder)
    if type(model) is before:
        return model
    made = type(model)

    # The adapters package puts a class of its own in place, whose forward names no inputs; exporters go by them.
    @functools.wraps(before.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return made.forward(self, *args, **kwargs)

    model.__class__ = type(before.__name__, (made,), {"forward": forward, "__module__": before.__module__})
    return model
