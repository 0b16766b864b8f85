"""`tuneport serve`."""

import os
from pathlib import Path
from typing import Any

import typer
from pydantic import Field

from tuneport.cli.options import MoreArtifacts, check_flags, with_config, with_flags
from tuneport.cli.progress import print_warning
from tuneport.schema.base import Frozen
from tuneport.stages.serve.settings import PREFIX, Settings, unknown_variables

SECRETS = ("api_keys", "admin_keys")
"""Settings that are no options: every user of the machine can read a command line."""
FLAGS = tuple(name for name in Settings.model_fields if name not in SECRETS)


class ServeConfig(Frozen):
    """What is served, and where HTTP listens."""

    artifact: Path
    """An artifact folder that `tuneport export` wrote."""
    host: str = "127.0.0.1"
    """Address to listen on, for gRPC as well unless --grpc-host is set."""
    port: int = Field(default=3000, ge=1, le=65535)
    """HTTP port."""


@with_config(ServeConfig, positional="artifact")
@with_flags(Settings, FLAGS)
def serve(config: ServeConfig, flags: dict[str, Any], more: MoreArtifacts = None) -> None:
    """Serve artifacts over HTTP and gRPC, until Ctrl-C.

    All options but --host and --port are settings of the service: each outweighs the variable TUNEPORT_… of its name.

    Example: tuneport serve artifacts/reviews, then open http://127.0.0.1:3000
    """
    from tuneport.runtime.availability import variant_of_environment
    from tuneport.schema.loading import find_files, load_manifest
    from tuneport.stages.serve.process import GRPC, HTTP, METRICS, check_ports, run_service, supervisor_command
    from tuneport.stages.serve.settings import read_settings

    check_flags(Settings, flags)
    os.environ |= {f"{PREFIX}{name}".upper(): str(value) for name, value in flags.items()}
    settings = read_settings()  # a wrong variable or artifact is an error here, not in a worker's log
    for name in unknown_variables():
        print_warning(f"{name} is no setting of the service, and is ignored; `tuneport serve --help` lists them")
    for artifact in (config.artifact, *(more or ())):
        find_files(artifact, load_manifest(artifact))  # the hashes are left to the worker
    first = load_manifest(config.artifact)  # others without that variant serve their own for this host
    if "variant" in flags:
        first.variant(flags["variant"])
    else:
        variant_of_environment(first, settings.variant)
    host = os.environ.get(f"{PREFIX}GRPC_HOST", config.host)
    check_ports({
        HTTP: (config.host, config.port), GRPC: (host, settings.grpc_port), METRICS: (host, settings.metrics_port),
    })  # fmt: skip
    command = supervisor_command(config.artifact, *(more or ()), host=config.host, port=config.port)
    environment = {f"{PREFIX}GRPC_HOST": host, **settings.paths()}
    raise typer.Exit(run_service(command, environment))
