"""The contract: what a run's and an artifact's folder hold, and how they are read and checked.

    runs/x/       run.json  checkpoint/
    artifacts/x/  manifest.json  tokenizer.json  golden.jsonl  README.md  frontier.png  onnx/<variant>/…

Every room may import this module, so it needs only the standard library and pydantic.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError

from export.files import ArtifactError, digest, sha256
from export.machine import Frozen, Machine

SCHEMA_VERSION: Literal[1] = 1
MANIFEST, TOKENIZER, GOLDEN = "manifest.json", "tokenizer.json", "golden.jsonl"
CARD, PICTURE = "README.md", "frontier.png"
PROCESSOR = "processor"
"""Folder of the tokenizer, in place of tokenizer.json, and of the feature extractor of models that write."""
RUN, CHECKPOINT = "run.json", "checkpoint"

Task = Literal[
    "text-classification",
    "regression",
    "token-classification",
    "question-answering",
    "translation",
    "summarization",
    "text-generation",
    "automatic-speech-recognition",
]
Engine = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
TagScheme = Literal["IOB2", "IOBES", "IOB1", "IO"]
Device = Literal["cpu", "cuda", "tensorrt"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class File(Frozen):
    """A file of the artifact."""

    path: str
    """Relative to the artifact's folder."""
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, folder: Path, path: str) -> Self:
        """Hash a file that has just been written."""
        return cls(path=path, sha256=sha256(folder / path), size_bytes=(folder / path).stat().st_size)


class Tensor(Frozen):
    """An input or output of the graph."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]
    """The names of the axes that vary, and the sizes of those that don't."""


class Generation(Frozen):
    """What generation does unless a request says otherwise; the names are those of transformers' GenerationConfig."""

    max_new_tokens: int
    num_beams: int = 1
    prefix: str = ""
    """Goes before every input, such as T5's `translate German to English: `."""
    source_language: str | None = None
    target_language: str | None = None
    """Codes of multilingual models, such as `de_DE`."""
    sampling_rate: int | None = None
    """Hz that speech is brought to."""
    positions: int
    """The most tokens that the decoder can write; of text generation, prompt and answer together."""


class Processing(Frozen):
    """What serving has to do before and after the graph."""

    max_length: int
    """Tokens of one window, special tokens included."""
    pad_token_id: int
    pad_token_type_id: int = 0
    padding_side: Literal["right", "left"] = "right"
    accepts_pairs: bool = False
    """Whether the model was trained on `text` with `text_pair`."""
    doc_stride: int | None = None
    """Tokens that neighbouring windows of a longer input share; None: it is cut, and the answer says so."""
    problem_type: ProblemType | None = None
    """Of text classification and regression."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Logits are divided by it before they become probabilities."""
    tag_scheme: TagScheme | None = None
    """Of token classification."""
    has_unanswerable: bool = False
    """Whether "no answer" may be the answer to a question."""
    generation: Generation | None = None
    """Of the generative tasks."""


class Parity(Frozen):
    """How far a variant's answers are from torch's."""

    golden_cases: int
    texts: int
    """Rows of real validation data."""
    max_abs_diff: float
    """The largest on golden cases and texts together: of an output's element, or share of generated tokens."""
    golden_max_abs_diff: float
    """On golden cases: the largest, of generated tokens the mean."""
    agreement: float
    """Share of golden cases and texts with torch's answer: its label, labels, entities, span or tokens."""


class Metric(Frozen):
    """The task's metric on validation data."""

    name: str
    value: float
    torch: float
    lower_is_better: bool = False

    @property
    def drop(self) -> float:
        """What was lost against torch, in the metric's own unit; negative if something was gained."""
        return self.value - self.torch if self.lower_is_better else self.torch - self.value


class Timing(Frozen):
    """Measured on validation data of its own mixed lengths, all variants side by side in one run."""

    texts: int
    latency_ms_p50: float
    """One input at a time."""
    latency_ms_p95: float
    latency_ms_p99: float
    texts_per_s: float
    """In micro-batches of like length of at most `batch_tokens`."""
    batch_tokens: int
    """Padded tokens of a batch: the fewest of those tried that are about as fast as any."""
    speed_up: float
    """texts_per_s over that of torch fp32."""


class Footprint(Frozen):
    """What a variant costs a process of its own that opens it and answers once."""

    memory_mib: float
    """Resident memory that opening it and a full batch add."""
    cold_start_ms: float
    """From nothing opened to the first answer."""


class Variant(Frozen):
    """A model that passed its gate."""

    name: Name
    engine: Engine
    precision: Precision
    device: Device
    streams: Annotated[int, Field(ge=1)] = 1
    """Batches that run at a time, each on its share of the processors."""
    alone: bool = False
    """Whether inputs run one at a time, because its numbers would depend on what shares their batch."""
    files: Annotated[tuple[File, ...], Field(min_length=1)]
    """The graph that the engine opens comes first."""
    tolerance: float
    """The difference from torch that its golden cases may show on another machine."""
    reduce_range: bool = False
    """Whether int8 weights use 7 bits, for processors whose int8 kernels would saturate."""
    kept_in_higher_precision: tuple[str, ...] = ()
    """Parts of the graph that the gate could not do without."""
    parity: Parity
    metric: Metric | None
    timing: Timing | None = None
    footprint: Footprint | None = None

    @property
    def size_bytes(self) -> int:
        """Add up the files."""
        return sum(file.size_bytes for file in self.files)


class Rejected(Frozen):
    """A variant that is not in the artifact, and why."""

    name: Name
    reason: str
    parity: Parity | None = None
    metric: Metric | None = None


