"""Several runs of one task made into one: their weights averaged, and their predictions as an ensemble.

Averaging the weights of runs from the same base model is the "model soup" of Wortsman et al. (2022).
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from export.files import CheckpointError, TuneportError, check_out, new_folder
from export.machine import Frozen
from export.manifest import CHECKPOINT, RUN, Run
from finetune.config import FinetuneConfig
from finetune.evaluate import Evaluation
from finetune.session import Prepared, evaluate, make_trainer, outputs_of, prepare, score
from finetune.tasks import first_output
from finetune.train import EVALUATION, write_json
from finetune.unfinished import check_place

WEIGHTS = "model.safetensors"
AVERAGED = ("text-classification", "regression", "token-classification")
"""Tasks whose outputs have a mean: those that write, or choose among windows, have none."""


class Averages(Frozen):
    """Metrics on every split: of each run, of the ensemble of their predictions, and of the averaged weights."""

    runs: dict[str, dict[str, dict[str, float]]]
    """Run → split → metric → value."""
    ensemble: dict[str, dict[str, float]]
    weights: dict[str, dict[str, float]]


def average(runs: Sequence[Path], out: Path, *, overwrite: bool = False) -> Averages:
    """Average the weights of runs into a new run folder and evaluate it beside the runs and their ensemble.

    The folder can be exported like any run; averages.json holds the comparison. Raises CheckpointError for runs
    that differ in task, labels, data or the shapes of their weights.
    """
    if len(runs) < 2:
        raise TuneportError("one run has no average", "give at least two run folders")
    check_place(out)
    check_out(out, marker=RUN, overwrite=overwrite)
    records = [read_run(path) for path in runs]
    _check_alike(runs, records)
    if records[0].task not in AVERAGED:
        problem = f"{records[0].task} has no ensemble of outputs to compare with"
        raise TuneportError(problem, f"average runs of {', '.join(AVERAGED)}")
    if apart := {record.config.get("strategy") for record in records} & {"prefix", "adapter"}:
        raise CheckpointError(f"what {apart.pop()} trains is not in the weights", "average runs of other strategies")
    config = _settings(records[0])
    prepared = prepare(config)
    if prepared.data.source.fingerprint != records[0].data.fingerprint:
        raise CheckpointError(f"{records[0].data.source} has changed since {runs[0]}", "restore the data")
    with new_folder(out, marker=RUN, overwrite=overwrite) as folder:
        shutil.copytree(runs[0] / CHECKPOINT, folder / CHECKPOINT)
        _average_weights([path / CHECKPOINT / WEIGHTS for path in runs], folder / CHECKPOINT / WEIGHTS)
        splits = [name for name in prepared.features if name != "train"]
        ensemble = _ensemble(prepared, runs, splits, folder)
        averaged = _evaluate(prepared, folder / CHECKPOINT, splits, folder)
        result = Averages(
            runs={str(path): record.metrics for path, record in zip(runs, records, strict=True)},
            ensemble={name: each.metrics for name, each in ensemble.items()},
            weights={name: each.metrics for name, each in averaged.items()},
        )
        shutil.rmtree(folder / "trainer", ignore_errors=True)
        write_json(folder / EVALUATION, {name: each.model_dump(mode="json") for name, each in averaged.items()})
        write_json(folder / "averages.json", result.model_dump(mode="json"))
        of = {"averaged_runs": [str(path.resolve()) for path in runs]}
        record = records[0].model_copy(
            update={"metrics": result.weights, "train_seconds": sum(each.train_seconds for each in records)}
        )
        write_json(folder / RUN, {**record.model_dump(mode="json"), "config": {**records[0].config, **of}})
    return result


def read_run(path: Path) -> Run:
    """Read a finished run's record."""
    try:
        return Run.model_validate(json.loads((path / RUN).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a finished run", "give folders that `tuneport finetune` wrote") from error


def _settings(run: Run) -> FinetuneConfig:
    """Return the settings to evaluate with: the run's, without what concerns training alone."""
    known = {name: value for name, value in run.config.items() if name in FinetuneConfig.model_fields}
    plain = {"report_to": [], "strategy": "full", "augment_swap": 0, "augment_delete": 0, "augment_synonyms": 0}
    more = {"rehearsal_data": None, "pseudo_label_data": None, "back_translation": None}
    return FinetuneConfig.model_validate({**known, **plain, **more, "adversarial_epsilon": 0})


def _check_alike(runs: Sequence[Path], records: Sequence[Run]) -> None:
    first = records[0]
    for path, record in zip(runs[1:], records[1:], strict=True):
        for what in ("task", "labels"):
            if getattr(record, what) != getattr(first, what):
                raise CheckpointError(f"{path} and {runs[0]} differ in {what}", "average runs of one task")
        if record.data.fingerprint != first.data.fingerprint:
            raise CheckpointError(f"{path} and {runs[0]} differ in their data", "average runs on the same data")


def _average_weights(files: Sequence[Path], file: Path) -> None:
    """Write the mean of every tensor; whole numbers, which are buffers, come from the first file."""
    total = load_file(files[0])
    shapes = {name: tensor.shape for name, tensor in total.items()}
    for other in files[1:]:
        more = load_file(other)
        if {name: tensor.shape for name, tensor in more.items()} != shapes:
            raise CheckpointError(f"{other} has other weights than {files[0]}", "average runs of one base model")
        for name, tensor in more.items():
            if tensor.is_floating_point():
                total[name] = total[name] + tensor
    mean = {name: tensor / len(files) if tensor.is_floating_point() else tensor for name, tensor in total.items()}
    save_file(mean, file, metadata={"format": "pt"})


def _ensemble(prepared: Prepared, runs: Sequence[Path], splits: list[str], folder: Path) -> dict[str, Evaluation]:
    """Score the mean of the runs' outputs: of probabilities for single labels, of raw outputs otherwise."""
    one_label = getattr(prepared.task, "multi_label", None) is False
    total: dict[str, Any] = dict.fromkeys(splits, 0.0)
    targets: dict[str, Any] = {}
    for path in runs:
        trainer = make_trainer(prepared, folder, prepared.task.load_model(str(path / CHECKPOINT)))
        trainer.preprocess_logits_for_metrics = first_output  # what a task reduces them to has no mean
        for name in splits:
            outputs, targets[name], _ = outputs_of(trainer, prepared.features[name])
            total[name] = total[name] + (_softmax(outputs) if one_label else outputs) / len(runs)
    return {
        name: score(prepared, name, np.log(total[name]) if one_label else total[name], targets[name]) for name in splits
    }


def _softmax(logits: Any) -> Any:
    """Probabilities (rows, labels), float64 and above 0, so that their logarithm is finite."""
    powers = np.exp(np.asarray(logits, np.float64) - logits.max(-1, keepdims=True))
    return np.maximum(powers / powers.sum(-1, keepdims=True), 1e-300)


def _evaluate(prepared: Prepared, checkpoint: Path, splits: list[str], folder: Path) -> dict[str, Evaluation]:
    trainer = make_trainer(prepared, folder, prepared.task.load_model(str(checkpoint)))
    return {name: evaluate(trainer, prepared, name) for name in splits}
