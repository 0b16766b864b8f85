"""The tasks: each is declared here once, and looked up everywhere else.

What a task *does* in a stage is one module there with a class `Task`; `TaskSpec` says what it *is*. A package may bring
further tasks through the entry point group `tuneport.tasks`, each entry a `TaskSpec` whose `package` holds the modules
`finetune`, `export` and `runtime`.
"""

import importlib
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from tuneport.errors import TuneportError

ENTRY_POINTS = "tuneport.tasks"
Stage = Literal["finetune", "export", "runtime"]
FamilyName = Literal["encoder", "generative"]
BUILT_IN: dict[Stage, str] = {
    "finetune": "tuneport.stages.finetune.tasks",
    "export": "tuneport.stages.export.tasks",
    "runtime": "tuneport.runtime.tasks",
}
"""Stage → the package of its task modules."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric of an evaluation."""

    name: str
    lower_is_better: bool = False
    empty_score: float | None = None
    """Its value for a model whose outputs are empty; None where that is unbounded or not known."""


@dataclass(frozen=True)
class TaskSpec:
    """What a task is."""

    name: str
    family: FamilyName
    """Encoders run once an input, generative models once a token."""
    columns: tuple[str, ...]
    """Columns that labelled data must have."""
    optional_columns: tuple[str, ...]
    column_help: str
    """The columns, as the command line explains them."""
    input_fields: tuple[str, ...]
    """Text fields of a request's input, and input tensors of the Open Inference Protocol; none: JSON only."""
    auto_model: str
    """The Auto class of transformers that loads a checkpoint."""
    architectures: tuple[str, ...]
    """Endings of the names of model classes whose checkpoints are for this task; the longest match counts."""
    onnx_task: str
    """Optimum's name of the export task."""
    peft_task: str | None
    """peft's name of the task."""
    metrics: tuple[MetricSpec, ...]
    """What every evaluation reports."""
    best_metric: str
    """The metric that selects checkpoints during training."""
    gate_metric: str
    """The metric that the export's gate compares with torch's."""
    multi_label_metrics: tuple[MetricSpec, ...] = ()
    """What replaces `metrics` where an input may have several labels."""
    multi_label_gate_metric: str | None = None
    settings: frozenset[str] = frozenset()
    """Fine-tuning settings that have an effect on this task but not on every task."""
    max_gate_rows: int | None = None
    """Validation rows that the gate looks at, at most; generating text is slow."""
    has_labels: bool = False
    """Whether the model chooses among named labels."""
    accepts_pairs: bool = False
    """Whether an input may be a pair of texts."""
    keeps_targets_when_words_change: bool = False
    """Whether augmentation may edit an input's words."""
    has_averageable_outputs: bool = False
    """Whether the outputs of several models have a meaningful mean."""
    reads_words: bool = False
    """Whether inputs are lists of words."""
    streams: bool = False
    """Whether answers can be streamed."""
    is_chat: bool = False
    """Whether OpenAI's chat and completion protocol applies."""
    has_local_paths: bool = False
    """Whether inputs are files: paths in labelled data and on the command line."""
    predict_example: str = '"some text"'
    """What follows `tuneport predict ARTIFACT` in a model card."""
    package: str | None = None
    """Package of the task's modules; None for the tasks that tuneport brings."""

    @property
    def is_generative(self) -> bool:
        """Whether the model generates its answer token by token; else it is an encoder."""
        return self.family == "generative"

    def task_class(self, stage: Stage) -> Any:
        """Import the task's module of a stage and return its class."""
        module = f"{self.package}.{stage}" if self.package else f"{BUILT_IN[stage]}.{self.name.replace('-', '_')}"
        return importlib.import_module(module).Task

    def metrics_of(self, *, multi_label: bool) -> dict[str, MetricSpec]:
        """Return the metrics of an evaluation by name, the loss included."""
        chosen = self.multi_label_metrics if multi_label else self.metrics
        return {each.name: each for each in (MetricSpec("loss", lower_is_better=True), *chosen)}

    def gate_metric_of(self, *, multi_label: bool) -> MetricSpec:
        """Return the metric of the export's gate."""
        name = self.multi_label_gate_metric if multi_label and self.multi_label_gate_metric else self.gate_metric
        return self.metrics_of(multi_label=multi_label)[name]


def _metrics(*names: str) -> tuple[MetricSpec, ...]:
    """Declare metrics; those that are errors are better when lower."""
    errors = {"mse", "mae", "hamming_loss", "wer", "cer", "perplexity"}
    empty_scores = dict.fromkeys(errors, None) | {"wer": 1.0, "cer": 1.0}
    return tuple(MetricSpec(name, name in errors, empty_scores.get(name, 0.0)) for name in names)


_SEQUENCE = {
    "auto_model": "AutoModelForSequenceClassification",
    "architectures": ("ForSequenceClassification", "PooledClassifier"),
    "onnx_task": "text-classification",
    "peft_task": "SEQ_CLS",
    "input_fields": ("text",),
    "accepts_pairs": True,
    "keeps_targets_when_words_change": True,
    "has_averageable_outputs": True,
}
_SEQ2SEQ = {
    "family": "generative",
    "columns": ("source", "target"),
    "optional_columns": (),
    "column_help": "source, target",
    "input_fields": ("text",),
    "auto_model": "AutoModelForSeq2SeqLM",
    "onnx_task": "text2text-generation-with-past",
    "peft_task": "SEQ_2_SEQ_LM",
    "max_gate_rows": 200,
    "streams": True,
}
_SEQ2SEQ_SETTINGS = frozenset(
    {
        "max_target_length",
        "num_beams",
        "source_prefix",
        "source_language",
        "target_language",
        "label_smoothing_factor",
    }
)

