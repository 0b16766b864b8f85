"""Give memory back between the steps of an export, each of which needs much for a short time."""

import gc

from tuneport.memory import trim_memory


def release_memory() -> None:
    """Collect what nothing refers to, and return freed memory to the system."""
    gc.collect()
    trim_memory()
