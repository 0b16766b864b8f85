"""The command line: parse, call one function, print. Heavy libraries are imported by the command that needs them."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from export.files import TuneportError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fine-tune a transformer, export it with proof, serve the fastest variant that passed.",
    epilog="Start with: tuneport demo",
)

PATIENCE_S = 3.0
"""A signal to stop within so many seconds of another is the same wish."""

Artifact = Annotated[Path, typer.Argument(help="An artifact's folder, as `tuneport export` wrote it.")]
Out = Annotated[Path, typer.Option(help="Folder to write; must not exist unless --overwrite.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out if the same command wrote it.")]
Columns = Annotated[str | None, typer.Option(help="Rename columns: text=review,label=stars.", metavar="TASK=YOURS,…")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code from the model's repository.")
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("demo"),
    overwrite: Overwrite = False,
) -> None:
    """Run the whole chain on an embedded model and data set, in a few minutes on two cores."""
    from tuneport.demo import run_demo

    run_demo(out, overwrite=overwrite)


@app.command()
def finetune(
    task: Annotated[str | None, typer.Option(help="What to learn; the tasks are above.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder, hub name, or minilm-l6 (embedded).")] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder with train/validation/test files, one file, or a hub name.")
    ] = None,
    *,
    out: Out,
    columns: Columns = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting; names as in TrainingArguments. Repeatable."),
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of the same settings.")
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Fine-tune a model on labelled data and write a run folder.

    Data is JSONL, CSV or Parquet. Tasks and their columns:

    \b
    text-classification           text (text_pair), label, or labels: a list
    regression                    text (text_pair), score: a number or a list
    token-classification          tokens, tags
    question-answering            context, question, answers
    translation, summarization    source, target
    automatic-speech-recognition  audio, target
    text-generation               text, or messages (chat)

    Settings come from --config, then --set, then the flags. What is trained: --set strategy=full, head, last_layers,
    gradual, lora, adalora, ia3, prefix or adapter. Among the others: num_train_epochs, learning_rate,
    per_device_train_batch_size, max_length, seed. A list is written --set 'report_to=["wandb"]'.

    All settings, with their defaults: docs/finetuning.md.

    Example: tuneport finetune --task text-classification --model minilm-l6 --data reviews/ --out runs/reviews
    --set num_train_epochs=2 --set strategy=lora
    """  # noqa: D301 -- click takes this character as "leave the lines of the paragraph alone"
    from finetune.config import load_config
    from finetune.train import finetune as train

    flags = {
        "task": task,
        "model": model,
        "data": data,
        "columns": _columns(columns) or None,
        "trust_remote_code": trust_remote_code or None,
    }
    with _interrupted_goes_on(out):
        run = train(load_config(config, set_ or [], flags), out, overwrite=overwrite, resume=resume, warn=_warn)
    for split, metrics in run.metrics.items():
        print(f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if run.config["strategy"] == "prefix":
        print(f"wrote {out}; a prefix cannot be exported: docs/finetuning.md says how peft loads it")
    else:
        print(f"wrote {out}; next: tuneport export {out} --out artifacts/{out.name}")


@app.command()
def search(
    space: Annotated[Path, typer.Option(help="TOML: learning_rate = {low = 1e-5, high = 5e-4, log = true}")],
    *,
    task: Annotated[str | None, typer.Option(help="As in finetune.")] = None,
    model: Annotated[str | None, typer.Option(help="As in finetune.")] = None,
    data: Annotated[str | None, typer.Option(help="As in finetune.")] = None,
    out: Out,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of an interrupted search included.")] = 10,
    columns: Columns = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As in finetune.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted search.")] = False,
) -> None:
    """Search hyper-parameters with Optuna, and write the table of trials and the best settings as TOML.

    The space has a line for each setting to vary: learning_rate = {low = 1e-5, high = 5e-4, log = true} or
    per_device_train_batch_size = {choices = [8, 16, 32]}.

    Example: tuneport search --space space.toml --task text-classification --model minilm-l6 --data reviews/
    --out runs/search --trials 20
    """
    from finetune.config import load_config
    from finetune.search import BEST
    from finetune.search import search as run_search
    from finetune.space import read_space

    flags = {"task": task, "model": model, "data": data, "columns": _columns(columns) or None}
    settings, ranges = load_config(config, set_ or [], flags), read_space(space)
    with _interrupted_goes_on(out):
        best = run_search(settings, ranges, out, trials=trials, overwrite=overwrite, resume=resume, warn=_warn)
    print("best: " + ", ".join(f"{name} {value}" for name, value in best.items()))
    print(f"wrote {out}; next: tuneport finetune --config {out / BEST} --out runs/best")


@app.command()
def average(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one task on the same data.")],
    *,
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Average the weights of several runs into a new run, and compare it with the runs and their ensemble.

    The runs share base model, task and data; the tasks are classification, regression and token classification.

    Example: tuneport average runs/a runs/b --out runs/mean
    """
    from finetune.average import average as run_average

    averages = run_average(runs, out, overwrite=overwrite)
    rows = {**averages.runs, "ensemble": averages.ensemble, "averaged weights": averages.weights}
    for name, splits in rows.items():
        for split, metrics in splits.items():
            print(f"{name}, {split}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items()))
    print(f"wrote {out}; next: tuneport export {out} --out artifacts/{out.name}")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, or a folder that transformers saved.")],
    *,
    out: Out,
    data: Annotated[str | None, typer.Option(help="Labelled data for the gate; default: the run's own.")] = None,
    columns: Columns = None,
    name: Annotated[str | None, typer.Option(help="The model's name in answers; default: that of --out.")] = None,
    task: Annotated[str | None, typer.Option(help="Where the architecture leaves it open; default: the run's.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or tensorrt: where it will serve.")] = "cpu",
    variants: Annotated[
        str | None, typer.Option(help="Which to build, as fp32,int8; default: all that can pay on the device.")
    ] = None,
    objective: Annotated[
        str, typer.Option(help="latency, throughput or size: what the default variant is chosen by.")
    ] = "throughput",
    max_drop: Annotated[float, typer.Option(help="What the metric may lose against torch; 0.01 is one point.")] = 0.01,
    calibration: Annotated[
        str, typer.Option(help="minmax, entropy or percentile: how int8-static reads ranges off the data.")
    ] = "minmax",
    instruction_set: Annotated[
        str | None,
        typer.Option(help="avx2 or vnni: the processor that int8 variants are for; default: this machine's."),
    ] = None,
    drop_layers: Annotated[int, typer.Option(help="Layers that pruned and pruned-int8 do without.")] = 2,
    recovery_steps: Annotated[int, typer.Option(help="Batches that teach them the full model's outputs.")] = 300,
    smooth_quant: Annotated[
        bool, typer.Option("--smooth-quant", help="Let int8-static move outliers of activations into the weights.")
    ] = False,
    search_minutes: Annotated[
        float, typer.Option(help="For finding what an int8 variant that fails must keep in fp32; 0: don't.")
    ] = 2.0,
    max_length: Annotated[int | None, typer.Option(help="Tokens of one input; default: the run's.")] = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Convert a checkpoint to ONNX, prove every variant against torch, and write the artifact.

    Exits with 1 and writes nothing if the fp32 variant does not answer as torch does. The artifact is also
    registered with BentoML, so that a plain `bentoml build` in this repository builds it.
    """
    from export.card import variant_table
    from export.pipeline import ExportConfig
    from export.pipeline import export as run_export
    from serve.bento import register

    config = _config(
        ExportConfig,
        checkpoint=checkpoint,
        name=name or _slug(out),
        data=data,
        columns=_columns(columns),
        task=task,
        device=device,
        variants=() if variants is None else tuple(part.strip() for part in variants.split(",")),
        objective=objective,
        max_drop=max_drop,
        calibration=calibration,
        instruction_set=instruction_set,
        drop_layers=drop_layers,
        recovery_steps=recovery_steps,
        smooth_quant=smooth_quant,
        search_minutes=search_minutes,
        max_length=max_length,
        trust_remote_code=trust_remote_code,
    )
    with _steps() as step:
        manifest = run_export(config, out, overwrite=overwrite, progress=step)
    print("\n".join(variant_table(manifest)))
    for rejected in manifest.rejected:
        print(f"not in the artifact: {rejected.name}: {rejected.reason}")
    print(f"{manifest.default_variant} serves: {manifest.default_because}")
    print(f"wrote {out}, registered as {register(out)}; next: tuneport serve {out}")


@app.command()
def predict(
    artifact: Artifact,
    texts: Annotated[list[str] | None, typer.Argument(help="Inputs; read from stdin, one a line, when absent.")] = None,
    variant: Annotated[str | None, typer.Option(help="Which variant; default: the artifact's own.")] = None,
) -> None:
    """Answer inputs, one JSON value a line, in order. An input is a text, or a JSON object if it begins with {.

    Example: tuneport predict artifacts/qa '{"question": "Who won?", "context": "The home team won."}'
    """
    from serve.predictor import Predictor
    from serve.settings import read_settings

    if sys.stdout is None or (sys.stdin is None and not texts):
        raise TuneportError("a standard stream is closed", "redirect it to a file, or to /dev/null")
    settings = read_settings()
    predictor = Predictor(artifact, settings.model_copy(update={"variant": variant or settings.variant}))
    inputs: Iterator[Any] = (_value(text, f"input {i}") for i, text in enumerate(texts, 1)) if texts else _lines()
    if local := getattr(predictor.model.task, "read_local", None):  # inputs are paths
        inputs = map(local, inputs)
    try:
        for prediction in predictor.predict_lines(inputs):
            print(json.dumps(prediction, ensure_ascii=False))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # `tuneport predict … | head`: typer would call it a failure
            raise typer.Exit(0) from error
        raise TuneportError(f"the answers cannot be written ({error.strerror})", "send them elsewhere") from error


@app.command()
def verify(artifact: Artifact) -> None:
    """Check the hashes of all files and the golden cases of every variant on this machine."""
    from serve.verify import verify as run_verify

    for name, difference, tolerance in run_verify(artifact):
        print(f"{name}: files and golden cases right, max |Δ| {difference:.2g} (allowed {tolerance:.2g})")


@app.command()
def inspect(artifact: Artifact) -> None:
    """Show an artifact's evidence as a table."""
    from tuneport.show import show_artifact

    show_artifact(artifact)


@app.command()
def bench(
    artifact: Artifact,
    *,
    out: Out,
    data: Annotated[str | None, typer.Option(help="Labelled text; default: what the artifact was judged with.")] = None,
    columns: Columns = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The torch checkpoint; default: where it was.")] = None,
    texts: Annotated[int, typer.Option(min=1, help="Rows to time.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that every contender gets.")] = 3,
    overwrite: Overwrite = False,
) -> None:
    """Time every variant against torch (fp32, and bf16 where the processor has it) on real text."""
    from benchmarks.engine import BenchConfig
    from benchmarks.engine import bench as run_bench
    from tuneport.show import show_report

    config = BenchConfig(
        artifact=artifact, data=data, columns=_columns(columns), checkpoint=checkpoint, texts=texts, rounds=rounds
    )
    with _steps() as step:
        report = run_bench(config, out, overwrite=overwrite, progress=step)
    show_report(report)
    print(f"wrote {out}")


@app.command("bench-endpoint")
def bench_endpoint(
    artifact: Artifact,
    *,
    out: Out,
    connections: Annotated[str, typer.Option(help="Connections of each level.")] = "1,8,32",
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each level, after a second's warm-up.")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that every contender gets.")] = 3,
    texts: Annotated[int, typer.Option(min=1, help="Inputs that are sent in turn.")] = 1000,
    variant: Annotated[str | None, typer.Option(help="Which variant; default: the artifact's own.")] = None,
    data: Annotated[str | None, typer.Option(help="Labelled data; default: what the artifact was judged with.")] = None,
    columns: Columns = None,
    checkpoint: Annotated[Path | None, typer.Option(help="The torch checkpoint; default: where it was.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Time whole servers under load: tuneport's doors, BentoML's batcher, and BentoML over torch."""
    from benchmarks.endpoint import bench_endpoint as run_bench
    from benchmarks.endpoint_rounds import EndpointConfig
    from benchmarks.report import TABLE

    config = _config(
        EndpointConfig,
        artifact=artifact,
        connections=tuple(part.strip() for part in connections.split(",")),
        seconds=seconds,
        rounds=rounds,
        texts=texts,
        variant=variant,
        data=data,
        columns=_columns(columns),
        checkpoint=checkpoint,
    )
    with _steps() as step:
        run_bench(config, out, overwrite=overwrite, progress=step)
    print((out / TABLE).read_text(encoding="utf-8"))
    print(f"wrote {out}")


@app.command()
def serve(
    artifact: Artifact,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="HTTP port.")] = 3000,
    grpc_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="gRPC port; 0 for none. Default: TUNEPORT_GRPC_PORT or 3001.")
    ] = None,
) -> None:
    """Serve an artifact with BentoML over HTTP and gRPC, until Ctrl-C. TUNEPORT_… variables set the limits."""
    from serve.bento import SERVICE, register, run_service, serve_command, serve_environment
    from serve.process import check_port
    from serve.settings import read_settings

    settings = read_settings()  # a wrong variable should fail here, not in a worker's log
    check_port(host, port)
    command = serve_command(SERVICE, host=host, port=port, model=register(artifact))
    environment = {"TUNEPORT_GRPC_HOST": host, **serve_environment(), **settings.paths()}
    if grpc_port is not None:
        environment["TUNEPORT_GRPC_PORT"] = str(grpc_port)
    raise typer.Exit(run_service(command, environment))


@app.command()
def build(artifact: Artifact) -> None:
    """Register an artifact with BentoML and build the bento that serves it."""
    from serve.bento import build as run_build

    bento = run_build(artifact)
    print(f"built {bento.tag}; next: bentoml serve {bento.tag}, or bentoml containerize {bento.tag}")


def main() -> NoReturn:
    """Run; a domain error is one line on stderr and exit code 1."""
    # A stop from outside unwinds like Ctrl-C, so that half-written folders are removed.
    _stops.clear()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    _quiet_libraries()
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        # typer turns an interruption into an exit, without a word.
        cause = end.__context__ and end.__context__.__cause__
        if isinstance(cause, KeyboardInterrupt):
            print(str(cause) or INTERRUPTED, file=sys.stderr)
        raise
    except (KeyboardInterrupt, Exception) as error:
        # A library that was stopped in its midst may make another error of it.
        if _stops or isinstance(error, KeyboardInterrupt):
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(130)
        if not isinstance(error, TuneportError):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


INTERRUPTED = "interrupted; nothing half-written was left behind"
_stops: list[float] = []
"""When a signal to stop came, of `time.monotonic`."""


def _interrupt(*_: Any) -> None:
    """Unwind; who presses Ctrl-C twice must not break off the tidying up."""
    _stops.append(time.monotonic())
    if len(_stops) == 1 or _stops[-1] - _stops[-2] > PATIENCE_S:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _interrupted_goes_on(out: Path) -> Iterator[None]:
    """Say, when training or a search is interrupted, how it goes on; before it has begun there is nothing to."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not (out / "settings.json").is_file() or (out / "run.json").is_file():
            raise
        raise KeyboardInterrupt(f"interrupted; the same command with --resume goes on with {out}") from error


def _warn(warning: str) -> None:
    print(f"warning: {warning}", file=sys.stderr, flush=True)


def _quiet_libraries() -> None:
    """Keep libraries' chatter out of the way unless the user asked for it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@contextlib.contextmanager
def _steps() -> Iterator[Callable[[str], object]]:
    """Show each step. A stop that a library has swallowed, as pybind11 does while it is imported, is heard here."""
    from tuneport.show import steps

    with steps() as show:

        def step(name: str) -> None:
            if _stops:
                raise KeyboardInterrupt
            show(name)

        yield step


def _columns(text: str | None) -> dict[str, str]:
    """Read `text=review,label=stars`."""
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    if any(not name.strip() or not column.strip() for name, _, column in pairs):
        raise typer.BadParameter(f"{text!r} is not TASK=YOURS,…; write for example text=review,label=stars")
    return {name.strip(): column.strip() for name, _, column in pairs}


def _config(kind: Callable[..., Any], **values: Any) -> Any:
    """Make a config; its errors are usage errors."""
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        wrong = "; ".join(f"{each['loc'][0]}: {each['msg']}, not {each['input']!r}" for each in error.errors())
        raise typer.BadParameter(wrong) from error


def _slug(out: Path) -> str:
    """Make a model's name from a folder's."""
    name = "".join(char if char.isalnum() and char.isascii() else "-" for char in out.resolve().name.lower())
    return name.strip("-")[:63] or "model"


def _lines() -> Iterator[Any]:
    """Read stdin: a line that starts with `{` is a JSON object, every other line is a text."""
    for number, raw in enumerate(sys.stdin.buffer, 1):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise TuneportError(f"line {number} of stdin is not UTF-8", "convert it with iconv") from error
        yield _value(line, f"line {number} of stdin")


def _value(text: str, what: str) -> Any:
    """Read an input: what begins with `{` is a JSON object, everything else a text."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        remedy = 'write {"text": "…"}, or a text that does not start with {'
        raise TuneportError(f"{what} is not JSON ({error})", remedy) from error


if __name__ == "__main__":
    main()
