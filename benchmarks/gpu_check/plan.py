"""Which steps the check has, in which order, and what each needs."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneport.schema.artifact import MANIFEST
from tuneport.schema.run import RUN
from tuneport.schema.torch_setup import TorchDevice

from ..report import REPORT
from .config import SCALES, WITH_FLOORS, WITHOUT_FLOORS, Scale
from .steps import Step
from .variants import expected_variants

PACKAGE = "tuneport.stages.benchmarks.gpu_check"
TRAINING = "training"
"""The folder of the training's report."""
MARKERS = (REPORT, RUN, MANIFEST)
"""Files that tell a folder which a step makes from a folder of the user's."""
ENVIRONMENT = "environment"
TUNED, RANDOM, GENERATIVE = "tuned", "random-bert", "random-gpt2"
EVERY, ON_TENSORRT = "all-variants", "tensorrt"
"""Names of the exports: the fine-tuned model in few variants, and random models; the fine-tuned model in all."""


def plan_steps(
    device: TorchDevice, model: str, data: str | None, work: Path, *, is_floors_only: bool = False
) -> tuple[Step, ...]:
    """Return the steps of the check; the most important ones come first, in case the time does not suffice.

    These are the floors of the two models, of which a few variants are exported and timed for a short time;
    `is_floors_only` leaves out all others.
    """
    plan = Plan(device, model, data or str(work / "data"), work, makes_data=data is None)
    core = plan.scale.core_variants
    floors = (
        plan.step(ENVIRONMENT, plan.module("environment"), device, limit_s=60, writes=True),
        *plan.make_data(),
        plan.finetune(),
        *plan.chain(TUNED, plan.run, plan.rows, "finetune", core, limit_s=150),
        *plan.service(),
        plan.random_model(RANDOM, limit_s=60),
        *plan.chain(RANDOM, plan.checkpoint(RANDOM), plan.data(RANDOM), RANDOM, core, limit_s=150),
    )
    if is_floors_only:
        return floors
    every, on_tensorrt = (expected_variants(device, on_tensorrt=each) for each in (False, True))
    return (
        *floors,
        plan.step("gpu-tests", plan.module("gpu_tests"), device, limit_s=150, writes=True),
        *plan.chain(EVERY, plan.run, plan.rows, "finetune", every, limit_s=240),
        plan.training(),
        *plan.generation(),
        *plan.benchmarks(),
        *(plan.on_tensorrt(on_tensorrt) if on_tensorrt else ()),
    )


def remove_earlier(steps: Sequence[Step]) -> None:
    """Remove what an earlier check left in the same folder, so that no report has its results."""
    for step in steps:
        if step.result:
            step.result.unlink(missing_ok=True)
        if step.makes and any((step.makes / marker).is_file() for marker in MARKERS):
            shutil.rmtree(step.makes)


