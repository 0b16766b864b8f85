"""The commands."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from tuneport.cli.average import average
from tuneport.cli.bench import bench
from tuneport.cli.bench_endpoint import bench_endpoint
from tuneport.cli.build import build
from tuneport.cli.combine import combine
from tuneport.cli.containerize import containerize
from tuneport.cli.demo import demo
from tuneport.cli.doctor import doctor
from tuneport.cli.export import export
from tuneport.cli.finetune import finetune, finetune_help
from tuneport.cli.init import init
from tuneport.cli.inspect import inspect
from tuneport.cli.models import models
from tuneport.cli.plan import plan
from tuneport.cli.predict import predict
from tuneport.cli.pull import pull
from tuneport.cli.push import push
from tuneport.cli.score import score
from tuneport.cli.search import search
from tuneport.cli.serve import serve
from tuneport.cli.sign import keygen, sign
from tuneport.cli.verify import verify
from tuneport.version import VERSION

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fine-tune a transformer, export it with proof, serve the fastest variant that passed.",
    epilog="Start with: tuneport demo",
)
COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "demo": (demo, "Run the whole chain on an embedded model and data."),
    "doctor": (doctor, "Check the machine, packages, engines and environment."),
    "init": (init, "Write a commented settings file for your data."),
    "finetune": (finetune, "Fine-tune a model on labelled data."),
    "search": (search, "Search hyper-parameters."),
    "average": (average, "Average the weights of several runs."),
    "export": (export, "Convert a checkpoint to ONNX; prove every variant."),
    "combine": (combine, "Put the variants of several artifacts into one."),
    "predict": (predict, "Answer inputs, one JSON value a line."),
    "score": (score, "Score every row of a file of any size."),
    "verify": (verify, "Check an artifact's hashes and golden cases."),
    "inspect": (inspect, "Show an artifact's evidence."),
    "sign": (sign, "Sign an artifact."),
    "keygen": (keygen, "Make a pair of keys to sign with."),
    "push": (push, "Copy an artifact or a bento to a store."),
    "pull": (pull, "Fetch an artifact or a bento from a store."),
    "bench": (bench, "Time the variants against torch."),
    "bench-endpoint": (bench_endpoint, "Time whole servers under load."),
    "plan": (plan, "Name machines and replicas for a given traffic."),
    "serve": (serve, "Serve an artifact over HTTP and gRPC."),
    "models": (models, "List, load and unload models of a service."),
    "build": (build, "Build the bento that serves an artifact."),
    "containerize": (containerize, "Build the image of a bento."),
}
"""Command → its function, and its line in the list of commands."""
SETTINGS: dict[str, dict[str, Any]] = {
    "finetune": {"help": finetune_help()},
    "containerize": {"context_settings": {"allow_extra_args": True, "ignore_unknown_options": True}},
}


def _print_version(value: bool) -> None:
    if value:
        print(f"tuneport {VERSION}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version)
    ] = False,
) -> None:
    pass


for _name, (_function, _line) in COMMANDS.items():
    app.command(_name, short_help=_line, **SETTINGS.get(_name, {}))(_function)
