"""run.json: the record of a fine-tuning run.

runs/x/  run.json  checkpoint/
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from tuneport.host import Host
from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice
from tuneport.tasks import TaskName

RUN, CHECKPOINT = "run.json", "checkpoint"
SETTINGS = "settings.json"
"""Written first: a folder with it but without `RUN` is a run, or a search, that was interrupted."""
TrainingPrecision = Literal["fp32", "fp16", "bf16"]

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
TagScheme = Literal["BIO", "IOB1", "BIOES", "BILOU", "IO"]


class DataSource(Frozen):
    """The data behind a figure; what `tuneport.data.reader` needs to read it again."""

    source: str
    """A folder, a file or a name on the hub."""
    columns: dict[str, str]
    """Column of the task → column of the source, where the two differ."""
    splits: dict[str, str] = Field(default_factory=dict)
    """Split → its name in the source, where that is not the usual one."""
    seed: int
    """Of the split, where the source is a single file."""
    fingerprint: str
    """SHA-256 over the rows of every split, in order."""
    rows: dict[str, int]
    """Rows of each split."""
    unlabelled: bool = False
    """Whether targets were not read, and a single file not split."""

    @model_serializer(mode="wrap")
    def _leave_out(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        if not self.unlabelled:
            content.pop("unlabelled", None)  # versions that do not know it refuse a record that has it
        return content


class PseudoLabelled(Frozen):
    """Predictions on unlabelled rows that were trained on."""

    joined: int
    """Rows whose prediction reached the threshold, and which joined train."""
    rows: int
    """All unlabelled rows."""


class _UsedSettings(BaseModel):
    """The settings that later stages read from a run, with the types that they rely on; any others may stand beside."""

    model: str
    max_length: Annotated[int, Field(ge=1)]
    doc_stride: Annotated[int, Field(ge=0)] | None = None
    max_target_length: Annotated[int, Field(ge=1)] | None = None
    source_prefix: str | None = None
    source_language: str | None = None
    target_language: str | None = None


def _check_settings(config: dict[str, Any]) -> dict[str, Any]:
    _UsedSettings.model_validate(config, strict=True)
    return config


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

    device: TorchDevice
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
    """Names of the model's outputs, in order; empty for tasks without labels."""
    accepts_pairs: bool
    """Whether the rows had a `text_pair`."""
    problem_type: ProblemType | None = None
    """Of text classification and regression."""
    tag_scheme: TagScheme | None = None
    """Of token classification: the scheme of the train split's tags, in which its metrics were computed."""
    max_length: int
    """Tokens of an input, special tokens included."""
    inputs: tuple[str, ...]
    """What the tokenizer or the feature extractor gave the model, such as `input_ids`, in order."""
    config: Annotated[dict[str, Any], AfterValidator(_check_settings)]
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
    checkpoint_sha256: str | None = None
    """Of the files in checkpoint/ that determine the outputs; None where nothing was saved yet."""
    warnings: tuple[str, ...] = ()
    """What was odd about data or device, though not wrong."""
    host: Host
    git_commit: str | None
    versions: dict[str, str]
    created: str
    """UTC, ISO 8601."""
