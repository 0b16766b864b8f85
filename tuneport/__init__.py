"""Fine-tune a transformer, export it with proof, predict with the fastest variant that passed.

    import tuneport

    tuneport.finetune(task="text-classification", model="minilm-l6", data="reviews/", out="runs/reviews")
    tuneport.export("runs/reviews", out="artifacts/reviews")
    tuneport.load("artifacts/reviews").predict(["The best film of the year."])
    tuneport.Client("http://127.0.0.1:3000").predict(["The best film of the year."])    # from a service

Importing this module is quick: each function imports what it needs when it is called.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from tuneport import telemetry
from tuneport.version import VERSION

telemetry.switch_off()

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from tuneport.client import AsyncClient, Client
    from tuneport.runtime.predictor import Predictor
    from tuneport.schema.artifact import Manifest
    from tuneport.schema.run import Run

__version__ = VERSION
__all__ = ["AsyncClient", "Client", "export", "finetune", "load"]


def __getattr__(name: str) -> Any:
    """Import the clients when they are first used."""
    if name in ("AsyncClient", "Client"):
        import tuneport.client

        return getattr(tuneport.client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def finetune(
    *,
    task: str,
    model: str | os.PathLike[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    overwrite: bool = False,
    resume: bool = False,
    **settings: Any,
) -> Run:
    """Fine-tune a model on labelled data and write the run folder `out`; returns the record of the run.

    `model` is a folder, a name on the hub, or `minilm-l6`, the embedded encoder. `data` is a folder with
    train/validation/test files, one file, or a name on the hub. `settings` are the fields of
    `tuneport.stages.finetune.config.FinetuneConfig`, such as `num_train_epochs=2` or `columns={"text": "review"}`;
    `tuneport finetune --help` lists them.

    `overwrite` replaces a finished run at `out`; `resume` continues an interrupted one. Warnings about the data are
    Python warnings. Raises TuneportError for settings, data or a model that cannot be used, and for training that
    diverges.
    """
    from pathlib import Path

    from tuneport.extras import require_extras

    require_extras("fine-tuning", "train")
    from tuneport.stages.finetune.config import load_config
    from tuneport.stages.finetune.train import finetune as train

    config = load_config(flags={"task": task, "model": str(model), "data": str(data), **settings})
    return train(
        config, Path(out), overwrite=overwrite, resume=resume, warn=lambda text: warnings.warn(text, stacklevel=2)
    )


def export(
    checkpoint: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[str], object] = lambda step: None,
    **settings: Any,
) -> Manifest:
    """Convert a checkpoint, prove every variant against torch, and write the artifact `out`; returns its manifest.

    `checkpoint` is a run folder, or a folder that transformers saved. `data` is labelled data for the gate, by default
    the validation split of the run; with `unlabelled=True` it is inputs alone. `settings` are the fields of
    `tuneport.stages.export.config.ExportConfig`, such as `variants=("fp32", "int8")` or `objective="latency"`;
    `tuneport export --help` lists them. `progress` is called with the name of each step, for example `print`.

    Nothing is left at `out` unless the fp32 variant answers as torch does. Raises GateError if it does not, and
    TuneportError for a checkpoint, data or settings that cannot be used.
    """
    from pathlib import Path

    from pydantic import ValidationError

    from tuneport.extras import require_extras
    from tuneport.schema.base import settings_error

    require_extras("the export", "export")
    from tuneport.stages.export.config import ExportConfig
    from tuneport.stages.export.pipeline import export as run_export

    source = None if data is None else str(data)
    try:
        config = ExportConfig(checkpoint=Path(checkpoint), data=source, **settings)
    except ValidationError as error:
        raise settings_error(error, ExportConfig, "tuneport export --help") from error
    return run_export(config, Path(out), overwrite=overwrite, progress=progress)


def load(artifact: str | os.PathLike[str], variant: str | None = None) -> Predictor:
    """Open a variant of an artifact, by default the artifact's own, after proving it on this machine.

    `load(path).predict(inputs)` returns a prediction for each input, in order; inputs and predictions have the shapes
    of the service's `POST /predict`. Encoders need neither torch nor transformers.

    Raises ArtifactError for files that are missing or changed, EngineError for an engine that is not installed, and
    GateError for a variant that does not reproduce its golden cases.
    """
    from pathlib import Path

    from tuneport.runtime.predictor import Predictor

    return Predictor(Path(artifact), variant)
