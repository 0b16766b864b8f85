"""run.json: the record of a fine-tuning run.

runs/x/  run.json  checkpoint/
"""

from typing import Any, Literal

from tuneport.host import Host
from tuneport.schema.base import Frozen
from tuneport.tasks import TaskName

RUN, CHECKPOINT = "run.json", "checkpoint"
TrainingDevice = Literal["cpu", "cuda"]
TrainingPrecision = Literal["fp32", "fp16", "bf16"]


class DataSource(Frozen):
    """The labelled data behind a figure; what `tuneport.data.reader` needs to read it again."""

    source: str
    """A folder, a file or a name on the hub."""
    columns: dict[str, str]
    """Column of the task → column of the source, where the two differ."""
    seed: int
    """Of the split, where the source is a single file."""
    fingerprint: str
    """SHA-256 over the rows of every split, in order."""
    rows: dict[str, int]
    """Rows of each split."""


class PseudoLabelled(Frozen):
    """Predictions on unlabelled rows that were trained on."""

    joined: int
    """Rows whose prediction reached the threshold, and which joined train."""
    rows: int
    """All unlabelled rows."""


class Throughput(Frozen):
    """The speed of a training, in all processes together: its steps after the first, without evaluations.

    Only the steps of the process that ended the training count, where it was resumed.
    """

    first_step_seconds: float
    """With what happens once: kernels are loaded and selected, and with `torch_compile` the model is compiled."""
    steps_per_s: float
    samples_per_s: float
    """Rows; of questions with long contexts, windows."""
    tokens_per_s: float | None
    """Tokens of inputs and generated targets, without padding; None for inputs that have none."""


class Training(Frozen):
    """How a model was trained, and how fast."""

    device: TrainingDevice
    device_name: str
    """Of the GPU, or of the processor."""
    processes: int
    precision: TrainingPrecision
    """fp32, or the precision of autocast."""
    tf32: bool
    """Whether products of fp32 matrices rounded their factors to TF32."""
    compiled: bool
    """Whether `torch.compile` compiled the model."""
    per_device_train_batch_size: int
    """Smaller than the setting where the device had too little memory for that."""
    gradient_accumulation_steps: int
    """As much larger than the setting, then."""
    throughput: Throughput | None
    """None for a training of one step."""

    def describe(self) -> str:
        """Return one line: the device, the precision, the batch, and the speed."""
        precision = "TF32" if (self.precision, self.tf32) == ("fp32", True) else self.precision
        rows = f"{self.per_device_train_batch_size} x {self.gradient_accumulation_steps} rows"
        line = f"{self.device_name}, {precision}{', compiled' if self.compiled else ''}, steps of {rows}"
        if self.processes > 1:
            line += f" in each of {self.processes} processes"
        if (speed := self.throughput) is None:
            return line
        tokens = "" if speed.tokens_per_s is None else f"{speed.tokens_per_s:,.0f} tokens/s, "
        return (
            f"{line}; {speed.samples_per_s:,.1f} samples/s, {tokens}{speed.steps_per_s:.2f} steps/s after a first step "
            f"of {speed.first_step_seconds:.1f} s"
        )


class Run(Frozen):
    """run.json: what a fine-tuning run did and what came of it."""

    task: TaskName
    labels: tuple[str, ...]
    accepts_pairs: bool
    """Whether the rows had a `text_pair`."""
    config: dict[str, Any]
    """The resolved settings, those of `tuneport.stages.finetune.config`."""
    seed: int
    data: DataSource
    metrics: dict[str, dict[str, float]]
    """Split → metric → value."""
    train_rows: int
    """Rows that were trained on, augmented, rehearsed and pseudo-labelled ones included."""
    pseudo_labelled: PseudoLabelled | None = None
    """None without unlabelled data."""
    trained_parameters: int
    train_seconds: float
    training: Training
    warnings: tuple[str, ...] = ()
    """What was odd about data or device, though not wrong."""
    host: Host
    git_commit: str | None
    versions: dict[str, str]
    created: str
    """UTC, ISO 8601."""
