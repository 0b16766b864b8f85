"""Averages several runs of one task: their weights, and their predictions as an ensemble.

Averaging the weights of runs from one base model is the "model soup" of Wortsman et al. (2022).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.folders import check_out, new_folder
from tuneport.modeling.identity import hash_checkpoint
from tuneport.schema.base import Frozen
from tuneport.schema.loading import load_run
from tuneport.schema.run import CHECKPOINT, RUN, Run
from tuneport.tasks import all_tasks, task_spec

from .config import FinetuneConfig
from .evaluate import Evaluation
from .resume import TRAINER, check_outside
from .setup import Prepared, evaluate, make_trainer, predict, prepare, score
from .tasks.base import first_output
from .train import EVALUATION, write_json

WEIGHTS = "model.safetensors"
AVERAGES = "averages.json"
TRAINING_ONLY: dict[str, Any] = {
    "report_to": (), "strategy": "full", "augment_swap": 0, "augment_delete": 0, "augment_synonyms": 0,
    "rehearsal_data": None, "pseudo_label_data": None, "back_translation": None, "adversarial_epsilon": 0,
}  # fmt: skip
"""Settings that have no effect on an evaluation, at values with which nothing is done."""


class Averages(Frozen):
    """Metrics on every split: of each run, of the ensemble of their predictions, and of the averaged weights."""

    runs: dict[str, dict[str, dict[str, float]]]
    """Run → split → metric → value."""
    ensemble: dict[str, dict[str, float]]
    """Split → metric → value."""
    weights: dict[str, dict[str, float]]
    """Split → metric → value."""


def average(runs: Sequence[Path], out: Path, *, overwrite: bool = False, allow_repeated_runs: bool = False) -> Averages:
    """Average the weights of runs into a new run folder, and compare it with the runs and their ensemble.

    The folder can be exported like any run; averages.json has the comparison. A run that is named several times counts
    as often, which `allow_repeated_runs` must say is meant. Raises CheckpointError for runs that differ in task,
    labels, data or the shapes of their weights.
    """
    if len(runs) < 2:
        raise TuneportError("one run has no average", "give at least two run folders")
    resolved = [path.resolve() for path in runs]
    if repeated := [str(path) for path, place in zip(runs, resolved, strict=True) if resolved.count(place) > 1]:
        problem = f"{' and '.join(repeated)} are one run, which would count {len(repeated)} times"
        if not allow_repeated_runs:
            raise TuneportError(problem, "name each run once, or give --allow-repeated-runs")
    check_outside(out, runs)
    check_out(out, marker=RUN, overwrite=overwrite)
    records = [load_run(path) for path in runs]
    _check_compatible(runs, records)
    try:
        prepared = prepare(_evaluation_settings(records[0]))
    except DataError as error:
        raise DataError(f"the data of {runs[0]} cannot be read: {error.problem}", "restore it") from error
    if prepared.data.source.fingerprint != records[0].data.fingerprint:
        raise CheckpointError(f"{records[0].data.source} has changed since {runs[0]}", "restore the data")
    with new_folder(out, marker=RUN, overwrite=overwrite) as folder:
        shutil.copytree(runs[0] / CHECKPOINT, folder / CHECKPOINT)
        _average_weights([path / CHECKPOINT / WEIGHTS for path in runs], folder / CHECKPOINT / WEIGHTS)
        splits = [name for name in prepared.features if name != "train"]
        ensemble = _evaluate_ensemble(prepared, runs, splits, folder)
        evaluations = _evaluate_checkpoint(prepared, folder / CHECKPOINT, splits, folder)
        averages = Averages(
            runs={str(path): record.metrics for path, record in zip(runs, records, strict=True)},
            ensemble={name: evaluation.metrics for name, evaluation in ensemble.items()},
            weights={name: evaluation.metrics for name, evaluation in evaluations.items()},
        )
        shutil.rmtree(folder / TRAINER, ignore_errors=True)
        _write(folder, runs, records, averages, evaluations)
    return averages


def _evaluation_settings(run: Run) -> FinetuneConfig:
    """Return the settings of a run, without those that concern only training."""
    known = {name: value for name, value in run.config.items() if name in FinetuneConfig.model_fields}
    return FinetuneConfig.model_validate({**known, **TRAINING_ONLY})


def _check_compatible(runs: Sequence[Path], records: Sequence[Run]) -> None:
    """Raise a TuneportError for runs that differ, or whose weights or outputs have no meaningful average."""
    first = records[0]
    for path, record in zip(runs[1:], records[1:], strict=True):
        for field in ("task", "labels"):
            if getattr(record, field) != getattr(first, field):
                raise CheckpointError(f"{path} and {runs[0]} differ in {field}", "average runs of one task")
        if record.data.fingerprint != first.data.fingerprint:
            raise CheckpointError(f"{path} and {runs[0]} differ in their data", "average runs on the same data")
    if not task_spec(first.task).has_averageable_outputs:
        tasks = ", ".join(name for name, spec in all_tasks().items() if spec.has_averageable_outputs)
        raise TuneportError(f"{first.task} has no ensemble of outputs to compare with", f"average runs of {tasks}")
    if apart := {record.config.get("strategy") for record in records} & {"prefix", "adapter"}:
        raise CheckpointError(f"what {apart.pop()} trains is not in the weights", "average runs of other strategies")


def _average_weights(files: Sequence[Path], out: Path) -> None:
    """Write the mean of every tensor; integer tensors, which are buffers, are those of the first file."""
    total = _load_weights(files[0])
    shapes = {name: tensor.shape for name, tensor in total.items()}
    for file in files[1:]:
        tensors = _load_weights(file)
        if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
            raise CheckpointError(f"{file} has other weights than {files[0]}", "average runs of one base model")
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                total[name] = total[name] + tensor
    mean = {name: tensor / len(files) if tensor.is_floating_point() else tensor for name, tensor in total.items()}
    save_file(mean, out, metadata={"format": "pt"})


def _load_weights(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read ({error})", "restore it, or average other runs") from error


def _evaluate_ensemble(
    prepared: Prepared, runs: Sequence[Path], splits: list[str], folder: Path
) -> dict[str, Evaluation]:
    """Score the mean of the runs' outputs: of probabilities where an input has one label, else of raw outputs."""
    total: dict[str, Any] = dict.fromkeys(splits, 0.0)
    targets: dict[str, Any] = {}
    for path in runs:
        trainer = make_trainer(prepared, folder, prepared.task.load_model(str(path / CHECKPOINT)))
        # Not the task's `reduce_logits`: what it returns, such as indices of labels, has no mean.
        trainer.preprocess_logits_for_metrics = lambda logits, labels: first_output(logits)
        for name in splits:
            outputs, targets[name], _ = predict(trainer, prepared.features[name])
            total[name] = total[name] + (_softmax(outputs) if prepared.has_one_label else outputs) / len(runs)
    if prepared.has_one_label:
        total = {name: np.log(mean) for name, mean in total.items()}
    return {name: score(prepared, name, total[name], targets[name]) for name in splits}


