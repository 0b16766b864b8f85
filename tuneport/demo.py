"""`tuneport demo`: the whole chain on the embedded model and data, ending with the user's next commands."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.baselines import find_origin
from benchmarks.engine import BASELINE, BenchConfig, bench, read_workload
from export.files import GateError, TuneportError, check_out
from export.manifest import Manifest
from export.pipeline import ExportConfig, export
from finetune.config import load_config
from finetune.embedded import MODEL, write_bbc_news
from finetune.train import finetune
from serve.bento import build, serve_command
from serve.model import open_task
from serve.process import free_port, running
from serve.tasks.text_classification import softmax
from tuneport.show import show_report, steps

SETTINGS = ("num_train_epochs=1", "learning_rate=2e-4", "max_length=128", "save_strategy=no", "eval_strategy=no")
REQUESTS = 64
JUDGED = 200
"""Validation texts for the gate: enough to tell a point of accuracy, and soon done."""
BENCHED = 120
MIN_AGREEMENT = 0.99


def run_demo(out: Path, *, overwrite: bool) -> None:
    """Fine-tune, export, build, serve, ask, benchmark; everything is written under `out`."""
    run, artifact, report = out / "run", out / "artifact", out / "report"
    for folder, marker in ((run, "run.json"), (artifact, "manifest.json"), (report, "report.json")):
        check_out(folder, marker=marker, overwrite=overwrite)
    started = time.monotonic()

    with _stage("1/5 fine-tune MiniLM-L6 on BBC News"):
        write_bbc_news(out / "data")
        flags = {"task": "text-classification", "model": MODEL, "data": str(out / "data")}
        done = finetune(load_config(None, SETTINGS, flags), run, overwrite=overwrite)
        test = done.metrics["test"]
        print(f"test accuracy {test['accuracy']:.4f}, macro F1 {test['f1_macro']:.4f}, bf16 {done.bf16}")
    with _stage("2/5 export, gate, quantize"), steps() as step:
        config = ExportConfig(checkpoint=run, name="bbc-news", max_texts=JUDGED)
        manifest = export(config, artifact, overwrite=overwrite, progress=step)
        for rejected in manifest.rejected:
            print(f"not in the artifact: {rejected.name}: {rejected.reason}")
        print(f"{manifest.default_variant} serves: {manifest.default_because}")
    with _stage("3/5 build the bento"):
        tag = str(build(artifact).tag)
        print(f"built {tag}")
    with _stage("4/5 serve the bento and compare its answers with torch"):
        print(ask_and_compare(tag, artifact, manifest))
    with _stage("5/5 benchmark every variant against torch"), steps() as step:
        measured = bench(BenchConfig(artifact=artifact, texts=BENCHED), report, overwrite=overwrite, progress=step)
    show_report(measured)
    print(f"\nAll of it took {time.monotonic() - started:.0f} s. Next:\n")
    print(f'  tuneport predict {artifact} "Shares rose after the bank raised its forecast"')
    print(f"  tuneport serve {artifact}")
    print(f"  bentoml containerize {tag}")


def ask_and_compare(tag: str, artifact: Path, manifest: Manifest) -> str:
    """Serve a bento, send it real texts alone and in a list, and compare every answer with torch's.

    Returns a sentence with what was found; a GateError if the labels don't agree.
    """
    origin = find_origin(manifest, None)
    workload = read_workload(manifest, origin.task, BenchConfig(artifact=artifact, texts=REQUESTS))
    serving = open_task(artifact, manifest.task, manifest.labels, manifest.processing)
    outputs = origin.torch_models()[BASELINE].outputs(serving, [serving.read(each) for each in workload.inputs])
    probabilities = softmax(np.stack([each[0]["logits"] for each in outputs]) / manifest.processing.temperature)
    expected = [manifest.labels[i] for i in probabilities.argmax(-1)]
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with running(serve_command(tag, host="127.0.0.1", port=int(url.rpartition(":")[2])), url):
        ready_s = time.monotonic() - started
        with httpx.Client(base_url=url, timeout=60) as client:
            half = len(workload.inputs) // 2
            alone = [_ask(client, text)[0] for text in workload.inputs[:half]]
            answers = alone + _ask(client, workload.inputs[half:])
    agreement = float(np.mean([answer["label"] == label for answer, label in zip(answers, expected, strict=True)]))
    gap = max(abs(answer["score"] - float(p.max())) for answer, p in zip(answers, probabilities, strict=True))
    said = f"ready in {ready_s:.1f} s; {agreement:.1%} of {len(answers)} answers "
    said += f"have torch's label, scores within {gap:.3f}"
    if agreement < MIN_AGREEMENT:
        raise GateError(f"the service does not answer as torch does: {said}", "report this")
    return said


def _ask(client: httpx.Client, inputs: object) -> Any:
    answer = client.post("/predict", json={"inputs": inputs})
    if answer.status_code != httpx.codes.OK:
        raise TuneportError(f"the service answered {answer.status_code}: {answer.text[:200]}", "report this")
    return answer.json()["predictions"]


@contextmanager
def _stage(title: str) -> Iterator[None]:
    started = time.monotonic()
    print(f"\n== {title}", flush=True)
    yield
    print(f"   {time.monotonic() - started:.0f} s", flush=True)