_BUILT_IN = (
    TaskSpec(
        name="text-classification",
        family="encoder",
        columns=("text",),
        optional_columns=("text_pair", "label", "labels"),
        column_help="text (text_pair), label, or labels: a list",
        metrics=_metrics("accuracy", "f1_macro", "f1_weighted", "matthews"),
        multi_label_metrics=_metrics("accuracy", "f1_macro", "f1_micro", "f1_weighted", "hamming_loss"),
        best_metric="f1_macro",
        gate_metric="accuracy",
        multi_label_gate_metric="f1_micro",
        settings=frozenset({"pooling", "class_weights", "label_smoothing_factor"}),
        has_labels=True,
        **_SEQUENCE,  # type: ignore[arg-type]
    ),
    TaskSpec(
        name="regression",
        family="encoder",
        columns=("text", "score"),
        optional_columns=("text_pair",),
        column_help="text (text_pair), score: a number or a list",
        metrics=_metrics("mse", "mae", "pearson", "spearman"),
        best_metric="pearson",
        gate_metric="pearson",
        settings=frozenset({"pooling"}),
        **_SEQUENCE,  # type: ignore[arg-type]
    ),
    TaskSpec(
        name="token-classification",
        family="encoder",
        columns=("tokens", "tags"),
        optional_columns=(),
        column_help="tokens, tags",
        input_fields=("text",),
        auto_model="AutoModelForTokenClassification",
        architectures=("ForTokenClassification",),
        onnx_task="token-classification",
        peft_task="TOKEN_CLS",
        metrics=_metrics("precision", "recall", "f1", "accuracy"),
        best_metric="f1",
        gate_metric="f1",
        settings=frozenset({"label_smoothing_factor"}),
        has_labels=True,
        has_averageable_outputs=True,
        reads_words=True,
    ),
    TaskSpec(
        name="question-answering",
        family="encoder",
        columns=("context", "question", "answers"),
        optional_columns=(),
        column_help="context, question, answers",
        input_fields=("question", "context"),
        auto_model="AutoModelForQuestionAnswering",
        architectures=("ForQuestionAnswering", "ForQuestionAnsweringSimple"),
        onnx_task="question-answering",
        peft_task="QUESTION_ANS",
        metrics=_metrics("exact_match", "f1"),
        best_metric="f1",
        gate_metric="f1",
        settings=frozenset({"doc_stride"}),
        predict_example="< questions.jsonl",
    ),
    TaskSpec(
        name="translation",
        architectures=("ForConditionalGeneration", "MarianMTModel"),
        metrics=_metrics("bleu", "chrf"),
        best_metric="bleu",
        gate_metric="chrf",
        settings=_SEQ2SEQ_SETTINGS,
        **_SEQ2SEQ,  # type: ignore[arg-type]
    ),
    TaskSpec(
        name="summarization",
        architectures=("ForConditionalGeneration",),
        metrics=_metrics("rouge1", "rouge2", "rougeL"),
        best_metric="rougeL",
        gate_metric="rougeL",
        settings=_SEQ2SEQ_SETTINGS,
        **_SEQ2SEQ,  # type: ignore[arg-type]
    ),
    TaskSpec(
        name="text-generation",
        family="generative",
        columns=(),
        optional_columns=("text", "messages"),
        column_help="text, or messages (chat)",
        input_fields=("text",),
        auto_model="AutoModelForCausalLM",
        architectures=("ForCausalLM", "LMHeadModel"),
        onnx_task="text-generation-with-past",
        peft_task="CAUSAL_LM",
        metrics=_metrics("perplexity", "token_accuracy"),
        best_metric="perplexity",
        gate_metric="token_accuracy",
        settings=frozenset({"chat_template", "label_smoothing_factor"}),
        max_gate_rows=200,
        streams=True,
        is_chat=True,
    ),
    TaskSpec(
        name="automatic-speech-recognition",
        family="generative",
        columns=("audio", "target"),
        optional_columns=(),
        column_help="audio, target",
        input_fields=(),
        auto_model="AutoModelForSpeechSeq2Seq",
        architectures=("WhisperForConditionalGeneration",),
        onnx_task="automatic-speech-recognition-with-past",
        peft_task=None,
        metrics=_metrics("wer", "cer"),
        best_metric="wer",
        gate_metric="wer",
        settings=frozenset({"max_target_length", "num_beams", "target_language"}),
        max_gate_rows=100,
        streams=True,
        has_local_paths=True,
        predict_example="speech.wav",
    ),
)
_registry: dict[str, TaskSpec] = {spec.name: spec for spec in _BUILT_IN}


def register_task(spec: TaskSpec) -> None:
    """Add a task to this process; packages declare theirs in the entry point group `tuneport.tasks` instead."""
    _registry[spec.name] = spec


def all_tasks() -> dict[str, TaskSpec]:
    """Return every task by name, those of installed packages included."""
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name not in _registry:
            try:
                register_task(entry.load())
            except Exception as error:  # whatever a package raises while it is imported
                problem = f"the task {entry.name} cannot be imported from {entry.value} ({error})"
                raise TuneportError(problem, "fix or uninstall the package that provides it") from error
    return dict(_registry)


def task_spec(name: str) -> TaskSpec:
    """Look up a task; a ValueError names those that exist."""
    spec = _registry.get(name) or all_tasks().get(name)
    if spec is None:
        raise ValueError(f"{name!r} is not a task: choose among {', '.join(all_tasks())}")
    return spec


TaskName = Annotated[str, AfterValidator(lambda name: task_spec(name).name)]
"""A task's name, checked."""