def _softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Compute probabilities (rows, labels), at least 1e-300, so that their logarithms are finite."""
    powers = np.exp(np.asarray(logits, np.float64) - logits.max(-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = np.maximum(powers / powers.sum(-1, keepdims=True), 1e-300)
    return probabilities


def _evaluate_checkpoint(
    prepared: Prepared, checkpoint: Path, splits: list[str], folder: Path
) -> dict[str, Evaluation]:
    trainer = make_trainer(prepared, folder, prepared.task.load_model(str(checkpoint)))
    return {name: evaluate(trainer, prepared, name) for name in splits}


def _write(
    folder: Path,
    runs: Sequence[Path],
    records: Sequence[Run],
    averages: Averages,
    evaluations: dict[str, Evaluation],
) -> None:
    """Write evaluation.json, averages.json and run.json, which names the averaged runs in its settings."""
    details = {name: evaluation.model_dump(mode="json") for name, evaluation in evaluations.items()}
    write_json(folder / EVALUATION, details)
    write_json(folder / AVERAGES, averages.model_dump(mode="json"))
    train_seconds = sum(record.train_seconds for record in records)
    changes = {"metrics": averages.weights, "train_seconds": train_seconds}
    record = records[0].model_copy(update={**changes, "checkpoint_sha256": hash_checkpoint(folder / CHECKPOINT)})
    config = {**records[0].config, "averaged_runs": [str(path.resolve()) for path in runs]}
    write_json(folder / RUN, {**record.model_dump(mode="json"), "config": config})
