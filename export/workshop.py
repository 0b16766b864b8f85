"""The bench at which one export's variants are built, judged and timed."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from export.choose import Objective
from export.files import EngineError, GateError, TuneportError
from export.footprint import measure_footprint
from export.gate import Evidence, Gate, judge
from export.machine import usable_cores
from export.manifest import Device, File, Parity, Processing, Rejected, Timing, Variant
from export.measure import Contender, budgets, time_side_by_side
from export.reference import TorchModel
from export.sensitivity import kept_sets
from export.variants import Material, Recipe
from serve.model import Model, assemble
from serve.plan import Budget
from serve.tasks import Task as ServingTask

TIMED_TEXTS = 200
BASELINE = "torch fp32"


@dataclass(frozen=True)
class Terms:
    """What variants are made for and held to."""

    device: Device
    objective: Objective
    max_drop: float
    search_minutes: float


@dataclass
class Workshop:
    """The material, the gate, and what has passed it so far."""

    folder: Path
    """The unfinished artifact."""
    task: str
    labels: tuple[str, ...]
    terms: Terms
    serving: ServingTask
    processing: Processing
    reference: TorchModel
    gate: Gate
    material: Material
    progress: Callable[[str], object]
    passed: dict[str, tuple[Variant, Model]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def admit(self, name: str, recipe: Recipe) -> None:
        """Build and judge a variant; note it as passed, or why it did not.

        Raises GateError or EngineError if it is fp32 that fails, and with it everything.
        """
        evidence: Evidence | None = None
        try:
            variant, model = self._open_to_judge(self._build(name, recipe, self.material))
            evidence = self._judge(model, recipe)
        except _Failed as failed:
            evidence = failed.evidence
            found = self._search(name, recipe) if recipe.is_searched and self.material.kind == "encoder" else None
            if name == "fp32" or found is None:
                self._leave_out(name, failed, evidence)
                return
            variant, model, evidence = found
        except EngineError as error:
            self._leave_out(name, error, None)
            return
        proven = {
            "parity": evidence.parity,
            "metric": evidence.metric,
            "tolerance": recipe.tolerance(evidence, self.gate.unit, self.material.kind),
        }
        self.passed[name] = variant.model_copy(update=proven), model

    def time(self) -> tuple[list[Variant], Timing]:
        """Time what passed beside torch, each in one stream and, where there are cores for it, in one a core.

        Returns the variants with the better of both and what they cost in memory and at the start, and torch's timing.
        """
        rows = self.gate.rows_to_time(TIMED_TEXTS)
        many = usable_cores() if self.terms.device == "cpu" and self.terms.objective == "throughput" else 1
        # A prompt's tokens are the least of what writing costs.
        tried = (Budget(),) if self.material.kind == "writer" else budgets(Budget(), self.terms.device)
        contenders = {BASELINE: Contender(self.reference.run_batch, budgets=tried)}
        for name, (variant, model) in self.passed.items():
            contenders[name] = Contender.of(model, self.terms.device)
            if many > 1 and model.splits:
                split = self._open(variant.model_copy(update={"streams": many}))
                contenders[_split(name)] = Contender.of(split, self.terms.device)
        timings = time_side_by_side(contenders, rows, baseline=BASELINE, progress=self.progress)
        return [self._settle(name, many, timings) for name in self.passed], timings[BASELINE]

    def _settle(self, name: str, many: int, timings: dict[str, Timing]) -> Variant:
        self.progress(f"measuring memory and cold start of {name}")
        variant, timing = self.passed[name][0], timings[name]
        other = timings.get(_split(name), timing)
        # Latency is the reason for more threads a batch; a stream a core must be worth losing some.
        if other.texts_per_s > 1.05 * timing.texts_per_s:
            variant, timing = variant.model_copy(update={"streams": many}), other
        variant = variant.model_copy(update={"timing": timing})
        inputs = [case.input for case in self.gate.golden]
        footprint = measure_footprint(self.folder, self.task, self.labels, self.processing, variant, inputs)
        return variant.model_copy(update={"footprint": footprint})

    def _judge(self, model: Model, recipe: Recipe) -> Evidence:
        evidence = self.gate.examine(model)
        try:
            if not recipe.is_exact and not self.gate.given:
                raise GateError("no labelled data to judge it by", "give some with --data")
            judge(evidence, recipe.rule(self.terms.max_drop, self.gate.unit, self.material.kind))
        except GateError as error:
            raise _Failed(error, evidence) from error
        return evidence

    def _leave_out(self, name: str, error: TuneportError, evidence: Evidence | None) -> None:
        if name == "fp32":
            if isinstance(error, EngineError):  # it has a remedy of its own
                raise error
            raise GateError(f"fp32 does not answer as torch does: {error.problem}", "report this model") from error
        shutil.rmtree(self.folder / "onnx" / name, ignore_errors=True)
        parity = evidence.parity if evidence and evidence.parity.max_abs_diff < float("inf") else None
        metric = evidence.metric if evidence else None
        self.rejected.append(Rejected(name=name, reason=error.problem, parity=parity, metric=metric))

    def _search(self, name: str, recipe: Recipe) -> tuple[Variant, Model, Evidence] | None:
        """Look for the fewest parts that must stay in fp32 for the variant to pass; None if time is up before."""
        if recipe.build is None or not self.gate.given or not self.terms.search_minutes:
            return None
        deadline = time.monotonic() + 60 * self.terms.search_minutes

        def error(graph: Path) -> float:
            trial = self._unproven(name, recipe, [str(graph.relative_to(self.folder))])
            return self.gate.mean_error(self._open(trial))

        for kept, material in kept_sets(self.material, recipe.build, error, deadline=deadline, progress=self.progress):
            try:
                variant, model = self._open_to_judge(self._build(name, recipe, material))
                evidence = self._judge(model, recipe)
            except (_Failed, EngineError):
                continue
            return variant.model_copy(update={"kept_in_higher_precision": kept}), model, evidence
        return None

    def _build(self, name: str, recipe: Recipe, material: Material) -> Variant:
        """Build a variant's files; what it proves is filled in when it has proven it."""
        if recipe.build is None:
            return self._unproven(name, recipe, [f"onnx/fp32/{file}" for file in material.files])
        folder = self.folder / "onnx" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            names = recipe.build(material, folder)
        except OSError:
            raise
        except Exception as error:  # quantizers raise what they come across
            raise EngineError(f"it cannot be built ({str(error)[:200]})", "choose other variants") from error
        return self._unproven(name, recipe, [f"onnx/{name}/{file}" for file in names])

    def _unproven(self, name: str, recipe: Recipe, paths: list[str]) -> Variant:
        return Variant(
            name=name,
            engine=recipe.engine,
            precision=recipe.precision,
            device=self.terms.device,
            reduce_range=recipe.precision == "int8" and recipe.engine == "onnxruntime" and self.material.reduce_range,
            files=tuple(File.of(self.folder, path) for path in paths),
            tolerance=0.0,
            parity=Parity(golden_cases=0, texts=0, max_abs_diff=0, golden_max_abs_diff=0, agreement=0),
            metric=None,
        )

    def _open_to_judge(self, variant: Variant) -> tuple[Variant, Model]:
        """Open a variant as it will serve: alone, if otherwise one request would change the answer to another."""
        model = self._open(variant)
        if self.material.kind == "writer" or not self.gate.depends_on_batch(model):
            return variant, model
        variant = variant.model_copy(update={"alone": True})
        return variant, self._open(variant)

    def _open(self, variant: Variant) -> Model:
        return assemble(self.folder, self.serving, variant, self.processing)


class _Failed(GateError):
    """A verdict, with the evidence behind it."""

    def __init__(self, error: GateError, evidence: Evidence) -> None:
        super().__init__(error.problem, error.remedy)
        self.evidence = evidence


def _split(name: str) -> str:
    return f"{name}, a stream a core"
