"""A task from outside of tuneport: whether a text is liked, as one probability."""

from tuneport.tasks import MetricSpec, TaskSpec

SPEC = TaskSpec(
    name="liking",
    family="encoder",
    columns=("text", "liked"),
    optional_columns=(),
    column_help="text, liked: true or false",
    input_fields=("text",),
    auto_model="AutoModelForSequenceClassification",
    architectures=(),
    onnx_task="text-classification",
    peft_task="SEQ_CLS",
    metrics=(MetricSpec("accuracy"), MetricSpec("brier", lower_is_better=True)),
    best_metric="accuracy",
    gate_metric="brier",
    package="toy_task",
)
