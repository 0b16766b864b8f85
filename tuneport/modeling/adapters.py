"""Bottleneck adapters of a checkpoint, loaded with the `adapters` package."""

from pathlib import Path

from transformers import PreTrainedModel

from tuneport.errors import CheckpointError

NAME = "adapter"
"""The adapter's name in the model, and its folder within the checkpoint."""


def load_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Activate the adapter in a checkpoint's folder, if there is one, and return the model.

    Raises CheckpointError if the `adapters` package is not installed.
    """
    if not (folder / NAME).is_dir():
        return model
    try:
        import adapters
    except ModuleNotFoundError as error:
        problem = f"{folder / NAME} needs the package adapters, which is not installed"
        raise CheckpointError(problem, "pip install 'tuneport[adapters]'") from error
    adapters.init(model)
    model.load_adapter(str(folder / NAME), set_active=True)
    return model
