"""The commands."""

import typer

from tuneport.cli.average import average
from tuneport.cli.bench import bench
from tuneport.cli.bench_endpoint import bench_endpoint
from tuneport.cli.build import build
from tuneport.cli.containerize import containerize
from tuneport.cli.demo import demo
from tuneport.cli.doctor import doctor
from tuneport.cli.export import export
from tuneport.cli.finetune import finetune, finetune_help
from tuneport.cli.init import init
from tuneport.cli.inspect import inspect
from tuneport.cli.plan import plan
from tuneport.cli.predict import predict
from tuneport.cli.pull import pull
from tuneport.cli.push import push
from tuneport.cli.score import score
from tuneport.cli.search import search
from tuneport.cli.serve import serve
from tuneport.cli.sign import keygen, sign
from tuneport.cli.verify import verify

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
app.command()(init)
app.command(help=finetune_help())(finetune)
app.command()(search)
app.command()(average)
app.command()(export)
app.command()(predict)
app.command()(score)
app.command()(verify)
app.command()(inspect)
app.command()(sign)
app.command()(keygen)
app.command()(push)
app.command()(pull)
app.command()(bench)
app.command("bench-endpoint")(bench_endpoint)
app.command()(plan)
app.command()(serve)
app.command()(build)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(containerize)
