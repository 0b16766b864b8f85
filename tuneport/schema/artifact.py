"""manifest.json: an artifact's evidence and instructions.

    artifacts/x/  manifest.json  tokenizer.json  golden.jsonl  README.md  pareto.png  onnx/<variant>/…

Imported while services start, so it needs only the standard library and pydantic.
"""

import json
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, StringConstraints, ValidationError, model_validator

from tuneport.errors import ArtifactError
from tuneport.folders import digest, sha256
from tuneport.host import Host
from tuneport.schema.base import Frozen
from tuneport.schema.paths import RelativePath, check_distinct
from tuneport.schema.run import DataSource, ProblemType, TagScheme
from tuneport.schema.torch_setup import CPU_REFERENCE, REFERENCE, TorchSetup
from tuneport.tasks import TaskName, task_spec

SCHEMA_VERSION: Literal[2] = 2
MANIFEST, TOKENIZER, GOLDEN = "manifest.json", "tokenizer.json", "golden.jsonl"
CARD, PICTURE = "README.md", "pareto.png"
PROCESSOR = "processor"
"""Folder of a generative model's tokenizer, in place of tokenizer.json, and of its feature extractor."""

Engine = Literal["onnxruntime", "openvino"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Device = Literal["cpu", "cuda", "tensorrt"]
Interval = tuple[float, float]
"""A confidence interval, 95 %."""
Shape = tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
"""Rows and padded length of a batch."""
Layout = Literal["padded", "packed"]
"""How a batch lays out its tokens: rows padded to one length, or all tokens in a row with cumulative lengths."""
ComputeCapability = Annotated[str, StringConstraints(pattern=r"^[0-9]+\.[0-9]$")]
"""Of an NVIDIA GPU, such as 9.0."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class File(Frozen):
    """A file of the artifact."""

    path: RelativePath
    """Relative to the artifact's folder."""
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, folder: Path, path: str) -> Self:
        """Hash a file that has just been written; an ArtifactError if its name is not one for every system."""
        file = folder / path
        try:
            return cls(path=path, sha256=sha256(file), size_bytes=file.stat().st_size)
        except ValidationError as error:
            problem = f"a file of the artifact has a name that cannot be used ({error.errors()[0]['msg']})"
            raise ArtifactError(problem, "rename it in the checkpoint") from error


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

    max_length: Annotated[int, Field(ge=1)]
    """Tokens of one window, special tokens included."""
    pad_token_id: Annotated[int, Field(ge=0)]
    pad_token_type_id: Annotated[int, Field(ge=0)] = 0
    padding_side: Literal["right", "left"] = "right"
    accepts_pairs: bool = False
    """Whether the model takes `text` with `text_pair`."""
    accepts_single_texts: bool = False
    """With `accepts_pairs`: whether it also takes a `text` alone, because nothing says which of the two it learned."""
    doc_stride: Annotated[int, Field(ge=0)] | None = None
    """Tokens that neighbouring windows of a longer input share; None: it is cut, and the answer says so."""
    problem_type: ProblemType | None = None
    """Of text classification and regression."""
    temperature: Annotated[float, Field(ge=1e-4)] = 1.0
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
    """Measured on validation data of mixed lengths, all variants side by side in one run."""

    texts: int
    """Inputs that were timed."""
    latency_ms_p50: float
    """One input at a time."""
    latency_ms_p95: float | None
    """None, as of each percentile, if there were too few samples for it."""
    latency_ms_p99: float | None
    latency_ms_p999: float | None = None
    latency_ms_quantiles: tuple[float, ...] = ()
    """Latencies below which 0, 5, 10, … 100 % of the inputs were answered."""
    latency_ms_p50_interval: Interval | None = None
    """None, as of each interval, in artifacts of versions that measured none."""
    texts_per_s: float
    """In batches of similar length of at most `Execution.max_batch_tokens`; the median of the turns."""
    texts_per_s_interval: Interval | None = None
    tokens_per_s: float | None = None
    """Without padding."""
    speed_up: float
    """texts_per_s over that of `baseline`."""
    speed_up_interval: Interval | None = None
    """Narrower than the two intervals of texts_per_s: both ran by turns, and what slowed one slowed the other."""
    baseline: str = REFERENCE
    """The fastest torch of the same device and class of precision; for int8 and int4 the fastest of all."""
    is_noisy: bool = False
    """Whether the interval of the speed-up stayed wider than asked for when the time was over."""

    def is_faster_than(self, other: "Timing") -> bool:
        """Tell whether its throughput is higher than that of another one of the same run, beyond noise."""
        if self.texts_per_s_interval is None or other.texts_per_s_interval is None:
            return False
        return self.texts_per_s_interval[0] > other.texts_per_s_interval[1]