class Calibration(Frozen):
    """How far probabilities are from frequencies, on validation data (Guo et al., 2017)."""

    error_before: float
    """Expected calibration error over 15 bins of confidence, at temperature 1."""
    error_after: float
    """With the temperature of `Processing`, measured on rows that it was not fitted on."""
    temperature: float
    """The one fitted; serving applies it only if it helps."""


class DataSource(Frozen):
    """The labelled data behind a figure; what `finetune.data` needs to read it again."""

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


class Run(Frozen):
    """run.json: what a fine-tuning run did and what came of it."""

    task: Task
    labels: tuple[str, ...]
    accepts_pairs: bool
    """Whether the rows had a `text_pair`."""
    config: dict[str, Any]
    """The resolved settings, those of `finetune.config`."""
    seed: int
    data: DataSource
    metrics: dict[str, dict[str, float]]
    """Split → metric → value."""
    train_rows: int
    """Rows that were trained on, augmented and rehearsed ones included."""
    trained_parameters: int
    train_seconds: float
    bf16: bool
    warnings: tuple[str, ...] = ()
    """What was odd about the data, though not wrong."""
    machine: Machine
    git_commit: str | None
    versions: dict[str, str]
    created: str
    """UTC, ISO 8601."""


class Provenance(Frozen):
    """Where the model came from."""

    base_model: str | None
    checkpoint: str
    """The folder it was read from; what counts is the hash."""
    checkpoint_sha256: str
    data: DataSource | None
    config: dict[str, Any]
    """The resolved settings of the fine-tuning run, and under `export` those of the export."""
    seed: int | None
    git_commit: str | None
    versions: dict[str, str]
    created: str
    """UTC, ISO 8601."""


class Manifest(Frozen):
    """An artifact's evidence and instructions."""

    schema_version: Literal[1]
    name: Name
    task: Task
    labels: tuple[str, ...]
    processing: Processing
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    rejected: tuple[Rejected, ...]
    default_variant: str
    default_because: str
    machine: Machine
    """Where the timings were taken."""
    torch_texts_per_s: float | None
    calibration: Calibration | None = None
    files: tuple[File, ...]
    """Those that the variants share."""
    provenance: Provenance

    @cached_property
    def version(self) -> str:
        """Twelve hex digits that change when an answer could: a hash over the hashes of what serves."""
        served = [file.sha256 for variant in self.variants for file in variant.files]
        shared = [file.sha256 for file in self.files if file.path not in (CARD, PICTURE)]
        content = {"labels": self.labels, "processing": self.processing.model_dump(), "files": [*shared, *served]}
        return digest(content)[:12]

    def variant(self, name: str | None = None) -> Variant:
        """Return a variant by name, the default one without a name."""
        for variant in self.variants:
            if variant.name == (name or self.default_variant):
                return variant
        has = ", ".join(variant.name for variant in self.variants)
        why = {rejected.name: f" ({rejected.reason})" for rejected in self.rejected}
        raise ArtifactError(f"the artifact has no variant {name!r}{why.get(name or '', '')}", f"choose one of: {has}")

    def save(self, folder: Path) -> None:
        """Write manifest.json, sealed with the hash of its own content."""
        content = json.loads(self.model_dump_json())
        text = json.dumps({**content, "seal": digest(content)}, indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


class GoldenCase(Frozen):
    """A real input with torch's answer to it."""

    batch: str
    """Cases of one name are run together in one batch, padded to the longest."""
    input: Any
    """As a request would bring it."""
    outputs: tuple[dict[str, Any], ...]
    """The graph's outputs by name for each window of the input, as nested lists without the row axis."""


def load_manifest(folder: Path) -> Manifest:
    """Read an artifact's manifest; an ArtifactError says what to do about a bad one."""
    path = folder / MANIFEST
    if not path.is_file():
        is_there = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise ArtifactError(f"{folder} {is_there}", "give the folder that `tuneport export … --out` wrote")
    again = "export it again or restore it from its source"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, seal = content.get("schema_version"), content.pop("seal", None)
    except (ValueError, AttributeError) as error:
        raise ArtifactError(f"{path} is not a manifest ({error})", again) from error
    if version != SCHEMA_VERSION:
        known = f"schema version {version!r}, and this tuneport reads {SCHEMA_VERSION}"
        raise ArtifactError(f"{path} has {known}", "use the tuneport that wrote it, or export the checkpoint again")
    if seal != digest(content):
        raise ArtifactError(f"{path} was changed after it was written", again)
    try:
        return Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path} does not fit its schema at {where}: {first['msg']}", again) from error


def listed_files(manifest: Manifest, variant: str | None = None) -> tuple[File, ...]:
    """List the shared files and those of one variant, or of every variant, each once though variants share it."""
    chosen = manifest.variants if variant is None else (manifest.variant(variant),)
    return tuple(dict.fromkeys((*manifest.files, *(file for each in chosen for file in each.files))))


def check_files(folder: Path, manifest: Manifest, variant: str | None = None) -> None:
    """Compare size and hash of the shared files and of one variant's, or of every variant's."""
    for file in listed_files(manifest, variant):
        path = folder / file.path
        if not path.is_file():
            raise ArtifactError(f"{path} is missing", "restore it or export again")
        if path.stat().st_size != file.size_bytes or sha256(path) != file.sha256:
            raise ArtifactError(
                f"{path} is not the file that passed the gate: its SHA-256 differs from the manifest's",
                "restore it or export again",
            )


def load_golden(folder: Path) -> list[GoldenCase]:
    """Read golden.jsonl."""
    with (folder / GOLDEN).open(encoding="utf-8") as file:
        return [GoldenCase.model_validate_json(line) for line in file]
