"""`tuneport models`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from tuneport.cli.json_output import print_json
from tuneport.cli.options import AdminKey, Json, Quiet
from tuneport.cli.progress import progress_steps
from tuneport.errors import DeadlineExceeded

Url = Annotated[str, typer.Argument(help="Address of the service, such as http://127.0.0.1:3000.")]
Action = Annotated[
    Literal["list", "load", "unload", "weight", "shadow"],
    typer.Argument(help="load: all requests; weight: a share of them; shadow: copies whose answers are compared."),
]
Name = Annotated[str | None, typer.Argument(help="The model, as its manifest names it; not for list.")]
Share = Annotated[
    float | None,
    typer.Argument(min=0, max=1, help="Share of the requests, for weight and shadow; a shadow's default is 1."),
]
Version = Annotated[str | None, typer.Option(help="The version; to load, by default the newest in the repository.")]
AcceptChanges = Annotated[
    bool, typer.Option("--accept-changes", help="Load a version of another task or with other labels, too.")
]
Timeout = Annotated[
    float | None,
    typer.Option(min=0.1, help="Seconds to wait for a change, by default 330; the service's limit is a setting."),
]


def models(
    url: Url,
    action: Action,
    name: Name = None,
    share: Share = None,
    version: Version = None,
    accept_changes: AcceptChanges = False,
    timeout: Timeout = None,
    api_key: AdminKey = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """List, load and unload the models of a running service.

    A version is opened and proven before it gets requests. With --json: the models for list; else name and version.

    Example: tuneport models http://127.0.0.1:3000 weight reviews 0.1 --version 7129bcfbe376
    """
    from tuneport.client import Client
    from tuneport.client.calls import LOAD_TIMEOUT_S

    timeout_s = LOAD_TIMEOUT_S if timeout is None else timeout
    _check_usage(action, name, share)
    with Client(url, api_key=api_key.split(",")[0].strip() if api_key else None) as client:
        if action == "list":
            _print_list([asdict(each) for each in client.list_models()], as_json=as_json)
            return
        assert name is not None
        with progress_steps(quiet=quiet) as progress, _change_that_may_go_on():
            if action == "unload":
                progress(f"unloading {name}")
                client.unload_model(name, version, timeout_s=timeout_s)
                changed: dict[str, Any] = {"name": name, "version": version}
            else:
                progress(f"every worker opens and proves {name}")
                traffic: Any = {"load": "switch", "weight": share}.get(action, action)
                loaded = client.load_model(
                    name,
                    version,
                    traffic=traffic,
                    shadow_share=1.0 if action != "shadow" or share is None else share,
                    accept_changes=accept_changes,
                    timeout_s=timeout_s,
                )
                changed = asdict(loaded)
    if as_json:
        print_json(changed)
        return
    texts = {
        "load": "answers all requests",
        "unload": "is unloaded",
        "weight": f"answers {share} of the requests",
        "shadow": "gets copies of requests",
    }
    print(" ".join(part for part in (name, changed["version"], texts[action]) if part))


@contextmanager
def _change_that_may_go_on() -> Iterator[None]:
    """Say, where no answer comes in time, that the service may yet carry the change out."""
    try:
        yield
    except DeadlineExceeded as error:
        problem = f"{error.problem}, and the change may still take place"
        raise DeadlineExceeded(problem, "see the list action, and wait longer with --timeout") from error


def _check_usage(action: str, name: str | None, share: float | None) -> None:
    if (name is None) != (action == "list"):
        problem = "lists all models and takes no name" if name else "needs the name of a model"
        raise typer.BadParameter(f"{action} {problem}")
    if action == "weight" and share is None:
        raise typer.BadParameter("weight needs a share between 0 and 1, such as 0.1")
    if share is not None and action not in ("weight", "shadow"):
        raise typer.BadParameter(f"{action} takes no share")


def _print_list(found: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json({"models": found})
        return
    for each in found:
        print("  ".join(each[part] for part in ("name", "version", "state", "reason") if each[part]))
