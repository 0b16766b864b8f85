"""Fine-tuning, top to bottom: settings → data → model → Trainer → metrics → a run folder.

runs/x/settings.json    the resolved settings; a folder with them but without run.json is an unfinished run
runs/x/trainer/         checkpoints to resume from; removed when the run is finished
runs/x/checkpoint/      the model and its tokenizer as transformers saves them, and adapter/ where there is one
runs/x/evaluation.json  metrics, scores of each class, confusion matrix and worst mistakes of each split
runs/x/report.html      the report; curves.png, confusion.png; logs/ for TensorBoard
runs/x/run.json         the record of the run; written last
"""

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset

from tuneport.data.reader import fingerprint
from tuneport.folders import check_out, full_disk_is_an_error, git_commit, new_folder
from tuneport.host import Host
from tuneport.modeling.attention import cudnn_attention
from tuneport.modeling.identity import hash_checkpoint
from tuneport.schema.run import CHECKPOINT, RUN, SETTINGS, Run, Training

from .arguments import training_arguments
from .augmentation.pseudo_labels import add_pseudo_labels, read_unlabelled
from .config import FinetuneConfig
from .device import Device, choose_precision
from .divergence import check_weights
from .evaluate import Evaluation
from .fit import fit
from .optional_packages import as_tracker_error, required_packages
from .processes import processes
from .report import write_report
from .resume import (
    TEACHER,
    TRAINER,
    check_can_resume,
    check_outside,
    check_unchanged,
    newest_checkpoint,
    remove_damaged,
    remove_on_failure,
)
from .setup import Prepared, evaluate, load_model, make_trainer, prepare, save_trained
from .strategies.strategies import finish_strategy
from .trainer import TuneportTrainer

EVALUATION = "evaluation.json"
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "peft")


