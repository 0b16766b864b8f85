"""The chain of `tuneport demo` on the embedded model and data: fine-tune, export, build, serve, benchmark."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tuneport.cli.progress import progress_steps
from tuneport.cli.tables import print_report
from tuneport.errors import GateError, TuneportError
from tuneport.folders import check_out
from tuneport.runtime.loading import open_task
from tuneport.runtime.tasks.text_classification import softmax
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.run import RUN
from tuneport.stages.benchmarks.baselines import open_baseline, read_workload
from tuneport.stages.benchmarks.config import BenchConfig
from tuneport.stages.benchmarks.engine import bench
from tuneport.stages.benchmarks.report import REPORT
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.embedded import MODEL, write_bbc_news
from tuneport.stages.finetune.train import finetune
from tuneport.stages.serve.bento import build, serve_command
from tuneport.stages.serve.process import free_port, running

SETTINGS = ("num_train_epochs=1", "learning_rate=2e-4", "max_length=128", "save_strategy=no", "eval_strategy=no")
SERVED_INPUTS = 64
GATE_ROWS = 200
"""Validation rows for the gate: enough to resolve half a point of accuracy, and quick."""
TIMED_INPUTS = 120
MIN_AGREEMENT = 0.99
HOST = "127.0.0.1"


def run_demo(out: Path, *, overwrite: bool) -> None:
    """Run every stage and print its results; the run, the artifact and the report are written below `out`."""
    run, artifact, report = out / "run", out / "artifact", out / "report"
    for folder, marker in ((run, RUN), (artifact, MANIFEST), (report, REPORT)):
        check_out(folder, marker=marker, overwrite=overwrite)
    started = time.monotonic()

    with _stage("1/5 fine-tune MiniLM-L6 on BBC News"):
        write_bbc_news(out / "data")
        flags = {"task": "text-classification", "model": MODEL, "data": str(out / "data")}
        finished_run = finetune(load_config(None, SETTINGS, flags), run, overwrite=overwrite)
        test = finished_run.metrics["test"]
        print(
            f"test accuracy {test['accuracy']:.4f}, macro F1 {test['f1_macro']:.4f}, {finished_run.training.precision}"
        )
    with _stage("2/5 export, gate, quantize"), progress_steps() as progress:
        config = ExportConfig(checkpoint=run, name="bbc-news", max_gate_rows=GATE_ROWS)
        manifest = export(config, artifact, overwrite=overwrite, progress=progress)
        for rejected in manifest.rejected:
            print(f"not in the artifact: {rejected.name}: {rejected.reason}")
        print(f"{manifest.default_variant} serves by default: {manifest.default_because}")
    with _stage("3/5 build the bento"):
        tag = str(build(artifact).tag)
        print(f"built {tag}")
    with _stage("4/5 serve the bento and compare its answers with torch"):
        print(compare_endpoint(tag, artifact, manifest))
    with _stage("5/5 benchmark every variant against torch"), progress_steps() as progress:
        config_of_bench = BenchConfig(artifact=artifact, num_inputs=TIMED_INPUTS)
        benchmark_report = bench(config_of_bench, report, overwrite=overwrite, progress=progress)
    print_report(benchmark_report)
    print(f"\nAll of it took {time.monotonic() - started:.0f} s. Next:\n")
    print(f'  tuneport predict {artifact} "Shares rose after the bank raised its forecast"')
    print(f"  tuneport serve {artifact}")
    print(f"  tuneport containerize {tag}")


def compare_endpoint(tag: str, artifact: Path, manifest: Manifest) -> str:
    """Serve a bento, send it real texts one by one and in a list, and compare every answer with torch's.

    Returns a sentence with the result; raises GateError if fewer than MIN_AGREEMENT of the labels agree.
    """
    texts, probabilities = torch_answers(artifact, manifest)
    labels = [manifest.labels[i] for i in probabilities.argmax(-1)]
    port = free_port()
    started = time.monotonic()
    with running(serve_command(tag, host=HOST, port=port), f"http://{HOST}:{port}"):
        ready_s = time.monotonic() - started
        answers = ask_endpoint(f"http://{HOST}:{port}", texts)
    agreement = float(np.mean([answer["label"] == label for answer, label in zip(answers, labels, strict=True)]))
    max_gap = max(abs(answer["score"] - float(row.max())) for answer, row in zip(answers, probabilities, strict=True))
    result = (
        f"ready in {ready_s:.1f} s; {agreement:.1%} of {len(answers)} answers have torch's label, "
        f"scores within {max_gap:.3f}"
    )
    if agreement < MIN_AGREEMENT:
        raise GateError(f"the service does not answer as torch does: {result}", "report this")
    return result


def torch_answers(artifact: Path, manifest: Manifest) -> tuple[list[str], Any]:
    """Return test texts and torch's calibrated probabilities of them, float32 (texts, labels)."""
    config = BenchConfig(artifact=artifact, num_inputs=SERVED_INPUTS)
    baseline = open_baseline(manifest, config)
    texts = read_workload(manifest, baseline.task, config).inputs
    task = open_task(artifact, manifest.task, manifest.labels, manifest.processing)
    outputs = baseline.load_reference("cpu").outputs(task, [task.parse_input(text) for text in texts])
    logits = np.stack([windows[0]["logits"] for windows in outputs])
    return texts, softmax(logits / manifest.processing.temperature)


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


@contextmanager
def _stage(title: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"\n== {title}", flush=True)
    yield
    print(f"   {time.monotonic() - started:.0f} s", flush=True)
