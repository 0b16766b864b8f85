"""The command line's entry point: the commands, the exit codes, and one line on stderr for an error.

Exit codes: 0 done; 1 an error of the exception tree; 2 wrong usage; 130 interrupted.
"""

import os
import sys
from typing import NoReturn

import typer

from tuneport.cli.average import average
from tuneport.cli.bench import bench
from tuneport.cli.bench_endpoint import bench_endpoint
from tuneport.cli.build import build
from tuneport.cli.demo import demo
from tuneport.cli.doctor import doctor
from tuneport.cli.export import export
from tuneport.cli.finetune import finetune, finetune_help
from tuneport.cli.inspect import inspect
from tuneport.cli.predict import predict
from tuneport.cli.search import search
from tuneport.cli.serve import serve
from tuneport.cli.signals import INTERRUPTED, install_handlers, was_interrupted
from tuneport.cli.verify import verify
from tuneport.errors import TuneportError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Fine-tune a transformer, export it with proof, serve the fastest variant that passed.",
    epilog="Start with: tuneport demo",
)
app.command()(demo)
app.command()(doctor)
app.command(help=finetune_help())(finetune)
app.command()(search)
app.command()(average)
app.command()(export)
app.command()(predict)
app.command()(verify)
app.command()(inspect)
app.command()(bench)
app.command("bench-endpoint")(bench_endpoint)
app.command()(serve)
app.command()(build)


def main() -> NoReturn:
    """Run a command and exit."""
    install_handlers()
    _quiet_libraries()
    try:
        app(prog_name="tuneport", standalone_mode=True)
    except SystemExit as end:
        # Typer turns a KeyboardInterrupt into an exit without a message.
        cause = end.__context__ and end.__context__.__cause__
        if isinstance(cause, KeyboardInterrupt):
            print(str(cause) or INTERRUPTED, file=sys.stderr)
        raise
    except (KeyboardInterrupt, Exception) as error:
        # A library that was interrupted may have raised another error instead.
        if was_interrupted() or isinstance(error, KeyboardInterrupt):
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(130)
        if not isinstance(error, TuneportError):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _quiet_libraries() -> None:
    """Lower the verbosity of libraries, unless the user has set it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