def finetune(
    config: FinetuneConfig,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Run:
    """Fine-tune a model and write the run folder; data and settings are checked before training.

    `resume` continues an unfinished run of the same settings and data, with the result of a run that was not
    interrupted. `warn` is called with each warning, those of data and device before training begins. Raises
    TuneportError for data, settings or a model that cannot be used, for training that diverges, and for a device that
    fails. The same seed, data and machine give the same metrics.
    """
    state = processes()
    if resume:
        check_can_resume(out)
    else:
        check_outside(out, config.inputs)
    if not resume and state.is_main_process:
        check_out(out, marker=SETTINGS, overwrite=overwrite)
    transformers.set_seed(config.seed)
    prepared = prepare(config)
    unlabelled = read_unlabelled(prepared) if config.pseudo_label_data else None
    identity = _identity(prepared, unlabelled)
    if resume:
        check_unchanged(out, identity, "settings or data")
    checkpoint = newest_checkpoint(out) if resume else None
    # Both may raise, which has to happen before --overwrite removes anything.
    training_arguments(config, prepared.task, out)
    model = load_model(prepared)
    if warn and state.is_main_process:
        for warning in prepared.warnings:
            warn(warning)
    state.wait_for_everyone()
    if state.is_main_process and resume and (damaged := remove_damaged(out)) and warn:
        going_on = checkpoint.name if checkpoint else "the start"
        warn(f"{', '.join(damaged)}: incomplete or changed since; training continues from {going_on}")
    if state.is_main_process and not resume:
        with new_folder(out, marker=SETTINGS, overwrite=overwrite) as folder:
            write_json(folder / SETTINGS, identity)
    state.wait_for_everyone()

    # Batches of varying lengths.
    with full_disk_is_an_error(out), remove_on_failure(out, keep=resume), cudnn_attention(enabled=False):
        if unlabelled is not None:
            del model
            teacher = _train_teacher(config, out / TEACHER)
            prepared = add_pseudo_labels(prepared, unlabelled, teacher, out / TEACHER)
            model = load_model(prepared)
        trainer = make_trainer(prepared, out, model)
        trainer.on_warning = warn if state.is_main_process else None
        started = time.perf_counter()
        with as_tracker_error(config):
            trainer = fit(trainer, prepared, out, checkpoint)
        train_seconds = time.perf_counter() - started
        check_weights(trainer.model, "in its last steps")
        return _finish(out, prepared, trainer, train_seconds)


def _train_teacher(config: FinetuneConfig, out: Path) -> Path:
    """Train the model that labels the unlabelled rows, unless it is finished already; returns its checkpoint."""
    if not (out / RUN).is_file():
        settings = config.model_copy(update={"pseudo_label_data": None})
        is_begun = (out / SETTINGS).is_file()
        finetune(settings, out, overwrite=not is_begun, resume=is_begun)
    return out / CHECKPOINT


def _finish(out: Path, prepared: Prepared, trainer: TuneportTrainer, train_seconds: float) -> Run:
    """Evaluate the trained model and write the run's files."""
    trained_parameters = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    trainer.model = finish_strategy(trainer.accelerator.unwrap_model(trainer.model))
    trainer.model_wrapped = trainer.model
    evaluations = {name: evaluate(trainer, prepared, name) for name in prepared.features if name != "train"}
    save_trained(trainer, out / CHECKPOINT)
    run = _record(prepared, trainer, evaluations, train_seconds, trained_parameters)
    state = processes()
    if state.is_main_process:
        run = _write(out, run, evaluations, trainer.state.log_history)
    state.wait_for_everyone()
    return run


def _identity(prepared: Prepared, unlabelled: Dataset | None) -> dict[str, Any]:
    """Return what a resumed run must have in common with the one that was interrupted."""
    return {
        "config": prepared.config.model_dump(mode="json"),
        "data": prepared.data.source.fingerprint,
        "train_rows": fingerprint(prepared.data.splits["train"]),  # augmented and rehearsed rows included
        "unlabelled_rows": None if unlabelled is None else fingerprint(unlabelled),
        "processes": processes().num_processes,
    }


def _record(
    prepared: Prepared,
    trainer: TuneportTrainer,
    evaluations: dict[str, Evaluation],
    train_seconds: float,
    trained_parameters: int,
) -> Run:
    config, task = prepared.config, prepared.task
    return Run(
        task=config.task,
        labels=task.labels,
        accepts_pairs="text_pair" in prepared.data.splits["train"].column_names,
        problem_type=task.problem_type,
        tag_scheme=task.tag_scheme,
        max_length=config.max_length,
        inputs=tuple(n for n in prepared.features["train"].column_names if n in prepared.processor.model_input_names),
        config=config.model_dump(mode="json"),
        seed=config.seed,
        data=prepared.data.source,
        metrics={name: evaluation.metrics for name, evaluation in evaluations.items()},
        train_rows=len(prepared.data.splits["train"]),
        pseudo_labelled=prepared.pseudo_labelled,
        trained_parameters=trained_parameters,
        train_seconds=round(train_seconds, 2),
        training=_training(config, trainer),
        warnings=(*prepared.warnings, *trainer.warnings),
        host=Host.here(),
        git_commit=git_commit(Path(__file__).parent),
        versions={name: version(name) for name in (*LIBRARIES, *required_packages(config))},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _training(config: FinetuneConfig, trainer: TuneportTrainer) -> Training:
    """Record how the model was trained; every process must call it."""
    device, arguments = Device.here(), trainer.args
    precision = choose_precision(config, device)
    return Training(
        device=device.kind,
        device_name=device.name,
        processes=arguments.world_size,
        precision=precision.name,
        tf32=precision.tf32,
        compiled=arguments.torch_compile,
        per_device_train_batch_size=arguments.per_device_train_batch_size,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        throughput=trainer.meter.throughput(trainer.accelerator),
    )


def _write(out: Path, run: Run, evaluations: dict[str, Evaluation], history: list[dict[str, Any]]) -> Run:
    """Write the files that only the main process writes, run.json last and in one step; returns its content."""
    (out / CHECKPOINT / "training_args.bin").unlink(missing_ok=True)  # a pickle of what run.json has as text
    run = run.model_copy(update={"checkpoint_sha256": hash_checkpoint(out / CHECKPOINT)})
    write_json(out / EVALUATION, {name: evaluation.model_dump(mode="json") for name, evaluation in evaluations.items()})
    write_report(out, run, evaluations, history)
    shutil.rmtree(out / TRAINER, ignore_errors=True)
    write_json(out / f".{RUN}", run.model_dump(mode="json"))
    (out / f".{RUN}").rename(out / RUN)
    return run


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