@dataclass(frozen=True)
class Plan:
    """Makes the steps for one device, model and folder."""

    device: TorchDevice
    model: str
    rows: str
    """The folder of labelled texts."""
    work: Path
    makes_data: bool
    """Whether a step writes the texts."""

    @property
    def scale(self) -> Scale:
        """How much each step does."""
        return SCALES[self.device]

    @property
    def run(self) -> Path:
        """The run folder of the model that is fine-tuned."""
        return self.work / "run"

    def artifact(self, name: str) -> Path:
        """Locate the artifact of a checkpoint."""
        return self.work / f"{name}-artifact"

    def checkpoint(self, name: str) -> Path:
        """Locate a random model."""
        return self.work / name / "checkpoint"

    def data(self, name: str) -> Path:
        """Locate the data of a random model."""
        return self.work / name / "data"

    def module(self, name: str) -> str:
        """Return the name of a step's own module."""
        return f"{PACKAGE}.{name}"

    def step(
        self,
        name: str,
        *arguments: object,
        limit_s: float,
        needs: Sequence[str] = (),
        writes: bool = False,
        makes: Path | None = None,
    ) -> Step:
        """Return a step that runs a module with arguments; one that `writes` gets the file of its result, too.

        `makes` is the folder that it makes, if that has one of `MARKERS`.
        """
        result = self.work / f"{name}.json" if writes else None
        first = () if name == ENVIRONMENT else (ENVIRONMENT,)  # without the device no step proves anything
        command = ("-P", "-m", *map(str, arguments), *([str(result)] if result else []))
        return Step(name, command, limit_s * self.scale.limit_factor, tuple(needs) or first, result, makes)

    def make_data(self) -> list[Step]:
        """Return the step that writes the texts, unless they are given."""
        return [self.step("data", self.module("models"), "data", self.rows, limit_s=60)] if self.makes_data else []

    def finetune(self) -> Step:
        """Return the training, with neither evaluations nor checkpoints between its steps."""
        values = {
            "max_steps": self.scale.train_steps, "learning_rate": "2e-4", "max_length": self.scale.max_length,
            "eval_strategy": "no", "save_strategy": "no",
        }  # fmt: skip
        settings = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
        return self.step(
            "finetune", "tuneport", "finetune", "--task", "text-classification", "--model", self.model,
            "--data", self.rows, "--out", self.run, *settings, limit_s=90, needs=self._needs_data, makes=self.run,
        )  # fmt: skip

    def random_model(self, name: str, *, limit_s: float) -> Step:
        """Return the step that makes a random model and its data."""
        sizes = (self.scale.layers, self.scale.hidden_size)
        arguments = (name, self.model, self.rows, self.work / name, *sizes)
        return self.step(name, self.module("models"), *arguments, limit_s=limit_s, needs=self._needs_data)

    def chain(
        self,
        name: str,
        source: Path,
        rows: object,
        needs: str,
        variants: tuple[str, ...],
        *,
        limit_s: float,
        floors: str = WITH_FLOORS,
    ) -> list[Step]:
        """Return the export of a checkpoint, in `limit_s` seconds, and the steps that need it."""
        made, exported, names = self.artifact(name), f"export-{name}", ",".join(variants)
        settings = ["--name", name, "--device", self.device, "--max-gate-rows", self.scale.gate_rows]
        settings += ["--max-seconds", self.scale.export_seconds, "--mixed-precision-minutes", 0]
        return [
            self.step(
                exported, "tuneport", "export", source, "--out", made, "--data", rows, *settings, "--variants", names,
                limit_s=limit_s, needs=[needs], makes=made,
            ),
            self.step(
                f"variants-{name}", self.module("variants"), made, self.device, names,
                limit_s=40, needs=[exported], writes=True,
            ),
            self.step(f"verify-{name}", "tuneport", "verify", made, limit_s=60, needs=[exported]),
            self.step(
                f"speed-{name}", self.module("speed"), made, source, self.device, floors,
                limit_s=150, needs=[exported], writes=True,
            ),
            self.step(
                f"placement-{name}", self.module("placement"), made, self.device,
                limit_s=60, needs=[exported], writes=True,
            ),
        ]  # fmt: skip

    def on_tensorrt(self, variants: tuple[str, ...]) -> list[Step]:
        """Return the chain of TensorRT's variants: the artifact has fp32 beside them, and may lack the fastest."""
        source = (self.run, self.rows, "finetune")
        return self.chain(ON_TENSORRT, *source, variants, limit_s=360, floors=WITHOUT_FLOORS)

    def service(self) -> list[Step]:
        """Return the steps that serve the tuned model: its answers, and the floors of the endpoint."""
        arguments = (self.artifact(TUNED), self.run, self.device)
        return [
            self.step(
                name, self.module(name), *arguments, limit_s=90, needs=[f"export-{TUNED}"], writes=True,
            )
            for name in ("answers", "endpoint")
        ]  # fmt: skip

    def training(self) -> Step:
        """Return the comparison of the training's speed with that of a plain Trainer."""
        return self.step(
            "training", "tuneport.stages.benchmarks.training", "--data", self.rows, "--model", self.model,
            "--out", self.work / TRAINING, "--max-steps", self.scale.training_steps, "--rounds", 1,
            limit_s=120, needs=self._needs_data, makes=self.work / TRAINING,
        )  # fmt: skip

    def benchmarks(self) -> list[Step]:
        """Return both benchmarks of the tuned model."""
        load = ("--connections", self.scale.connections, "--seconds", self.scale.load_seconds, "--rounds", 1)
        return [
            self._bench("bench", TUNED, "bench", limit_s=100),
            self.step(
                "bench-endpoint", "tuneport", "bench-endpoint", self.artifact(TUNED), "--out", self.work / "endpoint",
                "--num-inputs", self.scale.bench_inputs, *load, limit_s=150, needs=[f"export-{TUNED}"],
                makes=self.work / "endpoint",
            ),
        ]  # fmt: skip

    def generation(self) -> list[Step]:
        """Return the steps of a generative model."""
        return [
            self.random_model(GENERATIVE, limit_s=60),
            self.step(
                f"export-{GENERATIVE}", "tuneport", "export", self.checkpoint(GENERATIVE), "--task", "text-generation",
                "--data", self.data(GENERATIVE), "--out", self.artifact(GENERATIVE), "--name", GENERATIVE,
                "--device", self.device, "--max-gate-rows", self.scale.gate_rows, limit_s=120, needs=[GENERATIVE],
                makes=self.artifact(GENERATIVE),
            ),
            self._bench(f"bench-{GENERATIVE}", GENERATIVE, "generation", limit_s=60),
        ]  # fmt: skip

    def _bench(self, step: str, name: str, folder: str, *, limit_s: float) -> Step:
        options = ("--device", self.device, "--num-inputs", self.scale.bench_inputs, "--rounds", 1)
        arguments = (self.artifact(name), "--out", self.work / folder, *options)
        needs, makes = [f"export-{name}"], self.work / folder
        return self.step(step, "tuneport", "bench", *arguments, limit_s=limit_s, needs=needs, makes=makes)

    @property
    def _needs_data(self) -> tuple[str, ...]:
        return tuple(step.name for step in self.make_data())
