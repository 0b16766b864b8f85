"""Build variants and check each against its gate."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Self

from tuneport.errors import DeviceOutOfMemory, EngineError, GateError, TuneportError
from tuneport.runtime.backends.tensorrt import ENGINES, engine_key
from tuneport.runtime.loading import build_runner
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Candidate, Device, Execution, File, Metric, Parity, Processing, Rejected, Student

from .architectures import other_architecture
from .config import ExportConfig, Objective
from .families import ExportFamily
from .gate import GIVE_DATA, Gate, Measurement, check
from .graph import Graph
from .passes.context import BuildContext, Pass
from .provider_options import TENSORRT_ROWS, provider_options
from .sensitivity import exclusion_sets
from .steps import HERE, Steps
from .variants import VariantSpec

FP32 = "fp32"
SCRATCH = "scratch-"
"""Prefix of the folders of graphs between two passes."""


@dataclass(frozen=True)
class Requirements:
    """The device and the objective that variants are built for, and the limits that they must meet."""

    device: Device
    objective: Objective
    max_drop: float
    mixed_precision_minutes: float
    max_seconds: float
    """Of timing, for each target."""

    @classmethod
    def of(cls, config: ExportConfig) -> Self:
        """Return those of an export."""
        return cls(**{each.name: getattr(config, each.name) for each in fields(cls)})


@dataclass(frozen=True)
class Passed:
    """A variant that passed its gate and is not timed yet."""

    candidate: Candidate
    parity: Parity
    metric: Metric | None
    tolerance: float
    fp32_parts: tuple[str, ...] = ()
    student: Student | None = None
    """How its model was trained, if that is a student."""


@dataclass(frozen=True)
class VariantBuilder:
    """Build the variants of one export and check them."""

    folder: Path
    """The unfinished artifact."""
    task_name: str
    runtime_task: RuntimeTask
    processing: Processing
    family: ExportFamily
    requirements: Requirements
    gate: Gate
    context: BuildContext
    steps: Steps = HERE
    _built: dict[tuple[Pass, ...], Graph] = field(default_factory=dict)
    """Graphs of finished variants, by their passes; others begin with them."""

    def build_and_validate(self, name: str, spec: VariantSpec) -> Passed | Rejected:
        """Build a variant and check it against its gate.

        Raises GateError or EngineError if fp32 fails, because every other variant is built from it.
        """
        try:
            outcome, built = self.steps.run(lambda: (self._build_and_validate(name, spec), self._built))
        except EngineError as error:  # of fp32, or the step's process was killed
            if name == FP32:
                raise
            for scratch in self.folder.glob(f"{SCRATCH}*"):  # which the process could not remove
                shutil.rmtree(scratch, ignore_errors=True)
            return self.reject(name, error, None)
        self._built.update(built)
        return outcome

    def progress(self, line: str) -> None:
        """Report progress."""
        self.steps.progress(line)

    def _build_and_validate(self, name: str, spec: VariantSpec) -> Passed | Rejected:
        try:
            return self._attempt(name, spec, self.context)
        except _GateFailure as failure:
            passed = self._search_exclusions(name, spec) if name != FP32 else None
            return passed or self.reject(name, failure, failure.measurement)
        except EngineError as error:
            if name == FP32 and not isinstance(error, _BuildFailure):  # the error names its own remedy
                raise
            return self.reject(name, error, None)

    def open(self, execution: Execution) -> ModelRunner:
        """Open a variant of the unfinished artifact."""
        return build_runner(self.folder, self.task_name, self.runtime_task, execution, self.processing)

    def way_difference(self, label: str, runner: ModelRunner, plain: ModelRunner, execution: Execution) -> float:
        """Return how far a way to run a variant is from what is expected of it, and report what its CUDA graphs cost.

        That is torch on golden cases and, for each shape of a CUDA graph, the plain way. Raises EngineError if it
        fails.
        """
        with as_engine_error("it fails when it runs"):
            golden = self.gate.golden_difference(runner)
            shapes = self.gate.shape_difference(runner, plain, execution.graph_shapes)
        captured = getattr(getattr(runner, "backend", None), "captured_bytes", None)
        if captured is not None:
            count = len(execution.graph_shapes) * execution.streams
            self.progress(f"{label}: {count} CUDA graphs take {captured / 2**20:.0f} MiB of GPU memory")
        return max(golden, shapes)

    def reject(self, name: str, error: TuneportError, measurement: Measurement | None) -> Rejected:
        """Delete a variant's files and return why it is not in the artifact; raises GateError for fp32."""
        if name == FP32:
            problem = f"{self.context.model_type} cannot be exported faithfully: fp32 does not answer as torch does"
            raise GateError(f"{problem}: {error.problem}", other_architecture(self.task_name)) from error
        shutil.rmtree(self.folder / "onnx" / name, ignore_errors=True)
        is_finite = measurement is not None and measurement.parity.max_abs_diff < float("inf")
        return Rejected(
            name=name,
            reason=error.problem,
            parity=measurement.parity if measurement and is_finite else None,
            metric=measurement.metric if measurement else None,
        )

    def _attempt(self, name: str, spec: VariantSpec, context: BuildContext, fp32_parts: tuple[str, ...] = ()) -> Passed:
        """Build, open and check one variant; raises _GateFailure, which holds the measurement, if it fails."""
        candidate = self._build(name, spec, context)
        runner = self.open(candidate.execution)
        candidate = self._with_engines(candidate)
        with as_engine_error("it fails when it runs"):
            if self.family.may_depend_on_batch and self.gate.depends_on_batch(
                runner, lambda problem: self.progress(f"{name} {problem}")
            ):
                # Otherwise one request would change the answer to another one.
                execution = candidate.execution.model_copy(update={"single_row_batches": True})
                candidate = candidate.model_copy(update={"execution": execution})
                runner = self.open(execution)
            measurement = self._check(runner, spec)
        tolerance = spec.tolerance(measurement, self.gate.unit, self.family)
        student = self.context.student.record if spec.student_of and self.context.student else None
        return Passed(candidate, measurement.parity, measurement.metric, tolerance, fp32_parts, student)

    def _build(self, name: str, spec: VariantSpec, context: BuildContext) -> Candidate:
        """Run a variant's passes in order; the last one writes into the variant's folder."""
        passes = spec.passes[self.family.name]
        done, graph = self._begun(passes) if context is self.context else (0, context.fp32)
        target = self.folder / "onnx" / name
        if passes:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            self._built.pop(passes, None)  # its files are replaced
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=SCRATCH) as scratch:
            for number, run_pass in enumerate(passes[done:], done + 1):
                folder = target if number == len(passes) else Path(tempfile.mkdtemp(dir=scratch))
                with as_engine_error("it cannot be built"):
                    graph = run_pass(graph, context, folder)
        if context is self.context:
            self._built[passes] = graph
        if spec.uses_tensorrt:
            graph = self._prepare_engines(name, graph)
        return Candidate(name=name, execution=self._execution(spec, graph))

    def _begun(self, passes: tuple[Pass, ...]) -> tuple[int, Graph]:
        """Return the graph of the variant with the most of the first passes, and their number; else the fp32 graph."""
        for number in range(len(passes) - 1, 0, -1):
            graph = self._built.get(passes[:number])
            if graph and graph.path.is_file():  # the files of a variant that failed its gate are gone
                return number, graph
        return 0, self.context.fp32

    def _execution(self, spec: VariantSpec, graph: Graph) -> Execution:
        paths = [(graph.folder / name).relative_to(self.folder).as_posix() for name in graph.files]
        is_quantized = spec.engine == "onnxruntime" and spec.precision == "int8"
        device = spec.execution_device(self.requirements.device)
        return Execution(
            engine=spec.engine,
            precision=spec.precision,
            device=device,
            files=tuple(File.of(self.folder, path) for path in paths),
            layout=spec.layout,
            reduce_range=is_quantized and self.context.reduce_range,
            max_batch_rows=TENSORRT_ROWS if spec.uses_tensorrt else None,
            provider_options=self._provider_options(spec, device, graph),
            min_compute_capability=None if device == "cpu" else spec.min_compute_capability,
        )

    def _provider_options(self, spec: VariantSpec, device: Device, graph: Graph) -> dict[str, str]:
        inputs = [tensor.name for tensor in self.family.signature(graph)[0]] if spec.uses_tensorrt else []
        return provider_options(spec, device, inputs, self.gate.rows, self.processing.max_length)

    def _prepare_engines(self, name: str, graph: Graph) -> Graph:
        """Give a variant for TensorRT a folder of its own, with one for the engines of this GPU."""
        target = self.folder / "onnx" / name
        if graph.folder != target:
            shutil.copytree(graph.folder, target)
        (target / ENGINES / engine_key()).mkdir(parents=True)
        return replace(graph, folder=target)

    def _with_engines(self, candidate: Candidate) -> Candidate:
        """Add the engines that TensorRT has built to the variant's files."""
        execution = candidate.execution
        if execution.device != "tensorrt":
            return candidate
        known = {file.path for file in execution.files}
        built = sorted((self.folder / "onnx" / candidate.name / ENGINES).rglob("*"))
        paths = [path.relative_to(self.folder).as_posix() for path in built if path.is_file()]
        files = (File.of(self.folder, path) for path in paths if path not in known)
        execution = execution.model_copy(update={"files": (*execution.files, *files)})
        return candidate.model_copy(update={"execution": execution})

    def _check(self, runner: ModelRunner, spec: VariantSpec) -> Measurement:
        measurement = self.gate.measure(runner)
        try:
            if not spec.is_exact and not self.gate.parsed_inputs:
                raise GateError(f"no data to judge it by: {GIVE_DATA}", GIVE_DATA)
            thresholds = spec.thresholds(
                self.requirements.max_drop, self.gate.unit, self.family, is_unlabelled=self.gate.is_unlabelled
            )
            check(measurement, thresholds, self.runtime_task.agreement_means)
        except GateError as error:
            raise _GateFailure(error, measurement) from error
        return measurement

    def _search_exclusions(self, name: str, spec: VariantSpec) -> Passed | None:
        """Search for the smallest set of parts to keep in fp32 with which the variant passes; None if time runs out."""
        minutes = self.requirements.mixed_precision_minutes
        is_possible = spec.supports_node_exclusion and self.family.is_calibrated
        if not is_possible or not self.gate.parsed_inputs or not minutes:
            return None

        def error_of(context: BuildContext) -> float:
            runner = self.open(self._build(name, spec, context).execution)
            with as_engine_error("it fails when it runs"):
                return self.gate.mean_error(runner)

        deadline = time.monotonic() + 60 * minutes
        for parts, nodes in exclusion_sets(self.context, error_of, deadline=deadline, progress=self.progress):
            try:
                return self._attempt(name, spec, replace(self.context, excluded_nodes=nodes), parts)
            except (_GateFailure, EngineError):
                continue
        return None


@contextlib.contextmanager
def as_engine_error(problem: str) -> Iterator[None]:
    """Turn what quantizers and engines raise, exceptions of any kind, into an EngineError; a full disk stays one.

    A lost device ends the export, and a variant that does not fit into its memory is left out.
    """
    try:
        yield
    except DeviceOutOfMemory as error:
        raise _BuildFailure(f"{problem} ({error.problem})", "choose other variants") from error
    except (TuneportError, OSError):
        raise
    except Exception as error:
        raise _BuildFailure(f"{problem} ({' '.join(str(error).split())[:200]})", "choose other variants") from error


class _BuildFailure(EngineError):
    """A variant that cannot be built, or fails when it runs, though its engine is there."""


class _GateFailure(GateError):
    """A failed check and its measurement."""

    def __init__(self, error: GateError, measurement: Measurement) -> None:
        super().__init__(error.problem, error.remedy)
        self.measurement = measurement
