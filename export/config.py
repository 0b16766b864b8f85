"""Declare the settings of an export; the command line derives its options from them.

Imports neither torch nor onnx, so that the command line can list its options quickly.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from tuneport.schema.artifact import Name
from tuneport.schema.base import Frozen
from tuneport.schema.run import TagScheme
from tuneport.tasks import TaskName

Objective = Literal["latency", "throughput", "size"]
CalibrationMethodName = Literal["minmax", "entropy", "percentile"]
InstructionSet = Literal["avx2", "vnni"]
MIN_CALIBRATION_ROWS = 32
MIN_UNLABELLED_ROWS = 100
"""With fewer, a single prediction that differs would be more than the one in a hundred that is allowed."""


class ExportConfig(Frozen):
    """Settings of one export."""

    checkpoint: Path
    """A run folder, or a folder that transformers saved."""
    task: TaskName | None = None
    """The task, where the architecture leaves it open. Default: the run's."""
    name: Name | None = None
    """The model's name in responses. Default: the name of the output folder."""
    data: str | None = None
    """Labelled data for the gate. Default: the validation split that the run was trained with."""
    unlabelled: bool = False
    """Read only the inputs of --data: variants are judged by how often they predict what torch predicts."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of the task → column of the data, where they differ."""
    splits: dict[str, str] = Field(default_factory=dict)
    """Split (train, validation, test) → its name in the data, where it is another: validation=dev_matched."""
    tag_scheme: TagScheme | None = None
    """Scheme of the model's tags: BIO, IOB1, BIOES, BILOU or IO. Default: the run's, or that of the labelled data."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it will serve: cpu or cuda, where TensorRT's variants run, too."""
    variants: tuple[str, ...] = ()
    """Variants to build, such as fp32,int8. Default: all that may be faster on the device."""
    objective: Objective = "throughput"
    """What selects the default variant: latency, throughput or size."""
    max_drop: float = Field(default=0.01, ge=0, le=1)
    """How much of the task's metric a variant may lose against torch; 0.01 is one point."""
    max_length: int | None = Field(default=None, ge=8)
    """Tokens of one input. Default: the run's."""
    max_gate_rows: int = Field(default=1000, ge=1)
    """Validation rows that the gate compares, from the first on."""
    calibration_rows: int = Field(default=128, ge=MIN_CALIBRATION_ROWS)
    """Validation rows that static quantization is calibrated on."""
    calibration: CalibrationMethodName = "minmax"
    """How int8-static derives ranges from the calibration data: minmax, entropy or percentile."""
    instruction_set: InstructionSet | None = None
    """The processor that int8 variants are for: avx2 or vnni. Default: this host's."""
    smooth_quant: bool = False
    """Apply SmoothQuant before int8-static: move outliers of activations into the weights."""
    prune_layers: int | None = Field(default=None, ge=1)
    """Layers that the student of the pruned variants leaves out. Default: a third, or half if that loses little."""
    distill_steps: int = Field(default=1000, ge=0)
    """The most training steps of the student."""
    distill_minutes: float = Field(default=2.0, ge=0)
    """Minutes to train the student, in which the full model is distilled; 0: no student."""
    mixed_precision_minutes: float = Field(default=2.0, ge=0)
    """Minutes to search for the parts that a failing int8 variant must keep in fp32; 0: no search."""
    max_seconds: float = Field(default=4.0, gt=0)
    """Seconds of timing for torch and each variant, and half of it for each way to run one, if they do not get precise
    sooner."""
    seed: int = 42
    """Seed of data splits and of the student's training."""
    trust_remote_code: bool = False
    """Run Python code from the model's repository."""

    @model_validator(mode="after")
    def _check_unlabelled(self) -> Self:
        if self.unlabelled and self.data is None:
            raise ValueError("unlabelled says how data is read, and there is none: give data, too")
        if self.unlabelled and self.max_gate_rows < MIN_UNLABELLED_ROWS:
            raise ValueError(f"unlabelled needs {MIN_UNLABELLED_ROWS} rows or more: raise max_gate_rows")
        return self


def artifact_name(out: Path) -> str:
    """Derive a model's name from the output folder: lower case, hyphens for what a name cannot have."""
    name = "".join(char if char.isalnum() and char.isascii() else "-" for char in out.resolve().name.lower())
    return name.strip("-")[:63] or "model"