class BaselineTiming(Frozen):
    """Torch, timed beside the variants."""

    setup: TorchSetup
    timing: Timing
    max_batch_tokens: int


class Footprint(Frozen):
    """What a variant costs a process of its own that opens it and answers once."""

    memory_mib: float
    """Resident memory that opening it and a full batch add."""
    cold_start_ms: float
    """From nothing opened to the first answer."""
    gpu_memory_mib: float | None = None
    """GPU memory that the process takes, CUDA's context included; None on a CPU."""


class Execution(Frozen):
    """How a variant runs: all that serving needs to know of it."""

    engine: Engine
    precision: Precision
    device: Device
    files: Annotated[tuple[File, ...], Field(min_length=1)]
    """The graph that the engine opens comes first."""
    layout: Layout = "padded"
    streams: Annotated[int, Field(ge=1)] = 1
    """Batches that run at a time, each on its share of the processors."""
    max_batch_tokens: Annotated[int, Field(ge=1)] = 1024
    """Padded tokens of a batch: the fewest of those measured that are about as fast as any."""
    max_batch_rows: Annotated[int, Field(ge=1)] | None = None
    """The most rows that the engine was built for."""
    single_row_batches: bool = False
    """Whether inputs run one at a time, because its outputs would depend on what shares their batch."""
    reduce_range: bool = False
    """Whether int8 weights use 7 bits, for processors whose int8 kernels would saturate."""
    provider_options: dict[str, str] = Field(default_factory=dict)
    """Options of the engine's execution provider."""
    graph_shapes: tuple[Shape, ...] = ()
    """Shapes of padded batches that run as CUDA graphs."""
    min_compute_capability: ComputeCapability | None = None
    """What the GPU must have."""

    def saturates_on(self, host: Host) -> bool:
        """Tell whether sums of its int8 products overflow on a host, because it was built for processors with VNNI."""
        has_full_range = self.engine == "onnxruntime" and self.precision == "int8" and not self.reduce_range
        return has_full_range and self.device == "cpu" and host.int8_saturates

    @property
    def size_bytes(self) -> int:
        """Add up the files."""
        return sum(file.size_bytes for file in self.files)


class Student(Frozen):
    """How a model with fewer layers was trained to compute what the full one computes."""

    layers: tuple[int, ...]
    """Indices of the layers of the full model that it began with."""
    full_layers: int
    """Layers of the full model."""
    rows: int
    """Of the train split, none of which the gate uses."""
    steps: int
    seconds: float
    """Of those steps, without the comparisons with torch."""


class Evidence(Frozen):
    """What was measured of a variant that passed its gate."""

    parity: Parity
    metric: Metric | None
    tolerance: float
    """The difference from torch that its golden cases may show on another host."""
    fp32_parts: tuple[str, ...] = ()
    """Parts of a quantized graph that stay in fp32, because the variant failed its gate without."""
    student: Student | None = None
    """How its model was trained, if that is a student and not the checkpoint."""
    timing: Timing
    footprint: Footprint


class Candidate(Frozen):
    """A variant that was built and has proven nothing yet."""

    name: Name
    execution: Execution


class Variant(Frozen):
    """A model that passed its gate: how it runs, and what was measured of it."""

    name: Name
    execution: Execution
    evidence: Evidence


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


class Measurements(Frozen):
    """Where some variants of a combined artifact were measured, beside what, and by which export.

    Those of its first artifact are in the manifest's own fields of these names.
    """

    variants: Annotated[tuple[str, ...], Field(min_length=1)]
    """Their names."""
    reference_difference: float
    """Largest difference of torch's outputs there from those of golden.jsonl, by which their tolerance has grown."""
    default_variant: str
    """The best of them there."""
    default_because: str
    rejected: tuple[Rejected, ...]
    host: Host
    torch: TorchSetup
    torch_texts_per_s: float | None
    baselines: tuple[BaselineTiming, ...]
    refused_baselines: dict[str, str]
    provenance: Provenance


