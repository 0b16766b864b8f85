"""Torch's own dynamic quantization: what a user tries first to make a model faster on a CPU."""

import warnings
from typing import Any

import torch

from tuneport.errors import EngineError


def quantize_linear(model: Any) -> Any:
    """Return a model whose linear layers have int8 weights and quantize their inputs as they run.

    Raises EngineError if torch cannot quantize it.
    """
    # torch 2.13 deprecates its own quantization in favour of torchao, which has none for Linux CPUs without a compiler.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            quantize: Any = torch.ao.quantization.quantize_dynamic
            return quantize(model, {torch.nn.Linear}, dtype=torch.qint8)
        except Exception as error:  # of the quantization, of any kind
            raise EngineError(
                f"torch cannot quantize it ({str(error)[:200]})", "time it in other precisions"
            ) from error
