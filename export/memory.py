"""Give memory back between the steps of an export, each of which needs much for a short time."""

import gc
import sys

from tuneport.memory import trim_memory


def release_memory() -> None:
    """Return freed memory to the system and to the GPU: torch keeps all that it has allocated on one."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim_memory()