class Manifest(Frozen):
    """An artifact's evidence and instructions."""

    schema_version: Literal[2]
    name: Name
    task: TaskName
    labels: tuple[str, ...]
    processing: Processing
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    rejected: tuple[Rejected, ...]
    default_variant: str
    default_because: str
    host: Host
    """Where the timings were taken."""
    torch: TorchSetup = CPU_REFERENCE
    """How torch ran as the reference that every variant was compared with."""
    torch_texts_per_s: float | None
    baselines: tuple[BaselineTiming, ...] = ()
    """Torch in every precision that was timed, the reference first."""
    refused_baselines: dict[str, str] = Field(default_factory=dict)
    """Torch in lower precisions that was not timed, because it predicts otherwise, and why."""
    calibration: Calibration | None = None
    files: tuple[File, ...]
    """Those that the variants share."""
    provenance: Provenance
    others: tuple[Measurements, ...] = ()
    """Of an artifact that was combined of several: those of the second and further ones."""
    _all_variants: tuple[Variant, ...] | None = PrivateAttr(None)
    """Of an artifact of which a bento holds a part: every variant that passed."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        """Refuse a manifest whose parts contradict each other."""
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names):
            raise ValueError(f"two variants have one name: {', '.join(names)}")
        if self.default_variant not in names:
            raise ValueError(f"the default variant {self.default_variant!r} is none of {', '.join(names)}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("two labels have one name")
        files = {*self.files, *(file for variant in self.variants for file in variant.execution.files)}
        paths = [file.path for file in files]
        if len(set(paths)) < len(paths):
            raise ValueError("one file is listed with two hashes")
        check_distinct((MANIFEST, *paths))
        shared = {file.path for file in self.files}
        spec = task_spec(self.task)
        is_encoder = not spec.is_generative
        if is_encoder != (self.processing.generation is None):
            raise ValueError(f"its processing is not that of {self.task}")
        sizes = {output.axes[-1] for output in self.outputs if output.name == "logits" and output.axes}
        if spec.has_labels and any(isinstance(size, int) and size != len(self.labels) for size in sizes):
            raise ValueError(f"its graph has {max(map(str, sizes))} outputs and it names {len(self.labels)} labels")
        if missing := {GOLDEN, *([TOKENIZER] if is_encoder else [])} - shared:
            raise ValueError(f"{min(missing)} is not among its files")
        return self

    @model_validator(mode="after")
    def _has_one_place_for_each_variant(self) -> Self:
        """Refuse measurements of variants that are not there, or that were measured elsewhere as well."""
        names = {variant.name for variant in self.variants}
        listed = [name for other in self.others for name in other.variants]
        if len(set(listed)) < len(listed) or not set(listed) < names:
            raise ValueError(f"the variants of its other measurements are {', '.join(listed)}")
        if wrong := [each.default_variant for each in self.others if each.default_variant not in each.variants]:
            raise ValueError(f"{wrong[0]!r} is the default variant of measurements that do not have it")
        return self

    @cached_property
    def version(self) -> str:
        """Twelve hex digits that change when an answer could: a hash over the hashes of what serves."""
        variants = self._all_variants or self.variants
        served = [file.sha256 for variant in variants for file in variant.execution.files]
        shared = [file.sha256 for file in self.files if file.path not in (CARD, PICTURE)]
        content = {"labels": self.labels, "processing": self.processing.model_dump(), "files": [*shared, *served]}
        return digest(content)[:12]

    @property
    def faster_torch(self) -> str | None:
        """The fastest torch whose throughput is higher than the default variant's beyond noise; None without one."""
        served = self.variant().evidence.timing
        faster = [each for each in self.baselines if each.timing.is_faster_than(served)]
        return max(faster, key=lambda each: each.timing.texts_per_s).setup.name if faster else None

    def variant(self, name: str | None = None) -> Variant:
        """Return a variant by name, the default one without a name."""
        for variant in self.variants:
            if variant.name == (name or self.default_variant):
                return variant
        has = ", ".join(variant.name for variant in self.variants)
        rejected = [each for other in self.others for each in other.rejected] + [*self.rejected]
        why = {each.name: f" ({each.reason})" for each in rejected}
        raise ArtifactError(f"the artifact has no variant {name!r}{why.get(name or '', '')}", f"choose one of: {has}")

    @property
    def parts(self) -> tuple[Self, ...]:
        """A manifest for each artifact that this one was combined of: its variants, which were measured side by side.

        Host, torch, baselines, default variant, rejected variants and provenance are those of that export. An artifact
        that was not combined is its only part.
        """
        if not self.others:
            return (self,)
        elsewhere = {name for other in self.others for name in other.variants}
        first = {variant.name for variant in self.variants} - elsewhere
        parts = [self._part(first, {})]
        for other in self.others:
            changes = {field: getattr(other, field) for field in MEASURED}
            parts.append(self._part(other.variants, {**changes, "calibration": None}))
        return tuple(part for part in parts if part.variants)

    def _part(self, names: Collection[str], changes: dict[str, Any]) -> Self:
        """Return the manifest of variants that were measured side by side; a bento's part may lack some of them."""
        variants = tuple(variant for variant in self.variants if variant.name in names)
        part = self.model_copy(update={"variants": variants, "others": (), **changes})
        part._all_variants = self._all_variants or self.variants
        if variants and part.default_variant not in {variant.name for variant in variants}:
            fastest = _fastest(variants).name
            because = "it is the fastest of them"
            part = part.model_copy(update={"default_variant": fastest, "default_because": because})
        return part

    def part_of(self, name: str) -> Self:
        """Return the part that has a variant: where that was measured."""
        return next(part for part in self.parts if name in {variant.name for variant in part.variants})

    @property
    def parts_by_device(self) -> list[list[Self]]:
        """The parts for GPUs and those for CPUs, the device of the first part first."""
        groups: dict[bool, list[Self]] = {}
        for part in self.parts:
            groups.setdefault(part.variant().execution.device == "cpu", []).append(part)
        return list(groups.values())

    def best(self, names: Collection[str]) -> Variant | None:
        """Return which of some variants to prefer: the default variant, else one for the device of the first part.

        Of the parts for one device that is the first default variant, else the fastest variant of the first part that
        has any. Speeds of two parts are never compared, because they were not measured side by side. None without
        names.
        """
        if self.default_variant in names:
            return self.variant()
        for parts in self.parts_by_device:
            for part in parts:
                if part.default_variant in names:
                    return part.variant()
            for part in parts:
                if able := [variant for variant in part.variants if variant.name in names]:
                    return _fastest(able)
        return None

    def with_only(self, names: tuple[str, ...]) -> Self:
        """Return the manifest of a copy that holds some of the variants; version and evidence remain those of all.

        The first name is the default variant. The others count as rejected, with what brings them back.
        """
        kept = tuple(self.variant(name) for name in names)
        reason = "it was left out of this bento: name it in `tuneport build --variants`"
        left_out = [Rejected(name=each.name, reason=reason) for each in self.variants if each not in kept]
        changes = {"variants": kept, "rejected": (*self.rejected, *left_out), "default_variant": names[0]}
        if names[0] != self.default_variant:
            changes["default_because"] = "it is the first of the variants that were chosen for this bento"
        part = self.model_copy(update=changes)
        part._all_variants = self._all_variants or self.variants
        return part

    def save(self, folder: Path) -> None:
        """Write manifest.json, sealed with the hash of its own content."""
        content = json.loads(self.model_dump_json())
        if not self.others:
            del content["others"]  # versions that cannot combine refuse a manifest that has it
        text = json.dumps({**content, "seal": digest(content)}, indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


MEASURED = tuple(Measurements.model_fields.keys() & Manifest.model_fields.keys() - {"variants"})
"""Fields of a manifest that say where, beside what and by which export the variants were measured."""


def _fastest(variants: Collection[Variant]) -> Variant:
    return max(variants, key=lambda variant: variant.evidence.timing.texts_per_s)


class GoldenCase(Frozen):
    """A real input with torch's answer to it."""

    batch: str
    """Cases of one name are run together in one batch, padded to the longest."""
    input: Any
    """As a request would bring it."""
    outputs: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    """The graph's outputs by name for each window of the input, as nested lists without the row axis."""
