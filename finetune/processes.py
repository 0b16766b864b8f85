"""The processes that train together, as torchrun or accelerate started them."""

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """Return the state of this process among the others.

    Without `cpu` accelerate would not see, on a host without a GPU, that there are several.
    """
    return PartialState(cpu=not torch.cuda.is_available())
