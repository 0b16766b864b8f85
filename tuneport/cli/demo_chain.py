"""The chain of `tuneport demo` on the embedded model and data: fine-tune, export, build, serve."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tuneport.cli.progress import print_warning, progress_steps
from tuneport.cli.tables import print_summary
from tuneport.errors import GateError, TuneportError
from tuneport.folders import check_out
from tuneport.host import Host
from tuneport.runtime.loading import open_task
from tuneport.runtime.predictor import Predictor
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.run import RUN
from tuneport.stages.benchmarks.baselines import open_baseline, read_workload
from tuneport.stages.benchmarks.config import BenchConfig
from tuneport.stages.export.applicable import select_variants
from tuneport.stages.export.config import MIN_CALIBRATION_ROWS, ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.embedded import MODEL, write_bbc_news
from tuneport.stages.finetune.train import finetune
from tuneport.stages.serve.bento import build, serve_command
from tuneport.stages.serve.process import free_port, running

ROWS = {"train": 800, "validation": 200, "test": 300}
"""Enough to get 94 % of the topics right; the gate looks at all validation rows."""
EXCERPT_WORDS = (16, 32, 64)
SETTINGS = ("num_train_epochs=1", "learning_rate=3e-4", "max_length=128", "save_strategy=no", "eval_strategy=no")
STUDENT_MINUTES = 0.5
SERVED_INPUTS = 64
HOST = "127.0.0.1"
TRAIN_S, EXPORT_S, BUILD_S, SERVE_S = 60.0, 130.0 + 60 * STUDENT_MINUTES, 5.0, 10.0
"""Seconds that each step takes on two cores without bf16 instructions."""


@dataclass
class Schedule:
    """Announces each step with the time that it will take: longer on a host that was slower than expected so far.

    A faster one need not be faster at all: timings and the student's training last for a time that is set.
    """

    expected_s: float = 0.0
    """What the finished steps were expected to take."""
    taken_s: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def step(self, title: str, expected_s: float) -> Iterator[None]:
        """Print the title with the expected time, and the time that it took."""
        pace = max(1.0, self.taken_s / self.expected_s) if self.expected_s else 1.0
        print(f"\n== {title}, about {max(1, round(pace * expected_s)):.0f} s", flush=True)
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self.expected_s += expected_s
        self.taken_s += seconds
        print(f"   {seconds:.0f} s", flush=True)


def run_demo(out: Path, *, overwrite: bool) -> None:
    """Run every stage and print its results; the data, the run and the artifact are written below `out`."""
    run, artifact = out / "run", out / "artifact"
    for folder, marker in ((run, RUN), (artifact, MANIFEST)):
        check_out(folder, marker=marker, overwrite=overwrite)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each of the requests
    schedule = Schedule()
    minutes = (TRAIN_S + EXPORT_S + BUILD_S + SERVE_S) / 60
    print(f"The whole chain takes about {minutes:.0f} minutes on two cores.")

    with schedule.step("1/4 fine-tune MiniLM-L6 on BBC News", TRAIN_S):
        write_bbc_news(out / "data", rows=ROWS, excerpt_words=EXCERPT_WORDS)
        flags = {"task": "text-classification", "model": MODEL, "data": str(out / "data")}
        finished_run = finetune(load_config(None, SETTINGS, flags), run, overwrite=overwrite, warn=print_warning)
        test = finished_run.metrics["test"]
        print(
            f"test accuracy {test['accuracy']:.4f}, macro F1 {test['f1_macro']:.4f}, {finished_run.training.precision}"
        )
    with schedule.step("2/4 export: convert, quantize, compare with torch, time", EXPORT_S):
        manifest = export_variants(run, artifact, overwrite=overwrite)
    with schedule.step("3/4 build the bento", BUILD_S):
        tag = str(build(artifact).tag)
        print(f"built {tag}")
    with schedule.step("4/4 serve the bento and compare its answers", SERVE_S):
        print(compare_endpoint(tag, artifact, manifest))
    print()
    print_summary(manifest)
    print(f"\nAll of it took {time.monotonic() - schedule.started:.0f} s. Next:\n")
    print(f'  tuneport predict {artifact} "Shares rose after the bank raised its forecast"')
    print(f"  tuneport serve {artifact}")
    print(f"  tuneport containerize {tag}")


def export_variants(run: Path, artifact: Path, *, overwrite: bool) -> Manifest:
    """Export the variants that may be the fastest on this host; prints why the default was selected."""
    config = ExportConfig(
        checkpoint=run,
        name="bbc-news",
        variants=likely_variants(Host.here()),
        calibration_rows=MIN_CALIBRATION_ROWS,
        distill_minutes=STUDENT_MINUTES,
    )
    with progress_steps() as progress:
        manifest = export(config, artifact, overwrite=overwrite, progress=progress)
    for rejected in manifest.rejected:
        print(f"not in the artifact: {rejected.name}: {rejected.reason}")
    print(f"{manifest.default_variant} serves by default: {manifest.default_because}")
    return manifest


def likely_variants(host: Host) -> tuple[str, ...]:
    """Return the default variants for a CPU that may be the fastest here.

    OpenVINO's fp32 never was: its int8 is faster everywhere, and its bf16 where the processor has the instructions.
    With AMX that bf16 is enough: quantization for OpenVINO's int8 took a minute there and lost. Of the student there is
    one variant, that of the engine which is likely the fastest.
    """
    has_amx = "amx_bf16" in host.instructions
    slower = {"openvino", "pruned-openvino-int8"}
    slower |= {"openvino-int8", "pruned-int8"} if has_amx else {"pruned-openvino-bf16"}
    return tuple(name for name in select_variants((), "cpu") if name not in slower)


def compare_endpoint(tag: str, artifact: Path, manifest: Manifest) -> str:
    """Serve a bento, send it real texts one by one and in a list, and compare every label with what it should be.

    That is what the artifact answers without a service; how often it is torch's label the gate has limited already.
    Returns a sentence with both shares; raises GateError if a label is not the artifact's.
    """
    texts, torch_labels = torch_answers(artifact, manifest)
    expected = [prediction["label"] for prediction in Predictor(artifact).predict(texts)]
    port = free_port()
    started = time.monotonic()
    with running(serve_command(tag, host=HOST, port=port), f"http://{HOST}:{port}"):
        ready_s = time.monotonic() - started
        labels = [answer["label"] for answer in ask_endpoint(f"http://{HOST}:{port}", texts)]
    same, agreement = (share_of_equal(labels, others) for others in (expected, torch_labels))
    result = (
        f"ready in {ready_s:.1f} s; {same:.1%} of {len(labels)} answers are the artifact's, "
        f"{agreement:.1%} have torch's label"
    )
    if same < 1:
        raise GateError(f"the service does not answer as the artifact does: {result}", "report this")
    return result


def share_of_equal(labels: Sequence[str], others: Sequence[str]) -> float:
    """Return the share of places at which two lists are the same."""
    return sum(one == other for one, other in zip(labels, others, strict=True)) / len(labels)


def torch_answers(artifact: Path, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Return test texts, and torch's labels of them."""
    config = BenchConfig(artifact=artifact, num_inputs=SERVED_INPUTS)
    baseline = open_baseline(manifest, config)
    texts = read_workload(manifest, baseline.task, config).inputs
    task = open_task(artifact, manifest.task, manifest.labels, manifest.processing)
    outputs = baseline.load_reference("cpu").outputs(task, [task.parse_input(text) for text in texts])
    return texts, [manifest.labels[int(windows[0]["logits"].argmax())] for windows in outputs]


def ask_endpoint(url: str, texts: Sequence[str]) -> list[Any]:
    """Return the endpoint's predictions, in order: the first half asked one by one, the second half in one request."""
    half = len(texts) // 2
    with httpx.Client(base_url=url, timeout=60) as client:
        return [_ask(client, text)[0] for text in texts[:half]] + _ask(client, texts[half:])


def _ask(client: httpx.Client, inputs: object) -> Any:
    response = client.post("/predict", json={"inputs": inputs})
    if response.status_code != httpx.codes.OK:
        raise TuneportError(f"the service answered {response.status_code}: {response.text[:200]}", "report this")
    return response.json()["predictions"]
