"""How many floating-point operations a model needs for a token, and what share of the machine's ceiling it reaches."""

from collections.abc import Mapping
from typing import Any


def product_flops_per_token(model: Any) -> float:
    """Return the operations of the linear layers that see every token; attention's own products are not counted.

    Layers of heads and poolers, which see one token of an input, count as well: they are below a hundredth.
    """
    weights = [module.weight for module in model.modules() if type(module).__name__ in ("Linear", "Conv1D")]
    return 2.0 * sum(weight.numel() for weight in weights)


def product_share(tokens_per_s: float | None, flops_per_token: float, tflops: Mapping[str, float]) -> float | None:
    """Return the share of the highest measured rate that a throughput means; None where something is not known."""
    highest = max(tflops.values(), default=0.0)
    if tokens_per_s is None or not highest:
        return None
    return round(tokens_per_s * flops_per_token / (highest * 1e12), 4)
